"""Stochastic depth (Huang et al. 2016) in SAM 2's image encoder, which transformers' Hiera does not have.

SAM 2's own training drops either branch of a block, attention and feed-forward, by itself and for each image. Hooks on
the modules of transformers do it here, so that weights keep their names and a model that is not trained is untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from counterview.errors import ConfigError


class DropPath:
    """Hooks on one block: its residual branches are zero for some images of a batch, and larger for the others.

    Args:
        block: of transformers' Hiera, with ``attn`` and ``mlp``.
        rate: probability that a branch is dropped for an image.
    """

    def __init__(self, block: nn.Module, rate: float) -> None:
        self.rate = rate
        self._images = 0
        block.register_forward_pre_hook(self._count_images, with_kwargs=True)
        for branch in (block.get_submodule("attn"), block.get_submodule("mlp")):
            branch.register_forward_hook(self._drop)

    def _count_images(self, block: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        self._images = len(arguments[0] if arguments else named["hidden_states"])

    def _drop(self, branch: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        """The branch's output ``(B * W, h, w, C)``, of W windows an image, with whole images set to zero."""
        if not branch.training:
            return output
        kept = torch.empty(self._images, dtype=output.dtype, device=output.device).bernoulli_(1 - self.rate)
        kept = (kept / (1 - self.rate)).repeat_interleave(len(output) // self._images)  # windows lie image by image
        return output * kept[:, None, None, None]


def drop_path_rates(rate: float, blocks: int) -> list[float]:
    """Rates of an encoder's blocks: from 0 at the first in equal steps to ``rate`` at the last.

    >>> drop_path_rates(0.5, 3)
    [0.0, 0.25, 0.5]
    """
    return [rate * i / max(blocks - 1, 1) for i in range(blocks)]


def add_drop_path(backbone: nn.Module, rate: float) -> None:
    """Give an image encoder stochastic depth in training; with a rate of 0 it is left as it is.

    Args:
        backbone: transformers' Hiera, changed in place.
        rate: of its last block.

    Raises:
        ConfigError: another encoder.
    """
    if not rate:
        return
    blocks = list(backbone.get_submodule("blocks").children())
    if not all(hasattr(block, "attn") and hasattr(block, "mlp") for block in blocks):
        raise ConfigError(
            "stochastic depth is for Hiera alone", found=type(backbone).__name__, fix="Set optim.drop_path to 0."
        )
    for block, of_block in zip(blocks, drop_path_rates(rate, len(blocks)), strict=True):
        if of_block:
            DropPath(block, of_block)
