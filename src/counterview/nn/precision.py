"""Models that compute in single precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from counterview.errors import ConfigError


class SinglePrecision:
    """Mixed into an ``nn.Module`` whose weights must not become float16 or bfloat16: parts of it read float32 alone.

    Raises:
        ConfigError: from ``half``, ``bfloat16`` and ``to``, instead of an error of torch in a later call.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        dtype = fn(torch.zeros(1)).dtype
        if dtype in (torch.float16, torch.bfloat16):
            raise ConfigError(
                f"{type(self).__name__} cannot be cast to {str(dtype).removeprefix('torch.')}",
                expected="float32 weights",
                fix="Leave the weights as they are, and compute within torch.autocast to save time.",
            )
        return super()._apply(fn, *args, **kwargs)  # type: ignore[misc]
