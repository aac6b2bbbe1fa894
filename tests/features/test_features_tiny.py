"""The small network of our own: its maps, its descriptors against plain computation, its settings."""

import dataclasses

import numpy as np
import pytest
import torch

from counterview.errors import ConfigError, MaskError
from counterview.features import Backbone
from counterview.features.tiny import Tiny, TinyConfig, TinyNet
from counterview.features.tiny_pooling import MASK_STRIDE, SHAPE_FEATURES, TinyMaps, pool_masks, sample_masks
from counterview.types import ObjectMask

SMALL = TinyConfig(widths=(8, 8, 12, 16, 16), blocks=(1, 1, 1, 1), channels=16, fine=8, colours=8, longest_side_px=128)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    net = TinyNet(SMALL)
    with torch.no_grad():  # running means of another image, so that evaluation differs from training
        net.train()(torch.rand(2, 3, 64, 96))
    return Tiny(net)


@pytest.fixture(scope="module")
def random_image():
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def disc(size_hw, y, x, radius):
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def test_sizes_and_strides(tiny, random_image):
    assert isinstance(tiny, Backbone)
    features = tiny.encode(random_image)
    assert features.tensor.shape == (16, 8, 12)
    assert features.image_hw == features.input_hw == (64, 96)
    assert features.extra.maps.fine.shape == (8, 16, 24)
    assert features.extra.maps.colours.shape == (8, 32, 48)
    assert features.extra.maps.colours.min() >= 0


def test_large_images_are_reduced_and_keep_their_shape(tiny):
    image = np.zeros((512, 256, 3), dtype=np.uint8)
    features = tiny.encode(image)
    assert features.input_hw == (128, 64)
    assert features.image_hw == (512, 256)
    mask = ObjectMask.from_array(disc((512, 256), 200, 100, 40))
    assert tiny.describe(features, [mask]).shape == (1, SMALL.object_channels)


def test_descriptors_are_means_over_the_cells_of_a_mask(tiny, random_image):
    features = tiny.encode(random_image)
    # A box of complete cells of the coarsest grid: means over cells without weights.
    dense = np.zeros((64, 96), dtype=bool)
    dense[16:32, 24:56] = True
    maps = features.extra.maps
    k, f, c = 8, 8, 16
    row = pool_masks(maps, sample_masks([ObjectMask.from_array(dense)], (64, 96), (64, 96)))[0]
    assert torch.allclose(row[:k], (maps.colours[:, 8:16, 12:28].mean((1, 2)) + 0.01).sqrt(), atol=1e-5)
    assert torch.allclose(row[k : k + f], maps.fine[:, 4:8, 6:14].mean((1, 2)), atol=1e-5)
    assert torch.allclose(row[k + f : k + f + c], maps.map[:, 2:4, 3:7].mean((1, 2)), atol=1e-5)
    described = tiny.describe(features, [ObjectMask.from_array(dense)])
    assert torch.allclose(described, tiny.net.norm(row[None]), atol=1e-6)
    log_area, _, fill, box, image_fraction, at_edge = row[-SHAPE_FEATURES:].tolist()
    assert log_area == pytest.approx(np.log(8 * 16) / 4 - 1, abs=1e-5)
    assert fill == pytest.approx(3 / np.pi, abs=0.01)
    assert box == 1.0
    assert at_edge == 0.0
    assert image_fraction == pytest.approx(np.sqrt(8 * 16 / (32 * 48)), abs=1e-5)


def shapes(*masks):
    """Shape features of masks of one size."""
    height, width = masks[0].shape
    maps = TinyMaps(*(torch.zeros(1, height // s, width // s) for s in (1, 2, 4)))
    return pool_masks(maps, np.stack(masks))[:, -SHAPE_FEATURES:].double().numpy()


def turned(size_hw, degrees):
    """Coordinates of pixels along two perpendicular axes through the centre."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]] - np.array([size_hw[0] / 2, size_hw[1] / 2])[:, None, None] + 0.5
    angle = np.deg2rad(degrees)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


@pytest.mark.parametrize(("width", "height"), [(24, 8), (8, 24), (40, 4), (12, 12), (31, 3)])
def test_elongation_of_a_rectangle_is_the_logarithm_of_its_sides(width, height):
    """The second moments of a rectangle are those of its sides: a squared twelfth."""
    mask = np.zeros((64, 64), dtype=bool)
    mask[10 : 10 + height, 5 : 5 + width] = True
    row = shapes(mask)[0]
    assert row[1] == pytest.approx(abs(np.log(width / height)), abs=1e-5)
    assert row[2] == pytest.approx(3 / np.pi, abs=1e-5)
    assert row[3] == 1
    assert np.allclose(shapes(np.roll(mask, (13, 7), (0, 1)))[0], row, atol=1e-5)


@pytest.mark.parametrize("degrees", [0, 30, 45, 120])
@pytest.mark.parametrize(("major", "minor"), [(50, 25), (48, 12), (30, 29)])
def test_elongation_and_fill_of_an_ellipse_at_any_angle(degrees, major, minor):
    along, across = turned((128, 128), degrees)
    mask = (along / major) ** 2 + (across / minor) ** 2 <= 1
    log_area, elongation, ellipse_fill, box_fill, image_fraction, at_edge = shapes(mask)[0]
    assert log_area == pytest.approx(np.log(np.pi * major * minor) / 4 - 1, abs=0.01)
    assert elongation == pytest.approx(np.log(major / minor), abs=0.03)
    assert ellipse_fill == pytest.approx(1, abs=0.02)
    angle = np.deg2rad(degrees)
    half_box = [
        np.hypot(major * f, minor * g) for f, g in ((np.cos(angle), np.sin(angle)), (np.sin(angle), np.cos(angle)))
    ]
    assert box_fill == pytest.approx(np.pi * major * minor / (4 * half_box[0] * half_box[1]), abs=0.04)
    assert image_fraction == pytest.approx(np.sqrt(np.pi * major * minor) / 128, abs=0.01)
    assert at_edge == 0


@pytest.mark.parametrize("edge", [np.s_[0, 20], np.s_[-1, 20], np.s_[20, 0], np.s_[20, -1]])
def test_a_mask_at_any_edge_of_the_image_is_said_to_touch_it(edge):
    mask = np.zeros((64, 64), dtype=bool)
    mask[edge] = True
    assert shapes(mask, np.roll(mask, (5, 5), (0, 1)), np.zeros_like(mask))[:, 5].tolist() == [1, 0, 0]


def test_the_ring_is_around_the_mask_and_not_inside(tiny, random_image):
    """Painting the ring changes the ring's block and neither the colours nor the shape."""
    features = tiny.encode(random_image)
    maps = features.extra.maps
    mask = disc((32, 48), 16, 24, 6)[None]
    before = pool_masks(maps, mask)
    changed = maps.fine.clone()
    nearby = torch.from_numpy(disc((16, 24), 8, 12, 7))
    changed[:, ~nearby] += 100.0  # beyond the ring
    after = pool_masks(type(maps)(maps.colours, changed, maps.map), mask)
    assert torch.equal(before, after)
    inner = torch.from_numpy(disc((16, 24), 7.5, 11.5, 1.5))
    changed = maps.fine.clone()
    changed[:, inner] += 100.0  # deep inside
    after = pool_masks(type(maps)(maps.colours, changed, maps.map), mask)
    ring, fine = slice(8 + 8 + 16, 8 + 8 + 16 + 8 + 16), slice(8, 16)
    assert torch.equal(after[0, ring], before[0, ring])
    assert (after - before)[0, fine].abs().max() > 0.01
    changed = maps.fine.clone()
    changed[0, ~inner & nearby] += 100.0  # around and at the edge
    after = pool_masks(type(maps)(maps.colours, changed, maps.map), mask)
    assert (after - before)[0, ring].abs().max() > 0.01
    assert torch.equal(after[0, :8], before[0, :8])


def test_gradients_reach_all_three_maps(tiny):
    net = TinyNet(SMALL).train()
    maps = net(torch.rand(2, 3, 64, 64)).each()[1]
    masks = np.stack([disc((32, 32), 12, 12, 5), disc((32, 32), 20, 18, 7)])
    net.norm(pool_masks(maps, masks)).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_a_plain_histogram_is_appended_to_the_learned_descriptor(tiny, random_image):
    from counterview.features.colour import LENGTH, LabBins, histograms

    both = TinyNet(dataclasses.replace(SMALL, histogram=2.0))
    both.load_state_dict(tiny.net.state_dict())
    masks = [ObjectMask.from_array(disc((64, 96), 20, 30, 9)), ObjectMask.empty((64, 96))]
    backbone = Tiny(both)
    rows = backbone.describe(backbone.encode(random_image), masks)
    learned = SMALL.learned_channels
    assert rows.shape == (2, learned + LENGTH)
    assert torch.equal(rows[:, :learned], tiny.describe(tiny.encode(random_image), masks))
    plain = torch.from_numpy(histograms(LabBins.of(random_image), masks))
    assert torch.allclose(rows[:, learned:], plain * (2 * learned) ** 0.5)
    assert backbone.settings() != tiny.settings()


def test_tiny_and_empty_masks(tiny, random_image):
    features = tiny.encode(random_image)
    one = np.zeros((64, 96), dtype=bool)
    one[33, 41] = True  # between the points of the half grid
    masks = [ObjectMask.from_array(one), ObjectMask.empty((64, 96))]
    sampled = sample_masks(masks, (64, 96), (64, 96))
    assert sampled.shape == (2, 64 // MASK_STRIDE, 96 // MASK_STRIDE)
    assert sampled[0].sum() == 1
    assert sampled[0, 16, 20]
    assert not sample_masks(masks, (64, 96), (64, 96), "zeros").any()
    rows = tiny.describe(features, masks)
    assert rows[0, :8].abs().max() > 0
    assert rows[1].abs().max() == 0
    assert torch.isfinite(rows).all()
    assert tiny.describe(features, []).shape == (0, SMALL.object_channels)


def test_masks_of_another_size_are_refused(tiny, random_image):
    with pytest.raises(MaskError, match="another size"):
        tiny.describe(tiny.encode(random_image), [ObjectMask.empty((60, 96))])


def test_settings_name_the_weights(tiny):
    other = TinyNet(SMALL)
    assert Tiny(other).settings()["weights"] != tiny.settings()["weights"]
    other.load_state_dict(tiny.net.state_dict())
    assert Tiny(other).settings() == tiny.settings()


def test_config_reports_all_problems():
    with pytest.raises(ConfigError, match=r"channels is 0.*widths"):
        TinyConfig(channels=0, widths=(0, 1, 1, 1, 1))
