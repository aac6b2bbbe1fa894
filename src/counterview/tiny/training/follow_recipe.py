"""The keys of a training recipe of tiny-follow beside ``method`` and ``training``."""

from __future__ import annotations

from dataclasses import dataclass, field

from counterview.config import out_of_range
from counterview.errors import ConfigError
from counterview.lmeec.training.recipe import ClipDataConfig, LMEECLossConfig, LMEECRecipe
from counterview.tiny.follow_config import TinyFollowConfig


@dataclass(frozen=True)
class FollowDataConfig(ClipDataConfig):
    """Which clips are trained, in which epochs, and which takes are validated on."""

    short_epochs: int = field(
        default=0, metadata={"help": "first epochs, in which clips have one frame: there is no memory yet"}
    )
    match_epochs: int = field(
        default=0, metadata={"help": "first epochs, in which features are matched and no mask is decoded"}
    )
    match_times: int = field(default=1, metadata={"help": "times as many clips in those, which are cheap"})

    def problems(self) -> list[str]:
        """What is wrong with these keys, a line each."""
        return [
            *super().problems(),
            *out_of_range(self, "match_times", at_least=1),
            *out_of_range(self, "short_epochs", "match_epochs", at_least=0),
        ]


@dataclass(frozen=True)
class FollowLossConfig(LMEECLossConfig):
    """Weights of LM-EEC's four losses, and of matching."""

    match: float = field(default=0.0, metadata={"help": "weight of matching the fine features of both views"})

    def problems(self) -> list[str]:
        """What is wrong with these keys, a line each."""
        return [*super().problems(), *out_of_range(self, "match", at_least=0, below=1e6)]


@dataclass(frozen=True)
class TinyFollowRecipe(LMEECRecipe):
    """The keys of a recipe beside ``method`` and ``training``.

    Raises:
        ConfigError: epochs of matching without the loss for it.
    """

    data: FollowDataConfig
    model: TinyFollowConfig = field(default_factory=TinyFollowConfig)
    init_from: str | None = field(
        default=None,
        metadata={
            "help": "weights to begin with: a folder of tiny-follow or LM-EEC, a Hub id or folder of SAM 2.1; "
            "from scratch if not given"
        },
    )
    loss: FollowLossConfig = field(default_factory=FollowLossConfig)

    def __post_init__(self) -> None:
        if self.data.match_epochs and not self.loss.match:
            raise ConfigError("data.match_epochs needs loss.match above 0", found=self.data.match_epochs)
