import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_cdt
from skimage.color import rgb2lab

from counterview.errors import ConfigError, MaskError
from counterview.features import classical as module
from counterview.features import pooling
from counterview.features.backbone import load_backbone
from counterview.features.base import Backbone
from counterview.features.classical import Classical, ClassicalConfig
from counterview.masks.lattice import lattice_runs
from counterview.types import ObjectMask

COLOURS = ((200, 40, 40), (40, 160, 60), (40, 60, 190), (210, 180, 40), (120, 40, 150))


def table(size_hw, boxes, colours=COLOURS, ground=(150, 140, 130), seed=0):
    """Noisy coloured boxes on a noisy ground, and their masks."""
    rng = np.random.default_rng(seed)
    image = np.broadcast_to(np.array(ground, dtype=np.float64), (*size_hw, 3)).copy()
    masks = []
    for (x, y, w, h), colour in zip(boxes, colours, strict=False):
        image[y : y + h, x : x + w] = colour
        mask = np.zeros(size_hw, dtype=bool)
        mask[y : y + h, x : x + w] = True
        masks.append(ObjectMask.from_array(mask))
    image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    return image, masks


NEAR = [(10, 10, 40, 50), (70, 20, 60, 30), (20, 90, 50, 40), (110, 80, 30, 60), (150, 20, 30, 40)]
FAR = [(120, 30, 20, 26), (15, 60, 26, 16), (60, 15, 24, 20), (90, 70, 16, 30), (30, 12, 16, 20)]


@pytest.fixture(scope="module")
def classical():
    return load_backbone("classical")


def described(backbone, image, masks, **options):
    return backbone.describe(backbone.encode(image), masks, **options)


def test_is_a_backbone(classical):
    image, masks = table((150, 200), NEAR)
    assert isinstance(classical, Backbone)
    features = classical.encode(image)
    assert features.tensor.shape == (classical.channels, 19, 25)
    assert (features.image_hw, features.input_hw) == ((150, 200), (150, 200))
    result = classical.describe(features, masks)
    assert result.dtype == torch.float32
    torch.testing.assert_close(torch.linalg.norm(result, dim=1), torch.ones(5))
    assert (result >= 0).all()
    again = classical([image])[0]
    torch.testing.assert_close(again.tensor, features.tensor, rtol=0, atol=0)
    torch.testing.assert_close(classical.describe(again, masks), result, rtol=0, atol=0)
    assert classical.settings() == Classical().settings()


@pytest.mark.parametrize("dim", [1.0, 0.75])
@pytest.mark.parametrize("flip", [False, True])
def test_finds_objects_again_smaller_elsewhere_and_darker(classical, dim, flip):
    near, near_masks = table((150, 200), NEAR)
    far, far_masks = table((100, 160), FAR, seed=1)
    far = (far * dim).astype(np.uint8)
    if flip:
        far = np.ascontiguousarray(far[:, ::-1])
        far_masks = [ObjectMask.from_array(m.to_array()[:, ::-1]) for m in far_masks]
    similarity = described(classical, near, near_masks) @ described(classical, far, far_masks).T
    np.testing.assert_array_equal(similarity.argmax(1), np.arange(5))


def test_surroundings_tell_a_whole_from_its_part(classical):
    near, near_masks = table((150, 200), NEAR[:1])
    far, far_masks = table((150, 200), [(60, 50, 60, 60)], seed=2)
    part = np.zeros((150, 200), dtype=bool)
    part[65:95, 75:105] = True
    masks = [far_masks[0], ObjectMask.from_array(part)]

    def difference(**weights):
        backbone = Classical(ClassicalConfig(texture=0.0, orientation=0.0, **weights))
        similarity = described(backbone, near, near_masks) @ described(backbone, far, masks).T
        return float(similarity[0, 0] - similarity[0, 1])

    assert difference() > 0.1
    assert abs(difference(surroundings=0.0)) < 0.05


def test_texture_tells_apart_what_has_one_colour(classical):
    y, x = np.mgrid[:120, :120]
    stripes = np.where((x // 4) % 2, 90, 170)
    plain = np.full((120, 120), 130)
    query = np.repeat(stripes[..., None], 3, axis=2).astype(np.uint8)
    target = np.repeat(np.concatenate([plain, stripes], axis=1)[..., None], 3, axis=2).astype(np.uint8)
    whole = ObjectMask.from_array((y > 30) & (y < 90) & (x > 30) & (x < 90))
    masks = np.zeros((2, 120, 240), dtype=bool)
    masks[0, 31:90, 31:90] = masks[1, 31:90, 151:210] = True
    backbone = Classical(ClassicalConfig(colour=1e-6, surroundings=0.0, texture=0.5, orientation=0.5))
    result = described(backbone, target, [ObjectMask.from_array(m) for m in masks])
    similarity = described(backbone, query, [whole]) @ result.T
    assert similarity[0, 1] > 0.95
    assert similarity[0, 0] < 0.7


def test_colour_block_is_the_soft_histogram_of_the_pixels():
    """Against a plain computation from each pixel's colour; the palette rounds colours by up to one unit."""
    image, masks = table((60, 80), [(10, 8, 30, 40)])
    backbone = Classical(ClassicalConfig(surroundings=0.0, texture=0.0, orientation=0.0))
    features = backbone.encode(image)
    block = backbone.describe(features, masks)[0, : len(features.extra.rarity)].numpy() ** 2
    inside = rgb2lab(image)[masks[0].to_array()]
    chroma = module.chroma_centres(9)
    weights = [
        np.stack([tent(v, centres) for v in inside[:, c]])
        for c, centres in enumerate((module.LIGHTNESS, chroma, chroma))
    ]
    joint = np.einsum("pl,pa,pb->lab", *weights).ravel() / len(inside) * features.extra.rarity
    assert 0.5 * np.abs(block - joint / joint.sum()).sum() < 0.06


def tent(value, centres):
    """Share of a value in each bin, by linear interpolation of unit vectors."""
    return np.array([np.interp(value, centres, row) for row in np.eye(len(centres))])


def test_regions_are_those_of_a_plain_computation():
    rng = np.random.default_rng(3)
    masks = []
    for k in range(6):
        noise = cv2.GaussianBlur(rng.normal(size=(50, 70)).astype(np.float32), (0, 0), 3)
        masks.append(noise > np.quantile(noise, 0.6 + 0.05 * k))
    masks.append(np.ones((50, 70), dtype=bool))
    one = np.zeros((50, 70), dtype=bool)
    one[0, 69] = True
    masks.append(one)
    runs = lattice_runs([ObjectMask.from_array(m) for m in masks], (50, 70), (50, 70))
    inside, around = (painted(r, (50, 70)) for r in module._inside_and_around(runs, (50, 70)))
    for mask, deep, ring in zip(masks, inside, around, strict=True):
        width = max(3, round(module.RING * np.sqrt(mask.sum())))
        assert not (deep & ~mask).any()
        assert not (ring & mask).any()
        if mask.all():
            assert not ring.any()
            continue
        # OpenCV's distance lies between the chessboard's and the taxicab's.
        chess = distance_transform_cdt(~mask, "chessboard")
        taxi = distance_transform_cdt(~mask, "taxicab")
        assert not (ring & (chess > width)).any()
        assert ring[~mask & (taxi <= width - 1)].all()
        assert deep.any()


def painted(runs, size_hw):
    result = np.zeros((runs.count, *size_hw), dtype=int)
    for owner, column, top, bottom in zip(runs.owner, runs.column, runs.top, runs.bottom, strict=True):
        result[owner, top:bottom, column] += 1
    assert result.max() <= 1
    return result.astype(bool)


def test_many_masks_are_described_as_each_alone(classical, monkeypatch):
    image, masks = table((150, 200), NEAR)
    features = classical.encode(image)
    together = classical.describe(features, masks)
    for i, mask in enumerate(masks):
        torch.testing.assert_close(classical.describe(features, [mask])[0], together[i], rtol=0, atol=1e-6)
    monkeypatch.setattr(module, "_TABLE_ENTRIES", 1)  # one mask at a time
    torch.testing.assert_close(classical.describe(features, masks), together, rtol=0, atol=1e-6)


def test_empty_and_tiny_masks(classical):
    image, _ = table((150, 200), NEAR)
    dot = np.zeros((150, 200), dtype=bool)
    dot[149, 0] = True
    features = classical.encode(image)
    masks = [ObjectMask.empty((150, 200)), ObjectMask.from_array(dot), ObjectMask.from_array(np.ones_like(dot))]
    result = classical.describe(features, masks)
    assert not result[0].any()
    assert torch.isfinite(result).all()
    torch.testing.assert_close(torch.linalg.norm(result[1:], dim=1), torch.ones(2))
    assert classical.describe(features, []).shape == (0, result.shape[1])


def test_large_images_are_reduced_and_lose_no_mask():
    image, masks = table((150, 200), NEAR)
    large = np.ascontiguousarray(image.repeat(4, axis=0).repeat(4, axis=1))
    dot = np.zeros((600, 800), dtype=bool)
    dot[43, 43] = True  # in the first box, between the pixels of the reduced image
    grown = [ObjectMask.from_array(m.to_array().repeat(4, axis=0).repeat(4, axis=1)) for m in masks]
    backbone = Classical(ClassicalConfig(longest_side_px=200))
    features = backbone.encode(large)
    assert (features.image_hw, features.input_hw) == ((600, 800), (150, 200))
    result = backbone.describe(features, [*grown, ObjectMask.from_array(dot)])
    small = described(Classical(), image, masks)
    torch.testing.assert_close(result[:5], small, rtol=0, atol=1e-5)
    assert torch.linalg.norm(result[5]) == pytest.approx(1)
    lost = backbone.describe(features, [ObjectMask.from_array(dot)], fallback="zeros")
    assert not lost.any()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (7, 9)])
def test_images_of_any_size(classical, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    features = classical.encode(image)
    result = classical.describe(features, [ObjectMask.from_array(np.ones(size, dtype=bool))])
    assert torch.isfinite(result).all()
    assert torch.isfinite(features.tensor).all()


def test_other_kinds_pool_the_dense_map(classical):
    image, masks = table((150, 200), NEAR)
    features = classical.encode(image)
    torch.testing.assert_close(torch.linalg.norm(features.tensor, dim=0), torch.ones(19, 25), rtol=0, atol=1e-5)
    for kind in ("box", "box_max", "centroid"):
        torch.testing.assert_close(classical.describe(features, masks, kind), pooling.describe(features, masks, kind))
    assert classical.describe(features, masks, context_px=10).shape == (5, 2 * classical.channels)
    far, far_masks = table((100, 160), FAR, seed=1)
    maps = [pooling.describe(f, m) for f, m in ((features, masks), (classical.encode(far), far_masks))]
    query, target = (torch.nn.functional.normalize(m, dim=1) for m in maps)
    np.testing.assert_array_equal((query @ target.T).argmax(1), np.arange(5))


def test_refuses_what_does_not_fit(classical):
    image, _ = table((150, 200), NEAR)
    with pytest.raises(MaskError, match="another size"):
        described(classical, image, [ObjectMask.empty((200, 150))])
    for wrong in ({"cell_px": 0}, {"longest_side_px": 1}, {"colour": 0.0}, {"texture": -1.0}):
        with pytest.raises(ConfigError):
            load_backbone("classical", **wrong)
    with pytest.raises(ConfigError, match="surroundings"):
        load_backbone("classical", surrounding=0.1)


def test_surroundings_are_a_quarter_of_the_objects_size():
    runs = lattice_runs([square(10, 10, 40)], (70, 70), (70, 70))
    ring = painted(module._inside_and_around(runs, (70, 70))[1], (70, 70))[0]
    assert ring[30, :].nonzero()[0].tolist() == [*range(0, 10), *range(50, 60)]  # 10 pixels of 40
    runs = lattice_runs([square(30, 30, 4)], (70, 70), (70, 70))
    ring = painted(module._inside_and_around(runs, (70, 70))[1], (70, 70))[0]
    assert ring[31, :].nonzero()[0].tolist() == [27, 28, 29, 34, 35, 36]  # at least 3


def test_orientations_are_unsigned_and_tell_upright_from_lying():
    """Ramps of lightness: left to right equals right to left, and differs from top to bottom."""
    ramp = np.broadcast_to(np.linspace(0, 255, 70).astype(np.uint8)[None, :, None], (70, 70, 3))
    mask = square(10, 10, 40)
    backbone = Classical(ClassicalConfig(colour=1e-6, surroundings=0.0, texture=0.0, orientation=1.0))
    images = [ramp, ramp[:, ::-1], ramp.transpose(1, 0, 2)]
    right, left, down = (described(backbone, np.ascontiguousarray(image), [mask])[0] for image in images)
    assert right @ left > 0.99
    assert right @ down < 0.7


def square(x, y, side):
    mask = np.zeros((70, 70), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return ObjectMask.from_array(mask)
