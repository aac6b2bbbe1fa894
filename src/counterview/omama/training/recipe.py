"""The keys of a training recipe of O-MaMa beside ``method`` and ``training``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from counterview.config import out_of_range
from counterview.data.pairs import Targets
from counterview.data.recipe import TakesConfig
from counterview.errors import ConfigError
from counterview.jobs.engine import JobEngine
from counterview.omama.config import OMaMaConfig
from counterview.omama.training.loss import TEMPERATURE
from counterview.omama.training.mining import Mining


@dataclass(frozen=True)
class DataConfig(TakesConfig):
    """Which pairs of images are trained and validated on.

    Raises:
        ConfigError: a value out of range; all problems at once.
    """

    fraction: float = field(default=1.0, metadata={"help": "fraction of the training pairs that is used"})
    frame_step: int = field(default=1, metadata={"help": "train on every n-th frame of each take only"})
    val_fraction: float = field(default=1.0, metadata={"help": "fraction of the validation pairs that is used"})
    val_frame_step: int = field(default=1, metadata={"help": "validate on every n-th frame of each take only"})
    unannotated: bool = field(
        default=False,
        metadata={
            "help": "also use pairs whose target image was not annotated: they count as absent, as in the released code"
        },
    )
    stretch_portrait: bool = field(
        default=False,
        metadata={"help": "train on portrait images stretched to landscape, as released; validation keeps their shape"},
    )
    seed: int = field(default=42, metadata={"help": "seed of the choice of pairs where a fraction is used"})
    cache: str | None = field(
        default=None, metadata={"help": "folder for features and proposals, computed once; below root if not given"}
    )
    cache_gb: float | None = field(
        default=None, metadata={"help": "most gigabytes that a run adds to it; the room on the disk if not given"}
    )
    workers: int = field(default=1, metadata={"help": "processes that compute features and proposals"})
    engine: str = field(
        default="local",
        metadata={"help": "where they run: local, ray, or ray:ADDRESS; the cache is then a shared folder"},
    )
    memory_mb: int = field(default=2000, metadata={"help": "features kept in memory, per process"})

    def __post_init__(self) -> None:
        if self.unannotated and not self.absent:
            raise ConfigError("data.unannotated is true, which needs data.absent: true")
        problems = [
            *self.problems(),
            *out_of_range(self, "fraction", "val_fraction", above=0, at_most=1),
            *out_of_range(self, "cache_gb", above=0),
            *out_of_range(self, "workers", "memory_mb", "frame_step", "val_frame_step", at_least=1),
        ]
        if problems:
            raise ConfigError("; ".join(problems))
        JobEngine.parse(self.engine)

    @property
    def job_engine(self) -> JobEngine:
        """Where features and proposals are computed."""
        return JobEngine.parse(self.engine, self.workers)

    @property
    def targets(self) -> Targets:
        """Which pairs are enumerated."""
        if self.unannotated:
            return "official"
        return "annotated" if self.absent else "visible"


@dataclass(frozen=True)
class SamplingConfig:
    """The candidates of a training example. The defaults are the paper's, without the faults of the released code.

    Raises:
        ConfigError: values out of range, or settings that do not go together; all problems at once.
    """

    candidates: int = field(default=32, metadata={"help": "candidates of a target image, the right one among them"})
    mining: Mining = field(
        default="adjacent",
        metadata={"help": "adjacent: hard negatives; random; released: as the released code draws"},
    )
    order: int = field(default=2, metadata={"help": "neighbours of neighbours up to this order, 1 to 3"})
    positive: Literal["gt", "proposal", "both"] = field(
        default="gt",
        metadata={"help": "the right candidate: the ground-truth mask, the best proposal (as at test time), or either"},
    )
    overlap_threshold: float = field(
        default=0.5, metadata={"help": "IoU with the truth from which a proposal is not a negative"}
    )
    duplicate_iou: float = field(default=0.95, metadata={"help": "IoU from which two proposals count as one"})

    def __post_init__(self) -> None:
        problems = out_of_range(self, "candidates", at_least=2)
        if self.order not in (1, 2, 3):
            problems.append(f"order is {self.order}, expected 1, 2 or 3")
        problems += out_of_range(self, "overlap_threshold", "duplicate_iou", above=0, at_most=1)
        if self.mining == "released" and self.positive != "gt":
            problems.append("mining 'released' has the ground-truth mask as its positive: set positive to gt")
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class LossConfig:
    """What is minimised.

    Raises:
        ConfigError: a value out of range; all problems at once.
    """

    temperature: float = field(default=TEMPERATURE, metadata={"help": "of InfoNCE"})
    graded: bool = field(
        default=False,
        metadata={"help": "each candidate is right by its overlap with the truth, instead of the positive alone"},
    )
    batch_negatives: bool = field(
        default=False, metadata={"help": "candidates of the batch's other takes are negatives too"}
    )
    visibility: float = field(default=1.0, metadata={"help": "weight of the visibility head's cross-entropy"})
    visibility_balance: bool = field(
        default=True,
        metadata={"help": "visible and absent objects weigh the same in it, however many of each there are"},
    )
    calibration: Literal["temperature", "isotonic", "none"] = field(
        default="temperature", metadata={"help": "how visibility is calibrated on validation data at the end"}
    )
    prior: Literal["data", "balanced"] = field(
        default="data",
        metadata={"help": "0.5 means: half of such validation objects; or as if half of all objects were visible"},
    )

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "temperature", above=0, below=100),
            *out_of_range(self, "visibility", at_least=0, below=1e6),
        ]
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class OMaMaRecipe:
    """The keys of a recipe beside ``method`` and ``training``.

    Raises:
        ConfigError: settings that do not go together.
    """

    data: DataConfig
    model: OMaMaConfig = field(default_factory=OMaMaConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    decay: Literal["weights", "all"] = field(
        default="weights",
        metadata={"help": "what the weight decay acts on: not on biases, norms and positions; or on all, as released"},
    )
    init: str | None = field(default=None, metadata={"help": "folder of a model whose weights training begins with"})

    def __post_init__(self) -> None:
        if self.data.unannotated and self.model.visibility == "trained" and self.loss.visibility > 0:
            raise ConfigError(
                "data.unannotated is true: visibility would be trained on images that nobody annotated",
                fix="Set model.visibility to released, or loss.visibility to 0.",
            )
