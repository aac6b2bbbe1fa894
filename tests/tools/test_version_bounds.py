"""What the tool reads and prints; it installs nothing here. The bounds are those of pyproject.toml."""

import json
import os
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tools import version_bounds
from tools.version_bounds import (
    Outcome,
    bounded,
    find_python,
    main,
    project,
    read_junit,
    requirements,
    supported,
    table,
)

INSTALL = Path(__file__).parents[2] / "docs" / "getting-started" / "install.md"


def test_lower_bounds():
    found = [Requirement(text) for text in ("av>=17.1", "Py_YAML>=6,<7", "plain", "torch~=2.10")]
    assert bounded(found) == {"av": "17.1", "py-yaml": "6", "plain": "", "torch": "2.10"}
    ours = bounded(requirements(project()))
    assert {"torch", "numpy", "pyarrow", "accelerate", "embreex"} <= set(ours)
    assert all(ours.values()), "every library that is tested has a lower bound"
    assert supported(project()) == ["3.11", "3.12", "3.13"]


def test_an_interpreter_that_does_not_run_counts_as_none(tmp_path, monkeypatch):
    if os.name == "nt":
        pytest.skip("shims of this kind")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for name, text in (
        ("python3.97", "#!/bin/sh\nexit 127\n"),
        (f"python{version}", f'#!/bin/sh\nexec {sys.executable} "$@"\n'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_python("3.97") is None
    assert find_python("3.98") is None
    assert find_python(version) == str(tmp_path / f"python{version}")


def test_reports_are_counted(tmp_path):
    (tmp_path / "r.xml").write_text(
        '<testsuites><testsuite><testcase classname="a.b" name="one"/><testcase classname="a" name="two"><skipped/>'
        '</testcase><testcase classname="a" name="three"><failure>x</failure></testcase>'
        '<testcase classname="a" name="four"><error/></testcase></testsuite></testsuites>'
    )
    assert read_junit(tmp_path / "r.xml") == ({"passed": 1, "skipped": 1, "failed": 2}, ["a::three", "a::four"])


def test_the_table_and_the_exit_code(monkeypatch, tmp_path, capsys):
    def check(uv, version, kind, pins, tests, keep):
        if version == "3.13":
            return Outcome(version, kind, problem="python3.13 is not on PATH")
        failed = ["t::x"] if (kind, tests) == ("lowest", ["bad"]) else []
        return Outcome(version, kind, {"torch": "2.10" if kind == "lowest" else pins[0]}, {"passed": 3}, failed)

    monkeypatch.setattr(version_bounds, "check", check)
    monkeypatch.setattr(version_bounds.shutil, "which", lambda name, path=None: name)
    arguments = ["--python", "3.11", "--python", "3.13", "--pin", "9", "--json", str(tmp_path / "o.json")]
    assert main([*arguments, "--", "good"]) == 0
    printed = capsys.readouterr().out
    assert "| 3.13 | newest | python3.13 is not on PATH |" in printed
    assert "| torch | 2.10 | 9 |" in printed
    assert [o["set"] for o in json.loads((tmp_path / "o.json").read_text())] == ["lowest", "newest"] * 2
    assert main([*arguments, "--", "bad"]) == 1
    assert "t::x" in capsys.readouterr().out
    assert not Outcome("3.11", "lowest", counts={"passed": 0}).is_green
    assert table([]).startswith("| Python |")


def test_the_page_names_versions_within_the_bounds():
    """The table "tested with" of the installation page."""
    rows = [
        line.split("|")[1:-1] for line in INSTALL.read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    rows = [[cell.strip(" `") for cell in row] for row in rows if len(row) == 3 and row[1].strip()[:1].isdigit()]
    bounds = bounded(requirements(project()))
    assert {row[0] for row in rows} == set(bounds)
    for name, lowest, newest in rows:
        assert Version(bounds[name]) <= Version(lowest) <= Version(newest)
        assert Version(lowest).release[:2] == (*Version(bounds[name]).release, 0)[:2], (
            f"{name}: the bound is what was tested"
        )
