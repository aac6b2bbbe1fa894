"""The architecture of ``tiny-match``: ``omama`` is the paper's head, everything beside it is ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from counterview.config import out_of_range
from counterview.errors import ConfigError
from counterview.features.tiny import TinyConfig
from counterview.omama.config import OMaMaConfig
from counterview.tiny.alignment import AlignmentConfig
from counterview.tiny.reranker import RerankerConfig


@dataclass(frozen=True)
class TinyMatchConfig:
    """Architecture of :class:`counterview.tiny.TinyMatch`.

    Raises:
        ConfigError: settings that do not go together; all problems at once.

    >>> head = OMaMaConfig.knn(128, object_channels=192, backbone="tiny")
    >>> config = TinyMatchConfig(head, network=TinyConfig(object_crops=192))
    >>> config.network.object_channels, config.reranker
    (192, None)
    >>> TinyMatchConfig(descriptor_weight=2, attention_downscale=0)
    Traceback (most recent call last):
        ...
    counterview.errors.ConfigError: attention_downscale is 0, expected 1 or more and up to 1024; ...
    """

    omama: OMaMaConfig = field(default_factory=OMaMaConfig)
    network: TinyConfig | None = field(
        default=None,
        metadata={"help": "the model's own feature network; null: the frozen features that omama.backbone names"},
    )
    descriptor_weight: float | Literal["learned"] = field(
        default=0.0,
        metadata={
            "help": "weight of the object descriptors' cosine in the similarity, from 0 (the head alone); or learned"
        },
    )
    attention_downscale: int = field(
        default=1, metadata={"help": "cells per side of the blocks in which the attention reads the map"}
    )
    proposal_prior: float = field(
        default=0.0,
        metadata={"help": "weight of the proposer's score (the best is 1) that is added to the similarity"},
    )
    reranker: RerankerConfig | None = field(
        default=None, metadata={"help": "the geometric re-ranker; null: none, as in the paper"}
    )

    alignment: AlignmentConfig | None = field(
        default=None,
        metadata={"help": "two cameras are brought to one look before objects are compared; null: they are not"},
    )

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "attention_downscale", at_least=1, at_most=1024),
            *out_of_range(self, "proposal_prior", at_least=0, below=100),
        ]
        if self.descriptor_weight != "learned":
            problems += out_of_range(self, "descriptor_weight", at_least=0, below=1)
        if self.descriptor_weight and not self.omama.matching_head:
            problems.append("descriptor_weight is given without omama.matching_head, and would change nothing")
        if self.reranker is not None:
            if self.proposal_prior:
                problems.append("proposal_prior is given beside reranker, which weighs the proposer's score itself")
            if self.omama.visibility != "trained":
                problems.append("omama.visibility is 'released' beside reranker, whose visibility is trained")
        if self.alignment is not None and (self.network is None or not self.network.object_crops):
            problems.append("alignment is given without network.object_crops, which it compares")
        if self.network is not None:
            if self.omama.backbone != "tiny":
                problems.append(f"omama.backbone is {self.omama.backbone!r} beside network, which is 'tiny'")
            if self.omama.backbone_settings:
                problems.append("omama.backbone_settings are given beside network, which has settings of its own")
        if problems:
            raise ConfigError("; ".join(problems))
