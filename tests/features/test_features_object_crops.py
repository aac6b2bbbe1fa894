"""Object crops: the squares around masks, and the network that describes them."""

import cv2
import numpy as np
import pytest
import torch

from counterview.errors import MaskError
from counterview.features import object_crops
from counterview.features.object_crops import (
    CROP_SCALE,
    DETAIL,
    INPUT_PX,
    STORED_PX,
    CropSource,
    ObjectCropNet,
    centre_crop,
    crop_objects,
)
from counterview.features.tiny import Tiny, TinyConfig, TinyNet
from counterview.media.pyramid import ImagePyramid
from counterview.types import ObjectMask

SMALL = TinyConfig(widths=(8, 12, 16, 24, 32), blocks=(0, 1, 1, 0), channels=16, fine=8, colours=8,
                   object_crops=12, crop_widths=(4, 8, 8, 12), crop_blocks=(0, 1, 1))  # fmt: skip


def disc(size_hw, centre_yx, radius):
    y, x = np.ogrid[: size_hw[0], : size_hw[1]]
    return (y - centre_yx[0]) ** 2 + (x - centre_yx[1]) ** 2 <= radius**2


def painted(masks, size_hw):
    image = np.full((*size_hw, 3), 90, dtype=np.uint8)
    for mask, colour in masks:
        image[mask] = colour
    return image


@pytest.mark.parametrize("radius", [3, 12, 60])
@pytest.mark.parametrize("centre", [(100, 150), (2, 3), (198, 298)])
def test_every_object_is_shown_equally_large_with_its_mask_on_it(radius, centre):
    """The oracle is colour: where the crop's mask is full, the crop is red, at any size and at the image's edge."""
    mask = disc((200, 300), centre, radius)
    crops = crop_objects(painted([(mask, (220, 30, 30))], (200, 300)), [ObjectMask.from_array(mask)])
    pixels = crops.pixels[0].astype(int)
    assert crops.pixels.shape == (1, STORED_PX, STORED_PX, 4)
    inside = cv2.erode((pixels[..., 3] > 250).astype(np.uint8), np.ones((5, 5))).astype(bool)
    assert inside.any()
    assert (pixels[inside, 0] > 200).mean() > 0.99
    if centre == (100, 150):
        fraction = (pixels[..., 3] > 127).sum() / STORED_PX**2
        side = int(np.ceil(CROP_SCALE * (2 * radius + 1) + 4))
        assert fraction == pytest.approx(mask.sum() / side**2, rel=0.08)
        assert (pixels[pixels[..., 3] < 3][:, 0] < 100).mean() > 0.99


def test_a_mask_is_decoded_where_its_box_is():
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = cv2.resize(rng.random((7, 9)), (90, 70), interpolation=cv2.INTER_CUBIC) > rng.uniform(0.4, 0.9)
        mask[:, : rng.integers(1, 40)] = False
        if not mask.any():
            continue
        encoded = ObjectMask.from_array(mask)
        image = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
        crops = crop_objects(image, [encoded])
        inside = crops.pixels[0, ..., 3].astype(int)
        x, y, width, height = encoded.box_xywh
        centre = slice(STORED_PX // 4, 3 * STORED_PX // 4)  # beyond the edge pixels are repeated, and the mask is not
        if x > width and y > height and x + 2 * width < 90 and y + 2 * height < 70:
            assert np.array_equal(inside, crops.pixels[0, ..., 0])
        assert inside[centre, centre].any()


def test_sizes_differ_and_an_empty_mask_gives_zeros():
    small, large = disc((200, 300), (100, 150), 5), disc((200, 300), (100, 150), 50)
    masks = [ObjectMask.from_array(m) for m in (small, large, np.zeros((200, 300), bool))]
    crops = crop_objects(painted([(large, (9, 200, 9))], (200, 300)), masks)
    assert crops.sizes[1, 0] - crops.sizes[0, 0] > 0.8
    assert abs(crops.sizes[1, 1] - crops.sizes[0, 1]) < 0.6
    assert not crops.pixels[2].any()
    assert not crops.sizes[2].any()
    assert np.array_equal(centre_crop(crops.pixels), crops.pixels[:, 8:72, 8:72])


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(MaskError, match="another size"):
        crop_objects(np.zeros((20, 30, 3), np.uint8), [ObjectMask.empty((30, 20))])


def test_the_network_reads_pixels_mask_and_sizes():
    torch.manual_seed(0)
    net = ObjectCropNet(12, (4, 8, 8, 12), (1, 1, 1), 8).eval()
    pixels = torch.rand(3, 4, INPUT_PX, INPUT_PX)
    sizes = torch.rand(3, 2)
    with torch.no_grad():
        first = net(pixels, sizes)
        assert first.shape == (3, 12)
        assert torch.allclose(first.norm(dim=1), torch.full((3,), 12**0.5), atol=1e-4)
        for change in (0, 3):
            other = pixels.clone()
            other[:, change, :20] = 0
            assert (net(other, sizes) - first).abs().max() > 1e-3
        assert (net(pixels, sizes + 1) - first).abs().max() > 1e-3
        assert torch.allclose(net(torch.zeros_like(pixels), sizes).isnan(), torch.tensor(False))


def test_a_backbone_with_object_crops_describes_by_them():
    torch.manual_seed(0)
    backbone = Tiny(TinyNet(SMALL))
    masks = [disc((120, 160), (60, 40), 12), disc((120, 160), (60, 110), 12)]
    image = painted(list(zip(masks, [(220, 30, 30), (30, 30, 220)], strict=True)), (120, 160))
    encoded = [*(ObjectMask.from_array(m) for m in masks), ObjectMask.empty((120, 160))] * 30  # more than one batch
    features = backbone.encode(image)
    rows = backbone.describe(features, encoded)
    assert rows.shape == (90, SMALL.object_channels) == (90, 12)
    with torch.no_grad():
        alone = backbone.net.object_crops.describe(crop_objects(image, encoded[:2]))
    assert torch.allclose(rows[:2], alone, atol=1e-5)
    assert torch.allclose(rows[87:89], rows[:2], atol=1e-5)
    assert not rows[2].any()
    assert not torch.allclose(rows[0], rows[1], atol=0.1)
    assert backbone.describe(features, []).shape == (0, 12)
    # Context and other kinds of pooling still come from the map.
    assert backbone.describe(features, encoded[:1], "box").shape == (1, SMALL.channels)


def test_crops_do_not_depend_on_the_size_of_the_image():
    size = (150, 220)
    shape = disc(size, (70, 110), 34)
    image = cv2.GaussianBlur(np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8), (0, 0), 3)
    crops = []
    for factor in (1, 6):
        large = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
        mask = np.kron(shape, np.ones((factor, factor))).astype(bool)
        crops.append(crop_objects(large, [ObjectMask.from_array(mask)]).pixels[0].astype(float))
    side = CROP_SCALE * 69 * 6 + 4
    assert ImagePyramid.level_for(side / (DETAIL * STORED_PX)) == 1
    # The four pixels that are added to every square are a sixth as wide in the larger image.
    assert np.abs(crops[0] - crops[1])[8:72, 8:72].mean() < 6


def test_a_mask_is_cropped_once(monkeypatch):
    image = np.random.default_rng(3).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    masks = [ObjectMask.from_array(disc((90, 120), (40, 30 + 12 * i), 9)) for i in range(5)]
    source, asked = CropSource(image), []
    monkeypatch.setattr(object_crops, "crop_objects", lambda i, m: (asked.append(len(m)), crop_objects(i, m))[1])
    first = source.crops(masks[:3])
    both = source.crops([masks[4], masks[1]])
    again = source.crops(masks[:3])
    assert asked == [3, 1, 0]
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(both.pixels, crop_objects(image, [masks[4], masks[1]]).pixels)
    assert np.array_equal(both.sizes, crop_objects(image, [masks[4], masks[1]]).sizes)
