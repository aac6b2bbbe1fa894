"""The reproducible numbers that the reference outputs were made from, and small models for fast tests."""

import zlib

import numpy as np
import torch

from counterview.lmeec.config import HieraConfig, LMEECConfig
from counterview.lmeec.model import LMEEC

SMALL = HieraConfig(
    hidden=16, heads=1, blocks=(1, 1, 2, 1), global_blocks=(3,), windows=(4, 4, 4, 4), background=(4, 4)
)


def uniform(name, count):
    """``count`` numbers in [0, 1) that depend on a name alone."""
    mask = np.uint64(0xFFFFFFFF)
    x = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B1) + np.uint64(zlib.crc32(name.encode()))) & mask
    x ^= x >> np.uint64(16)
    x = x * np.uint64(0x85EBCA6B) & mask
    x ^= x >> np.uint64(13)
    x = x * np.uint64(0xC2B2AE35) & mask
    x ^= x >> np.uint64(16)
    return x / 2**32


def fill(name, shape, scale=1.0, offset=0.0):
    values = offset + scale * (2 * uniform(name, int(np.prod(shape))) - 1)
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def disc(size_hw, x, y, r):
    yy, xx = np.mgrid[: size_hw[0], : size_hw[1]]
    return (xx - x) ** 2 + (yy - y) ** 2 <= r**2


def tiny_clip(description):
    """Images and query masks of the reference clip."""
    clip = {}
    step = np.arange(480)
    for view in ("ego", "exo"):
        cells = uniform(f"clip/{view}", 768).reshape(3, 16, 16)
        frames = []
        for sy, sx in description["image_shifts_yx"][view]:
            image = np.floor(256 * cells[:, ((step + sy) // 30) % 16][:, :, ((step + sx) // 30) % 16])
            frames.append(np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0)))
        clip[view] = frames
    clip["masks"] = [disc((480, 480), 150 + 15 * t, 200 + 8 * t, 60 + 3 * t) for t in range(12)]
    return clip


def small_config(**settings):
    values = {"backbone": SMALL, "image_size": 64, "channels": 64, "attention_layers": 1, "feed_forward": 32}
    return LMEECConfig(**{**values, **settings})


def small_model(seed=0, **settings):
    """A model of 0.7 million random weights that finds every object visible, with every embedding alive."""
    torch.manual_seed(seed)
    model = LMEEC(small_config(**settings))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not value.any() or "scale" in name:  # SAM 2's embeddings start at zero
                value.uniform_(-0.5, 0.5)
            elif value.ndim > 1 and name.endswith("weight"):  # large enough that attention attends to something
                bound = (3 / value[0].numel()) ** 0.5
                value.uniform_(-bound, bound)
        model.sam.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(5.0)
    return model.eval()


def random_images(count, size_hw=(48, 80), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8) for _ in range(count)]
