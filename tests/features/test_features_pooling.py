"""Pooling against the released numbers, and against the plain form: upsample, then average."""

import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from counterview.errors import InputError, MaskError
from counterview.features.base import FeatureMap, PoolGrid
from counterview.features.pooling import (
    box_weights,
    centroid_weights,
    describe,
    grid_boxes,
    mask_boxes,
    mask_weights,
    missed_masks,
    upsampling_matrix,
)
from counterview.masks.geometry import resize_nearest
from counterview.types import ObjectMask

DATA = Path(__file__).parents[1] / "data" / "omama"


def fill(name, shape, scale):
    """The fill formula of the golden numbers."""
    x = np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * 0x9E3779B1 + zlib.crc32(name.encode())
    x &= np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x ^= x >> np.uint64(shift)
        x = x * np.uint64(factor) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(16)
    return torch.from_numpy((scale * (2 * (x / 2.0**32) - 1)).astype(np.float32).reshape(shape))


@pytest.fixture(scope="module")
def released(fixture_data):
    case = fixture_data("omama/descriptors.json")
    with np.load(DATA / "descriptors.npz") as arrays:
        height, width = case["image"]
        packed = np.unpackbits(arrays["masks_packed"], axis=1)[:, : height * width]
        masks = packed.reshape(-1, height, width).astype(bool)
        features = fill(f"{case['name']}/features", (1, 32, *case["grid"]), 1.7)[0]
        return case, features, masks, arrays["mask_f64"], arrays["context_f64"]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("form", ["runs", "dense"])
def test_equals_the_released_descriptors(released, dtype, tolerance, form):
    case, features, dense, mask_f64, context_f64 = released
    masks = dense if form == "dense" else [ObjectMask.from_array(m) for m in dense]
    size = tuple(case["image"])
    result = describe(
        FeatureMap(features.to(dtype), size, size),
        masks,
        context_px=case["context_size"],
        boxes_xywh=np.array(case["boxes_xywh"]),
    )
    assert result.dtype == dtype
    assert result.shape == (len(dense), 64)
    np.testing.assert_allclose(result[:, :32].double(), mask_f64, rtol=0, atol=tolerance)
    np.testing.assert_allclose(result[:, 32:].double(), context_f64, rtol=0, atol=tolerance)


def test_boxes_and_points_are_the_released_ones(released):
    case, features, dense, _, _ = released
    size = tuple(case["image"])
    grid = FeatureMap(features, size, size).grid
    masks = [ObjectMask.from_array(m) for m in dense]
    boxes = grid_boxes(grid, np.array(case["boxes_xywh"]), case["context_size"])
    np.testing.assert_array_equal(boxes, case["context_boxes_x1y1x2y2"])
    points = mask_weights(grid, masks)[1]
    np.testing.assert_array_equal(points, case["mask_pixels_after_nearest"])
    np.testing.assert_array_equal(missed_masks(grid, masks), np.array(case["mask_pixels_after_nearest"]) == 0)
    from_masks = [i for i, name in enumerate(case["masks"]) if not name.startswith("box ")]
    np.testing.assert_array_equal(mask_boxes(masks)[from_masks], np.array(case["boxes_xywh"])[from_masks])


def random_case(seed, image_hw, cells_hw, input_hw, count=4, channels=3):
    rng = np.random.default_rng(seed)
    features = torch.from_numpy(rng.normal(size=(channels, *cells_hw)))
    masks = rng.random((count, *image_hw)) < rng.random((count, 1, 1))
    for mask in masks[1:]:  # rectangles with noise, so that runs of all lengths occur
        y, x = rng.integers(0, image_hw[0]), rng.integers(0, image_hw[1])
        mask[: rng.integers(0, y + 1)], mask[:, : rng.integers(0, x + 1)] = False, True
    masks[0] = False
    return FeatureMap(features, image_hw, input_hw), masks


def upsampled(features):
    """The plain form: torch's own upsampling to the pooling grid."""
    size = features.grid.points_hw
    return torch.nn.functional.interpolate(features.tensor[None], size, mode="bilinear", align_corners=False)[0]


sides = st.integers(1, 70)
pairs = st.tuples(sides, sides)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), image_hw=pairs, cells_hw=st.tuples(st.integers(1, 12), st.integers(1, 12)), size=pairs
)
def test_pooling_is_upsample_and_average(seed, image_hw, cells_hw, size):
    features, masks = random_case(seed, image_hw, cells_hw, (size[0] * 2, size[1] * 2))
    plain = upsampled(features)
    small = np.stack([resize_nearest(m, features.grid.points_hw) for m in masks])
    expected = [plain[:, m].mean(1) if m.any() else plain.new_zeros(3) for m in small]
    encoded = [ObjectMask.from_array(m) for m in masks]
    for form in (encoded, masks):
        np.testing.assert_allclose(describe(features, form), torch.stack(expected), atol=1e-12)
    boxes = grid_boxes(features.grid, mask_boxes(encoded))
    crops = [plain[:, y1:y2, x1:x2].flatten(1) for x1, y1, x2, y2 in boxes]
    np.testing.assert_allclose(describe(features, encoded, "box"), torch.stack([c.mean(1) for c in crops]), atol=1e-12)
    np.testing.assert_allclose(
        describe(features, encoded, "box_max"), torch.stack([c.amax(1) for c in crops]), atol=1e-12
    )


@pytest.mark.parametrize(("cells", "points"), [(1, 1), (1, 9), (38, 133), (68, 238), (50, 175), (7, 3), (5, 5)])
def test_upsampling_matrix_is_torchs(cells, points):
    rows = torch.eye(cells, dtype=torch.float64)[:, None]
    expected = torch.nn.functional.interpolate(rows, points, mode="linear", align_corners=False)[:, 0].T
    np.testing.assert_allclose(upsampling_matrix(cells, points), expected, atol=1e-14)


def test_centroid_is_the_upsampled_value_there():
    features, _ = random_case(3, (40, 60), (5, 7), (40, 60))
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:21, 30:45] = True  # rows 10 to 20, centre 15.5; columns 30 to 44, centre 37.5 in pixel edges
    value = describe(features, [ObjectMask.from_array(mask)], "centroid")[0]
    np.testing.assert_allclose(value, upsampled(features)[:, 15 // 4, 37 // 4], atol=1e-12)
    np.testing.assert_array_equal(centroid_weights(features.grid, [ObjectMask.empty((40, 60))]), 0)


def test_centroid_agrees_with_the_mask_itself():
    rng = np.random.default_rng(5)
    masks = [ObjectMask.from_array(rng.random((31, 17)) < 0.3) for _ in range(5)]
    grid = PoolGrid((31, 17), (31, 17), (31, 17), 1)  # a cell a pixel: weights are positions
    for weights, mask in zip(centroid_weights(grid, masks), masks, strict=True):
        row, column = np.unravel_index(weights.argmax(), weights.shape)
        x, y = mask.centroid_xy
        assert (column, row) == (int(x + 0.5), int(y + 0.5))
        assert weights.max() == 1


def test_fallback_takes_the_centre_of_masks_that_miss_the_grid():
    features, _ = random_case(4, (40, 60), (5, 7), (40, 60))
    dense = np.zeros((3, 40, 60), dtype=bool)
    dense[0, 13, 26] = True  # between the points of the grid
    dense[1, 12:20, 24:40] = True
    masks = [ObjectMask.from_array(m) for m in dense]
    np.testing.assert_array_equal(missed_masks(features.grid, masks), [True, False, True])
    zeros, centre = (describe(features, masks, fallback=f) for f in ("zeros", "centre"))
    assert not zeros[0].any()
    np.testing.assert_allclose(centre[0], upsampled(features)[:, 3, 6], atol=1e-12)
    np.testing.assert_array_equal(centre[1], zeros[1])
    assert not centre[2].any()
    np.testing.assert_array_equal(describe(features, dense, fallback="centre"), centre)


def test_an_image_of_another_size_than_the_input():
    """Boxes are scaled to the input; a box over all gives the mean of all."""
    features, _ = random_case(6, (120, 90), (5, 7), (40, 60))
    mean = upsampled(features).flatten(1).mean(1)
    result = describe(features, None, "box", boxes_xywh=np.array([[0.0, 0, 90, 120]]), context_px=3)
    np.testing.assert_allclose(result[0], torch.cat([mean, mean]), atol=1e-12)


def test_half_precision_maps_are_pooled_in_float32():
    features, masks = random_case(7, (40, 60), (5, 7), (40, 60))
    half = FeatureMap(features.tensor.half(), (40, 60), (40, 60))
    whole = FeatureMap(half.tensor.float(), (40, 60), (40, 60))
    assert describe(half, masks).dtype == torch.float32
    for kind in ("mask", "box_max"):
        torch.testing.assert_close(describe(half, masks, kind), describe(whole, masks, kind), rtol=0, atol=0)


def test_gradients_reach_the_map():
    features, masks = random_case(8, (40, 60), (5, 7), (40, 60))
    leaf = features.tensor.clone().requires_grad_()
    describe(FeatureMap(leaf, (40, 60), (40, 60)), masks[1:], context_px=10).sum().backward()
    assert leaf.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["mask", "box", "box_max", "centroid"])
@pytest.mark.parametrize("context_px", [None, 5])
def test_no_masks_give_no_descriptors(kind, context_px):
    features, _ = random_case(9, (40, 60), (5, 7), (40, 60))
    assert describe(features, [], kind, context_px=context_px).shape == (0, 3 if context_px is None else 6)


def test_refuses_what_does_not_fit():
    features, masks = random_case(10, (40, 60), (5, 7), (40, 60))
    with pytest.raises(MaskError, match="another size"):
        describe(features, [ObjectMask.empty((60, 40))])
    with pytest.raises(MaskError, match="another shape"):
        describe(features, masks.transpose(0, 2, 1))
    with pytest.raises(InputError, match="kind"):
        describe(features, masks, "median")
    with pytest.raises(InputError, match="fallback"):
        describe(features, masks, fallback="ones")
    with pytest.raises(InputError, match="needs masks"):
        describe(features, None, "mask", boxes_xywh=np.zeros((1, 4)))
    with pytest.raises(InputError, match="differ in number"):
        describe(features, masks, context_px=1, boxes_xywh=np.zeros((1, 4)))
    with pytest.raises(InputError, match="finite"):
        box_weights(features.grid, np.array([[0, 0, np.nan, 1]]))
    with pytest.raises(InputError, match="negative"):
        box_weights(features.grid, np.zeros((1, 4)), -1)
    with pytest.raises(InputError, match="floating point"):
        FeatureMap(torch.zeros((2, 2)), (4, 4), (4, 4))
    with pytest.raises(InputError, match="at least 1"):
        PoolGrid((0, 4), (4, 4), (1, 1))


def test_centroids_are_measured_from_pixel_edges():
    """A cell a pixel: the centroid of two neighbours is on the edge between them, and belongs to the second."""
    grid = PoolGrid((8, 10), (8, 10), (8, 10), 1)
    mask = np.zeros((2, 8, 10), dtype=bool)
    mask[0, 3, 4:6] = True
    mask[1, 2:4, 7] = True
    weights = centroid_weights(grid, [ObjectMask.from_array(m) for m in mask])
    assert np.argwhere(weights[0]).tolist() == [[3, 5]]
    assert np.argwhere(weights[1]).tolist() == [[3, 7]]
