"""What modules compute from their weights alone, computed once and not in every frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

T = TypeVar("T")

_KEPT: WeakKeyDictionary[nn.Module, dict[str, tuple[Any, Any]]] = WeakKeyDictionary()


def constant(module: nn.Module, name: str, weights: Sequence[Tensor], compute: Callable[[], T]) -> T:
    """A value that hangs on some weights, kept for as long as these, their device and the precision are the same.

    Only within ``torch.inference_mode``: elsewhere gradients may be wanted, and a value of inference has none.

    Args:
        module: that it belongs to; it is dropped with the module.
        name: of the value.
        weights: of any shape: all that it hangs on.
        compute: makes it.
    """
    if not torch.is_inference_mode_enabled() or any(weight.is_inference() for weight in weights):
        return compute()
    kind = weights[0].device.type
    precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    # A weight that is replaced has another place; one that is changed in place, another version.
    key = precision, [(w.data_ptr(), w._version, w.dtype, w.device) for w in weights]
    kept = _KEPT.setdefault(module, {})
    if name not in kept or kept[name][0] != key:
        kept[name] = key, compute()
    value: T = kept[name][1]
    return value
