"""``counterview prepare`` as it is called: exit codes, what is printed where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from counterview.cli.prepare import prepare
from tests.data_egoexo.release_maker import EGO, EXO, TakeSpec, make_release

app = typer.Typer()
app.command()(prepare)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    specs = [TakeSpec("a", "cook_1", frames=31, cameras=(EGO, EXO)), TakeSpec("b", "cook_2", 31, (EGO, EXO))]
    return make_release(tmp_path / "release", specs)


def test_whole(release: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [str(release), str(tmp_path / "out"), "--split", "val"])
    assert done.exit_code == 0, done.output
    assert "val_egoexo_pairs.json: 8 pairs" in done.stdout
    done = CliRunner().invoke(app, [str(release), str(tmp_path / "out"), "--json"])  # every split there is
    assert done.exit_code == 0
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "prepare-report.json").read_text())


def test_something_is_wanting(release: Path, tmp_path: Path) -> None:
    (release / "takes" / "cook_2" / "frame_aligned_videos" / f"{EXO}.mp4").write_bytes(b"")
    done = CliRunner().invoke(app, [str(release), str(tmp_path / "out"), "--split", "val"])
    assert done.exit_code == 3
    assert "damaged  cook_2" in done.stdout
    assert "no image of an exo camera can be read" in done.stdout
    report = json.loads((tmp_path / "out" / "prepare-report.json").read_text())
    assert report["counts"] == {"prepared": 1, "damaged": 1}
    assert json.loads((tmp_path / "out" / "split.json").read_text())["val"] == ["a"]
