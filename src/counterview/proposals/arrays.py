"""Masks and boxes from untrusted NumPy files, one mask at a time and never more than the header announces."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from counterview.errors import ProposalError
from counterview.guard import library_errors, regular_file
from counterview.masks.geometry import same_aspect
from counterview.media.npy import open_archive, read_header
from counterview.types import ObjectMask

MAX_SIDE_PX = 1 << 15
"""Masks with a longer side are refused."""

_FIX = "Save it with numpy.savez_compressed(file, masks) and masks of type bool."


def read_masks(path: Path, size_hw: tuple[int, int], max_masks: int) -> list[ObjectMask]:
    """The masks ``(N, H, W)`` of an ``.npz`` archive with one array, or with several of which one is ``masks``.

    The array's header is checked before its contents are unpacked, and these are unpacked one mask at a time, so that
    memory stays at one image whatever the header announces.

    Args:
        path: of the archive.
        size_hw: height and width of the image, px; the masks may be of another resolution of it.
        max_masks: more are refused.

    Returns:
        N masks of one size; none for an array without elements, which stands for an image without masks.

    Raises:
        ProposalError: not a readable archive, an object array, another shape or dtype, too many masks, values other
            than 0 and 1, or fewer values than announced.
    """
    with open_archive(path, ProposalError) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        member = "masks.npy" if "masks.npy" in names else names[0] if len(names) == 1 else None
        if member is None:
            raise ProposalError("the archive has no array of masks", path=path, found=names[:5], fix=_FIX)
        with archive.open(member) as stream:
            return _stream_masks(stream, path, size_hw, max_masks)


def _stream_masks(stream: IO[bytes], path: Path, size_hw: tuple[int, int], max_masks: int) -> list[ObjectMask]:
    shape, fortran, dtype = read_header(stream, path, ProposalError)
    if 0 in shape or len(shape) < 3:
        if dtype.hasobject or 0 not in shape:
            raise ProposalError("not a stack of masks", path=path, found=shape, expected=("N", *size_hw))
        return []  # an image in which no mask was found
    if len(shape) != 3 or max(shape[1:]) > MAX_SIDE_PX or not same_aspect((shape[1], shape[2]), size_hw):
        raise ProposalError(
            "the masks are of another size than the image", path=path, found=shape, expected=("N", *size_hw)
        )
    if shape[0] > max_masks:
        raise ProposalError("too many masks", path=path, found=shape[0], expected=f"at most {max_masks}")
    if dtype.kind not in "buif":
        raise ProposalError("the masks are not numeric", path=path, found=dtype, fix=_FIX)
    if fortran and shape[0] > 1:
        raise ProposalError("the masks are stored in Fortran order", path=path, fix=_FIX)
    masks = []
    size_hw = (shape[1], shape[2])
    for index in range(shape[0]):
        values = np.frombuffer(_exactly(stream, size_hw[0] * size_hw[1] * dtype.itemsize, path), dtype=dtype)
        if dtype.kind == "b":
            values = values.view(np.uint8)
        if not ((values == 0) | (values == 1)).all():
            raise ProposalError(f"mask {index} holds values other than 0 and 1", path=path, fix=_FIX)
        masks.append(
            ObjectMask.from_array((values.reshape(size_hw[::-1]).T if fortran else values.reshape(size_hw)) == 1)
        )
    return masks


def read_boxes(path: Path, count: int) -> NDArray[np.float32]:
    """Boxes ``(count, 4)`` float32 of an ``.npy`` file: x, y, width, height in pixels.

    Raises:
        ProposalError: not a readable file, an object array, another shape or dtype, values that are not finite, a
            negative width or height.
    """
    with (
        library_errors(ProposalError, "not a readable NumPy array", path=path),
        regular_file(path, ProposalError).open("rb") as stream,
    ):
        shape, fortran, dtype = read_header(stream, path, ProposalError)
        if shape != (count, 4) or dtype.kind not in "uif":
            raise ProposalError(
                "the boxes do not fit the masks", path=path, found=f"{dtype} {shape}", expected=(count, 4)
            )
        values = np.frombuffer(_exactly(stream, count * 4 * dtype.itemsize, path), dtype=dtype)
    boxes = (values.reshape(4, count).T if fortran else values.reshape(count, 4)).astype(np.float64)
    if not (np.abs(boxes) < 1e9).all() or (boxes[:, 2:] < 0).any():
        raise ProposalError(
            "the boxes hold values that are not valid", path=path, expected="x, y, width, height in pixels"
        )
    return boxes.astype(np.float32)


def _exactly(stream: IO[bytes], count: int, path: Path) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise ProposalError("the array ends too early", path=path, found=f"{len(data)} of {count} bytes")
    return data
