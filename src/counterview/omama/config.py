"""What an O-MaMa model is made of; every row of the paper's ablation and descriptor tables is one setting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from counterview.config import out_of_range
from counterview.errors import ConfigError
from counterview.omama.scene import SceneConfig

Pooling = Literal["mask", "box", "box_max", "centroid"]
"""How a mask becomes an object descriptor: the rows of the paper's descriptor table."""


@dataclass(frozen=True)
class DescriptorConfig:
    """How masks are described on a feature map (paper: Mask-Context Encoder)."""

    pooling: Pooling = field(
        default="mask", metadata={"help": "mean over the mask, mean or maximum over its box, or the cell at its centre"}
    )
    own: bool = field(
        default=True,
        metadata={"help": "let the backbone describe objects its own way if it has one; else its map is pooled"},
    )
    context_px: int = field(
        default=100,
        metadata={"help": "how far the context box reaches beyond the mask's box, in pixels of the backbone's input"},
    )
    fallback: Literal["zeros", "centre"] = field(
        default="centre",
        metadata={"help": "for masks too small for the pooling grid: their centre's cell, or zeros as released"},
    )

    def __post_init__(self) -> None:
        problems = out_of_range(self, "context_px", at_least=0, below=100_000)
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class OMaMaConfig:
    """Architecture of :class:`counterview.omama.OMaMa`. The defaults are those of the released weights."""

    channels: int = field(default=768, metadata={"help": "channels C of the backbone's map"})
    object_channels: int | None = field(
        default=None,
        metadata={"help": "channels of object descriptors, for features that describe objects otherwise than by C"},
    )
    hidden: int = field(default=768, metadata={"help": "width of the matching head's hidden layers"})
    embedding: int = field(default=768, metadata={"help": "channels E of the embeddings that are compared"})
    heads: int = field(default=4, metadata={"help": "heads of the cross-attention; they divide channels"})
    matching_head: bool = field(
        default=True,
        metadata={"help": "false: the k-NN baseline, which compares object descriptors and learns nothing"},
    )
    residual: bool = field(
        default=False,
        metadata={
            "help": "compare object descriptors too: similarity is a learned mean of their cosine and the head's"
        },
    )
    residual_share: float | None = field(
        default=None,
        metadata={"help": "share of the descriptors' own cosine in that mean; learned if not given"},
    )
    context: bool = field(default=True, metadata={"help": "use the context descriptor"})
    cross_attention: bool = field(default=True, metadata={"help": "look at the other view's map"})
    dropout: float = field(
        default=0.0,
        metadata={"help": "share of the head's inputs and hidden units left out in training; 0 in the paper"},
    )
    attention_pooling: int = field(
        default=1, metadata={"help": "the attention sees the map in blocks of so many cells a side; 1 in the paper"}
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
        metadata={"help": "the visibility head looks at each channel of query and answer, not at similarities alone"},
    )
    visibility_gradient: bool = field(
        default=False, metadata={"help": "let the visibility loss change the embeddings too, not its head alone"}
    )
    backbone: str = field(
        default="dinov2-base-reg", metadata={"help": "what makes the maps: a name, a folder or a Hub id"}
    )
    backbone_settings: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "its settings, as load_backbone takes them"}
    )
    learned_backbone: bool = field(
        default=False,
        metadata={"help": "the model holds a `tiny` network of its own, which backbone_settings describe"},
    )
    proposer: str = field(
        default="fastsam", metadata={"help": "what makes the candidate masks, as load_proposer has it"}
    )
    proposer_settings: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "its settings, as load_proposer takes them"}
    )
    proposal_prior: float = field(
        default=0.0,
        metadata={
            "help": "weight of the proposer's score (its best: 1), added to the similarity to choose a candidate"
        },
    )
    descriptor: DescriptorConfig = field(default_factory=DescriptorConfig)
    scene: SceneConfig = field(default_factory=SceneConfig)

    def __post_init__(self) -> None:
        one_or_more = ("object_channels", "channels", "hidden", "embedding", "heads", "attention_pooling")
        problems = [
            *out_of_range(self, *one_or_more, at_least=1),
            *out_of_range(self, "dropout", at_least=0, below=1),
            *out_of_range(self, "proposal_prior", at_least=0, below=100),
        ]
        problems += out_of_range(self, "residual_share", above=0, below=1)
        if self.residual_share is not None and not self.residual:
            problems.append("residual_share is given without residual, and would change nothing")
        for name in ("query_grid_hw", "target_grid_hw"):
            if min(getattr(self, name)) < 1:
                problems.append(f"{name} is {getattr(self, name)}, expected two numbers from 1")
        if self.cross_attention and self.heads > 0 and self.channels % self.heads:
            problems.append(f"heads is {self.heads}, which does not divide channels = {self.channels}")
        if not self.matching_head:
            for name in ("context", "cross_attention", "residual"):
                if getattr(self, name):
                    problems.append(f"{name} is true without matching_head: the k-NN baseline has none of it")
            if self.visibility == "trained":
                problems.append("visibility is 'trained' without matching_head: the k-NN baseline learns nothing")
        if self.scene.proposals:
            if self.proposal_prior:
                problems.append(
                    "proposal_prior is given beside scene.proposals, which weighs the proposer's score itself"
                )
            if self.visibility != "trained":
                problems.append("visibility is 'released' beside scene.proposals, which is trained")
        if self.learned_backbone and self.backbone != "tiny":
            problems.append(f"backbone is {self.backbone!r}: the only one that learns is 'tiny'")
        for name in ("backbone", "proposer"):
            if not getattr(self, name):
                problems.append(f"{name} is empty")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def object_width(self) -> int:
        """Channels of an object descriptor: C unless ``object_channels`` says otherwise."""
        return self.channels if self.object_channels is None else self.object_channels

    @property
    def descriptor_width(self) -> int:
        """Channels of ``[object; context]``, 2C unless ``object_channels`` says otherwise."""
        return self.object_width + self.channels

    @classmethod
    def knn(cls, channels: int, **values: object) -> OMaMaConfig:
        """The paper's baseline: the cosine of object descriptors, with nothing learned."""
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
        """The architecture of the released weights of one direction.

        Raises:
            ConfigError: another direction.
        """
        if direction not in RELEASED_GRIDS_HW:
            raise ConfigError("no such direction", found=repr(direction), expected="ego2exo or exo2ego")
        query, target = RELEASED_GRIDS_HW[direction]
        return cls(query_grid_hw=query, target_grid_hw=target, visibility="released")


RELEASED_GRIDS_HW: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "ego2exo": ((50, 50), (38, 68)),
    "exo2ego": ((38, 68), (50, 50)),
}
"""Grids of query and target map in the released weights: 700x700 and 532x952 pixels in patches of 14."""
