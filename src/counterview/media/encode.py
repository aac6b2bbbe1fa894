"""Write images as a video."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np

from counterview.errors import InputError
from counterview.media.files import output_error, part_path, write_errors
from counterview.types import ImageLike, as_rgb


def write_video(
    path: str | os.PathLike[str], frames: Iterable[ImageLike], fps: Fraction | float = 30, *, crf: int = 20
) -> int:
    """Write an MP4 video (H.264, yuv420p), atomically. The same images give the same bytes.

    Args:
        path: the file.
        frames: ``(H, W, 3)`` uint8 RGB, or views, all of one size; consumed one by one. The format needs even sides,
            so an image with an odd side is padded with one white row or column.
        fps: frames per second.
        crf: quality as a constant rate factor, 0 (best) to 51.

    Returns:
        number of frames.

    Raises:
        InputError: no frame, frames of several sizes, or a rate or quality out of range.
        ImageError: a frame that is not an image.
        OutputError: the video cannot be written.
    """
    rate = Fraction(fps).limit_denominator(1001)
    if not 0 < rate <= 1000 or not 0 <= crf <= 51:
        raise InputError(
            "a setting of the video is out of range", found=f"fps {fps}, crf {crf}", expected="fps > 0, crf 0 to 51"
        )
    path = Path(path)
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = part_path(path)
    count = 0
    try:
        options = {"fflags": "+bitexact", "movflags": "+faststart"}
        with av.open(os.path.abspath(temporary), "w", format="mp4", options=options) as out:  # noqa: PTH100
            stream = None
            size = (0, 0)
            for frame in frames:
                image = as_rgb(frame)
                if stream is None:
                    size = (image.shape[0], image.shape[1])
                    stream = out.add_stream("libx264", rate=rate)
                    stream.height, stream.width, stream.pix_fmt = (
                        size[0] + size[0] % 2,
                        size[1] + size[1] % 2,
                        "yuv420p",
                    )
                    stream.codec_context.thread_count = 1
                    stream.options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
                if image.shape[:2] != size:
                    raise InputError("the frames of a video differ in size", found=image.shape[:2], expected=size)
                even = np.pad(image, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), constant_values=255)
                encoded = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
                encoded.pts = count
                out.mux(stream.encode(encoded.reformat(format="yuv420p")))
                count += 1
            if stream is None:
                raise InputError("a video needs at least one frame", path=path)
            out.mux(stream.encode())
        temporary.replace(path)
    except (av.error.FFmpegError, OSError) as error:
        raise output_error(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return count
