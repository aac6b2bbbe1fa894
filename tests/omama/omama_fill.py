"""The fill formula of the golden numbers: tensors of any shape from a name, the same on every machine."""

import math
import zlib

import numpy as np
import torch


def fill(name: str, shape, scale: float, offset: float = 0.0) -> torch.Tensor:
    """``offset + scale * (2u - 1)`` with ``u`` hashed from the crc32 of ``name`` and the row-major index; float32."""
    x = np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * 0x9E3779B1 + zlib.crc32(name.encode())
    low = np.uint64(0xFFFFFFFF)
    x &= low
    x ^= x >> np.uint64(16)
    x = x * np.uint64(0x85EBCA6B) & low
    x ^= x >> np.uint64(13)
    x = x * np.uint64(0xC2B2AE35) & low
    x ^= x >> np.uint64(16)
    return torch.from_numpy((offset + scale * (2 * (x / 2.0**32) - 1)).astype(np.float32).reshape(shape))


def released_state(parameters) -> dict[str, torch.Tensor]:
    """A released state dict from its list of names, shapes, scales and offsets."""
    return {p["name"]: fill(p["name"], p["shape"], p["scale"], p["offset"]) for p in parameters}
