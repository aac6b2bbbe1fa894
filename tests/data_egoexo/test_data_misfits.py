"""Masks of another shape than their images, and takes that the lists of a release contradict: out, with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from counterview.data.clips import clip_sources
from counterview.data.formats.handal import open_handal
from counterview.data.open import open_dataset
from counterview.data.pairs import enumerate_pairs
from counterview.data.prepare.prepare import prepare_release
from counterview.errors import AnnotationError, ImageError, MaskError, VideoError
from counterview.evaluation.groundtruth import GroundTruth
from counterview.masks import rle
from counterview.media.images import read_image, write_image
from counterview.types import Visibility
from tests.data_egoexo.release_maker import (
    EGO,
    EXO,
    PORTRAIT,
    SIZES,
    TakeSpec,
    annotated,
    disc,
    make_release,
    numbered,
    write_video,
)

SPEC = TakeSpec("u", "n", absent={})


def edit(release: Path, change: Any, split: str = "val") -> None:
    path = release / "annotations" / f"relations_{split}.json"
    content = json.loads(path.read_text())
    change(content["annotations"])
    path.write_text(json.dumps(content))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return make_release(tmp_path / "release", [SPEC])


def swapped(takes: dict[str, Any]) -> None:
    """The masks of cam01 have height and width exchanged."""
    for cameras in takes["u"]["object_masks"].values():
        cameras[EXO] = annotated(SIZES[EXO][::-1], range(0, 91, 30))


def test_a_camera_of_which_no_mask_fits(release: Path) -> None:
    edit(release, swapped)
    reason = "8 of 8 masks are left out: they are 192 x 108 px, its images 108 x 192 px (height x width)"
    take = open_dataset(release, "val").takes[0]
    out = release.parent / "out"
    report = prepare_release(release, out, splits=["val"]).takes[0]
    done = open_dataset(out, "val").takes[0]
    for direction in ("ego2exo", "exo2ego"):
        for each in (take, done):
            pairs = enumerate_pairs([each], direction)
            assert {c for p in pairs for c in (p.query_camera, p.target_camera)} == {EGO, PORTRAIT}
            assert len(pairs) == 8
            sources = clip_sources([each], direction, length=2)
            assert {c for s in sources for c in (s.query_camera, s.target_camera)} == {EGO, PORTRAIT}
    assert any(reason in line for line in take.problems)
    assert any(reason in line for line in report.problems)
    with pytest.raises(VideoError, match="do not fit the video"):
        take.frame(EXO, 30)
    with pytest.raises(MaskError, match=r"does not fit its image; found \(192, 108\)"):
        take.mask("mug 0", EXO, 30)
    assert take.native_size(EXO) == done.native_size(EXO) == (192, 108)  # that predictions are to have
    track = take.track("mug 0", EXO)
    assert (dict(track.masks), track.annotated_frames) == ({}, frozenset())

    assert (report.status, report.masks, report.masks_left_out) == ("partial", 16, 8)
    assert (report.cameras[EXO].status, report.cameras[EXO].frames) == ("skipped", 0)
    assert not list((out / "u" / EXO).glob("*"))
    truth = GroundTruth(out, "val").load("u")
    assert {track for tracks in truth.objects.values() for track in tracks if tracks[track].masks} == {EGO, PORTRAIT}
    assert truth.objects["mug 0"][EXO].annotated_frames == frozenset()
    # The official walk over the release's own annotation stays as it is.
    official = GroundTruth(release / "annotations" / "relations_val.json").load("u")
    assert sorted(official.objects["mug 0"][EXO].masks) == [0, 30, 60, 90]
    assert len(enumerate_pairs([take], "ego2exo", need_images=False)) == 16  # the server expects them all


def test_a_turned_video(release: Path) -> None:
    """The video of a portrait camera was stored as landscape."""
    write_video(release / "takes" / "n" / "frame_aligned_videos" / f"{PORTRAIT}.mp4", 91, SIZES[PORTRAIT][::-1])
    report = prepare_release(release, release.parent / "out", splits=["val"]).takes[0]
    assert (report.cameras[PORTRAIT].status, report.cameras[EXO].status) == ("skipped", "prepared")
    pairs = enumerate_pairs(open_dataset(release.parent / "out"), "exo2ego")
    assert {pair.query_camera for pair in pairs} == {EXO}


def test_single_masks_that_do_not_fit(release: Path) -> None:
    """One object's mask at frame 30 is of another size: it goes, and its frame is unknown."""

    def spoil(takes: dict[str, Any]) -> None:
        entry = takes["u"]["object_masks"]["mug 0"][EXO]["annotation"]["30"]
        entry |= {"height": 192, "width": 108, "encodedMask": rle.to_lzstring(disc((192, 108), 30))}

    edit(release, spoil)
    out = release.parent / "out"
    report = prepare_release(release, out, splits=["val"]).takes[0]
    assert (report.masks_left_out, report.cameras[EXO].status, report.cameras[EXO].frames) == (1, "prepared", 4)
    assert any("1 of 8 masks are left out" in line for line in report.problems)
    for take in (open_dataset(release, "val").takes[0], open_dataset(out).takes[0]):
        assert take.track("mug 0", EXO).visibility(30) is Visibility.UNKNOWN
        assert list(take.track("mug 0", EXO).masks) == [0, 60, 90]
        back = enumerate_pairs([take], "exo2ego")
        assert [p.frame for p in back if (p.object, p.query_camera) == ("mug 0", EXO)] == [0, 60, 90]
        there = {p.frame: p.target_visible for p in enumerate_pairs([take], "ego2exo") if p.target_camera == EXO}
        assert there == {0: True, 30: True, 60: True, 90: True}  # of the other object
        known = enumerate_pairs([take], "ego2exo", targets="annotated")
        assert [p.frame for p in known if (p.object, p.target_camera) == ("mug 0", EXO)] == [0, 60, 90]


def prepared_by_hand(root: Path, image_hw: tuple[int, int], *, ours: bool) -> Path:
    """A prepared folder whose exo images have the given size; the masks are 108 x 192."""
    frames = (0, 30)
    tracks = {c: {str(f): rle.to_coco(disc(SIZES[c], f)) for f in frames} for c in (EGO, EXO)}
    content: dict[str, Any] = {"masks": {"cup": tracks}, "subsample_idx": list(frames)}
    if ours:
        content["annotated_frames"] = {"cup": {c: list(frames) for c in tracks}}
    for camera, size in ((EGO, SIZES[EGO]), (EXO, image_hw)):
        for frame in frames:
            write_image(root / "u" / camera / f"{frame}.jpg", numbered(frame, size))
    (root / "u" / "annotation.json").write_text(json.dumps(content))
    (root / "split.json").write_text(json.dumps({"train": [], "val": ["u"], "test": []}))
    return root


@pytest.mark.parametrize("ours", [True, False])
def test_prepared_folders_of_earlier_versions_and_of_others(tmp_path: Path, ours: bool) -> None:
    root = prepared_by_hand(tmp_path / "good", (54, 96), ours=ours)
    assert len(enumerate_pairs(open_dataset(root), "ego2exo")) == 2
    assert sorted(GroundTruth(root, "val").load("u").objects["cup"][EXO].masks) == [0, 30]
    root = prepared_by_hand(tmp_path / "turned", (96, 54), ours=ours)
    take = open_dataset(root).takes[0]
    assert len(enumerate_pairs([take], "ego2exo")) == len(enumerate_pairs([take], "exo2ego")) == 0
    assert any("2 of 2 masks are left out: they are 108 x 192 px, its images 96 x 54 px" in p for p in take.problems)
    with pytest.raises(ImageError, match="do not fit the images"):
        take.frame(EXO, 30)
    truth = GroundTruth(root, "val").load("u")
    assert sorted(truth.objects["cup"][EXO].masks) == ([] if ours else [0, 30])  # the official code's folder as it is
    assert any("do not fit" in p for p in truth.problems) == ours


def test_a_scene_of_handal_with_a_turned_mask(tmp_path: Path) -> None:
    from PIL import Image

    scene = tmp_path / "handal_dataset_mugs" / "test" / "0"
    for n in range(3):
        write_image(scene / "rgb" / f"{n}.jpg", numbered(n, (48, 64)))
        labels = Image.fromarray(disc((64, 48) if n == 1 else (48, 64), n).to_array().astype("uint8") * 255)
        (scene / "mask").mkdir(exist_ok=True)
        labels.save(scene / "mask" / f"{n}_000000.png")
    take = open_handal(tmp_path, "test", step=1).takes[0]
    assert [(p.frame, p.target_visible) for p in enumerate_pairs([take], "ego2exo")] == [(0, None)]
    assert any("64 x 48" in line and "48 x 64" in line for line in take.problems)


# ---------------------------------------------------------------------------------------------- takes and their lists


def listed(release: Path) -> list[dict[str, Any]]:
    return json.loads((release / "takes.json").read_text())


def relist(release: Path, entries: list[dict[str, Any]]) -> None:
    (release / "takes.json").write_text(json.dumps(entries))


@pytest.fixture
def two(tmp_path: Path) -> Path:
    specs = [TakeSpec(uid, name, 31, (EGO, EXO), absent={}) for uid, name in (("a", "cook_1"), ("b", "cook_2"))]
    return make_release(tmp_path / "two", specs)


def test_withdrawn_takes_are_left_out_although_their_videos_are_there(two: Path, caplog: Any) -> None:
    out = two.parent / "out"
    assert prepare_release(two, out, splits=["val"]).counts == {"prepared": 2}
    relist(two, [entry for entry in listed(two) if entry["take_uid"] != "b"])
    fresh = prepare_release(two, two.parent / "fresh", splits=["val"])
    assert {t.take_uid: t.status for t in fresh.takes} == {"a": "prepared", "b": "redacted"}
    assert fresh.takes[1].take_name == "cook_2"
    assert not (two.parent / "fresh" / "b").exists()
    assert "its folder takes/cook_2 is still there: it was withdrawn, so delete it" in fresh.takes[1].problems
    assert fresh.is_complete
    # What was prepared before is listed no longer.
    again = prepare_release(two, out, splits=["val"])
    assert again.counts == {"prepared": 1, "redacted": 1}
    assert json.loads((out / "split.json").read_text())["val"] == ["a"]
    assert all("//a//" in pair[0] for pair in json.loads((out / "val_egoexo_pairs.json").read_text()))
    assert any("delete" in p and str(out / "b") in p for p in again.takes[1].problems)
    assert open_dataset(two, "val").uids == ("a",)
    assert "1 withdrawn takes are left out: b" in caplog.text


def test_nothing_is_left_of_another_releases_takes_json(two: Path) -> None:
    relist(two, [{**entry, "take_uid": "x" + entry["take_uid"]} for entry in listed(two)])
    report = prepare_release(two, two.parent / "out", splits=["val"])
    assert (report.counts, report.is_complete) == ({"redacted": 2}, False)
    with pytest.raises(AnnotationError, match="lists none of the 2 annotated takes"):
        open_dataset(two, "val")


def test_a_take_with_two_names(two: Path) -> None:
    """takes.json calls take a what the annotation calls take b: whose videos they are is not known."""
    entries = listed(two)
    relist(two, [{**entries[0], "take_name": "cook_3", "root_dir": "takes/cook_3"}, entries[1]])
    report = prepare_release(two, two.parent / "out", splits=["val"])
    assert {t.take_uid: t.status for t in report.takes} == {"a": "skipped", "b": "prepared"}
    assert "it is 'cook_1' in the annotation and 'cook_3' in takes.json" in report.takes[0].problems[0]
    take = open_dataset(two, "val").take("a")
    assert not take.has_frame(EGO, 0)
    with pytest.raises(VideoError, match=r"'cook_3' in takes\.json"):
        take.frame(EGO, 0)
    relist(two, [*entries, {**entries[0], "take_name": "cook_3"}])
    with pytest.raises(AnnotationError, match="lists take a twice; found cook_1 and cook_3"):
        open_dataset(two, "val")


def test_two_takes_in_one_folder(two: Path) -> None:
    edit(two, lambda takes: takes["a"].pop("take_name"))
    entries = listed(two)
    relist(two, [{**entries[0], "root_dir": "takes/cook_2"}, entries[1]])
    report = prepare_release(two, two.parent / "out", splits=["val"])
    assert {t.take_uid: t.status for t in report.takes} == {"a": "skipped", "b": "skipped"}
    assert "takes.json gives 2 takes the folder takes/cook_2" in report.takes[0].problems[0]


def test_a_take_in_two_splits(two: Path) -> None:
    """It would be trained on and scored; the split file decides, if there is one."""
    content = json.loads((two / "annotations" / "relations_val.json").read_text())
    del content["annotations"]["b"]
    (two / "annotations" / "relations_train.json").write_text(json.dumps(content))
    out = two.parent / "out"
    report = prepare_release(two, out, splits=["val"])
    assert {t.take_uid: t.status for t in report.takes} == {"a": "skipped", "b": "prepared"}
    assert "annotated as train and val: its split is not known" in report.takes[0].problems[0]
    assert json.loads((out / "split.json").read_text()) == {"train": [], "val": ["b"], "test": []}

    (two / "split.json").write_text(json.dumps({"train": ["a"], "val": ["b"], "test": []}))
    for splits in (["train", "val"], ["val"]):  # the second run must not take the first one's train split away
        prepare_release(two, out, splits=splits)
        assert json.loads((out / "split.json").read_text()) == {"train": ["a"], "val": ["b"], "test": []}
    (two / "split.json").write_text(json.dumps({"train": ["a"], "val": ["b", "a"], "test": []}))
    report = prepare_release(two, two.parent / "third", splits=["train", "val"])
    assert {t.take_uid: t.status for t in report.takes} == {"a": "skipped", "b": "prepared"}
    assert "in the split file as train and val" in report.takes[0].problems[0]


def test_a_split_file_that_names_another_split_than_the_annotation(two: Path) -> None:
    (two / "split.json").write_text(json.dumps({"train": ["a"], "val": ["b"], "test": []}))
    edit(two, lambda takes: None)
    (two / "annotations" / "relations_train.json").write_text(json.dumps({"annotations": {}}))
    report = prepare_release(two, two.parent / "out", splits=["train", "val"])
    takes = {t.take_uid: t for t in report.takes}
    assert (takes["a"].status, takes["b"].status) == ("missing", "prepared")
    assert takes["a"].problems == ["in the split file as train, but annotated as val"]


def test_a_folder_by_another_name_is_not_called_unannotated(two: Path) -> None:
    entries = listed(two)
    relist(two, [{**entries[0], "root_dir": "takes/kitchen"}, entries[1]])
    shutil.move(two / "takes" / "cook_1", two / "takes" / "kitchen")
    report = prepare_release(two, two.parent / "out", splits=["val"])
    assert (report.counts, report.not_annotated) == ({"prepared": 2}, [])
    assert read_image(two.parent / "out" / "a" / EGO / "0.jpg").shape == (128, 128, 3)
