"""The architecture of O-MaMa: every row of the paper's ablation and descriptor tables is one setting of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from counterview.config import out_of_range
from counterview.errors import ConfigError, shown

MAX_CHANNELS, MAX_GRID = 16_384, 1024
"""Widths of layers, and sides of position embeddings, at most."""

Pooling = Literal["mask", "box", "box_max", "centroid"]
"""How a mask becomes an object descriptor: the rows of the paper's descriptor table."""


MaskSize = Literal["image", "input"]
"""Size at which masks are sampled: the image's, or the backbone's input, as in the released code."""


@dataclass(frozen=True)
class DescriptorConfig:
    """How masks are described on a feature map (paper: Mask-Context Encoder).

    Raises:
        ConfigError: a value out of range.
    """

    pooling: Pooling = field(
        default="mask", metadata={"help": "mean over the mask, mean or maximum over its box, or the cell at its centre"}
    )
    backbone_pooling: bool = field(
        default=True,
        metadata={
            "help": "let a backbone that describes objects itself do so; false: pool its map",
            "formerly": ("own",),
        },
    )
    context_px: int = field(
        default=100,
        metadata={"help": "how far the context box reaches beyond the mask's box, in pixels of the backbone's input"},
    )
    fallback: Literal["zeros", "centre"] = field(
        default="centre",
        metadata={"help": "for masks too small for the pooling grid: their centre's cell, or zeros as released"},
    )
    mask_size: MaskSize = field(
        default="image",
        metadata={
            "help": "size at which masks are sampled: the image's, or, as released, that of the backbone's input, to "
            "which they are resized from their own; then the map is pooled"
        },
    )

    def __post_init__(self) -> None:
        problems = out_of_range(self, "context_px", at_least=0, below=100_000)
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class OMaMaConfig:
    """Architecture of :class:`counterview.omama.OMaMa`. The defaults are those of the released weights.

    Raises:
        ConfigError: values out of range, or settings that do not go together; all problems at once.
    """

    channels: int = field(default=768, metadata={"help": "channels C of the backbone's map"})
    object_channels: int | None = field(
        default=None,
        metadata={"help": "channels of object descriptors, where they are not C"},
    )
    hidden: int = field(default=768, metadata={"help": "width of the matching head's hidden layers"})
    embedding: int = field(default=768, metadata={"help": "channels E of the embeddings that are compared"})
    heads: int = field(default=4, metadata={"help": "heads of the cross-attention; they divide channels"})
    matching_head: bool = field(
        default=True,
        metadata={"help": "false: the k-NN baseline, which compares object descriptors and learns nothing"},
    )
    context: bool = field(default=True, metadata={"help": "use the context descriptor"})
    cross_attention: bool = field(default=True, metadata={"help": "attend to the other view's map"})
    dropout: float = field(
        default=0.0,
        metadata={"help": "fraction of the head's inputs and hidden units dropped in training; 0 in the paper"},
    )
    query_grid_hw: tuple[int, int] = field(
        default=(38, 68), metadata={"help": "grid of the query view's position embedding; other grids interpolate"}
    )
    target_grid_hw: tuple[int, int] = field(
        default=(50, 50), metadata={"help": "grid of the target view's position embedding; other grids interpolate"}
    )
    visibility: Literal["trained", "released"] = field(
        default="trained",
        metadata={"help": "trained: a calibrated head; released: sigmoid of the best cosine, as the released code has"},
    )
    visibility_agreement: bool = field(
        default=True,
        metadata={"help": "the visibility head compares query and match channel by channel, not only by similarity"},
    )
    visibility_gradient: bool = field(
        default=False, metadata={"help": "let the visibility loss train the embeddings too, not only its head"}
    )
    backbone: str = field(
        default="dinov2-base-reg", metadata={"help": "the feature extractor: a name, a folder or a Hub id"}
    )
    backbone_settings: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "its settings, as load_backbone takes them"}
    )
    proposer: str = field(default="fastsam", metadata={"help": "the mask proposer, a name that load_proposer knows"})
    proposer_settings: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "its settings, as load_proposer takes them"}
    )
    descriptor: DescriptorConfig = field(default_factory=DescriptorConfig)

    def __post_init__(self) -> None:
        one_or_more = ("object_channels", "channels", "hidden", "embedding", "heads")
        problems = [
            *out_of_range(self, *one_or_more, at_least=1, at_most=MAX_CHANNELS),
            *out_of_range(self, "dropout", at_least=0, below=1),
        ]
        for name in ("query_grid_hw", "target_grid_hw"):
            if not all(1 <= side <= MAX_GRID for side in getattr(self, name)):
                problems.append(f"{name} is {shown(getattr(self, name))}, expected two numbers from 1 to {MAX_GRID}")
        if self.cross_attention and self.heads > 0 and self.channels % self.heads:
            problems.append(f"heads is {self.heads}, which does not divide channels = {self.channels}")
        if not self.matching_head:
            for name in ("context", "cross_attention"):
                if getattr(self, name):
                    problems.append(f"{name} is true without matching_head: the k-NN baseline does not use it")
            if self.visibility == "trained":
                problems.append("visibility is 'trained' without matching_head: the k-NN baseline learns nothing")
        for name in ("backbone", "proposer"):
            if not getattr(self, name):
                problems.append(f"{name} is empty")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def object_width(self) -> int:
        """Channels of an object descriptor: ``object_channels``, or C where that is not given."""
        return self.channels if self.object_channels is None else self.object_channels

    @property
    def descriptor_width(self) -> int:
        """Channels of ``[object; context]``: 2C, or ``object_channels + C``."""
        return self.object_width + self.channels

    @classmethod
    def knn(cls, channels: int, **values: object) -> OMaMaConfig:
        """The paper's k-NN baseline: the cosine of object descriptors, with nothing learned.

        Args:
            channels: channels of the backbone's map.
            **values: other fields.

        Raises:
            ConfigError: see :class:`OMaMaConfig`.

        >>> config = OMaMaConfig.knn(384, backbone="dinov2-small")
        >>> config.matching_head, config.cross_attention, config.visibility
        (False, False, 'released')
        """
        return cls(
            channels=channels,
            matching_head=False,
            context=False,
            cross_attention=False,
            visibility="released",
            **values,  # type: ignore[arg-type]
        )

    @classmethod
    def released(cls, direction: Literal["ego2exo", "exo2ego"]) -> OMaMaConfig:
        """The architecture of the released weights of one direction, with masks sampled as released.

        Args:
            direction: from the query to the target view.

        Raises:
            ConfigError: another direction.
        """
        if direction not in RELEASED_GRIDS_HW:
            raise ConfigError("no such direction", found=repr(direction), expected="ego2exo or exo2ego")
        query, target = RELEASED_GRIDS_HW[direction]
        descriptor = DescriptorConfig(fallback="zeros", mask_size="input")
        return cls(query_grid_hw=query, target_grid_hw=target, visibility="released", descriptor=descriptor)


RELEASED_GRIDS_HW: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "ego2exo": ((50, 50), (38, 68)),
    "exo2ego": ((38, 68), (50, 50)),
}
"""Grids of the position embeddings of query and target map in the released weights: 700 x 700 pixels (ego) and
532 x 952 pixels (exo) in patches of 14."""
