"""What a network is told of windows beside their pixels: where they lay, and which mask is proposed there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PLACE_NUMBERS = 4
"""Numbers that say where a window lay, see :attr:`WindowInputs.places`."""


@dataclass(frozen=True)
class WindowInputs:
    """What is known of B windows. S is the side of the model's square image.

    Attributes:
        places: ``(B, 4)`` float32: log2 of the enlargement of this window and of the other view's, and x and y of its
            centre in the image, from -1 to 1.
        prompts: ``(B, S, S)`` float32 in 0..1: in a query window the object, in a target window a proposed mask.
        prompted: ``(B,)`` bool, whether there is one.
        inside: ``(B, S, S)`` bool, what lies in the image.
    """

    places: Tensor
    prompts: Tensor
    prompted: Tensor
    inside: Tensor

    def pick(self, index: Tensor | Sequence[int]) -> WindowInputs:
        """The windows of ``index`` ``(N,)``, repeated as it says."""
        index = torch.as_tensor(index, device=self.places.device)
        return WindowInputs(self.places[index], self.prompts[index], self.prompted[index], self.inside[index])

    @classmethod
    def join(cls, parts: Sequence[WindowInputs]) -> WindowInputs:
        """The windows of all ``parts``, one after the other."""
        names = ("places", "prompts", "prompted", "inside")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
