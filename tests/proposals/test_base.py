import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from counterview.errors import ConfigError, ProposalError
from counterview.proposals import PROPOSERS, Proposals, Proposer, load_proposer, scaling
from counterview.proposals.base import mask_from_crop
from counterview.proposals.scaling import mask_from_score_map, mask_from_window
from counterview.types import ObjectMask


def _mask(*pixels, size=(4, 6)):
    dense = np.zeros(size, bool)
    for y, x in pixels:
        dense[y, x] = True
    return ObjectMask.from_array(dense)


def test_boxes_are_those_of_the_masks_unless_given():
    masks = (_mask((1, 2), (3, 4)), _mask((0, 0)))
    made = Proposals((4, 6), masks, [0.5, 0.25])
    assert made.boxes_xywh.tolist() == [[2, 1, 3, 3], [0, 0, 1, 1]]
    given_boxes = Proposals((4, 6), masks, [0.5, 0.25], [[1, 1, 4, 3], [0, 0, 2, 2]])
    assert given_boxes.boxes_xywh[0].tolist() == [1, 1, 4, 3]
    assert made.scores.dtype == np.float32
    assert made != given_boxes
    assert made.take([1]).masks == (masks[1],)
    assert given_boxes.take(slice(1)).boxes_xywh.tolist() == [[1, 1, 4, 3]]
    assert len(Proposals.none((4, 6))) == 0
    with pytest.raises(ValueError, match="read-only"):
        made.scores[0] = 1


@pytest.mark.parametrize(
    ("masks", "scores", "boxes", "words"),
    [
        ((_mask((0, 0), size=(4, 5)),), [1], None, "another size"),
        ((ObjectMask.empty((4, 6)),), [1], None, "no pixel"),
        ((_mask((0, 0)),), [1, 2], None, "scores do not fit"),
        ((_mask((0, 0)),), [np.nan], None, "not a finite number"),
        ((_mask((0, 0)),), [1], [[0, 0, 1]], "boxes do not fit"),
        ((_mask((0, 0)),), [1], [[0, 0, 1, np.inf]], "not a finite number"),
    ],
)
def test_what_does_not_belong_together_is_refused(masks, scores, boxes, words):
    with pytest.raises(ProposalError, match=words):
        Proposals((4, 6), masks, scores, boxes)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mask_from_crop_equals_the_dense_way(data):
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    y0 = data.draw(st.integers(0, height - 1))
    x0 = data.draw(st.integers(0, width - 1))
    rows, columns = data.draw(st.integers(1, height - y0)), data.draw(st.integers(1, width - x0))
    bits = data.draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    crop = np.array(bits).reshape(rows, columns)
    dense = np.zeros((height, width), bool)
    dense[y0 : y0 + rows, x0 : x0 + columns] = crop
    assert mask_from_crop(crop, x0, y0, (height, width)) == ObjectMask.from_array(dense)


def test_mask_from_crop_refuses_to_extend_beyond_the_image():
    with pytest.raises(ProposalError, match="extends beyond"):
        mask_from_crop(np.ones((2, 2), bool), 5, 0, (4, 6))


@pytest.mark.parametrize("target", [(48, 40), (64, 64), (19, 131), (7, 5), (16, 16)])
def test_mask_from_field_equals_torch_interpolation(target):
    rng = np.random.default_rng(3)
    for share in (0.02, 0.3, 0.9):
        field = rng.normal(size=(16, 16)).astype(np.float32)
        field[rng.random((16, 16)) > share] = -2.0
        whole = torch.nn.functional.interpolate(torch.from_numpy(field)[None, None], target, mode="bilinear")[0, 0]
        found = mask_from_score_map(field, 0.1, target).to_array()
        # Where the two may round to different sides of the level, neither is wrong.
        clear = (whole - 0.1).abs().numpy() > 1e-5
        assert np.array_equal(found[clear], (whole > 0.1).numpy()[clear])
        assert clear.mean() > 0.99


@pytest.mark.parametrize("seed", range(20))
def test_window_of_a_field_gives_the_mask_of_the_field(seed):
    rng = np.random.default_rng(seed)
    for _ in range(15):
        field_hw, target = rng.integers(1, 60, 2), tuple(rng.integers(1, 90, 2).tolist())
        y0, x0 = (int(rng.integers(side)) for side in field_hw)
        y1, x1 = int(rng.integers(y0, field_hw[0])) + 1, int(rng.integers(x0, field_hw[1])) + 1
        field = np.zeros(field_hw, np.float32)
        field[y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < 0.6
        size_hw = (int(field_hw[0]), int(field_hw[1]))
        found = mask_from_window(field[y0:y1, x0:x1], (y0, x0), size_hw, 0.5, target)
        assert found == mask_from_score_map(field, 0.5, target), (size_hw, target)


def test_mask_from_field_lies_where_its_part_of_the_image_is():
    field = np.full((4, 4), -1, np.float32)
    field[1:3, 1:3] = 5
    alone = mask_from_score_map(field, 0.0, (8, 8)).to_array()
    placed = mask_from_score_map(field, 0.0, (8, 8), within_hw=(20, 30), offset_yx=(3, 7)).to_array()
    assert alone.any()
    assert np.array_equal(placed[3:11, 7:15], alone)
    assert placed.sum() == alone.sum()
    assert mask_from_score_map(field, 9.0, (8, 8), within_hw=(20, 30)).is_empty


def test_proposers_are_found_by_name(tmp_path):
    assert isinstance(load_proposer("graph", max_masks=7), Proposer)
    assert load_proposer("graph", max_masks=7).settings()["max_masks"] == 7
    assert load_proposer(f"folder:{tmp_path}").settings()["path"] == str(tmp_path)
    assert set(PROPOSERS) == {"graph", "tiny", "sam2", "fastsam", "folder"}


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("grahp", {}, "did you mean 'graph'"),
        ("sam3", {}, "did you mean 'sam2'"),
        ("graph:x", {}, "takes no argument"),
        ("sam2:", {}, "nothing follows the colon"),
        ("folder", {}, "needs a folder"),
        ("graph", {"max_mask": 3}, "did you mean 'max_masks'"),
        ("graph", {"max_masks": 0, "max_area": 2.0}, "max_masks must be at least 1.*max_area"),
        ("sam2", {"image_size": 100}, "multiple of 32"),
        ("folder:a", {"path": "b"}, "given twice"),
        (3, {}, "by name"),
    ],
)
def test_wrong_names_and_settings_say_what_is_right(name, settings, words):
    with pytest.raises(ConfigError, match=words):
        load_proposer(name, **settings)


def test_missing_folder_is_the_inputs_fault(tmp_path):
    with pytest.raises(ProposalError, match="no such folder") as caught:
        load_proposer(f"folder:{tmp_path / 'nowhere'}")
    assert caught.value.exit_code == 2


def test_the_edges_of_an_enlarged_mask_are_found_without_its_pixels(monkeypatch):
    rng = np.random.default_rng(5)
    for number in range(60):
        size = rng.integers(2, 40, 2)
        window = rng.random(size).astype(np.float32)
        if number % 2:
            window = (ndimage.gaussian_filter(window, 1.5) > 0.5).astype(np.float32)
        map_hw = tuple(int(side + rng.integers(0, 20)) for side in size)
        origin = tuple(int(rng.integers(0, m - s + 1)) for m, s in zip(map_hw, size, strict=True))
        target = tuple(int(side * factor) for side, factor in zip(map_hw, rng.uniform(2, 8, 2), strict=True))
        found = mask_from_window(window, origin, map_hw, 0.5, target)
        with monkeypatch.context() as patch:
            patch.setattr(scaling, "_BY_CROSSINGS", float("inf"))
            assert mask_from_window(window, origin, map_hw, 0.5, target) == found
