"""Draw proposed masks again by SAM 2.1's decoder (Ravi et al. 2024), each in a window of its own.

SAM 2's automatic masks are drawn from points of a grid over the whole image. Here the image encoder sees a window
around the proposed mask, enlarged, and the decoder gets the mask and its box as prompts. Ours; neither paper has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from counterview.geometry.windows import cut_image, cut_mask, paste_logits, query_window
from counterview.masks.geometry import iou
from counterview.nn.weights import weights_fingerprint
from counterview.proposals.sam2 import input_side, prepare
from counterview.refinement.base import Proposed, Refined
from counterview.types import RgbImage, as_rgb

if TYPE_CHECKING:
    from transformers import Sam2Model

VERSION = 1
"""Raised when the same weights give other masks than before."""

SCALE, BIAS = 20.0, -10.0
"""Logits of a given mask, as SAM 2 makes them: 10 inside and -10 outside."""

ALIKE = 0.5
"""A mask that is drawn with a smaller IoU with the proposed one is of something else, and not taken."""


class Sam2Refiner:
    """Draws proposed masks again by SAM 2 or 2.1.

    Args:
        model: a ``Sam2Model`` in evaluation mode, on the device where it is to run.
    """

    def __init__(self, model: Sam2Model) -> None:
        self._model: Any = model
        self._side = input_side(model)
        self._weights: str | None = None

    def settings(self) -> dict[str, Any]:
        """Version of the method, side of the input in pixels, and a fingerprint of the weights."""
        if self._weights is None:
            self._weights = weights_fingerprint(self._model)
        return {"name": "sam2", "version": VERSION, "image_size": self._side, "weights_sha256": self._weights}

    @torch.no_grad()
    def __call__(self, image: RgbImage, proposed: Sequence[Proposed]) -> list[Refined]:
        """Draw N masks again, one after the other: each window costs a pass of the image encoder.

        Args:
            image: ``(H, W, 3)`` uint8.
            proposed: N masks of it; neither votes nor colours are read.

        Returns:
            N masks of the image's size. ``proposed_iou`` is what SAM 2 predicts for its own mask as well: it does not
            judge masks that are given.

        Raises:
            ImageError: another shape or dtype.
            MaskError: a proposed mask is empty.
        """
        image = as_rgb(image)
        return [self._drawn(image, item) for item in proposed]

    def _drawn(self, image: RgbImage, item: Proposed) -> Refined:
        model, side = self._model, self._side
        window = query_window(item.mask, side)
        pixels, _ = cut_image(image, window)
        share = torch.from_numpy(cut_mask(item.mask, window)).to(model.device, model.dtype)
        x, y, width, height = item.mask.box_xywh
        left, top = window.left_top
        box = torch.tensor([x - left, y - top, x + width - left, y + height - top]) * window.enlargement
        output = model(
            image_embeddings=model.get_image_embeddings(prepare(pixels, side).to(model.device, model.dtype)),
            input_boxes=box.to(model.device, model.dtype)[None, None],
            input_masks=(SCALE * share + BIAS)[None, None],
            multimask_output=False,
        )
        logits = output.pred_masks.flatten(0, 2)[0].float().cpu().numpy()
        predicted = float(output.iou_scores.flatten()[0])
        mask = paste_logits(logits, window, item.mask.size_hw)
        is_alike = not mask.is_empty and iou(mask, item.mask) >= ALIKE
        return Refined(mask if is_alike else item.mask, predicted, predicted)
