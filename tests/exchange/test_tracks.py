"""``tracks.json``: what is written is read back, and malformed files are refused in one line."""

import json

import numpy as np
import pytest

from counterview.errors import AnnotationError, InputError
from counterview.exchange.tracks import TrackedCamera, TrackedMask, Tracks, read_tracks, tracks_to_json, write_tracks
from counterview.types import ObjectMask, Visibility


def some_tracks(seed=0):
    rng = np.random.default_rng(seed)

    def mask(size):
        return ObjectMask.from_array(rng.random(size) > 0.5)

    cameras = {"ego": TrackedCamera("ego.mp4", (12, 16), 30.0), "cam01": TrackedCamera(None, (9, 20), None, 1.37, -100)}
    mug = {
        "ego": [TrackedMask(0.0, 0, mask((12, 16)), 1.0, "given"), TrackedMask(0.5, 15, None, 0.03, "followed")],
        "cam01": [TrackedMask(0.1, 2, mask((9, 20)), 0.75, "matched"), TrackedMask(0.6, 14, None, None, "unknown")],
    }
    return Tracks(cameras, {"mug": mug, "knife": {"ego": []}}, {"model": "tiny", "fps": 2})


def test_written_tracks_are_read_back(tmp_path):
    tracks = some_tracks()
    write_tracks(tmp_path / "tracks.json", tracks)
    read = read_tracks(tmp_path / "tracks.json")
    assert read == tracks
    assert read.query_camera == "ego"
    assert [p.name for p in tmp_path.iterdir()] == ["tracks.json"]


def test_the_masks_are_those_of_pycocotools(tmp_path):
    from pycocotools import mask as coco

    tracks = some_tracks()
    entry = tracks_to_json(tracks)["objects"][0]["tracks"]["cam01"][0]
    assert (coco.decode(entry["mask"]) == tracks.objects["mug"]["cam01"][0].mask_rle.to_array()).all()


def test_a_track_distinguishes_absent_from_unknown():
    tracks = some_tracks()
    assert tracks.track("mug", "ego").visibility(15) is Visibility.NOT_VISIBLE
    assert tracks.track("mug", "cam01").visibility(14) is Visibility.UNKNOWN
    assert len(tracks.track("knife", "cam01")) == 0


def test_clocks_are_inverse_to_each_other():
    camera = TrackedCamera(None, (4, 4), None, offset_s=1.37, drift_ppm=100)
    assert camera.query_time(100) == pytest.approx(101.38)
    assert camera.own_time(camera.query_time(12.3)) == pytest.approx(12.3)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c.update(version=9), "another version"),
        (lambda c: c.pop("cameras"), "is not a tracks.json"),
        (lambda c: c.update(objects={}), "are of another kind"),
        (lambda c: c["objects"].append(c["objects"][0]), "there twice"),
        (lambda c: c["objects"][0]["tracks"]["ego"][0].update(frame=1.5), "malformed"),
        (lambda c: c["objects"][0]["tracks"]["ego"][0].update(source="magic"), "malformed"),
        (lambda c: c["objects"][0]["tracks"]["ego"][0].update(visibility=1.5), "probability"),
        (lambda c: c["objects"][0]["tracks"]["ego"][1].update(frame=0), "do not ascend"),
        (lambda c: c["objects"][0]["tracks"]["ego"][0]["mask"].update(counts="~"), "invalid character"),
        (lambda c: c["cameras"]["ego"].update(size_hw=[3, 3]), "does not fit"),
        (lambda c: c["cameras"]["ego"].update(size_hw="big"), "malformed"),
        (lambda c: c["objects"][0]["tracks"].update(elsewhere=[]), "unknown camera"),
    ],
)
def test_malformed_files_are_refused(tmp_path, change, problem):
    content = tracks_to_json(some_tracks())
    change(content)
    path = tmp_path / "tracks.json"
    path.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=problem) as caught:
        read_tracks(path)
    assert "tracks.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_out_of_range_are_refused():
    with pytest.raises(InputError, match="probability"):
        TrackedMask(0.0, 0, None, -0.1, "matched")
    with pytest.raises(InputError, match="place in time"):
        TrackedMask(float("nan"), 0, None, None, "unknown")
