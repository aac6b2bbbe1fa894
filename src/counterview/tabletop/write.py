"""Files of a synthetic data set, laid out as Ego-Exo4D's release.

Videos run at 30 frames a second as frame-aligned videos do. A rendered frame is held until the next one, so frame
``30 * k`` is exactly what was annotated at second ``k``; each rendered frame is a key frame, so that seeking is
cheap. One encoder thread and fixed settings: the same images give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from counterview.data.dataset import is_ego
from counterview.masks.rle import to_lzstring
from counterview.media.files import output_error, write_errors
from counterview.types import ObjectMask

__all__ = ["FPS", "annotate", "shrink", "take_entry", "write_video"]

FPS = 30
"""Frames a second of every video."""


def write_video(path: Path, frames: Sequence[np.ndarray], hold: int, crf: int) -> None:
    """Encode a video as H.264 (yuv420p, MP4) at :data:`FPS`.

    The file is written under a temporary name and renamed.

    Args:
        path: of the video.
        frames: ``(H, W, 3)`` uint8 each, even sides.
        hold: number of video frames for which each is shown.
        crf: rate factor, lower is better and larger.

    Raises:
        OutputError: the video cannot be written.
    """
    import av.error

    aside = path.with_name(path.stem + ".partial.mp4")
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _encode(aside, frames, hold, crf)
            aside.replace(path)
        except av.error.FFmpegError as error:
            raise output_error(path, error) from None
        finally:
            aside.unlink(missing_ok=True)


def _encode(path: Path, frames: Sequence[np.ndarray], hold: int, crf: int) -> None:
    import av

    h, w = frames[0].shape[:2]
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}) as out:
        stream = out.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = w, h, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = hold
        stream.options = {
            "crf": str(crf),
            "preset": "superfast",
            "threads": "1",
            "x264-params": f"keyint={hold}:min-keyint=1:scenecut=0:bframes=0:ref=1:rc-lookahead=0:mbtree=0:threads=1",
        }
        number = 0
        for image in frames:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            for _ in range(hold):
                frame.pts = number
                number += 1
                out.mux(stream.encode(frame))
        out.mux(stream.encode())


def shrink(image: np.ndarray, height: int) -> np.ndarray:
    """An image ``(H, W, 3)`` uint8 reduced to ``height``, its width even."""
    h, w = image.shape[:2]
    wide = max(2, round(w * height / h / 2) * 2)
    return np.asarray(cv2.resize(image, (wide, height), interpolation=cv2.INTER_AREA))


def annotate(
    names: Sequence[str],
    labels: Mapping[str, Sequence[np.ndarray]],
    rng: np.random.Generator,
    unknown: float,
    smallest_px: Mapping[str, int],
) -> dict[str, Any]:
    """``object_masks`` of one take.

    Args:
        names: object names by label.
        labels: per camera one label image ``(H, W)`` a second.
        rng: draws which object-frames are not annotated.
        unknown: fraction of object-frames that are not annotated; they come in short runs.
        smallest_px: masks of fewer pixels count as not visible, per camera.

    Returns:
        ``{object: {camera: {"annotation": …, "annotated_frames": …, "annotation_fps": 1}}}``. An object that is
        visible in no camera is left out; one with an empty ``annotation`` was annotated and is not visible.
    """
    out: dict[str, Any] = {}
    for number, name in enumerate(names):
        cameras: dict[str, Any] = {}
        is_visible = False
        for camera, images in labels.items():
            annotated = _annotated_seconds(rng, len(images), unknown)
            masks: dict[str, Any] = {}
            for second in np.flatnonzero(annotated).tolist():
                mask = images[second] == number
                if int(mask.sum()) >= smallest_px[camera]:
                    h, w = mask.shape
                    masks[str(second * FPS)] = {
                        "width": w,
                        "height": h,
                        "encodedMask": to_lzstring(ObjectMask.from_array(mask)),
                    }
            is_visible |= bool(masks)
            cameras[camera] = {
                "annotation": masks,
                "annotation_fps": 1,
                "annotated_frames": [int(s) * FPS for s in np.flatnonzero(annotated)],
            }
        if is_visible:
            out[name] = cameras
    return out


def _annotated_seconds(rng: np.random.Generator, seconds: int, unknown: float) -> np.ndarray:
    """Which seconds are annotated, ``(seconds,)`` bool; on average all but a fraction of ``unknown``."""
    annotated = np.ones(seconds, bool)
    owed = unknown * rng.uniform(0.0, 2.0) * seconds
    while owed > 0 and annotated.any():
        run = min(int(rng.integers(1, 4)), seconds)
        # The last run is longer than what is owed: it is left out so often that the fraction is right on average.
        if rng.random() * run < owed:
            start = int(rng.integers(seconds - run + 1))
            owed += int((~annotated[start : start + run]).sum())
            annotated[start : start + run] = False
        owed -= run
    return annotated


def take_entry(
    uid: str, name: str, split: str, scenario: str, seconds: int, sizes_hw: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
    """One entry of ``takes.json``; the ego stream is called ``rgb`` there, ``214-1`` elsewhere, as in the release.

    Args:
        uid: the take's UUID.
        name: the take's name.
        split: where it belongs.
        scenario: what the person does.
        seconds: its length.
        sizes_hw: image height and width of every camera, px.
    """
    videos: dict[str, Any] = {}
    cameras = []
    for camera, (h, w) in sizes_hw.items():
        ego = is_ego(camera)
        cam = camera.split("_")[0]
        videos[cam] = {
            "rgb" if ego else "0": {
                "cam_id": cam,
                "stream_id": "rgb" if ego else "0",
                "width": w,
                "height": h,
                "relative_path": f"frame_aligned_videos/{camera}.mp4",
            }
        }
        cameras.append({"cam_id": cam, "name": camera, "is_ego": ego})
    return {
        "take_uid": uid,
        "take_name": name,
        "root_dir": f"takes/{name}",
        "task_name": scenario,
        "parent_task_name": "Tabletop",
        "duration_sec": float(seconds),
        "is_dropped": False,
        "split": split,
        "cameras": cameras,
        "frame_aligned_videos": videos,
    }
