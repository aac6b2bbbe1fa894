"""Which image of a video belongs to which annotated frame, when the cameras of a take have clocks of their own.

Frame ``n`` of an Ego-Exo4D annotation is the time ``n / 30`` seconds, whatever the frame rates of the videos: the
release's frame-aligned videos have 30 frames per second. So a video of 30 frames per second is read by number, and a
video of another or of a variable rate by time: the image at that time, or the nearest one within half a frame interval
of the video or of the annotation.

That is right only if the videos show the same span of time. The first camera with the annotation's rate, ego cameras
first, is the reference; without one, the first camera. A video that starts at another time, or has another rate *and*
another duration, cannot be reconciled with it: it is left out, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from counterview.media.video import VideoReader

ANNOTATION_FPS = Fraction(30)
"""Frames per second that the frame numbers of an annotation count."""

NEAR_RATE = 0.02
"""Relative difference up to which a rate counts as the annotation's, such as 29.97 instead of 30."""

START_TOLERANCE_S = 0.1
"""Largest difference of the first timestamps, in seconds; reordered images alone start two or three frames late."""

DURATION_TOLERANCE_S, DURATION_TOLERANCE = 0.5, 0.05
"""Largest difference of the durations of videos with different rates, in seconds and as a fraction, the smaller one;
one frame is added to it."""

Lookup = Literal["number", "time"]
"""How an annotated frame is found: by its number in the video, or by its time."""


@dataclass(frozen=True)
class VideoClock:
    """Rate and span of a video.

    Attributes:
        fps: frames per second; the average if it is variable.
        start_s: time of the first image, in seconds.
        duration_s: time from the first image to the end of the last one, in seconds.
        is_variable: whether the rate is variable.
    """

    fps: float
    start_s: float
    duration_s: float
    is_variable: bool = False

    @classmethod
    def of(cls, video: VideoReader) -> VideoClock:
        """The clock of an opened video."""
        return cls(float(video.fps), video.start_s, video.duration_s, video.is_variable)

    @property
    def frames(self) -> float:
        """Number of frame intervals in the duration."""
        return self.duration_s * self.fps

    def is_near(self, fps: float) -> bool:
        """Whether the rate is constant and ``fps``, to :data:`NEAR_RATE`."""
        return not self.is_variable and abs(self.fps / fps - 1) <= NEAR_RATE

    def __str__(self) -> str:
        return f"{self.fps:.4g} frames/s{' on average' if self.is_variable else ''} for {self.duration_s:.4g} s"


class TakeClock:
    """How the annotated frames of a take are found in each of its videos.

    Args:
        clocks: of the cameras whose video can be read, ego cameras first.
        fps: frames per second that the annotation counts.

    Attributes:
        clocks: as given.
        problems: camera to the reason why its video cannot be reconciled with the others.
        notes: camera to what is peculiar about its clock.
    """

    def __init__(self, clocks: Mapping[str, VideoClock], fps: Fraction | float = ANNOTATION_FPS) -> None:
        self.clocks = clocks
        self.fps = Fraction(fps).limit_denominator(1001)
        self.problems: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self._lookups: dict[str, Lookup] = {}
        anchors = [camera for camera, clock in clocks.items() if clock.is_near(float(self.fps))]
        reference = next(iter(anchors or clocks), "")
        for camera, clock in clocks.items():
            self._compare(camera, clock, reference, clocks[reference])
        if clocks and not anchors:
            self.notes[reference] += (
                f". No camera has {float(self.fps):g} frames/s: if the annotation counts the videos' own frames, give "
                "their rate as the annotation's"
            )

    def _compare(self, camera: str, clock: VideoClock, reference: str, other: VideoClock) -> None:
        late, longer = clock.start_s - other.start_s, clock.duration_s - other.duration_s
        if abs(late) > START_TOLERANCE_S:
            self.problems[camera] = (
                f"the video starts at {clock.start_s:.4g} s, that of {reference} at {other.start_s:.4g} s: no frame of "
                "it can be assigned to a time"
            )
            return
        near = clock.is_near(float(self.fps))
        if not near:
            allowed = min(DURATION_TOLERANCE_S, DURATION_TOLERANCE * other.duration_s) + 1 / clock.fps
            if abs(longer) > allowed:
                self.problems[camera] = (
                    f"the video has {clock}, that of {reference} {other}: no frame of it can be assigned to a time"
                )
                return
        elif abs(longer) > DURATION_TOLERANCE_S:
            self.notes[camera] = f"the video has {clock}, that of {reference} {other}"
        # 29.97 beside 30: the same frames under another rate, or the same time. What agrees better tells which.
        is_same_count = abs(clock.frames - other.frames) / clock.fps <= abs(longer) + 1e-6
        lookup: Lookup = "number" if near and (abs(clock.fps / other.fps - 1) < 1e-4 or is_same_count) else "time"
        self._lookups[camera] = lookup
        if lookup == "time":
            kind = "a variable rate of " if clock.is_variable else ""
            self.notes[camera] = (
                f"the video has {kind}{clock.fps:.4g} frames/s: frame n of the annotation is its image at "
                f"n/{float(self.fps):g} s"
            )

    def lookup(self, camera: str) -> Lookup | None:
        """How frames of a camera are found; ``None`` if they are not, see :attr:`problems`."""
        return None if camera in self.problems else self._lookups.get(camera, "number")

    def number(self, camera: str, video: VideoReader, frame: int) -> int | None:
        """Number in a camera's video of the image of an annotated frame.

        Args:
            camera: the camera.
            video: its video.
            frame: frame number of the annotation.

        Returns:
            the number for :meth:`VideoReader.read`; ``None`` if the video has no image at that time, or cannot be
            reconciled with the others.
        """
        lookup = self.lookup(camera)
        if lookup == "time":
            return video.number_at(frame / self.fps, 1 / (2 * self.fps))
        return frame if lookup == "number" and frame in video else None

    def frame_count(self, camera: str, video: VideoReader) -> int:
        """Number of the last annotated frame that a camera's video can show, plus one."""
        if self.lookup(camera) != "time":
            return video.frame_count
        return int((Fraction(video.duration_s) - 1 / (2 * video.fps)) * self.fps) + 1
