"""What the tracker remembers, and which evidence it uses."""

from __future__ import annotations

from dataclasses import dataclass, field

from counterview.config import out_of_range
from counterview.errors import ConfigError


@dataclass(frozen=True)
class TrackerConfig:
    """What the tracker remembers, and which evidence it uses.

    Raises:
        ConfigError: a value out of range; all problems at once.
    """

    capacity: int = field(default=8, metadata={"help": "entries of a bank"})
    compression: str = field(default="merge", metadata={"help": "of a full bank: merge (closest neighbours) or fifo"})
    own_memory: bool = field(default=True, metadata={"help": "use each camera's own bank"})
    other_memory: bool = field(default=True, metadata={"help": "use the other cameras' banks"})
    place: bool = field(default=True, metadata={"help": "use where the object was, and how the camera moved"})
    competition: bool = field(default=True, metadata={"help": "two objects never share a mask"})
    remember_above: float = field(default=0.6, metadata={"help": "visibility above which a mask is remembered"})
    sure_above: float = field(default=0.5, metadata={"help": "probability of a candidate above which it is remembered"})
    alternatives: int = field(default=8, metadata={"help": "candidates that are kept for smoothing"})
    shared_iou: float = field(default=0.5, metadata={"help": "IoU above which two candidates are one mask"})
    share_frames: bool = field(
        default=False, metadata={"help": "images of a camera that stands still share what did not change between them"}
    )
    keep_alignments: bool = field(
        default=False, metadata={"help": "find how two cameras differ in colour once for the clip, not at every frame"}
    )

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "capacity", at_least=2, at_most=1000),
            *out_of_range(self, "alternatives", at_least=1, at_most=100),
            *out_of_range(self, "remember_above", "sure_above", "shared_iou", at_least=0, at_most=1),
        ]
        if self.compression not in ("merge", "fifo"):
            problems.append(f"compression is {self.compression!r}, expected merge or fifo")
        if problems:
            raise ConfigError("; ".join(problems))
