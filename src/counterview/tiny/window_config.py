"""The configuration of tiny-window: a tiny-follow for windows of an image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from counterview.config import out_of_range
from counterview.lmeec.config import MAX_WIDTH, HieraConfig
from counterview.tiny.follow_config import TinyFollowConfig


@dataclass(frozen=True)
class TinyWindowConfig(TinyFollowConfig):
    """Everything that :class:`counterview.tiny.window.TinyWindow` is built from.

    Raises:
        ConfigError: values that contradict each other.
    """

    backbone: HieraConfig | str = field(
        default="conv-window", metadata={"help": "image encoder, a convolutional one: conv-window or conv-tiny"}
    )
    image_size: int = field(default=128, metadata={"help": "side of a window in pixels, a multiple of 32"})
    channels: int = field(default=64, metadata={"help": "channels of the feature maps (C); a multiple of 64"})
    attention_layers: int = field(default=2, metadata={"help": "layers of the memory attention"})
    feed_forward: int = field(default=256, metadata={"help": "hidden size in memory attention and mask decoder"})
    dropout: float = field(default=0.0, metadata={"help": "dropout in the memory attention, in training"})
    appearance: int = field(default=64, metadata={"help": "channels of the appearance prompt's fine features"})
    window_position: bool = field(
        default=True, metadata={"help": "add an embedding of place and enlargement to a window's features"}
    )
    drawing: int = field(default=32, metadata={"help": "channels in which outlines are drawn"})

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        yield from out_of_range(self, "drawing", at_least=8, at_most=MAX_WIDTH)
        if self.convolutions is None:
            yield f"backbone is {self.backbone!r}, expected a convolutional one: conv-window or conv-tiny"
        if not self.appearance:
            yield "appearance is 0, without which tiny-window does not compare the two windows"
