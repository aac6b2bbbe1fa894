"""The configuration of tiny-follow: LM-EEC's, with an encoder for training from scratch and an appearance prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from counterview.config import out_of_range
from counterview.errors import ConfigError
from counterview.lmeec.config import BACKBONES, MAX_BLOCKS, MAX_WIDTH, HieraConfig, LMEECConfig


@dataclass(frozen=True)
class ConvConfig:
    """Size of a convolutional image encoder, for training from scratch on a CPU.

    Raises:
        ConfigError: sizes that do not fit together.
    """

    channels: tuple[int, int, int, int] = field(default=(32, 64, 128, 256), metadata={"help": "channels of each stage"})
    blocks: tuple[int, int, int, int] = field(default=(1, 1, 2, 1), metadata={"help": "residual blocks of each stage"})
    palette: int = field(default=64, metadata={"help": "channels of the colour histograms beside each stage"})
    stride: int = field(default=4, metadata={"help": "pixels of a position of the first stage: 4, or 2 for windows"})

    def __post_init__(self) -> None:
        if self.stride not in (2, 4):
            raise ConfigError("the first stage of a convolutional encoder has another stride", found=self.stride)
        most = max(*self.channels, self.palette) <= MAX_WIDTH and max(self.blocks) <= MAX_BLOCKS
        if not most or min(*self.blocks, self.palette) < 1 or any(n < 16 or n % 16 for n in self.channels):
            raise ConfigError(
                f"a convolutional encoder has 1 to {MAX_BLOCKS} blocks a stage, and channels in multiples of 16 up to "
                f"{MAX_WIDTH}",
                found=(self.channels, self.blocks),
            )


CONVOLUTIONS = {
    "conv-tiny": ConvConfig(),
    "conv-window": ConvConfig(channels=(32, 64, 96, 128), palette=32, stride=2),
}
"""Convolutional image encoders by name."""

PLACEHOLDER = HieraConfig(hidden=8, blocks=(1, 1, 1, 1), global_blocks=())
"""The Hiera that stands where a convolutional encoder will be put: one narrow block a stage."""


@dataclass(frozen=True)
class TinyFollowConfig(LMEECConfig):
    """Everything that :class:`counterview.tiny.follow.TinyFollow` is built from.

    No weights of SAM 2 fit the encoders that it has beside SAM 2.1's: ``hiera-nano``, a small Hiera, and ``conv-tiny``
    and ``conv-window``, convolutional ones.

    Raises:
        ConfigError: values that contradict each other.
    """

    backbones: ClassVar[Mapping[str, HieraConfig]] = {
        **BACKBONES,
        "hiera-nano": HieraConfig(hidden=32, blocks=(1, 1, 3, 1), global_blocks=(3, 4)),
        **dict.fromkeys(CONVOLUTIONS, PLACEHOLDER),
    }

    backbone: HieraConfig | str = field(
        default="hiera-b+",
        metadata={
            "help": "image encoder: conv-tiny, hiera-nano, hiera-t, hiera-s, hiera-b+, hiera-l, or a Hiera in numbers"
        },
    )
    appearance: int = field(
        default=0, metadata={"help": "channels of the appearance prompt's fine features; 0: no such prompt"}
    )

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        yield from out_of_range(self, "appearance", at_least=0, at_most=MAX_WIDTH)

    @property
    def convolutions(self) -> ConvConfig | None:
        """The convolutional encoder in numbers; ``None`` for a Hiera."""
        return CONVOLUTIONS.get(self.backbone) if isinstance(self.backbone, str) else None

    @property
    def cell_px(self) -> int:
        """Side of a cell of the top feature map in pixels: four positions of the encoder's first stage."""
        return 16 if self.convolutions is None else 4 * self.convolutions.stride

    def architecture(self) -> dict[str, Any]:
        """The settings that decide the names and shapes of the weights."""
        return {**super().architecture(), "convolutions": self.convolutions, "appearance": self.appearance}

    @classmethod
    def current_values(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values in a file of the first version, which had these keys."""
        return dict(values)
