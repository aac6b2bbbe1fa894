"""Settings of a synthetic data set, and the presets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from counterview.errors import ConfigError

__all__ = ["PRESETS", "TabletopConfig", "preset"]

_LATER = frozenset({"away_s", "camera_difference"})
"""Fields that data sets of earlier versions do not have; their defaults mean what those versions did."""


@dataclass(frozen=True)
class TabletopConfig:
    """What a take looks like. Sizes in pixels, times in seconds.

    The names of the fields are part of a data set's fingerprint.
    """

    seconds: int = field(default=20, metadata={"help": "length of a take; one annotated frame a second"})
    size: int = field(default=448, metadata={"help": "height of the full-size videos; exo is 16:9, ego square"})
    cameras: int = field(default=2, metadata={"help": "number of exo cameras, 1 to 4"})
    objects_min: int = field(default=9, metadata={"help": "fewest annotated objects"})
    objects_max: int = field(default=14, metadata={"help": "most annotated objects"})
    tall_clutter_min: int = field(default=1, metadata={"help": "fewest tall things that hide others, not annotated"})
    tall_clutter_max: int = field(default=3, metadata={"help": "most tall things that hide others, not annotated"})
    exo_near_m: float = field(default=1.5, metadata={"help": "nearest exo camera, metres from the table's middle"})
    exo_far_m: float = field(default=2.3, metadata={"help": "farthest exo camera"})
    exo_low_m: float = field(default=0.05, metadata={"help": "lowest exo camera above the table's top"})
    exo_high_m: float = field(default=0.55, metadata={"help": "highest exo camera above the table's top"})
    portrait: float = field(default=0.15, metadata={"help": "fraction of takes with one portrait exo camera"})
    motion: float = field(default=1.0, metadata={"help": "scale of head motion and its blur"})
    harshness: float = field(default=1.0, metadata={"help": "scale of noise, colour cast, softness, compression"})
    contrast: float = field(default=1.0, metadata={"help": "strength of direct over ambient light; above 1 is harder"})
    unknown: float = field(default=0.06, metadata={"help": "fraction of object-frames that are not annotated"})
    rendered_fps: int = field(default=1, metadata={"help": "rendered frames a second, a divisor of 30; held between"})
    pool_size: int = field(default=24, metadata={"help": "shapes and looks per kind of object and split"})
    away_s: int = field(
        default=0,
        metadata={
            "help": "seconds in the middle of a take in which the wearer looks away from the table, so that the ego "
            "camera sees none of its objects; with the turns of the head, 5 or more, or 0"
        },
    )

    camera_difference: float = field(
        default=0.0,
        metadata={
            "help": "how far the cameras of a take differ in white balance, tone, saturation, exposure over time, "
            "sharpening and compression: 0 as two of one make, 1 as a head-mounted research camera and an action camera"
        },
    )

    def settings(self) -> dict[str, Any]:
        """All fields, but those added later only where they are not at their defaults.

        So the settings and the fingerprint of a data set are those of the version that it was begun with.
        """
        defaults = {f.name: f.default for f in fields(self)}
        return {k: v for k, v in asdict(self).items() if k not in _LATER or v != defaults[k]}

    def check(self) -> TabletopConfig:
        """Return self, or raise :class:`~counterview.errors.ConfigError` that lists every problem."""
        problems = []
        if not 2 <= self.seconds <= 3600:
            problems.append(f"seconds={self.seconds} (2 to 3600)")
        if not 64 <= self.size <= 2160 or self.size % 2:
            problems.append(f"size={self.size} (an even number from 64 to 2160)")
        if not 1 <= self.cameras <= 4:
            problems.append(f"cameras={self.cameras} (1 to 4)")
        if not 1 <= self.objects_min <= self.objects_max <= 20:
            problems.append(f"objects_min={self.objects_min}, objects_max={self.objects_max} (1 <= min <= max <= 20)")
        if self.rendered_fps < 1 or 30 % self.rendered_fps:
            problems.append(f"rendered_fps={self.rendered_fps} (1, 2, 3, 5, 6, 10, 15 or 30)")
        if self.away_s and not 5 <= self.away_s <= self.seconds - 4:
            problems.append(f"away_s={self.away_s} (0, or 5 to {self.seconds - 4}, which is 4 less than seconds)")
        if not 0 <= self.unknown < 1 or not 0 <= self.portrait <= 1:
            problems.append(f"unknown={self.unknown}, portrait={self.portrait} (fractions from 0 to 1)")
        if not 0 <= self.camera_difference <= 1:
            problems.append(f"camera_difference={self.camera_difference} (0 to 1)")
        if problems:
            raise ConfigError("settings of the synthetic takes are out of range", found="; ".join(problems))
        return self


PRESETS = {
    "easy": TabletopConfig(
        objects_min=8,
        objects_max=10,
        tall_clutter_min=0,
        tall_clutter_max=0,
        exo_near_m=1.1,
        exo_far_m=1.6,
        exo_low_m=0.5,
        exo_high_m=1.1,
        portrait=0.0,
        motion=0.6,
        harshness=0.6,
        contrast=0.9,
        unknown=0.03,
    ),
    "standard": TabletopConfig(),
    "cameras": TabletopConfig(camera_difference=1.0),
    "hard": TabletopConfig(
        objects_min=12,
        objects_max=15,
        tall_clutter_min=2,
        tall_clutter_max=4,
        exo_near_m=1.7,
        exo_far_m=2.6,
        exo_low_m=0.04,
        exo_high_m=0.5,
        portrait=0.3,
        motion=1.5,
        harshness=1.5,
        contrast=1.25,
        unknown=0.1,
    ),
}


def preset(name: str, **changes: int | float) -> TabletopConfig:
    """A preset by name with some fields changed.

    Raises:
        ConfigError: an unknown name or field, or values out of range.
    """
    if name not in PRESETS:
        raise ConfigError("unknown preset", found=name, expected=", ".join(PRESETS))
    unknown = sorted(set(changes) - set(TabletopConfig.__dataclass_fields__))
    if unknown:
        raise ConfigError("unknown setting of synthetic takes", found=", ".join(unknown))
    return replace(PRESETS[name], **changes).check()  # type: ignore[arg-type]
