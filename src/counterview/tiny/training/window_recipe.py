"""The keys of a training recipe of tiny-window beside ``method`` and ``training``."""

from __future__ import annotations

from dataclasses import dataclass, field

from counterview.config import out_of_range
from counterview.data.recipe import TakesConfig
from counterview.errors import ConfigError
from counterview.lmeec.training.recipe import OptimConfig
from counterview.tiny.training.follow_recipe import FollowLossConfig
from counterview.tiny.window_config import TinyWindowConfig


@dataclass(frozen=True)
class WindowDataConfig(TakesConfig):
    """Which objects are drawn in training, and which are validated on."""

    clip_frames: int = field(default=1, metadata={"help": "frames of a clip; a shorter track repeats its last one"})
    clips_per_track: int = field(default=1, metadata={"help": "clips of an epoch of one object in a pair of cameras"})
    clips_per_epoch: int | None = field(default=None, metadata={"help": "clips of an epoch, in place of these"})
    val_questions: int | None = field(
        default=300, metadata={"help": "questions of validation, evenly spread; null for all"}
    )
    cache_mb: int = field(default=0, metadata={"help": "images kept in memory, per process"})

    def __post_init__(self) -> None:
        problems = [
            *self.problems(),
            *out_of_range(self, "clip_frames", "clips_per_track", "clips_per_epoch", "val_questions", at_least=1),
            *out_of_range(self, "cache_mb", at_least=0),
        ]
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class WindowDrawConfig:
    """How windows, proposed masks and cameras are drawn for a sample.

    Raises:
        ConfigError: values out of range; all problems at once.
    """

    margin_min: float = field(default=1.6, metadata={"help": "smallest side of a query window, in sides of the object"})
    margin_max: float = field(default=2.6, metadata={"help": "largest"})
    centre: float = field(
        default=0.25, metadata={"help": "standard deviation of a target window's centre, in sides of the object"}
    )
    far_centre: float = field(default=0.6, metadata={"help": "the same, of windows that are far off"})
    far_prob: float = field(default=0.15, metadata={"help": "fraction of windows that are"})
    scale: float = field(default=0.25, metadata={"help": "standard deviation of the logarithm of the expected size"})
    wrong_place_prob: float = field(
        default=0.2, metadata={"help": "fraction of visible objects whose window is around another, or anywhere"}
    )
    decoy_prob: float = field(
        default=0.2, metadata={"help": "fraction of samples whose query is an object of another take"}
    )
    no_prompt_prob: float = field(default=0.3, metadata={"help": "fraction of target windows without a proposed mask"})
    wrong_prompt_prob: float = field(
        default=0.15, metadata={"help": "fraction of proposed masks that are of something else in the window"}
    )
    camera_prob: float = field(default=0.8, metadata={"help": "fraction of samples that have another target camera"})
    downscale_prob: float = field(
        default=0.25, metadata={"help": "fraction of windows shown as if from farther away, up to four times"}
    )
    flip: float = field(default=0.5, metadata={"help": "fraction of samples that are mirrored, both views together"})

    def __post_init__(self) -> None:
        fractions = (
            *("far_prob", "wrong_place_prob", "decoy_prob", "no_prompt_prob", "wrong_prompt_prob"),
            *("camera_prob", "downscale_prob", "flip"),
        )
        problems = [
            *out_of_range(self, *fractions, at_least=0, at_most=1),
            *out_of_range(self, "centre", "far_centre", "scale", at_least=0, at_most=5),
            *out_of_range(self, "margin_min", above=1, at_most=20),
        ]
        if self.margin_max < self.margin_min:
            problems.append(f"margin_max is {self.margin_max}, below margin_min = {self.margin_min}")
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class WindowLossConfig(FollowLossConfig):
    """Weights of LM-EEC's four losses and of matching. The object score's is the loss of visibility."""

    dice: float = field(default=3.0, metadata={"help": "weight of the dice loss"})
    match: float = field(default=0.1, metadata={"help": "weight of matching the fine features of both views"})
    stride: int = field(default=2, metadata={"help": "masks are compared at the window's size divided by this"})


@dataclass(frozen=True)
class TinyWindowRecipe:
    """The keys of a recipe beside ``method`` and ``training``."""

    data: WindowDataConfig
    model: TinyWindowConfig = field(default_factory=TinyWindowConfig)
    init_from: str | None = field(
        default=None, metadata={"help": "folder of a tiny-window whose weights training begins with"}
    )
    windows: WindowDrawConfig = field(default_factory=WindowDrawConfig)
    loss: WindowLossConfig = field(default_factory=WindowLossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
