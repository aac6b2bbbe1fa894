"""What goes into a frame of a session, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from counterview.lmeec.preprocess import to_native
from counterview.lmeec.sam2_parts import ImageFeatures
from counterview.media.inputs import ImageInput, load_rgb
from counterview.types import BoolImage, ObjectMask, RgbImage


@dataclass(frozen=True)
class SessionImage:
    """An image that went through the image encoder, for use in several sessions. See :meth:`Session.encode`.

    Attributes:
        features: maps of one image.
        size_hw: height and width of the image in pixels.
        image_size: side of the square that it was stretched to.
    """

    features: ImageFeatures
    size_hw: tuple[int, int]
    image_size: int


@dataclass(frozen=True)
class FrameResult:
    """One object in one target image.

    Attributes:
        mask_rle: the mask at the size of the target image; empty where the object is not visible.
        low_res_logits: ``(S / 4, S / 4)`` float32 mask logits, S the side of the model's square image; all -1024
            where the object is not visible.
        object_score: logit of the object's presence; ``None`` if the frame was passed over for this object.
        visibility: probability that the object is visible, in 0..1.
        predicted_iou: the model's estimate of the mask's IoU; ``None`` if passed over.
    """

    mask_rle: ObjectMask
    low_res_logits: NDArray[np.float32]
    object_score: float | None
    visibility: float
    predicted_iou: float | None

    @property
    def mask(self) -> BoolImage:
        """``(H, W)`` bool at the size of the target image."""
        return self.mask_rle.to_array()

    def mask_of_size(self, size_hw: tuple[int, int]) -> ObjectMask:
        """The mask at another size ``(H, W)`` in pixels, made from the logits and not from :attr:`mask`."""
        return ObjectMask.from_array(to_native(torch.from_numpy(self.low_res_logits), size_hw))

    @property
    def passed_over(self) -> bool:
        """Whether nothing was predicted: the object has not been shown yet, or had no query mask."""
        return self.object_score is None


AnyImage = ImageInput | SessionImage
"""What a session takes for an image."""


def image_array(image: ImageInput) -> RgbImage:
    """The pixels ``(H, W, 3)`` uint8 of an image that is not encoded yet.

    Raises:
        ImageError: not such an image.
    """
    return load_rgb(image)


def loaded(image: AnyImage) -> RgbImage | SessionImage:
    """An image in memory: encoded, or its pixels ``(H, W, 3)`` uint8.

    Raises:
        ImageError: not an image.
    """
    return image if isinstance(image, SessionImage) else image_array(image)


def image_size_hw(image: RgbImage | SessionImage) -> tuple[int, int]:
    """Height and width of an image in pixels."""
    return image.size_hw if isinstance(image, SessionImage) else (image.shape[0], image.shape[1])
