"""Oracles: dense NumPy arrays, and pycocotools for boxes and areas."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from counterview.errors import ImageError, InputError, MaskError
from counterview.types import Match, ObjectMask, Track, View, Visibility, as_rgb

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


@given(masks)
def test_object_mask_keeps_every_pixel(dense):
    mask = ObjectMask.from_array(dense)
    assert np.array_equal(mask.to_array(), dense)
    assert mask.area == dense.sum()
    assert mask.is_empty == (not dense.any())
    assert int(mask.runs.sum()) == dense.size
    assert (mask.runs[1:] > 0).all()


@given(masks)
def test_box_area_and_centroid_agree_with_pycocotools_and_numpy(dense):
    mask = ObjectMask.from_array(dense)
    reference = coco.encode(np.asfortranarray(dense.astype(np.uint8)))
    assert mask.area == coco.area(reference)
    assert mask.box_xywh == tuple(coco.toBbox(reference).astype(int))
    if dense.any():
        rows, columns = np.nonzero(dense)
        assert mask.centroid_xy == pytest.approx((columns.mean(), rows.mean()))
    else:
        assert mask.centroid_xy is None


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_runs_come_into_one_normal_form(runs):
    total = sum(runs)
    if total == 0:
        return
    mask = ObjectMask((total, 1), np.array(runs))
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    assert np.array_equal(mask.to_array()[:, 0], values)
    assert mask == ObjectMask.from_array(values[:, None])
    assert hash(mask) == hash(ObjectMask.from_array(values[:, None]))


@pytest.mark.parametrize(
    ("size", "runs"),
    [
        ((2, 2), [3]),
        ((2, 2), [-1, 5]),
        ((2, 2), []),
        ((0, 2), [0]),
        ((2, 2), [2.0, 2.0]),
        ((2, 2), [[4]]),
        ((2, 2), [2**62, 2**62, 2**62, 2**62, 4]),
    ],
)
def test_bad_runs_are_refused(size, runs):
    with pytest.raises(MaskError):
        ObjectMask(size, np.array(runs))


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 2, 2)), np.full((2, 2), 255), np.full((2, 2), 0.5), np.zeros((0, 3), bool)]
)
def test_only_boolean_images_become_masks(bad):
    with pytest.raises(MaskError):
        ObjectMask.from_array(bad)


def test_masks_cannot_be_changed():
    mask = ObjectMask.from_array(np.eye(3, dtype=bool))
    with pytest.raises(ValueError, match="read-only"):
        mask.runs[0] = 5
    with pytest.raises(AttributeError):
        mask.size_hw = (1, 9)


def test_a_view_holds_an_rgb_image():
    view = View(np.zeros((4, 6, 3), np.uint8), camera="cam01", frame=30)
    assert view.size_hw == (4, 6)
    for bad in (np.zeros((4, 6), np.uint8), np.zeros((4, 6, 3)), np.zeros((0, 6, 3), np.uint8), "image"):
        with pytest.raises(ImageError):
            View(bad)
        with pytest.raises(ImageError):
            as_rgb(bad)
    with pytest.raises(InputError):
        View(np.zeros((4, 6, 3), np.uint8), frame=-1)


def test_a_view_stands_for_its_image():
    image = np.zeros((4, 6, 3), np.uint8)
    view = View(image, camera="cam01")
    assert as_rgb(view) is image
    assert View(view, frame=3).image is image


def test_a_track_separates_not_visible_from_unknown():
    mask = ObjectMask.from_array(np.ones((2, 2), bool))
    track = Track("mug", "cam01", {30: mask, 0: ObjectMask.empty((2, 2))}, frozenset({60}))
    assert [track.visibility(f) for f in (0, 30, 60, 90)] == [
        Visibility.VISIBLE,
        Visibility.VISIBLE,
        Visibility.NOT_VISIBLE,
        Visibility.UNKNOWN,
    ]
    assert list(track) == [0, 30, 60]
    with pytest.raises(TypeError):
        track.masks[5] = mask
    again = pickle.loads(pickle.dumps(track))
    assert dict(again.masks) == dict(track.masks)
    assert again.annotated_frames == track.annotated_frames
    with pytest.raises(MaskError):
        Track("mug", "cam01", {0: mask, 30: ObjectMask.empty((3, 2))})
    with pytest.raises(InputError):
        Track("mug", "cam01", {-1: mask})


def test_a_match_checks_its_numbers():
    mask = ObjectMask.empty((2, 2))
    assert not Match("mug", mask, 0.3, 0.9).mask.any()
    with pytest.raises(InputError):
        Match("mug", mask, 0.3, 1.2)
    with pytest.raises(InputError):
        Match("mug", mask, float("nan"), 0.2)


def two_parts():
    dense = np.zeros((30, 40), bool)
    dense[3:9, 4:14] = dense[20:28, 30:37] = True
    return dense


def test_a_mask_becomes_coco_run_lengths_and_polygons():
    dense = two_parts()
    mask = ObjectMask.from_array(dense)
    assert mask.to_coco() == Match("mug", mask, 0.5, 0.5).to_coco()
    assert np.array_equal(coco.decode(mask.to_coco()), dense)
    polygons = mask.to_polygons()
    corners = [{(4, 3), (13, 3), (13, 8), (4, 8)}, {(30, 20), (36, 20), (36, 27), (30, 27)}]
    assert sorted(sorted(map(tuple, p.tolist())) for p in polygons) == [sorted(c) for c in corners]
    assert ObjectMask.empty((5, 5)).to_polygons() == []


def test_a_mask_is_saved_as_png_whole_or_not_at_all(tmp_path):
    from counterview import read_mask

    mask = ObjectMask.from_array(two_parts())
    mask.save_png(tmp_path / "new" / "mug.png")
    Match("mug", mask, 0.5, 0.5).save_png(tmp_path / "new" / "match.png")
    for name in ("mug.png", "match.png"):
        assert np.array_equal(read_mask(tmp_path / "new" / name), two_parts())
    assert len(list((tmp_path / "new").iterdir())) == 2
    with pytest.raises(MaskError, match=r"ends in \.png"):
        mask.save_png(tmp_path / "mug.jpg")
    with pytest.raises(InputError, match="cannot be written"):
        mask.save_png("/proc/nowhere/mug.png")


def test_masks_and_matches_become_detections():
    from counterview.inference import to_supervision

    mask, nothing = ObjectMask.from_array(two_parts()), ObjectMask.empty((30, 40))
    one = mask.to_supervision()
    assert (len(one), one.confidence) == (1, None)
    assert one.xyxy.tolist() == [[4, 3, 36, 27]]
    matches = [Match("absent", nothing, 0.0, 0.1), Match("mug", mask, 0.5, 0.75)]
    several = to_supervision(matches)
    assert np.array_equal(several.mask, [two_parts()])
    assert several.confidence.tolist() == [0.75]
    assert several.class_id.tolist() == [1]
    assert several.data["class_name"].tolist() == ["mug"]
    assert len(matches[0].to_supervision()) == len(to_supervision([])) == 0


def test_a_match_draws_itself_if_it_has_its_images():
    import io

    from PIL import Image

    mask = ObjectMask.from_array(two_parts())
    image = np.full((8, 9, 3), 70, np.uint8)
    plain, drawn = Match("mug", mask, 0.5, 0.5), Match("mug", mask, 0.5, 0.5, drawing=lambda match: image)
    assert plain == drawn
    assert hash(plain) == hash(drawn)
    assert plain._repr_png_() is None
    assert np.array_equal(Image.open(io.BytesIO(drawn._repr_png_())), image)
    with pytest.raises(InputError, match="the match of 'mug' holds no images"):
        plain.show()
    again = pickle.loads(pickle.dumps(drawn))
    assert again == drawn
    assert again.drawing is None


def test_what_is_printed_is_one_short_line():
    mask = ObjectMask.from_array(two_parts())
    match = Match("mug", mask, 0.51234, 0.9, notes=("a note",))
    assert repr(match) == (
        "Match('mug', visibility=0.90, similarity=0.512, area=116, box_xywh=(4, 3, 33, 25), 0 candidates, 1 note)"
    )
    view = View(np.zeros((480, 640, 3), np.uint8), camera="cam01", frame=3)
    assert repr(view) == "View(size_hw=(480, 640), camera='cam01', frame=3)"
    track = Track("mug", "cam01", dict.fromkeys(range(100), mask), frozenset(range(120)))
    assert repr(track) == "Track('mug', camera='cam01', 100 masks, 120 annotated frames)"
