"""Training of the head of ``tiny-match`` on frozen features, as a task of the training engine. Ours.

Samples, loss and validation are O-MaMa's (:class:`counterview.omama.training.task.OMaMaTask`); the model is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, cast

from torch import nn

from counterview.errors import ConfigError
from counterview.features import Backbone
from counterview.omama.config import OMaMaConfig
from counterview.omama.training.recipe import DataConfig, LossConfig, SamplingConfig
from counterview.omama.training.task import OMaMaTask, start_from
from counterview.tiny.config import TinyMatchConfig
from counterview.tiny.model import TinyMatch


@dataclass(frozen=True)
class TinyMatchHeadRecipe:
    """The keys of a recipe beside ``method`` and ``training``.

    Raises:
        ConfigError: ``model.network`` without ``init``: nothing gives its weights.
    """

    data: DataConfig
    model: TinyMatchConfig = field(default_factory=TinyMatchConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    init: str | None = field(default=None, metadata={"help": "folder of a model whose weights training begins with"})
    init_head: bool = field(
        default=True, metadata={"help": "false: only its network, which stays frozen; the head begins at random"}
    )

    def __post_init__(self) -> None:
        if self.model.network is not None and self.init is None:
            raise ConfigError(
                "model.network is given without its weights",
                fix="Set init to the folder of a tiny-match model; its network is used and stays frozen.",
            )


class TinyMatchHeadTask(OMaMaTask):
    """Trains the head of a ``tiny-match`` beside the frozen network of ``init``.

    See :class:`counterview.omama.training.task.OMaMaTask`.
    """

    config_class: ClassVar[type] = TinyMatchHeadRecipe

    @property
    def omama(self) -> OMaMaConfig:
        """The configuration of the head."""
        return cast(OMaMaConfig, self.config.model.omama)

    def new_model(self) -> TinyMatch:
        """A model with random weights."""
        return TinyMatch(self.config.model)

    def initial_backbone(self) -> Backbone | None:
        """The network of ``init``, if the model has one."""
        if self.config.model.network is None:
            return None
        model = self.new_model()
        start_from(model, str(self.config.init), "network.", rounded=True)
        return model.eval().own_backbone()

    def build_model(self) -> nn.Module:
        """A model with the weights of ``init``, its network frozen."""
        model, has_network = self.new_model(), self.config.model.network is not None
        if self.config.init is not None:
            start_from(model, self.config.init, "" if self.config.init_head else "network.", rounded=has_network)
        if has_network:
            model.network.requires_grad_(False)  # its maps are read from the cache
        if self.omama.visibility == "released" or self.config.loss.visibility == 0:
            model.omama.visibility_head.requires_grad_(False)
        return model
