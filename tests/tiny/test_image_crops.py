"""Augmented crops: where points of an image land, and what happens to its colours, each against its own computation."""

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from counterview.tiny.training.image_crops import CropConfig, affine, change_colours, draw_crop

SIZE = 64
GEOMETRY = CropConfig(size_px=SIZE, zoom_min=1.2, zoom_max=1.6, degrees=20, colour=0, blur=0, distractors=0)


def coordinates(height=200, width=250):
    """An image whose red channel is x and whose green channel is y."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)


def box_mask(y, x, height=10, width=16, size_hw=(200, 250)):
    mask = np.zeros(size_hw, dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


def crop_to_image(crop):
    """The affine map ``(2, 3)`` from pixels of a crop of :func:`coordinates` to the image, and its largest residual."""
    y, x = np.mgrid[:SIZE, :SIZE]
    source = crop.pixels[:2].reshape(2, -1).T.astype(float)
    places = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1)
    matrix = np.linalg.lstsq(places, source, rcond=None)[0]
    return matrix.T, np.abs(places @ matrix - source).max()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle", [0.0, 0.3, -1.2])
def test_affine_in_complex_numbers(angle, mirrored):
    rng = np.random.default_rng(0)
    points = rng.uniform(-50, 150, (20, 2))
    centre, zoom, side = np.array([37.0, 81.5]), 1.7, 48
    mapped = np.c_[points, np.ones(20)] @ affine(angle, zoom, mirrored, centre, side).T
    turned = zoom * np.exp(1j * angle) * (points @ [1, 1j] - centre @ [1, 1j])
    expected = (-turned.conj() if mirrored else turned) + 23.5 * (1 + 1j)
    assert np.allclose(mapped @ [1, 1j], expected)


def test_a_point_lands_where_the_map_of_the_pixels_puts_it():
    """The map is fitted to the pixels of a crop whose colours are coordinates; nothing is asked of the code."""
    mask = box_mask(85, 142)
    centroid = np.array([142 + 7.5, 85 + 4.5])
    errors, centres, angles, zooms = [], [], [], []
    for seed in range(60):
        mirrored = bool(seed % 2)
        crop = draw_crop(GEOMETRY, coordinates(), {"box": mask}, frozenset(), [], mirrored, np.random.default_rng(seed))
        matrix, residual = crop_to_image(crop)
        assert residual < 1.5
        linear = matrix[:, :2]
        zoom = 1 / np.sqrt(abs(np.linalg.det(linear)))
        assert np.allclose(linear.T @ linear * zoom**2, np.eye(2), atol=0.02), "neither sheared nor stretched"
        assert (np.linalg.det(linear) < 0) == mirrored
        # The image is rotated, then mirrored; the vertical axis of the crop is left as the rotation puts it.
        angles.append(np.rad2deg(np.arctan2(linear[0, 1], linear[1, 1])))
        zooms.append(zoom)
        assert crop.names == ("box",)
        if not crop.masks[0][[0, -1]].any() and not crop.masks[0][:, [0, -1]].any():  # not cut by the crop's edge
            y, x = (2 * np.mean(v) + 0.5 for v in np.nonzero(crop.masks[0]))
            errors.append(matrix @ [x, y, 1] - centroid)
        centres.append((matrix @ [SIZE / 2 - 0.5, SIZE / 2 - 0.5, 1] - centroid) * zoom / SIZE)
    assert len(errors) > 40
    assert np.abs(errors).max() < 1
    assert np.abs(np.mean(errors, axis=0)).max() < 0.15, "masks are half a pixel off"
    assert np.abs(centres).max() < 0.36
    assert np.abs(centres).max(axis=0).min() > 0.3
    assert np.abs(np.mean(centres, axis=0)).max() < 0.1
    assert -20.5 < min(angles) < -15
    assert 15 < max(angles) < 20.5
    assert 1.19 < min(zooms) < 1.25
    assert 1.55 < max(zooms) < 1.61


@pytest.mark.parametrize(("y", "x"), [(0, 0), (190, 0), (0, 234), (190, 234), (95, 234), (190, 120)])
def test_a_crop_at_the_edge_is_moved_inside(y, x):
    """What lies beyond the edge would be reflected, and coordinates would no longer grow evenly."""
    config = CropConfig(size_px=SIZE, zoom_min=1, zoom_max=1.5, degrees=0, colour=0, blur=0, distractors=0)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        crop = draw_crop(config, coordinates(), {"box": box_mask(y, x)}, frozenset(), [], False, rng)
        assert crop_to_image(crop)[1] < 2  # half a pixel at the far edges
        assert crop.names == ("box",)


def test_an_image_smaller_than_the_crop_is_in_its_centre():
    config = CropConfig(size_px=SIZE, zoom_min=1, zoom_max=1, degrees=0, colour=0, blur=0, distractors=0)
    mask = box_mask(2, 3, 4, 5, (40, 30))
    crop = draw_crop(config, coordinates(40, 30), {"box": mask}, frozenset(), [], False, np.random.default_rng(0))
    expected = cv2.copyMakeBorder(coordinates(40, 30), 12, 12, 17, 17, cv2.BORDER_REFLECT_101)
    assert np.abs(crop.pixels.transpose(1, 2, 0).astype(int) - expected).max() <= 1


def test_the_crop_is_about_its_anchor():
    masks = {"left": box_mask(95, 45), "right": box_mask(95, 190)}
    for anchor in masks:
        for seed in range(8):
            crop = draw_crop(
                GEOMETRY, coordinates(), masks, frozenset(), [], False, np.random.default_rng(seed), anchor
            )
            assert crop.names == (anchor,)
            assert crop.absent == set(masks) - {anchor}


class Scripted:
    """A generator whose normal deviates are given by their standard deviation, and uniform ones in their order."""

    def __init__(self, normals=(), randoms=()):
        self.normals, self.randoms = dict(normals), list(randoms)

    def normal(self, mean, deviation, size=None):
        value = mean + np.asarray(self.normals.get(round(float(deviation), 6), 0.0))
        return float(value) if size is None else np.broadcast_to(value, size).copy()

    def random(self):
        return self.randoms.pop(0) if self.randoms else 1.0

    def uniform(self, low, high):
        return (low + high) / 2


PIXELS = np.random.default_rng(0).integers(10, 150, (12, 9, 3), dtype=np.uint8)


def changed(values):
    """Values from 0 to 1 as bytes."""
    return np.clip(np.round(values * 255), 0, 255)


@pytest.mark.parametrize("strength", [0.5, 2.0])
@pytest.mark.parametrize(
    ("deviation", "deviate", "expected"),
    [
        pytest.param(0.25, np.log(2), lambda v: np.minimum(2 * v, 1), id="exposure"),
        pytest.param(0.08, np.log([1.5, 1, 0.5]), lambda v: v * [1.5, 1, 0.5], id="white balance"),
        pytest.param(0.15, np.log(1.8), lambda v: v**1.8, id="gamma"),
        pytest.param(0.2, np.log(0.5), lambda v: (v + v.mean(2, keepdims=True)) / 2, id="saturation"),
        pytest.param(0.12, np.log(0.5), lambda v: (v + v.mean()) / 2, id="contrast"),
    ],
)
def test_each_change_of_colour_alone(strength, deviation, deviate, expected):
    """Each is told from the others by the spread that it is drawn with, which grows with the strength."""
    same = change_colours(PIXELS, strength, 0.0, Scripted())
    assert np.abs(same.astype(int) - PIXELS).max() <= 1
    result = change_colours(PIXELS, strength, 0.0, Scripted({round(deviation * strength, 6): deviate}))
    assert np.abs(result - changed(expected(PIXELS / 255))).max() <= 1
    assert np.abs(result.astype(int) - PIXELS).max() > 10


def test_exposure_and_balance_come_before_gamma_and_saturation_before_contrast():
    draws = {0.25: np.log(1.3), 0.08: np.log([1.2, 1, 0.8]), 0.15: np.log(1.4), 0.2: np.log(1.5), 0.12: np.log(0.7)}
    values = np.minimum(PIXELS / 255 * 1.3 * np.array([1.2, 1, 0.8]), 1) ** 1.4
    grey = values.mean(2, keepdims=True)
    values = grey + 1.5 * (values - grey)
    values = values.mean() + 0.7 * (values - values.mean())
    assert np.abs(change_colours(PIXELS, 1.0, 0.0, Scripted(draws)) - changed(values)).max() <= 1


def test_some_images_change_hue():
    mix = np.array([[0.3, -0.2, 0], [0, 0, 0.25], [-0.1, 0.2, 0]])
    for chance, is_mixed in ((0.14, True), (0.16, False)):
        result = change_colours(PIXELS, 1.0, 0.0, Scripted({0.06: mix}, [chance]))
        expected = PIXELS / 255 @ (np.eye(3) + mix * is_mixed).T
        assert np.abs(result - changed(expected)).max() <= 1


def test_some_images_are_blurred_and_some_noisy():
    blurred = change_colours(PIXELS, 1.0, 0.5, Scripted(randoms=[1.0, 0.49, 0.4]))
    expected = np.stack([gaussian_filter(PIXELS[..., c] / 255, 0.85, mode="mirror") for c in range(3)], axis=2)
    assert np.abs(blurred - changed(expected)).max() <= 2
    noise = np.random.default_rng(1).uniform(-0.1, 0.1, PIXELS.shape)
    noisy = change_colours(PIXELS, 1.0, 0.5, Scripted({0.025: noise}, [1.0, 0.49, 0.6]))
    assert np.abs(noisy - changed(PIXELS / 255 + noise)).max() <= 1
    neither = change_colours(PIXELS, 1.0, 0.5, Scripted({0.025: noise}, [1.0, 0.51, 0.6]))
    assert np.abs(neither.astype(int) - PIXELS).max() <= 1


def test_colours_of_a_crop_change_and_its_masks_do_not():
    image = np.full((200, 250, 3), (60, 120, 90), dtype=np.uint8)
    masks = {"box": box_mask(85, 142)}
    plain, coloured, noisy = (
        draw_crop(
            CropConfig(size_px=SIZE, colour=colour, blur=blur, distractors=0),
            image,
            masks,
            frozenset(),
            [],
            False,
            np.random.default_rng(4),
        )
        for colour, blur in ((0, 0), (1, 0), (1e-6, 1))
    )
    assert (plain.pixels == np.array([60, 120, 90], dtype=np.uint8)[:, None, None]).all()
    assert np.abs(coloured.pixels.astype(int) - plain.pixels).max(axis=(1, 2)).min() >= 2
    assert len(np.unique(noisy.pixels[0])) > 3
    for crop in (coloured, noisy):
        assert np.array_equal(crop.masks, plain.masks)
    again = change_colours(image, 0.0, 1.0, np.random.default_rng(0))
    assert again is image
