"""What became of each take and camera in a preparation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

Status = Literal["prepared", "partial", "missing", "damaged", "redacted", "skipped"]
"""``prepared``: whole. ``partial``: usable, but a camera, a frame or a mask is wanting. ``missing``: not on disk,
or without a video of one side. ``damaged``: its annotation or videos cannot be read. ``redacted``: withdrawn from
the release. ``skipped``: left out on purpose, for example for a name that no file may have.
"""

STATUSES: tuple[Status, ...] = ("prepared", "partial", "missing", "damaged", "redacted", "skipped")
USABLE: tuple[Status, ...] = ("prepared", "partial")


@dataclass
class CameraReport:
    """One camera of a take.

    Attributes:
        status: as for takes.
        side: ``"ego"`` or ``"exo"``.
        frames: images written.
        wanted: images wanted.
        video_hw: height and width of the video as it is shown, in pixels.
        image_hw: height and width of the written images.
        beyond_end: wanted frames behind the end of the video.
        damaged_frames: wanted frames that do not decode, or have no image at their time.
        problems: in words.
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


@dataclass
class TakeReport:
    """One take.

    Attributes:
        take_uid: its identifier.
        split: its split.
        status: what became of it.
        take_name: its name, if known.
        scenario: the activity, if known.
        cameras: its cameras.
        masks: masks written.
        masks_left_out: masks that could not be decoded or have the wrong size.
        problems: what is wanting, in words.
        notes: what is no fault but worth knowing, such as a second ego camera.
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
        """Plain values for JSON; what is empty is left out."""
        values = asdict(self)
        values["cameras"] = {name: _without_empty(camera) for name, camera in values["cameras"].items()}
        return _without_empty(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TakeReport:
        """The report back from :meth:`to_dict`. ``TypeError`` if it is none."""
        known = {f.name for f in fields(cls)}
        report = cls(**{k: v for k, v in values.items() if k in known})
        report.cameras = {name: CameraReport(**_renamed(camera)) for name, camera in report.cameras.items()}  # type: ignore[arg-type]
        return report


def _renamed(camera: Mapping[str, Any]) -> dict[str, Any]:
    """A camera's values as earlier versions wrote them, under today's names."""
    return {"image_hw" if key == "picture_hw" else key: value for key, value in camera.items()}


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, "", [], {})}


@dataclass
class PrepareReport:
    """A whole preparation.

    Attributes:
        release: the release's folder, as given.
        height: which videos were read, ``"full"`` or ``"448"``.
        splits: the splits that were asked for.
        takes: one entry a take, in the order of the splits.
        not_annotated: names of takes that lie on disk but stand in no annotation that was read.
        pairs: number of pairs in each list written, by file name.
        pairs_left_out: of each list, pairs of which an image is missing or whose object's name it cannot hold.
        done_before: how many takes an earlier run had finished. Not part of the JSON, which is the same for a
            run in one go and one in several.
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
        found = Counter(take.status for take in self.takes)
        return {status: found[status] for status in STATUSES if found[status]}

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wanting but what was redacted, which nobody can have."""
        return all(take.status in ("prepared", "redacted") for take in self.takes)

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
