"""Tensors as numpy arrays and back, bit for bit, for the states of engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BFLOAT16 = "bfloat16:"
"""Before the name of an array that holds the bits of bfloat16, a type that numpy lacks."""


def to_arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Tensors of any shapes by name as arrays of the same shapes, on the CPU."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.dtype == torch.bfloat16:
            arrays[_BFLOAT16 + name] = value.view(torch.int16).numpy().copy()
        else:
            arrays[name] = value.numpy().copy()
    return arrays


def to_tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """The inverse of :func:`to_arrays`, on the CPU; arrays of any shapes."""
    tensors: dict[str, Tensor] = {}
    for name, array in arrays.items():
        value = torch.from_numpy(np.array(array))
        if name.startswith(_BFLOAT16):
            tensors[name.removeprefix(_BFLOAT16)] = value.view(torch.bfloat16)
        else:
            tensors[name] = value
    return tensors
