"""Masks in the forms that other programs take: COCO run lengths, polygons, PNG and supervision's detections.

Everything here is about plain arrays. It stands below :mod:`counterview.types`, whose masks and matches have these
forms as methods; in :mod:`counterview.masks`, which is built on those types, they would close a circle of imports.
"""

from __future__ import annotations

import io
import os
import secrets
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from counterview.errors import CounterviewError, InputError, MaskError, MissingExtraError

if TYPE_CHECKING:
    import supervision as sv

PNG_COMPRESSION = zlib.Z_RLE
"""How zlib compresses the PNG of a mask: by runs alone. Smaller than by its default, in 0.6 of the time."""
MAX_PIXELS = 2**31 - 1
"""Size of the largest mask that COCO's 32-bit counts can hold, in pixels."""


def normal_form(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Merge runs ``(R,)`` that a run of length 0 separates, and drop a trailing 0."""
    if runs.size > 1 and (runs[1:] == 0).any():
        values = np.arange(runs.size) % 2 == 1
        keep = runs > 0
        lengths, values = runs[keep], values[keep]
        change = np.flatnonzero(np.diff(values)) + 1
        starts = np.concatenate(([0], change))
        merged = np.add.reduceat(lengths, starts)
        return np.concatenate(([0], merged)) if values[0] else merged
    return runs.copy()


def dense_mask(size_hw: tuple[int, int], runs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The mask ``(H, W)`` bool of run lengths ``(R,)`` in column-major order, zeros first.

    Args:
        size_hw: height and width in pixels.
        runs: they sum to ``H * W``.
    """
    values = np.zeros(len(runs), dtype=np.bool_)
    values[1::2] = True
    return np.repeat(values, runs).reshape(size_hw, order="F")


def coco_counts(size_hw: tuple[int, int], runs: NDArray[np.int64]) -> str:
    """COCO compressed counts, by pycocotools' encoder.

    Args:
        size_hw: height and width in pixels.
        runs: ``(R,)`` lengths of alternating runs, zeros first.

    Raises:
        MaskError: the mask has more than :data:`MAX_PIXELS` pixels.
    """
    from pycocotools import mask as coco

    height, width = size_hw
    if height * width > MAX_PIXELS:
        raise MaskError("the mask is too large for COCO counts", found=f"{height} x {width}")
    encoded = coco.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return encoded["counts"].decode("ascii")


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """The outer outlines of a mask ``(H, W)``: one ``(K, 2)`` array of vertices ``x, y`` a connected part, K >= 3.

    Vertices are pixels of the mask. Holes are filled; parts that are a point or a line have no polygon and are left
    out.
    """
    import cv2

    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [contour[:, 0].astype(np.int64) for contour in contours if len(contour) >= 3]


def detections(
    masks: Sequence[NDArray[np.bool_]], confidences: Sequence[float] | None = None, names: Sequence[str] | None = None
) -> sv.Detections:
    """Masks of one image as ``supervision.Detections``; empty ones are left out.

    Args:
        masks: M masks ``(H, W)``.
        confidences: of each mask, 0 to 1.
        names: of each mask; they become ``data["class_name"]``, and ``class_id`` is the index.

    Raises:
        MissingExtraError: supervision is not installed.
    """
    try:
        import supervision as sv
    except ImportError:
        raise MissingExtraError("supervision", "supervision.Detections") from None

    keep = [i for i, mask in enumerate(masks) if mask.any()]
    if not keep:
        return sv.Detections.empty()
    stack = np.stack([masks[i] for i in keep])
    return sv.Detections(
        xyxy=sv.mask_to_xyxy(stack).astype(np.float64),
        mask=stack,
        confidence=None if confidences is None else np.array([confidences[i] for i in keep], dtype=np.float64),
        class_id=np.array(keep),
        data={} if names is None else {"class_name": np.array([names[i] for i in keep])},
    )


def write_png(path: str | os.PathLike[str], mask: NDArray[np.bool_]) -> None:
    """Write a mask ``(H, W)`` as a PNG, 255 inside and 0 outside, whole or not at all.

    Raises:
        MaskError: another extension than ``.png``.
        InputError: the file cannot be written.
    """
    from PIL import Image

    target = Path(path)
    if target.suffix.lower() != ".png":
        raise MaskError("masks are written as PNG", path=path, fix="Give a name that ends in .png.")
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, format="PNG", compress_type=PNG_COMPRESSION)
    temporary = target.with_name(f".{target.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None
        if isinstance(error, CounterviewError):
            raise
        raise InputError("cannot be written", path=path, found=error.strerror, fix="Give another place.") from None


class MaskExports:
    """The forms of a mask as methods: what masks and matches have in common."""

    def _mask_runs(self) -> tuple[tuple[int, int], NDArray[np.int64]]:
        """Height and width in pixels, and the run lengths ``(R,)``."""
        raise NotImplementedError

    def _mask_label(self) -> tuple[float | None, str | None]:
        """Confidence and name for a detection, where there are any."""
        return None, None

    def to_coco(self) -> dict[str, Any]:
        """COCO run lengths, ``{"size": [h, w], "counts": text}``, ready for JSON.

        Raises:
            MaskError: the mask has more than :data:`MAX_PIXELS` pixels.
        """
        size_hw, runs = self._mask_runs()
        return {"size": list(size_hw), "counts": coco_counts(size_hw, runs)}

    def to_polygons(self) -> list[NDArray[np.int64]]:
        """Outer outlines, one ``(K, 2)`` array of pixels ``x, y`` a connected part. See :func:`outlines`."""
        return outlines(dense_mask(*self._mask_runs()))

    def save_png(self, path: str | os.PathLike[str]) -> None:
        """Write the mask as a PNG, white on black, whole or not at all.

        Raises:
            MaskError: another extension than ``.png``.
            InputError: the file cannot be written.
        """
        write_png(path, dense_mask(*self._mask_runs()))

    def to_supervision(self) -> sv.Detections:
        """One ``supervision.Detections``; without a row if the mask is empty. See :func:`detections`.

        Raises:
            MissingExtraError: supervision is not installed.
        """
        confidence, name = self._mask_label()
        return detections(
            [dense_mask(*self._mask_runs())],
            None if confidence is None else [confidence],
            None if name is None else [name],
        )


class DrawnOnImages:
    """A result that can draw itself, if it holds a function that knows the images.

    The function is given by whoever has the images (:mod:`counterview.inference`): the type itself imports no drawing.

    Attributes:
        name: of the object, for the error message.
        drawing: makes the image ``(h, w, 3)`` uint8 of the result; ``None`` without images.
    """

    name: str
    drawing: Callable[[Any], NDArray[np.uint8]] | None

    def draw(self) -> NDArray[np.uint8]:
        """Query and target image side by side with the object and its match, ``(h, w, 3)`` uint8.

        Raises:
            InputError: the match has no images.
        """
        if self.drawing is None:
            raise InputError(
                f"the match of {self.name!r} holds no images",
                fix="Those of model.match do; for others call counterview.inference.drawing.draw_match.",
            )
        return self.drawing(self)

    def show(self) -> None:
        """Show :meth:`draw` in the notebook, or in the system's image viewer.

        Raises:
            InputError: the match has no images.
        """
        from PIL import Image

        image = Image.fromarray(self.draw())
        if "ipykernel" in sys.modules:
            from IPython.display import display

            display(image)
        else:
            image.show()

    def _repr_png_(self) -> bytes | None:
        """How a notebook shows a match; its text where there are no images."""
        from PIL import Image

        if self.drawing is None:
            return None
        buffer = io.BytesIO()
        Image.fromarray(self.draw()).save(buffer, format="PNG")
        return buffer.getvalue()
