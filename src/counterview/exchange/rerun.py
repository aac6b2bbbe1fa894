"""Rerun recordings, ``tracks.rrd``: masks over time for the viewer of rerun.io. Written only; needs ``[rerun]``.

Masks are segmentation images of a longer side of at most 640 pixels, on the clock of the query camera; where two
objects overlap, the later one has the pixels. The probability that an object is visible is a curve. Nothing is logged
for a frame in which nothing is known of any object. Images and videos are not included.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from counterview.errors import MissingExtraError, OutputError
from counterview.exchange.collect import frames_of
from counterview.exchange.tracks import Tracks
from counterview.guard import library_errors
from counterview.masks.geometry import fit_longest_side, resize_mask
from counterview.media.files import part_path, safe_join, write_errors

FILE = "tracks.rrd"
LONGEST_SIDE_PX = 640


def write(tracks: Tracks, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``tracks.rrd``.

    Args:
        tracks: what is written.
        folder: in which.

    Returns:
        the file.

    Raises:
        MissingExtraError: rerun-sdk is not installed.
        OutputError: it cannot be written.
    """
    try:
        rr: Any = import_module("rerun")
    except ImportError:
        raise MissingExtraError("rerun", "writing a Rerun recording") from None
    path = safe_join(folder, FILE)
    temporary = part_path(path)
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with library_errors(OutputError, "cannot be written", path=path):
                _record(rr, tracks, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return [path]


def _record(rr: Any, tracks: Tracks, path: Path) -> None:
    """Log all frames to a file."""
    stream = rr.RecordingStream("counterview")
    stream.save(path)
    class_of = {name: number for number, name in enumerate(tracks.objects, start=1)}
    stream.log("/", rr.AnnotationContext([(number, name) for name, number in class_of.items()]), static=True)
    # Names of cameras and objects become parts of a path, so that rerun escapes them.
    for camera, about in tracks.cameras.items():
        size_hw = about.size_hw
        if max(size_hw) > LONGEST_SIDE_PX:
            size_hw = fit_longest_side(size_hw, LONGEST_SIDE_PX)
        for frame, items in frames_of(tracks, camera).items():
            known = {name: item for name, item in items.items() if item.visibility is not None or item.mask_rle}
            if not known:
                continue
            stream.set_time("time", duration=about.query_time(next(iter(known.values())).time_s))
            stream.set_time("frame", sequence=frame)
            index = np.zeros(size_hw, dtype=np.uint8 if len(class_of) < 256 else np.uint16)
            for name, item in known.items():
                if item.mask_rle is not None:
                    index[resize_mask(item.mask_rle, size_hw).to_array()] = class_of[name]
                if item.visibility is not None:
                    stream.log(rr.new_entity_path([camera, "visibility", name]), rr.Scalars(item.visibility))
            stream.log(rr.new_entity_path([camera, "masks"]), rr.SegmentationImage(index))
    stream.disconnect()
