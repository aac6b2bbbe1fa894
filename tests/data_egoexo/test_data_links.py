"""Data sets that are spread over several disks by links: read, prepared from, scored against; never written through."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from counterview.data.inspect import inspect_dataset
from counterview.data.open import open_dataset
from counterview.data.pairs import enumerate_pairs
from counterview.data.prepare.prepare import prepare_release
from counterview.errors import InputError, ProposalError
from counterview.evaluation.cases import _image
from counterview.evaluation.groundtruth import GroundTruth
from counterview.evaluation.open import open_predictions
from counterview.evaluation.oracle import ProposalFiles
from counterview.masks import rle
from tests.data_egoexo.release_maker import EGO, EXO, TakeSpec, disc, make_release, read_number

LINKED = ["root", "takes", "take", "cameras", "video"]


def move_and_link(path: Path, elsewhere: Path) -> None:
    """Move a file or folder to another place and leave a link."""
    elsewhere.mkdir(parents=True, exist_ok=True)
    target = elsewhere / f"{len(list(elsewhere.iterdir()))}-{path.name}"
    shutil.move(path, target)
    path.symlink_to(target)


def specs() -> list[TakeSpec]:
    return [TakeSpec(uid, f"n{uid}", 31, (EGO, EXO), absent={}) for uid in ("a", "b")]


@pytest.mark.parametrize("linked", LINKED)
def test_a_release_below_links(tmp_path: Path, linked: str) -> None:
    release = make_release(tmp_path / "release", specs())
    videos = release / "takes" / "na" / "frame_aligned_videos"
    places = {
        "root": [release], "takes": [release / "takes", release / "annotations"], "take": [release / "takes" / "na"],
        "cameras": [videos], "video": [videos / f"{EXO}.mp4"],
    }  # fmt: skip
    for place in places[linked]:
        move_and_link(place, tmp_path / "disk")
    dataset = open_dataset(release, "val")
    assert [read_number(dataset.take(uid).frame(EXO, 30)) for uid in ("a", "b")] == [30, 30]
    assert len(enumerate_pairs(dataset, "ego2exo")) == 8
    assert len(GroundTruth(release, "val")) == 2
    report = prepare_release(release, tmp_path / "out", splits=["val"])
    assert (report.counts, report.not_annotated) == ({"prepared": 2}, [])


@pytest.mark.parametrize("linked", ["root", "take", "camera", "image", "annotation"])
def test_a_prepared_folder_below_links(tmp_path: Path, linked: str) -> None:
    release = make_release(tmp_path / "release", specs())
    root = tmp_path / "prepared"
    prepare_release(release, root, splits=["val"])
    places = {
        "root": root, "take": root / "a", "camera": root / "a" / EXO, "image": root / "a" / EXO / "30.jpg",
        "annotation": root / "a" / "annotation.json",
    }  # fmt: skip
    move_and_link(places[linked], tmp_path / "disk")
    dataset = open_dataset(root, "val")
    assert [read_number(dataset.take(uid).frame(EXO, 30)) for uid in ("a", "b")] == [30, 30]
    assert len(enumerate_pairs(dataset, "exo2ego")) == 8
    truth = GroundTruth(root, "val")
    assert [len(take.objects) for take in truth] == [2, 2]
    assert truth.missing_takes == ()
    assert inspect_dataset(root).masks == inspect_dataset(release).masks
    image = _image(root, "a", EXO, 30)  # of the page of an evaluation
    assert image is not None
    assert read_number(image) == 30
    # A finished folder stays what it is; nothing is written through a link.
    before = sorted(p.name for p in (tmp_path / "disk").rglob("*"))
    report = prepare_release(release, root, splits=["val"])
    assert (report.counts, report.done_before) == ({"prepared": 2}, 2)
    assert json.loads((root / "split.json").read_text())["val"] == ["a", "b"]
    if linked != "root":  # a user's own link to the output folder is where it is to be written
        assert sorted(p.name for p in (tmp_path / "disk").rglob("*")) == before


def test_nothing_is_written_through_a_link_below_the_output(tmp_path: Path) -> None:
    release = make_release(tmp_path / "release", specs())
    root = tmp_path / "prepared"
    prepare_release(release, root, splits=["val"])
    (root / "a" / EXO / "30.jpg").unlink()
    move_and_link(root / "a", tmp_path / "disk")
    report = prepare_release(release, root, splits=["val"])
    assert {t.take_uid: t.status for t in report.takes} == {"a": "damaged", "b": "prepared"}
    assert "leads outside" in report.takes[0].problems[0]
    assert not (root / "a" / EXO / "30.jpg").exists()


@pytest.mark.parametrize("linked", ["take", "pair", "object"])
def test_predictions_and_proposals_below_links(tmp_path: Path, linked: str) -> None:
    mask = rle.to_coco(disc((480, 480), 0))
    root = tmp_path / "lmeec"
    pair = root / "a" / f"{EGO}__{EXO}"
    for name in ("mug 0", "bolt/nut_0"):
        (pair / name).mkdir(parents=True)
        (pair / name / "30.json").write_text(json.dumps(mask))
    places = {"take": [root / "a"], "pair": [pair], "object": [pair / "mug 0", pair / "bolt" / "nut_0"]}
    for place in places[linked]:
        move_and_link(place, tmp_path / "disk")
    predictions = open_predictions(root).load("ego2exo", "a")
    assert predictions is not None
    assert [predictions.frames(name, EGO, EXO) for name in ("mug 0", "bolt/nut_0")] == [(30,), (30,)]

    (tmp_path / "proposals" / "a" / EXO).mkdir(parents=True)
    (tmp_path / "proposals" / "a" / EXO / "30.json").write_text(json.dumps([mask]))
    move_and_link(tmp_path / "proposals" / "a" / ("" if linked == "take" else EXO), tmp_path / "disk")
    found = ProposalFiles(tmp_path / "proposals").get("a", EXO, 30)
    assert found is not None
    assert found[0] == disc((480, 480), 0)


def test_names_from_files_never_lead_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "annotation.json").write_text(json.dumps({"masks": {}}))
    root = tmp_path / "prepared"
    root.mkdir()
    for uid in ("../secret", str(tmp_path / "secret"), "a/../../secret"):
        (root / "split.json").write_text(json.dumps({"val": [uid]}))
        with pytest.raises(InputError, match="cannot be used as a file name"):
            open_dataset(root, "val").take(uid)
        with pytest.raises(InputError, match="invalid take uid"):
            GroundTruth(root, "val")
        with pytest.raises(ProposalError, match="cannot be used"):
            ProposalFiles(tmp_path).get(uid, EXO, 30)
    assert _image(tmp_path / "prepared", "../secret", "x", 3) is None
