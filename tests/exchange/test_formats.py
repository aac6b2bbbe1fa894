"""What is written in a format is read back: everything where the format holds it, else what its page promises."""

import json
import sys

import numpy as np
import pytest

from counterview.errors import AnnotationError, InputError, MissingExtraError, PathError
from counterview.exchange import FORMATS, detect_format, prompts_of, read, tracks_of_matches, write
from counterview.exchange.formats import check_format
from counterview.exchange.tracks import TrackedCamera, TrackedMask, Tracks
from counterview.masks.geometry import iou
from counterview.types import Match, ObjectMask
from tests.exchange.samples import blob, flat, some_tracks

PLACES = {
    "tracks": "tracks.json", "coco": "coco.json", "davis": "davis", "cvat": "cvat", "labelstudio": "labelstudio.json",
    "labelme": "labelme", "yolo": "yolo",
}  # fmt: skip
LOSSLESS = ("tracks", "coco", "cvat", "labelstudio", "labelme")


@pytest.mark.parametrize("format", LOSSLESS)
def test_everything_is_read_back(tmp_path, format):
    tracks = some_tracks()
    files = write(tracks, format, tmp_path)
    assert all(file.is_file() for file in files)
    read_back = read(tmp_path / PLACES[format])
    assert flat(read_back) == flat(tracks)
    assert list(read_back.objects) == list(tracks.objects)
    if format == "cvat":  # a file a camera, in the order of their names
        assert set(read_back.cameras) == set(tracks.cameras)
    else:
        assert list(read_back.cameras) == list(tracks.cameras)
    assert dict(read_back.cameras) == dict(tracks.cameras)
    assert read_back.settings == (tracks.settings if format in ("tracks", "coco") else {})


@pytest.mark.parametrize("format", PLACES)
def test_nothing_but_the_files_is_left_and_several_formats_fit_in_one_folder(tmp_path, format):
    tracks = some_tracks()
    for other in PLACES:
        write(tracks, other, tmp_path / "all")
    files = write(tracks, format, tmp_path / "one")
    found = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert found == {path.relative_to(tmp_path / "one") for path in files}
    for path in found:
        assert (tmp_path / "all" / path).read_bytes() == (tmp_path / "one" / path).read_bytes()
    assert detect_format(tmp_path / "all" / PLACES[format]) == format


def test_an_index_image_loses_overlaps_alone(tmp_path):
    tracks = some_tracks()
    write(tracks, "davis", tmp_path)
    read_back = read(tmp_path / "davis")
    mug, knife = tracks.objects
    before, after = flat(tracks), flat(read_back)
    lost = {(mug, "cam01", 15)}  # noise, over which nothing lies
    assert set(before) == set(after)
    for key, item in before.items():
        if key[:2] == (mug, "ego") or key in lost or key[0] == knife:
            assert after[key] == item
    assert dict(read_back.cameras) == dict(tracks.cameras)


def test_yolo_keeps_outlines(tmp_path):
    rng = np.random.default_rng(0)
    size, worst = (270, 480), 1.0
    for seed in range(12):
        shape = blob(size, seed, parts=1 + seed % 3)
        camera = TrackedCamera(None, size, 30.0)
        tracks = Tracks({"c": camera}, {"a": {"c": [TrackedMask(0.1, 3, shape, 0.8, "matched")]}})
        folder = tmp_path / str(seed)
        write(tracks, "yolo", folder)
        (item,) = read(folder / "yolo").objects["a"]["c"]
        assert (item.frame, item.visibility, item.source) == (3, 1.0, "given")
        worst = min(worst, iou(item.mask_rle, shape))
    print(f"IoU of blobs at least {worst:.4f}")
    assert worst >= 0.97
    # Points and lines remain.
    array = np.zeros((20, 20), bool)
    array[3, 3], array[8, 2:9] = True, True
    array[tuple(rng.integers(12, 20, 2))] = True
    thin = ObjectMask.from_array(array)
    write(Tracks({"c": TrackedCamera(None, (20, 20))}, {"a": {"c": [TrackedMask(0, 0, thin, 1, "given")]}}), "yolo",
          tmp_path / "thin")  # fmt: skip
    assert read(tmp_path / "thin" / "yolo").objects["a"]["c"][0].mask_rle == thin


def test_yolo_says_absent_where_a_frame_is_listed_and_unknown_where_it_is_not(tmp_path):
    tracks = some_tracks()
    write(tracks, "yolo", tmp_path)
    mug, knife = tracks.objects
    after = flat(read(tmp_path / "yolo"))
    assert (mug, "ego", 45) not in after
    assert after[mug, "ego", 30].visibility == 0.0
    assert after[mug, "ego", 30].mask_rle is None
    assert after[knife, "ego", 0].mask_rle is None
    assert (knife, "ego", 0) not in flat(read(tmp_path / "yolo", missing="unknown"))
    assert iou(after[mug, "ego", 0].mask_rle, flat(tracks)[mug, "ego", 0].mask_rle) == 1


def test_a_match_of_two_images_is_written_in_every_format(tmp_path):
    query, target = blob((40, 50), 1), blob((30, 60), 2)
    matches = [Match("mug", target, 0.9, 0.8), Match("pot", ObjectMask.empty((30, 60)), 0.1, 0.2)]
    tracks = tracks_of_matches(
        "left", (40, 50), {"mug": query, "pot": query}, "right", (30, 60), matches, ("a/left.jpg", "b/right.png")
    )
    assert tracks.query_camera == "left"
    assert tracks.objects["pot"]["right"][0].mask_rle is None
    for format, place in PLACES.items():
        write(tracks, format, tmp_path)
        read_back = read(tmp_path / place)
        after = flat(read_back)
        assert after["mug", "right", 0].mask_rle == target
        assert after["pot", "right", 0].mask_rle is None
        assert read_back.cameras["right"] == TrackedCamera("b/right.png", (30, 60))
    images = {image["file_name"] for image in json.loads((tmp_path / "coco.json").read_text())["images"]}
    assert images == {"a/left.jpg", "b/right.png"}


def test_wrong_matches_are_refused():
    query = blob((40, 50), 1)
    with pytest.raises(InputError, match="one name"):
        tracks_of_matches("a", (40, 50), {"m": query}, "a", (40, 50), [])
    with pytest.raises(InputError, match="without a query mask"):
        tracks_of_matches("a", (40, 50), {"m": query}, "b", (40, 50), [Match("x", query, 0.5, 0.5)])
    with pytest.raises(InputError, match="does not fit"):
        tracks_of_matches("a", (40, 51), {"m": query}, "b", (40, 50), [])


def test_masks_of_a_camera_are_prompts():
    tracks = some_tracks()
    mug, knife = tracks.objects
    prompts = prompts_of(tracks)
    assert [time for time, _ in prompts[mug]] == [0.0, 0.5]
    assert [time for time, _ in prompts[knife]] == [1.0]
    assert prompts[mug][1][1] == tracks.objects[mug]["ego"][1].mask_rle
    assert [time for time, _ in prompts_of(tracks, "cam01")[mug]] == [0.04, 0.6]
    with pytest.raises(InputError, match="camera"):
        prompts_of(tracks, "cam02")


# ------------------------------------------------------------------------------------------------ formats by name


def test_formats_have_names():
    assert set(PLACES) == set(FORMATS) - {"rerun"}
    with pytest.raises(InputError, match=r"no format 'coca'.*Did you mean"):
        write(some_tracks(), "coca", "nowhere")
    with pytest.raises(InputError, match="written only"):
        check_format("rerun", reading=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"{}"), ("a.json", b"[]"), ("a.json", b'[{"data": {}}]'), ("a.json", b'{"shapes": []}'),
        ("a.xml", b"<View/>"), ("a.txt", b"0 0.1 0.2 0.3 0.4"), ("a.png", b"\x89PNG"), ("a.yaml", b"a: 1"), ("a", b""),
    ],
)  # fmt: skip
def test_a_format_is_never_guessed(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AnnotationError, match=r"in no known format.*tracks or coco or") as caught:
        read(tmp_path / name)
    assert name in str(caught.value)


def test_folders_of_no_format_and_of_several_are_refused(tmp_path):
    with pytest.raises(AnnotationError, match="no known format"):
        read(tmp_path)
    with pytest.raises(AnnotationError, match="no such file"):
        read(tmp_path / "missing.json")
    write(some_tracks(), "davis", tmp_path)
    write(some_tracks(), "yolo", tmp_path)
    with pytest.raises(AnnotationError, match=r"davis, .*yolo"):
        read(tmp_path)
    (tmp_path / "davis" / "data.yaml").write_text("names: [a]")
    with pytest.raises(AnnotationError, match="several formats"):
        read(tmp_path / "davis")


def test_the_recording_of_rerun_is_not_read(tmp_path):
    (tmp_path / "tracks.rrd").write_bytes(b"RRF2" + bytes(20))
    with pytest.raises(AnnotationError, match="written only"):
        read(tmp_path / "tracks.rrd")


def test_rerun_without_its_extra_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingExtraError, match=r"counterview\[rerun\]"):
        write(some_tracks(), "rerun", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_rerun_writes_a_recording(tmp_path):
    pytest.importorskip("rerun", reason="the extra [rerun] is not installed")
    (path,) = write(some_tracks(), "rerun", tmp_path)
    assert path.read_bytes().startswith(b"RRF")
    assert [p.name for p in tmp_path.iterdir()] == ["tracks.rrd"]


@pytest.mark.parametrize("format", ["davis", "cvat", "labelme", "yolo"])
@pytest.mark.parametrize("name", ["../up", "a/b", "con", ""])
def test_the_name_of_a_camera_never_leads_elsewhere(tmp_path, format, name):
    tracks = Tracks({name: TrackedCamera(None, (4, 4))}, {"a": {name: [TrackedMask(0, 0, None, 0.1, "given")]}})
    with pytest.raises(PathError):
        write(tracks, format, tmp_path / "out")
    assert not any(p.is_file() for p in tmp_path.rglob("*"))
