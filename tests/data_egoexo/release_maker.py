"""Tiny releases: videos whose frames carry their own number, and masks around a moving disc."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from counterview.masks import rle
from counterview.types import ObjectMask


def explode(parent: int) -> None:
    """End any process but ``parent``, at once."""
    if os.getpid() != parent:
        os._exit(9)


class Deadly:
    """Ends the worker process that unpickles it, as a fault in a decoder would."""

    name = "deadly"

    def __reduce__(self) -> tuple[object, ...]:
        return explode, (os.getpid(),)


BITS = 12
EGO, EXO, PORTRAIT = "aria01_214-1", "cam01", "gp02"
SIZES = {EGO: (128, 128), "aria02_214-1": (128, 128), EXO: (108, 192), PORTRAIT: (192, 108)}


def numbered(frame: int, size_hw: tuple[int, int]) -> np.ndarray:
    """An image with ``frame`` in binary: twelve blocks in the upper sixth, on a colour that drifts."""
    height, width = size_hw
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[:] = (60 + frame % 120, 120, 200 - frame % 120)
    edges = np.linspace(0, width, BITS + 1).astype(int)
    for bit in range(BITS):
        image[: height // 6, edges[bit] : edges[bit + 1]] = 255 if frame >> bit & 1 else 0
    return image


def read_number(image: np.ndarray) -> int:
    """The number in an image of :func:`numbered`, whatever its size."""
    height, width = image.shape[:2]
    edges = np.linspace(0, width, BITS + 1)
    row = image[height // 12, ((edges[:-1] + edges[1:]) / 2).astype(int)].mean(axis=1)
    assert ((row < 60) | (row > 195)).all(), row
    return sum(1 << bit for bit in range(BITS) if row[bit] > 127)


def write_video(
    path: Path,
    frames: int,
    size_hw: tuple[int, int],
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    drop: Iterable[int] = (),
    rotation: int = 0,
    start: int = 0,
    noise: int = 0,
    rate: Fraction | int = 30,
    times_ms: Sequence[int] | None = None,
    first: int = 0,
) -> None:
    """Write ``frames`` images at ``rate`` frames per second, leaving out those in ``drop``.

    Each image carries the number of its place in the video, counted from ``first``. ``times_ms`` gives the times of all
    images for a variable rate, ``start`` the number of frames before the first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "g": "30"} if options is None else options
        stream = container.add_stream(codec, rate=Fraction(rate), options=options)
        stream.height, stream.width = size_hw
        stream.pix_fmt = "yuv420p"
        unit = 1 / Fraction(rate) if times_ms is None else Fraction(1, 1000)
        stream.codec_context.time_base = unit
        if times_ms is not None:
            stream.time_base = unit
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            if number in set(drop):
                continue
            image = numbered(number + first, size_hw)
            if noise:
                rows = slice(size_hw[0] // 6, None)
                image[rows] += np.random.default_rng(number).integers(0, noise, image[rows].shape, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number + start if times_ms is None else times_ms[number], unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def disc(size_hw: tuple[int, int], frame: int) -> ObjectMask:
    """A disc that wanders with the frame."""
    height, width = size_hw
    y, x = np.mgrid[:height, :width]
    radius = min(size_hw) // 8
    cy, cx = height // 2, radius + (frame * 2) % (width - 2 * radius)
    return ObjectMask.from_array((x - cx) ** 2 + (y - cy) ** 2 <= radius**2)


def annotated(size_hw: tuple[int, int], frames: Iterable[int], absent: Iterable[int] = ()) -> dict[str, object]:
    """The annotation of one object in one camera, as the release has it."""
    frames, absent = list(frames), list(absent)
    return {
        "annotation": {
            str(f): {
                "width": size_hw[1],
                "height": size_hw[0],
                "encodedMask": rle.to_lzstring(disc(size_hw, f)),
                "intSegClicks": {"positive": [{"x": 1.5, "y": 2.5}]},
            }
            for f in reversed(frames)  # the release is not sorted either
        },
        "annotation_fps": 1,
        "annotated_frames": sorted(frames + absent),
    }


@dataclass
class TakeSpec:
    """A take to be made. Frames are annotated at 0, 30, 60, …"""

    uid: str
    name: str
    frames: int = 91
    cameras: tuple[str, ...] = (EGO, EXO, PORTRAIT)
    objects: tuple[str, ...] = ("mug 0", "bolt/nut_0")
    absent: dict[str, list[int]] = field(default_factory=lambda: {EXO: [60]})
    split: str = "val"


def annotation_of(spec: TakeSpec) -> dict[str, object]:
    """The entry of a take in ``relations_*.json``."""
    at = range(0, spec.frames, 30)
    masks = {
        name: {
            camera: annotated(
                SIZES[camera],
                [f for f in at if f not in spec.absent.get(camera, [])],
                [f for f in at if f in spec.absent.get(camera, [])],
            )
            for camera in spec.cameras
        }
        for name in spec.objects
    }
    return {"scenario": "Making tea", "take_name": spec.name, "object_masks": masks}


def make_release(root: Path, specs: Iterable[TakeSpec], *, height: str = "full", **video: object) -> Path:
    """Write takes, ``takes.json`` and annotations."""
    listed = []
    annotations: dict[str, dict[str, object]] = {}
    for spec in specs:
        folder = root / "takes" / spec.name / "frame_aligned_videos"
        for camera in spec.cameras:
            place = folder if height == "full" else folder / "downscaled" / "448"
            write_video(place / f"{camera}.mp4", spec.frames, SIZES[camera], **video)
        streams = {c.partition("_")[0]: {"rgb" if "aria" in c else "0": c} for c in spec.cameras}
        listed.append(
            {
                "take_uid": spec.uid,
                "take_name": spec.name,
                "root_dir": f"takes/{spec.name}",
                "frame_aligned_videos": {
                    device: {s: {"relative_path": f"frame_aligned_videos/{c}.mp4"} for s, c in found.items()}
                    for device, found in streams.items()
                },
            }
        )
        annotations.setdefault(spec.split, {})[spec.uid] = annotation_of(spec)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "takes.json").write_text(json.dumps(listed))
    for split, takes in annotations.items():
        (root / "annotations" / f"relations_{split}.json").write_text(json.dumps({"annotations": takes}))
    return root
