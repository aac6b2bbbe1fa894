"""The keys of a training recipe of LM-EEC beside ``method`` and ``training``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from counterview.config import out_of_range
from counterview.data.clips import CLIP_FRAMES, MAX_OBJECTS
from counterview.data.recipe import TakesConfig
from counterview.errors import ConfigError
from counterview.lmeec.config import LMEECConfig


@dataclass(frozen=True)
class ClipDataConfig(TakesConfig):
    """Which clips are trained and which takes are validated on."""

    val_takes: int | None = field(default=None, metadata={"help": "takes of it that are used; all if not given"})
    val_frames: int | None = field(default=None, metadata={"help": "frames of each that are used; all if not given"})
    clip_frames: int = field(default=CLIP_FRAMES, metadata={"help": "frames of a training clip"})
    max_objects: int = field(default=MAX_OBJECTS, metadata={"help": "most objects of a training clip"})
    clips_per_epoch: int | None = field(
        default=None, metadata={"help": "clips of an epoch; clips_per_track for each track if not given"}
    )
    cache_mb: int = field(
        default=0, metadata={"help": "resized training images kept in memory, per process; for small data sets"}
    )
    clips_per_track: int = field(
        default=1, metadata={"help": "clips of an epoch that begin with the same object and pair of cameras"}
    )
    resize: Literal["bicubic", "bilinear"] = field(
        default="bicubic", metadata={"help": "Pillow's filter by which training images are made square"}
    )

    def __post_init__(self) -> None:
        problems = self.problems()
        if problems:
            raise ConfigError("; ".join(problems))

    def problems(self) -> list[str]:
        """What is wrong with these keys, a line each."""
        one_or_more = ("clip_frames", "max_objects", "clips_per_epoch", "clips_per_track", "val_takes", "val_frames")
        return [
            *super().problems(),
            *out_of_range(self, *one_or_more, at_least=1),
            *out_of_range(self, "cache_mb", at_least=0),
        ]


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation, drawn once for a clip and the same for all its frames, but for a second change of colour.

    The defaults are the first version's, on which older recipes rely; ``recipes/lmeec`` sets all of it.
    """

    flip: float = field(default=0.5, metadata={"help": "probability of a horizontal flip"})
    degrees: float = field(default=25.0, metadata={"help": "largest rotation"})
    shear: float = field(default=20.0, metadata={"help": "largest shear, in degrees"})
    brightness: float = field(default=0.1, metadata={"help": "largest relative change of brightness"})
    contrast: float = field(default=0.03, metadata={"help": "largest relative change of contrast"})
    saturation: float = field(default=0.03, metadata={"help": "largest relative change of saturation"})
    grey: float = field(default=0.05, metadata={"help": "probability of a grey clip"})
    per_view: bool = field(default=False, metadata={"help": "draw again for the second camera"})
    shear_y: float = field(
        default=0.5, metadata={"help": "shear along y, as a fraction of shear; 0 as in torchvision's RandomAffine"}
    )
    frame_brightness: float = field(default=0.0, metadata={"help": "as brightness, drawn again for every frame"})
    frame_contrast: float = field(default=0.0, metadata={"help": "as contrast, drawn again for every frame"})
    frame_saturation: float = field(default=0.0, metadata={"help": "as saturation, drawn again for every frame"})
    colour_order: Literal["fixed", "random"] = field(
        default="fixed",
        metadata={
            "help": "brightness, contrast and saturation at once, or in a random order one after the other on 8-bit "
            "values, as torchvision's ColorJitter"
        },
    )

    def __post_init__(self) -> None:
        fractions = ("flip", "brightness", "contrast", "saturation", "grey", "shear_y")
        problems = [
            *out_of_range(self, *fractions, at_least=0, at_most=1),
            *out_of_range(self, "frame_brightness", "frame_contrast", "frame_saturation", at_least=0, at_most=1),
            *out_of_range(self, "degrees", at_least=0, at_most=180),
            *out_of_range(self, "shear", at_least=0, below=90),
        ]
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class LMEECLossConfig:
    """Weights of the four losses. The defaults are the paper's."""

    focal: float = field(default=20.0, metadata={"help": "weight of the focal loss"})
    dice: float = field(default=1.0, metadata={"help": "weight of the dice loss"})
    iou: float = field(default=1.0, metadata={"help": "weight of the error of the predicted IoU"})
    score: float = field(default=1.0, metadata={"help": "weight of the object score's cross-entropy"})
    stride: int = field(default=1, metadata={"help": "masks are compared at the image's size divided by this"})
    calibration: Literal["balanced", "data", "none"] = field(
        default="balanced",
        metadata={"help": "visibility calibrated as if half of all objects were visible, as in the data, or not"},
    )

    def __post_init__(self) -> None:
        problems = self.problems()
        if problems:
            raise ConfigError("; ".join(problems))

    def problems(self) -> list[str]:
        """What is wrong with these keys, a line each."""
        problems = out_of_range(self, "focal", "dice", "iou", "score", at_least=0, below=1e6)
        if self.stride not in (1, 2, 4):
            problems.append(f"stride is {self.stride}, expected 1, 2 or 4")
        return problems


@dataclass(frozen=True)
class OptimConfig:
    """What the method adds to the engine's optimiser.

    The defaults are the first version's, on which older recipes rely; ``recipes/lmeec`` sets all of it.
    """

    encoder_lr_scale: float = field(
        default=0.6, metadata={"help": "learning rate of the image encoder, as a factor of the others'"}
    )
    layer_decay: float = field(default=0.9, metadata={"help": "factor from each block of the encoder to the one below"})
    recompute: bool = field(
        default=False, metadata={"help": "compute activations again in the backward pass: less memory, more time"}
    )
    recompute_images: int = field(
        default=1, metadata={"help": "images encoded at a time where that is done", "formerly": ("recompute_pictures",)}
    )
    position_lr_decay: bool = field(
        default=True,
        metadata={"help": "layer_decay also for the encoder's position embeddings; else they learn at its full rate"},
    )
    drop_path: float = field(
        default=0.0,
        metadata={"help": "stochastic depth of Hiera: rate of its last block, from 0 at the first; in training only"},
    )
    no_decay: Literal["vectors", "sam2"] = field(
        default="vectors",
        metadata={
            "help": "parameters without weight decay: biases and all others of one dimension; or, as in SAM 2's "
            "training, biases and torch.nn.LayerNorm alone, so that norms of maps and layer scales decay"
        },
    )

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "encoder_lr_scale", above=0, at_most=10),
            *out_of_range(self, "drop_path", at_least=0, below=1),
            *out_of_range(self, "layer_decay", above=0, at_most=1),
            *out_of_range(self, "recompute_images", at_least=1),
        ]
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class LMEECRecipe:
    """The keys of a recipe beside ``method`` and ``training``."""

    data: ClipDataConfig
    model: LMEECConfig = field(default_factory=LMEECConfig)
    init_from: str | None = field(
        default=None,
        metadata={"help": "weights to begin with: a Hub id or folder of SAM 2.1, or a folder of LM-EEC"},
    )
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LMEECLossConfig = field(default_factory=LMEECLossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
