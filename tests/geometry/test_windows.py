"""Windows: what is cut out, what is pasted back, and where they lie."""

import time

import cv2
import numpy as np
import pytest

from counterview.errors import ImageError, InputError, MaskError
from counterview.geometry.windows import (
    ImageWindow,
    cut_image,
    cut_mask,
    object_size,
    paste_logits,
    paste_mask,
    query_window,
    target_window,
)
from counterview.masks.geometry import iou
from counterview.types import ObjectMask


def signed_distance(xs, ys, centre, radius):
    """Of a disc, positive inside."""
    return radius - np.hypot(xs - centre[0], ys - centre[1])


def disc_logits(window, side, centre, radius):
    """The signed distance at the centres of ``side`` x ``side`` cells of a window."""
    left, top = window.left_top
    at = (np.arange(side) + 0.5) * window.side / side
    return signed_distance((left + at)[None], (top + at)[:, None], centre, radius)


def image_disc(size_hw, centre, radius):
    ys, xs = np.mgrid[: size_hw[0], : size_hw[1]] + 0.5
    return signed_distance(xs, ys, centre, radius)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("side", [30.0, 64.0, 171.3])
def test_a_disc_drawn_in_any_window_is_the_disc_of_the_image(seed, side):
    rng = np.random.default_rng(seed)
    centre = rng.uniform(30, 70, 2)
    radius = side / 5
    window = ImageWindow((centre[0] + rng.normal(0, 2), centre[1] + rng.normal(0, 2)), side, 128)
    exact = image_disc((100, 120), centre, radius)
    pasted = paste_logits(disc_logits(window, 64, centre, radius), window, (100, 120)).to_array()
    # Bilinear values of a distance are wrong by less than a cell squared over the radius: pixels nearer to the outline
    # than that may go either way, all others are exact.
    clear = np.abs(exact) > 0.5 * (side / 64) ** 2 / radius + 1e-3
    np.testing.assert_array_equal(pasted[clear], (exact > 0)[clear])
    assert clear.mean() > 0.98


@pytest.mark.parametrize("side", [40.0, 90.0, 250.0])
def test_a_mask_that_is_cut_and_pasted_is_the_mask(side):
    truth = image_disc((200, 240), (101.3, 88.8), 15) > 0
    mask = ObjectMask.from_array(truth)
    window = ImageWindow((103.77, 90.21), side, 128)
    for source in (mask, truth):
        soft = cut_mask(source, window)
        back = paste_logits(soft - 0.5, window, (200, 240))
        assert iou(back, mask) > (0.99 if side < 128 else 0.95)
        # The fraction of a cell is what is in it: nothing is lost or made.
        assert soft.sum() * (side / 128) ** 2 == pytest.approx(truth.sum(), rel=1e-4)


def test_moving_the_window_moves_nothing_in_the_image():
    centre, radius = (60.2, 47.9), 14.3
    window = ImageWindow((58.0, 50.0), 60.0, 128)
    here, moved = (
        paste_logits(disc_logits(w, 64, centre, radius), w, (100, 120)) for w in (window, window.moved(0.37, -0.37))
    )
    assert iou(here, moved) > 0.99
    exact = np.abs(image_disc((100, 120), centre, radius)) > 0.05
    np.testing.assert_array_equal(here.to_array()[exact], moved.to_array()[exact])

    # The pixels too: a smooth image is sampled where the window says.
    _, xs = np.mgrid[:100, :120] + 0.5
    image = np.repeat((100 + xs)[..., None], 3, axis=2).astype(np.uint8)
    for w in (window, window.moved(0.37, 0.0)):
        values, inside = cut_image(image, w)
        expected = 100 + w.left_top[0] + (np.arange(128) + 0.5) * w.side / 128 - 0.5
        np.testing.assert_allclose(values[64, :, 0], expected, atol=1.0)
        assert inside.all()
    difference = cut_image(image, window.moved(3.0, 0))[0].astype(float) - cut_image(image, window)[0]
    assert difference.mean() == pytest.approx(3.0, abs=0.05)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_reduction_takes_the_mean_of_what_is_under_a_pixel(factor):
    rng = np.random.default_rng(factor)
    small = cv2.GaussianBlur(rng.uniform(0, 255, (64, 64, 3)), (0, 0), 3)
    image = cv2.resize(small, (64 * factor, 64 * factor), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    # A chequerboard finer than the window's pixels must vanish.
    if factor > 1:
        image = (image * 0.7).astype(np.uint8) + 70 * (np.indices(image.shape[:2]).sum(0) % 2)[..., None].astype(
            np.uint8
        )
    window = ImageWindow((32.0 * factor, 32.0 * factor), 64.0 * factor, 64)
    expected = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(cut_image(image, window)[0][2:-2, 2:-2] - expected[2:-2, 2:-2]).max() < 12


def test_beyond_the_image_its_edge_is_repeated_and_masks_are_empty():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
    window = ImageWindow((0.0, 20.0), 64.0, 64)
    values, inside = cut_image(image, window)
    np.testing.assert_array_equal(inside, np.outer((np.arange(64) >= 12) & (np.arange(64) < 52), np.arange(64) >= 32))
    np.testing.assert_array_equal(values[20, :32], np.repeat(image[8, :1], 32, axis=0))
    np.testing.assert_array_equal(values[inside], image[:40, :32].reshape(-1, 3))
    full = ObjectMask.from_array(np.ones((40, 50), bool))
    np.testing.assert_array_equal(cut_mask(full, window), inside.astype(np.float32))
    far, inside = cut_image(image, ImageWindow((-500.0, 900.0), 20.0, 16))
    assert (far == image[39, 0]).all()
    assert not inside.any()
    assert not cut_mask(full, ImageWindow((-500.0, 900.0), 20.0, 16)).any()
    assert paste_mask(np.ones((8, 8), bool), ImageWindow((-500.0, 900.0), 20.0, 16), (40, 50)).is_empty


def test_only_the_part_of_the_window_is_set():
    window = ImageWindow((10.3, 39.6), 9.0, 32)
    mask = paste_mask(np.ones((32, 32), bool), window, (40, 50)).to_array()
    ys, xs = np.mgrid[:40, :50] + 0.5
    np.testing.assert_array_equal(mask, (np.abs(xs - 10.3) <= 4.5) & (np.abs(ys - 39.6) <= 4.5))
    column = paste_mask(np.ones((4, 4), bool), ImageWindow((2.0, 2.0), 4.0, 4), (4, 4))
    assert column == ObjectMask.from_array(np.ones((4, 4), bool))  # runs that meet are one


@pytest.mark.parametrize("seed", range(4))
def test_runs_are_decoded_as_the_dense_mask(seed):
    rng = np.random.default_rng(seed)
    dense = cv2.GaussianBlur(rng.normal(size=(37, 53)).astype(np.float32), (0, 0), 2) > 0
    window = ImageWindow(tuple(rng.uniform(-5, 50, 2)), float(rng.uniform(5, 70)), 32)
    np.testing.assert_allclose(cut_mask(ObjectMask.from_array(dense), window), cut_mask(dense, window), atol=1e-6)


def test_large_images_cost_no_more_than_the_window():
    small, large = (np.zeros((*hw, 3), np.uint8) for hw in ((400, 600), (4700, 7000)))
    masks = [ObjectMask((hw), np.array([hw[0] * 300 + 200, 90, hw[0] * hw[1] - hw[0] * 300 - 290]))
             for hw in ((400, 600), (4700, 7000))]  # fmt: skip
    window = ImageWindow((300.2, 200.7), 150.0, 128)

    def seconds(image, mask):
        best = np.inf
        for _ in range(5):
            start = time.perf_counter()
            cut_image(image, window)
            cut_mask(mask, window)
            paste_logits(np.ones((64, 64)), window, image.shape[:2])
            best = min(best, time.perf_counter() - start)
        return best

    # 140 times the pixels; the columns of a mask are as long as the image is high.
    assert seconds(large, masks[1]) < 5 * seconds(small, masks[0]) + 0.005


def test_windows_around_objects():
    mask = ObjectMask.from_array(np.pad(np.ones((10, 30), bool), ((5, 85), (60, 10))))
    window = query_window(mask, 128, margin=1.5)
    assert (window.centre_xy, window.side, window.size) == ((75.0, 10.0), 45.0, 128)
    assert query_window(mask, 128, margin=1.5, min_side=70).side == 70
    assert window.place((100, 100)) == pytest.approx((0.5, -0.8))
    assert object_size(mask) == 30
    assert window.enlargement == pytest.approx(128 / 45)
    target = target_window((5.5, 7.25), 60.0, 30.0, window)
    assert (target.centre_xy, target.side) == (
        (5.5, 7.25),
        90.0,
    )  # the same field of view, the object is twice as large
    assert target_window((0, 0), 3000.0, 30.0, window).side == pytest.approx(6 * 45)
    assert target_window((0, 0), 0.0, 30.0, window, min_side=20).side == 20


def test_errors_say_what_is_wrong():
    for bad in (((np.nan, 0.0), 4.0, 8), ((0.0, 0.0), 0.0, 8), ((0.0, 0.0), 4.0, 0), ((0.0, 1e9), 4.0, 8)):
        with pytest.raises(InputError, match="a window has a"):
            ImageWindow(*bad)
    window = ImageWindow((4.0, 4.0), 4.0, 8)
    with pytest.raises(MaskError, match="empty mask"):
        query_window(ObjectMask.empty((8, 8)), 64)
    with pytest.raises(MaskError, match="finite"):
        paste_logits(np.full((4, 4), np.nan), window, (8, 8))
    with pytest.raises(ImageError, match="not an RGB array"):
        cut_image(np.zeros((8, 8), np.uint8), window)
    with pytest.raises(InputError, match="no size in the query"):
        target_window((0, 0), 3.0, 0.0, window)
