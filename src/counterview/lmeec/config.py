"""The configuration of LM-EEC: every row of the paper's ablation, and every difference of the released code.

``behaviour`` chooses between the paper and the released code as a whole; each of the settings that it governs can also
be set by itself. ``docs/methods/lmeec.md`` explains them one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

from counterview.config import nearest, out_of_range
from counterview.errors import ConfigError

MEMORY_CHANNELS = 64
"""Channels of a stored memory. SAM 2's memory attention in transformers takes no other number."""

MAX_WIDTH, MAX_BLOCKS = 4096, 256
"""Channels and pixels a side, and blocks or layers, at most."""

Behaviour = Literal["paper", "released"]


@dataclass(frozen=True)
class HieraConfig:
    """Size of the image encoder, a Hiera transformer of four stages (SAM 2, section 4).

    Raises:
        ConfigError: sizes that do not fit together.
    """

    hidden: int = field(default=96, metadata={"help": "channels of the first stage; each stage has twice as many"})
    heads: int = field(default=1, metadata={"help": "attention heads of the first stage; each stage has twice as many"})
    blocks: tuple[int, int, int, int] = field(default=(1, 2, 7, 2), metadata={"help": "blocks of each stage"})
    global_blocks: tuple[int, ...] = field(
        default=(5, 7, 9), metadata={"help": "indices of the blocks that attend to the whole image"}
    )
    windows: tuple[int, int, int, int] = field(
        default=(8, 4, 14, 7), metadata={"help": "side of the attention windows of each stage, in tokens"}
    )
    background: tuple[int, int] = field(
        default=(7, 7), metadata={"help": "size of the position embedding that is stretched over the image"}
    )

    def __post_init__(self) -> None:
        numbers = (self.hidden, self.heads, *self.blocks, *self.windows, *self.background)
        if min(numbers) < 1 or max(numbers) > MAX_WIDTH or max(*self.blocks, *self.background) > MAX_BLOCKS:
            raise ConfigError(
                "sizes of a Hiera encoder are out of range", found=numbers,
                expected=f"1 to {MAX_WIDTH}; blocks and background to {MAX_BLOCKS}",
            )  # fmt: skip
        if self.hidden % self.heads:
            raise ConfigError("heads must divide the channels", found=f"{self.heads} heads, {self.hidden} channels")
        if any(not 0 <= i < sum(self.blocks) for i in self.global_blocks):
            raise ConfigError(
                "global_blocks names a block that is not there",
                found=list(self.global_blocks),
                expected=f"0 to {sum(self.blocks) - 1}",
            )
        first = {sum(self.blocks[:i]) for i in range(1, 4)}
        if first & set(self.global_blocks):
            raise ConfigError(
                "the first block of a stage pools, and cannot be global", found=sorted(self.global_blocks)
            )
        if any(window % 2 for window in self.windows[:2]) or (self.windows[2] % 2):
            raise ConfigError(
                "windows of the first three stages are even: the next stage halves them", found=self.windows
            )


BACKBONES: dict[str, HieraConfig] = {
    "hiera-t": HieraConfig(),
    "hiera-s": HieraConfig(blocks=(1, 2, 11, 2), global_blocks=(7, 10, 13)),
    "hiera-b+": HieraConfig(hidden=112, heads=2, blocks=(2, 3, 16, 3), global_blocks=(12, 16, 20), background=(14, 14)),
    "hiera-l": HieraConfig(
        hidden=144, heads=2, blocks=(2, 6, 36, 4), global_blocks=(23, 33, 43), windows=(8, 4, 16, 8)
    ),
}
"""Image encoders of SAM 2.1 by name."""

_TINY_BACKBONES = ("hiera-nano", "conv-tiny")
"""Backbones of tiny-follow, which the first version of Counterview listed beside those of SAM 2.1."""

_GOVERNED: dict[str, tuple[Any, Any]] = {
    # setting: (paper, released)
    "compression": ("merge", "drop"),
    "temporal_index": ("newest", "oldest"),
    "query_mask_logits": ("scaled", "raw"),
    "dense_prompt": ("empty", "none"),
    "without_query": ("track", "skip"),
    "gaps": ("keep", "released"),
    "visibility": ("score", "area"),
}


@dataclass(frozen=True)
class LMEECConfig:
    """Everything that the model :class:`counterview.lmeec.model.LMEEC` is built from.

    Settings marked *governed* are set by ``behaviour`` where they are ``None``. Where the paper is silent, ``paper``
    means the convention of SAM 2, whose weights the method starts from.

    Raises:
        ConfigError: values that contradict each other.
    """

    backbones: ClassVar[Mapping[str, HieraConfig]] = BACKBONES
    """The names that ``backbone`` may have."""

    behaviour: Behaviour = field(
        default="paper", metadata={"help": "paper, or released: what the released weights were trained with"}
    )
    backbone: HieraConfig | str = field(
        default="hiera-b+",
        metadata={"help": "image encoder: hiera-t, hiera-s, hiera-b+, hiera-l, or a Hiera in numbers"},
    )
    image_size: int = field(default=480, metadata={"help": "side of the square image, a multiple of 32"})
    channels: int = field(default=256, metadata={"help": "channels of the feature maps (C); a multiple of 64"})
    attention_layers: int = field(default=4, metadata={"help": "layers of the memory attention"})
    feed_forward: int = field(default=2048, metadata={"help": "hidden size in memory attention and mask decoder"})
    dropout: float = field(default=0.1, metadata={"help": "dropout in the memory attention, in training"})

    cross_view_prompt: bool = field(default=True, metadata={"help": "F_view: attend to the query's current frame"})
    fusion: Literal["moe", "add", "concat"] = field(
        default="moe", metadata={"help": "how F_mem and F_view are joined: MV-MoE, sum, or 1x1 convolution of both"}
    )
    query_memory: bool = field(default=True, metadata={"help": "keep a bank of past query frames"})
    target_memory: bool = field(default=True, metadata={"help": "keep a bank of past target frames"})
    pointers: bool = field(default=True, metadata={"help": "attend to past object pointers"})
    max_pointers: int = field(default=16, metadata={"help": "frames, this one counted, that pointers reach back"})
    bank_size: int = field(default=6, metadata={"help": "frames that each bank holds (M)"})
    key_frames: int = field(
        default=1, metadata={"help": "first frames of a track that weighted compression never merges"}
    )
    multimask: bool = field(default=False, metadata={"help": "decode three masks and take the best, as SAM 2 can"})
    window_position: bool = field(
        default=False, metadata={"help": "windows: add an embedding of place and enlargement to their features"}
    )

    compression: Literal["merge", "drop", "fifo", "weighted"] | None = field(
        default=None,
        metadata={
            "help": "governed: what a full bank does: average the closest pair, drop its later frame, drop the "
            "oldest frame, or average by the number of frames each entry stands for"
        },
    )
    temporal_index: Literal["newest", "oldest"] | None = field(
        default=None, metadata={"help": "governed: end of the bank from which the temporal encoding counts"}
    )
    query_mask_logits: Literal["scaled", "raw"] | None = field(
        default=None, metadata={"help": "governed: query masks enter the memory encoder as -10/10, or as 0/1 logits"}
    )
    dense_prompt: Literal["none", "empty", "mask"] | None = field(
        default=None,
        metadata={"help": "governed: what the mask decoder adds: nothing, SAM 2's no-mask embedding, the query mask"},
    )
    without_query: Literal["track", "skip"] | None = field(
        default=None, metadata={"help": "governed: a frame without query mask is predicted from memory, or skipped"}
    )
    gaps: Literal["keep", "released"] | None = field(
        default=None, metadata={"help": "governed: the bank keeps its frames over a gap, or forgets as released"}
    )
    visibility: Literal["score", "area"] | None = field(
        default=None,
        metadata={"help": "governed: visibility is the calibrated object score, or whether the mask exceeds 0.1 %"},
    )

    def __post_init__(self) -> None:
        if self.behaviour not in ("paper", "released"):
            raise ConfigError(f"behaviour is {self.behaviour!r} ({nearest(self.behaviour, ['paper', 'released'])})")
        if isinstance(self.backbone, str) and self.backbone not in self.backbones:
            raise ConfigError(f"no backbone {self.backbone!r} ({nearest(self.backbone, list(self.backbones))})")
        for name, values in _GOVERNED.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, values[self.behaviour == "released"])
        problems = list(self._problems())
        if problems:
            raise ConfigError("; ".join(problems))

    def _problems(self) -> Iterator[str]:
        """What is wrong with the values, a line each."""
        window = self.encoder.windows[0]
        if self.image_size < 32 or self.image_size % 32:
            near = max(32, round(self.image_size / 32) * 32)
            yield f"image_size is {self.image_size}, expected a multiple of 32 (nearest: {near})"
        elif (self.image_size // 4) % window:
            yield (
                f"image_size {self.image_size} gives {self.image_size // 4} tokens a side, "
                f"which windows of {window} do not fill"
            )
        if self.channels < MEMORY_CHANNELS or self.channels % MEMORY_CHANNELS:
            yield f"channels is {self.channels}, expected a multiple of {MEMORY_CHANNELS}"
        yield from out_of_range(self, "attention_layers", at_least=1, at_most=MAX_BLOCKS)
        yield from out_of_range(self, "feed_forward", at_least=1, at_most=16 * MAX_WIDTH)
        yield from out_of_range(self, "bank_size", "max_pointers", at_least=1, at_most=10_000)
        yield from out_of_range(self, "image_size", "channels", at_most=MAX_WIDTH)
        yield from out_of_range(self, "dropout", at_least=0, below=1)
        if not 0 <= self.key_frames <= max(self.bank_size - 1, 0):
            yield f"key_frames is {self.key_frames}, expected 0 to {self.bank_size - 1} (one less than bank_size)"
        if not (self.cross_view_prompt or self.query_memory or self.target_memory):
            yield "without cross_view_prompt, query_memory and target_memory nothing tells which object is meant"

    @property
    def encoder(self) -> HieraConfig:
        """The image encoder in numbers."""
        return self.backbones[self.backbone] if isinstance(self.backbone, str) else self.backbone

    @property
    def cell_px(self) -> int:
        """Side of a cell of the top feature map in pixels: SAM 2's 16."""
        return 16

    @property
    def grid(self) -> int:
        """Side of the top feature map, in cells."""
        return self.image_size // self.cell_px

    def architecture(self) -> dict[str, Any]:
        """The settings that decide the names and shapes of the weights."""
        names = ("image_size", "channels", "attention_layers", "feed_forward", "fusion", "bank_size", "window_position")
        return {"encoder": self.encoder, **{name: getattr(self, name) for name in names}}

    def with_behaviour(self, behaviour: Behaviour) -> Self:
        """The same architecture with every governed setting as ``behaviour`` has it."""
        return replace(self, behaviour=behaviour, **dict.fromkeys(_GOVERNED))  # type: ignore[arg-type]

    @classmethod
    def current_values(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values in a file of the first version, under the keys of this class.

        Raises:
            ConfigError: they are those of a tiny-follow, which had the same configuration then.
        """
        if is_tiny_follow(values):
            raise ConfigError(
                "describes a tiny-follow, which has an encoder or a prompt that LM-EEC lacks",
                fix="Load it with counterview.load, or as counterview.tiny.follow.TinyFollow.",
            )
        return {key: value for key, value in values.items() if key != "appearance"}


def is_tiny_follow(values: Mapping[str, Any]) -> bool:
    """Whether the values of a configuration in a file of the first version are those of a tiny-follow.

    LM-EEC and tiny-follow were one method then. What sets tiny-follow apart is its appearance prompt or its encoder.
    """
    return bool(values.get("appearance")) or values.get("backbone") in _TINY_BACKBONES


def governed_settings() -> dict[str, tuple[Any, Any]]:
    """Each governed setting with its value in the paper and in the released code."""
    return dict(_GOVERNED)
