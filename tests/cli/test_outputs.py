"""What each command does to the disk: nothing before it knows that it may, and nothing to files that are not ours."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterview.cli.main import main
from counterview.errors import OutputError
from counterview.media import files as media_files
from counterview.media.images import write_image
from tests.omama.tiny_takes import write_takes

EVALUATOR = Path(__file__).parents[1] / "data" / "evaluator"
GT, EGO, EXO = (str(EVALUATOR / n) for n in ("correspondence-gt.json", "pred_ego-exo.json", "pred_exo-ego.json"))


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def visible(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    image = np.full((60, 80, 3), 120, np.uint8)
    image[10:30, 10:30] = (200, 30, 30)
    image[35:55, 45:70] = (30, 30, 200)
    write_image(folder / "a.png", image)
    for name in ("red", "blue"):
        Image.fromarray((image[..., 0] == {"red": 200, "blue": 30}[name]).astype(np.uint8) * 255).save(
            folder / f"{name}.png"
        )
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    (folder / "annotations").mkdir()
    takes = {"a": {"take_name": "a", "object_masks": {}}}
    (folder / "annotations" / "relations_val.json").write_text(json.dumps({"annotations": takes}))
    return folder


def match(small, *masks):
    image = small / "a.png"
    return ["match", image, image, "--model", "knn", *(a for m in masks for a in ("--mask", small / f"{m}.png"))]


def commands(small, release, recipe):
    """Each command without its output, and its option of a folder or of a file."""
    return {
        "match": (match(small, "red"), "--out", "folder"),
        "cache": ([*match(small, "red"), "--out", recipe.parent / "never"], "--cache", "folder"),
        "demo": (["demo", "--model", "knn"], "--out", "folder"),
        "tabletop": (["tabletop", "--takes", "1"], None, "folder"),
        "train": (["train", recipe], "--out", "folder"),
        "convert": (["convert", "omama", recipe], None, "folder"),
        "report": (["evaluate", "--gt", GT, "--pred", EGO], "--report", "folder"),
        "per-frame": (["evaluate", "--gt", GT, "--pred", EGO], "--per-frame", "rows.csv"),
        "predict": (["predict", "knn", release, "--split", "val"], "--out", "p.json"),
        "submit": (["submit", EGO, EXO, "--gt", GT], "--out", "s.json"),
        "inspect": (["inspect", release], "--image", "i.png"),
    }


NAMES = ["match", "cache", "demo", "tabletop", "train", "convert", "report", "per-frame", "predict"]
NAMES += ["submit", "inspect"]


def call_with(run, command, place):
    arguments, option, _ = command
    return run(*arguments, *([option] if option else []), place)


@pytest.fixture
def recipe(tmp_path_factory):
    """A recipe of data that do not exist: a command that comes to reading them has passed every check of its output."""
    path = tmp_path_factory.mktemp("recipe") / "r.yaml"
    path.write_text("method: omama\ndata: {root: nowhere}\n")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_place_that_cannot_be_is_refused_before_any_work(name, small, release, recipe, run, tmp_path):
    command = commands(small, release, recipe)[name]
    is_folder = command[2] == "folder"
    suffix = "" if is_folder else Path(command[2]).suffix
    (tmp_path / "file").write_text("mine")
    (tmp_path / f"folder{suffix}").mkdir()
    places = {tmp_path / "file" / f"x{suffix}": "is a file; expected a folder"}
    if is_folder:
        places[tmp_path / "file"] = "is a file; expected a folder"
    else:
        places[tmp_path / f"folder{suffix}"] = "is a folder; expected a file name"
    for place, text in places.items():
        code, out, err = call_with(run, command, place)
        assert (code, out) == (2, ""), err
        assert text in err
        assert str(tmp_path) in err
        assert len(err.strip().splitlines()) == 1
    assert names(tmp_path) == sorted(["file", f"folder{suffix}"])
    assert not (recipe.parent / "never").exists()


@pytest.mark.parametrize("name", [n for n in NAMES if n != "cache"])
def test_what_is_not_ours_is_not_touched(name, small, release, recipe, run, tmp_path):
    command = commands(small, release, recipe)[name]
    if command[2] == "folder":
        place = tmp_path
        (tmp_path / "notes.txt").write_text("mine")
        (tmp_path / "overlay.png").write_text("mine")
    else:
        place = tmp_path / command[2]
        place.write_text("mine")
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    code, out, err = call_with(run, command, place)
    assert (code, out) == (2, ""), err
    assert ("add --overwrite" in err) == (name != "tabletop")
    assert "Give another" in err or "Choose another" in err
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["match", "report", "per-frame", "submit", "inspect"])
def test_overwrite_replaces_what_is_in_the_way_and_leaves_the_rest(name, small, release, recipe, run, tmp_path):
    command = commands(small, release, recipe)[name]
    place = tmp_path if command[2] == "folder" else tmp_path / command[2]
    (tmp_path / "notes.txt").write_text("mine")
    written = {"match": "overlay.png", "report": "index.html"}.get(name, command[2])
    (tmp_path / written).write_text("mine")
    arguments, option, _ = command
    code, _, err = run(*arguments, option, place, "--overwrite")
    assert code == 0, err
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / written).read_bytes() != b"mine"


@pytest.mark.parametrize("name", ["match", "report", "per-frame", "submit"])
def test_an_own_result_is_replaced_unasked(name, small, release, recipe, run, tmp_path):
    command = commands(small, release, recipe)[name]
    place = tmp_path / ("out" if command[2] == "folder" else command[2])
    for _ in range(2):
        code, _, err = call_with(run, command, place)
        assert code == 0, err
    assert not [n for n in names(tmp_path) if n.endswith((".part", ".lock", ".new"))]


@pytest.mark.parametrize("name", ["match", "report", "per-frame", "submit"])
def test_a_full_disk_is_one_line_and_leaves_nothing(name, small, release, recipe, run, tmp_path, monkeypatch):
    command = commands(small, release, recipe)[name]

    def fsync(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(media_files.os, "fsync", fsync)
    code, _, err = call_with(run, command, tmp_path / "sub" / command[2])
    assert code == 2
    assert "the disk is full" in err
    assert str(tmp_path / "sub") in err
    assert "failed with" not in err
    assert names(tmp_path) == []


def test_results_of_two_matches_do_not_mix(small, run, tmp_path):
    assert run(*match(small, "red"), "--out", tmp_path)[0] == 0
    (tmp_path / "notes.txt").write_text("mine")
    assert visible(tmp_path) == ["mask.png", "match.json", "notes.txt", "overlay.png"]
    (tmp_path / "mask_red.png").write_text("mine")
    code, _, err = run(*match(small, "red", "blue"), "--out", tmp_path)
    assert code == 2
    assert "mask_red.png: exists already and is not of an earlier run" in err
    (tmp_path / "mask_red.png").unlink()
    assert run(*match(small, "red", "blue"), "--out", tmp_path)[0] == 0
    assert visible(tmp_path) == ["mask_blue.png", "mask_red.png", "match.json", "notes.txt", "overlay.png"]


def test_a_match_of_an_earlier_version_is_known_by_its_record(small, run, tmp_path):
    assert run(*match(small, "red"), "--out", tmp_path)[0] == 0
    (tmp_path / ".counterview.json").unlink()
    assert run(*match(small, "red", "blue"), "--out", tmp_path)[0] == 0
    assert visible(tmp_path) == ["mask_blue.png", "mask_red.png", "match.json", "overlay.png"]


def test_a_page_of_an_earlier_version_is_replaced(run, tmp_path):
    arguments = ["evaluate", "--gt", GT, "--pred", EGO, "--report", tmp_path]
    assert run(*arguments)[0] == 0
    (tmp_path / ".counterview.json").unlink()
    assert run(*arguments)[0] == 0
    (tmp_path / ".counterview.json").unlink()
    (tmp_path / "index.json").rename(tmp_path / "other.json")
    assert run(*arguments)[0] == 2


def test_tables_of_several_files_are_checked_before_they_are_scored(run, tmp_path):
    (tmp_path / "two-1-ego2exo.csv").write_text("mine")
    arguments = ["evaluate", "--gt", GT, "--pred", EGO, EGO, "--per-frame", tmp_path / "two.csv"]
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "two-1-ego2exo.csv: exists already" in err
    assert run(*arguments, "--overwrite")[0] == 0
    assert visible(tmp_path) == ["two-1-ego2exo.csv", "two-2-ego2exo.csv"]


def test_submit_does_not_write_over_what_it_reads(run, tmp_path):
    path = tmp_path / "e.json"
    path.write_bytes(Path(EGO).read_bytes())
    code, _, err = run("submit", path, EXO, "--gt", GT, "--out", path)
    assert code == 2
    assert "is read and written" in err
    assert path.read_bytes() == Path(EGO).read_bytes()


def test_predict_does_not_repeat_what_is_finished(with_bundled, run, tmp_path):
    data = write_takes(tmp_path / "data", frames=1, splits={"test": 1})
    out = tmp_path / "p.json"
    arguments = ["predict", "tiny-follow", data, "--direction", "exo2ego", "--out", out]
    code, first, _ = run(*arguments)
    assert code == 0
    before = (out.read_bytes(), out.stat().st_mtime_ns)
    code, again, _ = run(*arguments)
    assert code == 0
    assert "finished already" in again
    assert again.splitlines()[-1] == first.splitlines()[-1].replace("written to", "are in")
    code, _, err = run("predict", "tiny", data, "--direction", "exo2ego", "--out", out)
    assert code == 2
    assert "holds predictions of other settings or data" in err
    assert (out.read_bytes(), out.stat().st_mtime_ns) == before
    assert run("predict", "tiny", data, "--direction", "exo2ego", "--out", out, "--overwrite")[0] == 0
    assert out.read_bytes() != before[0]
    assert visible(tmp_path) == ["data", "p.json"]


def test_convert_replaces_a_model_only_when_told(run, tmp_path, small):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("mine")
    code, _, err = run("convert", "omama", small / "a.png", tmp_path / "m")
    assert code == 2
    assert "a model exists already" in err
    code, _, err = run("convert", "omama", small / "a.png", tmp_path / "m", "--overwrite")
    assert code == 2
    assert (tmp_path / "m" / "config.json").read_text() == "mine", "a file that cannot be converted removes nothing"
    assert names(tmp_path) == ["m", "m/config.json"]


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/some/file"), 2, "/some/file: a file cannot be read or"),
        (OSError(errno.EIO, "Input/output error"), 1, "found Input/output error"),
        (OutputError("bad", path="p"), 2, "p: bad"),
    ],
)
def test_errors_of_the_system_are_one_line(error, code, text, run, monkeypatch):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr("counterview.cli.doctor.examine", fail)
    result, _, err = run("doctor")
    assert result == code
    assert text in err
    assert "failed with" not in err
    assert len(err.strip().splitlines()) == 1
