"""``counterview prepare`` as it is called: exit codes, what is printed where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from counterview.cli.prepare import prepare
from counterview.media.images import read_image
from tests.data_egoexo.release_maker import EGO, EXO, SIZES, TakeSpec, make_release, read_number, write_video

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


def test_cameras_of_other_rates_are_named_and_images_are_chosen(release: Path, tmp_path: Path) -> None:
    video = release / "takes" / "cook_2" / "frame_aligned_videos" / f"{EXO}.mp4"
    write_video(video, 62, SIZES[EXO], rate=60)
    out = tmp_path / "out"
    done = CliRunner().invoke(app, [str(release), str(out), "--split", "val", "--images", "png"])
    assert done.exit_code == 0, done.output
    assert f"cook_2: camera {EXO}: the video has 60 frames/s: frame n of the annotation is its image at n/30 s" in (
        done.stdout
    )
    assert read_number(read_image(out / "b" / EXO / "30.png")) == 60
    done = CliRunner().invoke(app, [str(release), str(tmp_path / "own"), "--split", "val", "--annotation-fps", "60"])
    assert done.exit_code == 0, done.output
    assert read_number(read_image(tmp_path / "own" / "b" / EXO / "30.jpg")) == 30


def test_nothing_but_withdrawn_takes(release: Path, tmp_path: Path) -> None:
    (release / "takes.json").write_text("[]")
    done = CliRunner().invoke(app, [str(release), str(tmp_path / "out"), "--split", "val"])
    assert done.exit_code == 3
    assert "redacted  cook_1" in done.stdout


@pytest.mark.parametrize("length", [251, 255, 300])
def test_a_uid_that_cannot_be_a_file_name_is_one_takes_problem(length: int, tmp_path: Path) -> None:
    """With what is appended to it, or on its own, it is longer than file systems take."""
    specs = [TakeSpec("x" * length, "cook_1", 31, (EGO, EXO)), TakeSpec("b", "cook_2", 31, (EGO, EXO))]
    release = make_release(tmp_path / "release", specs)
    done = CliRunner().invoke(app, [str(release), str(tmp_path / "out"), "--split", "val"])
    assert done.exit_code == 3, (done.output, done.exception)
    report = json.loads((tmp_path / "out" / "prepare-report.json").read_text())
    assert report["counts"] == {"prepared": 1, "skipped" if length > 255 else "damaged": 1}
    assert json.loads((tmp_path / "out" / "split.json").read_text())["val"] == ["b"]
