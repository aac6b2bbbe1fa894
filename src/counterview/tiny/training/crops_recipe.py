"""The keys of a training recipe of object crops beside ``method`` and ``training``."""

from __future__ import annotations

from dataclasses import dataclass, field

from counterview.config import out_of_range
from counterview.errors import ConfigError
from counterview.omama.training.recipe import DataConfig
from counterview.tiny.config import TinyMatchConfig


@dataclass(frozen=True)
class ObjectCropTraining:
    """Settings of training object crops.

    Raises:
        ConfigError: a value out of range; all problems at once.
    """

    init: str | None = field(
        default=None, metadata={"help": "folder of a model whose network training begins with; its maps stay frozen"}
    )
    passes: int = field(default=1, metadata={"help": "passes of an epoch through all takes"})
    views: int = field(default=3, metadata={"help": "cameras of a moment, one of them ego; 2 or more"})
    other_views: int = field(default=1, metadata={"help": "views of other moments of the take"})
    proposals: int = field(default=0, metadata={"help": "proposals of each view beside its objects"})
    kept_proposals: int = field(
        default=40, metadata={"help": "proposals of a view that are kept, and from which these are drawn"}
    )
    look_alikes: int = field(
        default=0,
        metadata={"help": "of the kept ones, those that init finds most similar to an object that they do not show"},
    )
    temperature: float = field(default=0.07, metadata={"help": "divides the cosines"})
    credit_power: float = field(default=2.0, metadata={"help": "power of the IoU by which a proposal counts as right"})
    cross_take_weight: float = field(
        default=0.5,
        metadata={"help": "weight of the same loss with the batch's other takes", "formerly": ("foreign",)},
    )
    absent: float = field(default=0.5, metadata={"help": "weight of objects that the view does not show"})
    absent_similarity: float = field(
        default=0.5, metadata={"help": "cosine of the choice 'not visible', with which every candidate competes"}
    )
    degrees: float = field(default=20.0, metadata={"help": "largest rotation of an object crop either way"})
    zoom: float = field(default=0.18, metadata={"help": "largest change of its scale, as a logarithm"})
    shift: float = field(default=0.06, metadata={"help": "largest shift, as a fraction of its side"})
    flip: float = field(default=0.5, metadata={"help": "fraction of samples that are mirrored, all views together"})
    downscale_prob: float = field(
        default=0.25,
        metadata={"help": "fraction of object crops shown as if from farther away", "formerly": ("coarse",)},
    )
    colour: float = field(default=0.25, metadata={"help": "strength of changes of a view's light and colour; 0: none"})
    grey: float = field(default=0.0, metadata={"help": "fraction of samples whose views are all without colour"})
    memory_mb: int = field(default=4000, metadata={"help": "object crops kept in memory, per process"})

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "passes", at_least=1),
            *out_of_range(self, "views", at_least=2),
            *out_of_range(self, "other_views", "proposals", "look_alikes", "memory_mb", at_least=0),
        ]
        if self.proposals > self.kept_proposals:
            problems.append(f"proposals is {self.proposals}, above kept_proposals = {self.kept_proposals}")
        if self.look_alikes > self.kept_proposals:
            problems.append(f"look_alikes is {self.look_alikes}, above kept_proposals = {self.kept_proposals}")
        if self.look_alikes and self.init is None:
            problems.append("look_alikes is above 0 without init, whose network finds them")
        problems += [
            *out_of_range(self, "temperature", above=0),
            *out_of_range(
                self,
                "credit_power",
                "cross_take_weight",
                "absent",
                "degrees",
                "zoom",
                "shift",
                "colour",
                at_least=0,
                below=100,
            ),
            *out_of_range(self, "flip", "downscale_prob", "grey", at_least=0, at_most=1),
            *out_of_range(self, "absent_similarity", at_least=-1, at_most=1),
        ]
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class ObjectCropRecipe:
    """The keys of a recipe beside ``method`` and ``training``.

    Raises:
        ConfigError: a model without object crops, or with a head.
    """

    data: DataConfig
    model: TinyMatchConfig
    object_crops: ObjectCropTraining = field(default_factory=ObjectCropTraining)

    def __post_init__(self) -> None:
        if self.model.network is None or not self.model.network.object_crops:
            raise ConfigError(
                "there are no object crops to train",
                fix="Set model.network.object_crops to the channels of their descriptor.",
            )
        if self.model.omama.matching_head:
            raise ConfigError(
                "model.omama.matching_head is true: object crops are trained without a head",
                fix="Train it with method tiny-match-head.",
            )
