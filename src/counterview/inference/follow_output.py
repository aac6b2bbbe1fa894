"""What people get of a run of following: ``tracks.json``, an overlay, what to check, and other formats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterview.exchange.formats import write
from counterview.exchange.tracks import TrackedCamera, Tracks, write_tracks
from counterview.inference.follow_step import FollowStep
from counterview.inference.following import TracksBuilder
from counterview.inference.track_writer import FILES, TrackWriter
from counterview.media.frame_source import FrameSource, SourceFrame
from counterview.media.timeline import Timeline, TimeStep
from counterview.tracking.review import Review
from counterview.types import RgbImage

if TYPE_CHECKING:
    import os

TRACKS = "tracks.json"
"""Name of the file with everything that was found."""

WITH_FOLDER = frozenset(("davis", "cvat", "labelme", "yolo"))
"""Formats whose files have a folder of that name already."""

NAMES = (TRACKS, *FILES)
"""Names of the files of :func:`write_follow_files`, beside the folders of other formats."""


def collect(
    steps: Iterable[FollowStep], cameras: Mapping[str, TrackedCamera], names: Sequence[str], settings: Mapping[str, Any]
) -> tuple[Tracks, Review]:
    """All steps as tracks, and what to check in them.

    Args:
        steps: in order.
        cameras: by name, the query camera first.
        names: of the objects.
        settings: what the tracks depend on beside the images, as plain values.
    """
    builder, review = TracksBuilder(cameras, names, settings), Review()
    for step in steps:
        builder.add(step)
        for camera, (number, time_s) in step.frames.items():
            seen = step.observations.get(camera, {})
            review.add(camera, step.time_s, seen, frame=number, camera_time_s=time_s)
    return builder.build(), review


def write_follow_files(
    folder: str | os.PathLike[str],
    sources: Mapping[str, FrameSource],
    tracks: Tracks,
    review: Review,
    steps: Callable[[], Iterable[FollowStep]],
    *,
    fps: float,
    formats: Sequence[str] = (),
    progress: Callable[[], object] = lambda: None,
) -> list[Path]:
    """Write ``tracks.json``, the overlay, the contact sheet, what to check, and a folder for each further format.

    Args:
        folder: where they go; it is made if need be.
        sources: the cameras, whose images are read again.
        tracks: all that was found.
        review: what to check.
        steps: gives the steps in order each time it is called.
        fps: steps a second.
        formats: names of :data:`counterview.exchange.FORMATS`.
        progress: called after each step.

    Returns:
        the paths of all files.

    Raises:
        InputError: there is no step, or a format cannot hold the tracks.
        MissingExtraError: ``rerun`` without rerun-sdk.
        OutputError: the disk is full.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tracks(folder / TRACKS, tracks)
    times = [step.time_s for step in steps()]
    span = (times[0], times[-1]) if times else (0.0, 0.0)

    def frame_of(camera: str, number: int) -> RgbImage:
        ((_, frame),) = sources[camera].read_numbers([number])
        if isinstance(frame, Exception):
            raise frame
        assert frame is not None
        return frame.image

    writer = TrackWriter(
        folder, tracks.cameras, list(tracks.objects), span, fps=fps, frame_of=frame_of, tracks=tracks, review=review
    )
    with writer:
        for step, images in _with_images(sources, tracks.query_camera, steps):
            writer.add(step.time_s, images, step.observations, step.frames)
            progress()
    written = [folder / name for name in NAMES]
    for name in formats:
        written += write(tracks, name, folder if name in WITH_FOLDER else folder / name)
    return written


def _with_images(
    sources: Mapping[str, FrameSource], query: str, steps: Callable[[], Iterable[FollowStep]]
) -> Iterator[tuple[FollowStep, dict[str, RgbImage | None]]]:
    """Each step with the images ``(H, W, 3)`` of its cameras."""
    places = [
        TimeStep(step.time_s, {c: step.frames[c][0] if c in step.frames else None for c in sources}) for step in steps()
    ]
    read = Timeline(query, places, {}, {}).read(sources)
    for step, (_, frames) in zip(steps(), read, strict=True):
        yield step, {c: f.image if isinstance(f, SourceFrame) else None for c, f in frames.items()}
