"""From matched points to masks. Oracle: dense masks indexed point by point, OpenCV's own hull of the same points."""

import cv2
import numpy as np
import pytest

from counterview.baselines.geometric.base import PointMatches
from counterview.baselines.geometric.config import NAMES, GeometricConfig, parse_name
from counterview.baselines.geometric.scaling import input_hw, resized, to_image_px
from counterview.baselines.geometric.transfer import count_in_masks, hull, in_mask, vote
from counterview.errors import ConfigError, InputError
from counterview.proposals.base import Proposals
from counterview.types import ObjectMask

SIZE = (30, 44)


def points(count, seed=0):
    """Points in and around an image of SIZE, some of them twice."""
    xy = np.random.default_rng(seed).uniform(-4, 48, (count, 2))
    return np.concatenate([xy, xy[:10]])


def masks(count, seed=0):
    rng = np.random.default_rng(seed)
    dense = [cv2.blur(rng.random(SIZE), (5, 5)) > 0.5 for _ in range(count)]
    return dense, tuple(ObjectMask.from_array(mask) for mask in dense)


def test_points_are_counted_in_masks_as_in_dense_arrays():
    dense, encoded = masks(12)
    xy = points(500)
    pixel = np.rint(xy).astype(int)
    kept = (pixel >= 0).all(1) & (pixel[:, 0] < SIZE[1]) & (pixel[:, 1] < SIZE[0])
    assert 50 < (~kept).sum() < 450, "points inside and outside"
    for array, mask in zip(dense, encoded, strict=True):
        expected = np.zeros(len(xy), bool)
        expected[kept] = array[pixel[kept, 1], pixel[kept, 0]]
        assert 0 < expected.sum() < kept.sum()
        assert np.array_equal(in_mask(xy, mask), expected)
        assert count_in_masks(xy, [mask], SIZE).tolist() == [expected.sum()]
    assert count_in_masks(np.zeros((0, 2)), encoded, SIZE).tolist() == [0] * 12


def test_votes_are_ious_over_matches_and_ties_go_to_the_smaller():
    dense, encoded = masks(12, seed=3)
    everything = ObjectMask.from_array(np.ones(SIZE, bool))
    proposals = Proposals(SIZE, (*encoded, everything), np.ones(13))
    rng = np.random.default_rng(5)
    target = np.stack([rng.integers(0, SIZE[1], 300), rng.integers(0, SIZE[0], 300)], 1).astype(float)
    matches = PointMatches(target, target, np.ones(300))
    is_own = dense[4][target[:, 1].astype(int), target[:, 0].astype(int)] & (rng.random(300) < 0.8)
    own = matches.take(is_own)
    total = count_in_masks(target, proposals.masks, SIZE)
    votes = vote(own, total, proposals)
    for i, mask in enumerate(proposals.masks):
        fall_in = in_mask(target, mask)
        assert votes.count[i] == (fall_in & is_own).sum()
        assert votes.overlap[i] == pytest.approx((fall_in & is_own).sum() / (fall_in | is_own).sum())
    assert votes.order[0] == 4
    by_count = vote(own, total, proposals, "count")
    assert by_count.order[:2].tolist() == [4, 12], "both hold all matches of the object: the smaller comes first"
    far = PointMatches(target[:3], np.full((3, 2), -50.0), np.ones(3))
    assert vote(far, total, proposals).order.tolist() == []


def test_the_hull_is_that_of_the_points_inside_the_image():
    xy = points(9, seed=2)
    pixel = np.rint(xy).astype(np.int32)
    pixel = pixel[(pixel >= 0).all(1) & (pixel[:, 0] < SIZE[1]) & (pixel[:, 1] < SIZE[0])]
    outline = cv2.convexHull(pixel)
    inside = [[cv2.pointPolygonTest(outline, (x, y), False) >= 0 for x in range(SIZE[1])] for y in range(SIZE[0])]
    mask = hull(xy, SIZE).to_array()
    assert mask[pixel[:, 1], pixel[:, 0]].all()
    assert not (np.array(inside) & ~mask).any()
    assert (mask & ~np.array(inside)).sum() <= 0.1 * mask.sum(), "pixels that the outline touches"
    assert hull(np.array([[3.0, 4.0]]), SIZE).box_xywh == (3, 4, 1, 1)
    assert hull(np.array([[3.0, 4.0], [3.0, 9.0]]), SIZE).area == 6
    with pytest.raises(InputError, match="no point of the hull is in the image"):
        hull(np.array([[-3.0, 4.0]]), SIZE)


def test_points_of_a_scaled_image_lie_where_its_pixels_came_from():
    """A bright square: its centroid in the scaled image, mapped back, is its centroid in the image."""
    image = np.zeros((120, 90), np.uint8)
    image[40:64, 20:50] = 255
    for size in ((60, 45), (240, 180), (64, 64)):
        scaled = resized(image, size).astype(float)
        y, x = (np.indices(size) * scaled).sum((1, 2)) / scaled.sum()
        assert to_image_px(np.array([[x, y]]), size, (120, 90))[0] == pytest.approx((34.5, 51.5), abs=0.05)
    assert input_hw((2160, 3840), 1024) == (576, 1024)
    assert input_hw((3840, 2160), 640, multiple=32) == (640, 352)
    assert input_hw((100, 80), 1600, enlarge=False) == (100, 80)
    assert input_hw((3, 4000), 640, multiple=32) == (32, 640)


def test_matches_of_other_shapes_are_refused():
    good = PointMatches(np.zeros((3, 2)), np.ones((3, 2)), np.ones(3))
    assert good.take([2, 0]).target_xy.shape == (2, 2)
    assert len(PointMatches.none()) == 0
    for arguments in (
        (np.zeros((3, 2)), np.zeros((2, 2)), np.ones(3)),
        (np.zeros((3, 3)), np.zeros((3, 2)), np.ones(3)),
        (np.zeros((3, 2)), np.full((3, 2), np.nan), np.ones(3)),
        (np.zeros((3, 2)), np.zeros((3, 2)), np.ones((3, 1))),
    ):
        with pytest.raises(InputError, match="of matches are not finite numbers"):
            PointMatches(*arguments)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_read(name):
    parsed = parse_name(name)
    assert name in ("geometric", f"geometric:{parsed.matcher}" + ("+hull" if parsed.select == "hull" else ""))
    assert parsed.weights == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("geometric:sfit", "did you mean 'geometric:sift'"),
        ("geometric:sift+hul", r"did you mean 'geometric:sift\+hull'"),
        ("geometric:lightgleu:a/b", "did you mean 'geometric:lightglue'"),
        ("geometric:", "geometric:MATCHER"),
        ("geometric:sift+", "geometric:MATCHER"),
        ("geometric:sift:weights.pt", "sift has no weights"),
        ("geometric:roma:", "nothing follows the last colon"),
    ],
)
def test_names_that_mean_nothing_are_refused_with_the_nearest(name, message):
    with pytest.raises(ConfigError, match=f"(?i){message}"):
        parse_name(name)


def test_weights_follow_the_second_colon():
    assert vars(parse_name("geometric:roma:C:\\models\\roma.pth")) == {
        "matcher": "roma", "select": "proposal", "weights": "C:\\models\\roma.pth",
    }  # fmt: skip
    assert parse_name("geometric:loftr+proposal").select == "proposal"
    with pytest.raises(ConfigError, match="min_matches is 0"):
        GeometricConfig(min_matches=0)
