"""The outcome of a preparation for each take and camera."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

Status = Literal["prepared", "partial", "missing", "damaged", "redacted", "skipped"]
"""``prepared``: complete. ``partial``: usable, but a camera, a frame or a mask is missing. ``missing``: not on disk,
or without a video of the ego or exo side. ``damaged``: its annotation or videos cannot be read. ``redacted``:
withdrawn from the release. ``skipped``: skipped on purpose, for example because its name is not valid for a file, or
because it is not known which video or split is its own. A camera is skipped if its clock or its masks do not fit.
"""

STATUSES: tuple[Status, ...] = ("prepared", "partial", "missing", "damaged", "redacted", "skipped")
USABLE: tuple[Status, ...] = ("prepared", "partial")
"""Statuses of takes that are listed in ``split.json``."""


@dataclass
class CameraReport:
    """The outcome for one camera of a take.

    Attributes:
        status: as for takes.
        side: ``"ego"`` or ``"exo"``.
        frames: number of images written.
        wanted: number of images requested.
        video_hw: height and width of the upright video, in pixels.
        image_hw: height and width of the written images, in pixels.
        beyond_end: requested frames after the end of the video.
        damaged_frames: requested frames that do not decode, or have no image at their time.
        problems: one line for each problem.
        fps: frames per second of the video; the average if they vary.
        start_s: time of its first image, in seconds.
        duration_s: its duration, in seconds.
        variable_rate: whether its frame rate varies; ``None`` if not.
        found_by: how annotated frames are found in it: by ``"number"``, or by ``"time"`` if its rate is not that of the
            annotation; ``None`` if they are not.
        notes: one line for each peculiarity that is not a problem.
    """

    status: Status = "prepared"
    side: str = "exo"
    frames: int = 0
    wanted: int = 0
    video_hw: list[int] | None = None
    image_hw: list[int] | None = None
    beyond_end: list[int] = field(default_factory=list)
    damaged_frames: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    fps: float | None = None
    start_s: float | None = None
    duration_s: float | None = None
    variable_rate: bool | None = None
    found_by: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class TakeReport:
    """The outcome for one take.

    Attributes:
        take_uid: its identifier.
        split: its split.
        status: the outcome.
        take_name: its name; empty if unknown.
        scenario: the activity; empty if unknown.
        cameras: the outcome for each camera.
        masks: number of masks written.
        masks_left_out: number of masks that do not decode, or have another size than the others or another aspect ratio
            than the video.
        problems: one line for each problem.
        notes: one line for each peculiarity that is not a problem, such as a second ego camera.
    """

    take_uid: str
    split: str
    status: Status = "prepared"
    take_name: str = ""
    scenario: str = ""
    cameras: dict[str, CameraReport] = field(default_factory=dict)
    masks: int = 0
    masks_left_out: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without empty ones."""
        values = asdict(self)
        values["cameras"] = {name: _without_empty(camera) for name, camera in values["cameras"].items()}
        return _without_empty(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TakeReport:
        """The inverse of :meth:`to_dict`. Unknown keys are ignored.

        Raises:
            TypeError: a required value is missing, or a camera has an unknown one.
        """
        names = {f.name for f in fields(cls)}
        report = cls(**{k: v for k, v in values.items() if k in names})
        report.cameras = {name: CameraReport(**_renamed(camera)) for name, camera in report.cameras.items()}  # type: ignore[arg-type]
        return report


def _renamed(camera: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a camera with keys of earlier versions replaced by the current ones."""
    return {"image_hw" if key == "picture_hw" else key: value for key, value in camera.items()}


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, "", [], {})}


@dataclass
class PrepareReport:
    """The outcome of a preparation.

    Attributes:
        release: the release's folder, as given.
        height: size of the videos, ``"full"`` or ``"448"``.
        splits: the requested splits.
        takes: the outcome for each take, in the order of the splits.
        not_annotated: names of takes that are on disk but in none of the annotation files.
        pairs: number of pairs in each list written, by file name.
        pairs_left_out: number of pairs missing from each list: without an image, or with an object name that the list
            cannot hold.
        done_before: number of takes that an earlier run had finished. Not part of the JSON, which does not depend on
            the number of runs.
    """

    release: str
    height: str
    splits: list[str]
    takes: list[TakeReport] = field(default_factory=list)
    not_annotated: list[str] = field(default_factory=list)
    pairs: dict[str, int] = field(default_factory=dict)
    pairs_left_out: dict[str, int] = field(default_factory=dict)
    done_before: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Number of takes by status."""
        counts = Counter(take.status for take in self.takes)
        return {status: counts[status] for status in STATUSES if counts[status]}

    @property
    def is_complete(self) -> bool:
        """Whether every take is complete, apart from redacted ones, which are no longer available to anyone.

        With redacted takes alone nothing is left, which is not complete.
        """
        statuses = {take.status for take in self.takes}
        return statuses <= {"prepared", "redacted"} and statuses != {"redacted"}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "version": 1,
            "release": self.release,
            "height": self.height,
            "splits": self.splits,
            "counts": self.counts,
            "pairs": self.pairs,
            "pairs_left_out": self.pairs_left_out,
            "takes": [take.to_dict() for take in self.takes],
            "not_annotated": self.not_annotated,
        }
