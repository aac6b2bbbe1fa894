"""A dozen of the kills and races of :mod:`tests.attacks.kills`, which has them all."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attacks.kills import Tally, difference, tree

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are NOT tested: processes cannot be forked here")
def test_killed_commands_leave_the_same_bytes_or_refuse():
    pytest.importorskip("accelerate")
    names = ["submit", "evaluate --report", "match"]
    command = [sys.executable, "-m", "tests.attacks.kills", "--trials", "6", "--races", "1", "--seconds", "240"]
    done = subprocess.run(
        [*command, *(text for name in names for text in ("--command", name))],
        cwd=ROOT, capture_output=True, text=True, timeout=290, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith(tuple(f"| {name} " for name in names))]
    assert len(rows) == len(names)
    counts = re.findall(r"(\d+) / (\d+) / (\d+)", done.stdout)
    tried = sum(int(same) + int(refused) for same, refused, _ in counts)
    assert tried >= 3, "too slow to try anything"
    assert sum(int(bad) for _, _, bad in counts) == 0


def test_a_difference_is_seen(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "x").write_text("same")
        (tmp_path / name / "log").write_text(name)
    trees = [tree(tmp_path / name, ["log"]) for name in ("a", "b")]
    assert difference(*trees) == ""
    (tmp_path / "b" / "deep" / "x").write_text("other")
    (tmp_path / "b" / ".x.1.abcdef01.part").write_text("")
    (tmp_path / "b" / "log").unlink()
    text = difference(tree(tmp_path / "b", ["log"]), trees[0])
    assert text == "lacks log; has also .x.1.abcdef01.part; differs in deep/x"
    assert Tally("t").cells() == ["t", "0.0", "0", "0 / 0 / 0", "0 / 0 / 0", "0 / 0 / 0"]
