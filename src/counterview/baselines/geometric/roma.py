"""``roma``: RoMa (Edstedt et al., CVPR 2024), dense matches, through the optional package romatch (MIT).

O-MaMa measures it. romatch needs torchvision, which Counterview does not have and which has to fit torch exactly.
The weights are files that RoMa's and DINOv2's authors publish; they are read without running code from them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from counterview.baselines.geometric.base import PointMatches
from counterview.baselines.geometric.scaling import to_image_px
from counterview.baselines.geometric.weights import fetch_weights, read_weights
from counterview.config import out_of_range
from counterview.errors import CheckpointError, ConfigError, CounterviewError, MissingExtraError
from counterview.media.files import sha256_file
from counterview.types import RgbImage, as_rgb

PUBLISHED = {
    "outdoor": "https://github.com/Parskatt/storage/releases/download/roma/roma_outdoor.pth",
    "indoor": "https://github.com/Parskatt/storage/releases/download/roma/roma_indoor.pth",
}
"""RoMa's published weights by name."""
DINOV2 = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
"""DINOv2-L's published weights, which RoMa's do not contain."""

_WHAT = "geometric:roma"


@dataclass(frozen=True)
class RomaSettings:
    """Settings of the ``roma`` matcher."""

    weights: str = field(default="outdoor", metadata={"help": "outdoor, indoor, or a file"})
    dinov2_weights: str = field(default="", metadata={"help": "file of DINOv2-L's weights; empty: the published one"})
    device: str = field(default="auto", metadata={"help": "auto, cpu, cuda, cuda:N or mps"})
    coarse_px: int = field(default=560, metadata={"help": "side of the square coarse input; a multiple of 14"})
    fine_px: int = field(default=864, metadata={"help": "side of the square fine input, and of the grid of matches"})
    min_certainty: float = field(
        default=0.05, metadata={"help": "less certain matches are dropped; above it RoMa samples all alike"}
    )

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "coarse_px", "fine_px", at_least=14),
            *out_of_range(self, "min_certainty", at_least=0, at_most=1),
        ]
        if self.coarse_px % 14:
            problems.append(f"coarse_px is {self.coarse_px}, expected a multiple of 14")
        if problems:
            raise ConfigError("invalid settings of the roma matcher: " + "; ".join(problems))


class RomaMatcher:
    """RoMa's warp of the query image, one match for each cell of its grid that is certain enough.

    RoMa's own evaluation draws matches at random from the warp. Here all of them count: the result is the same each
    time, and small objects keep theirs.

    Args:
        settings: see :class:`RomaSettings`.

    Raises:
        MissingExtraError: romatch is not installed.
        CounterviewError: romatch is installed but cannot be imported.
        WeightsError: the weights are neither on this machine nor downloadable.
        CheckpointError: a file of weights that is damaged, or not RoMa's.
    """

    name = "roma"

    def __init__(self, settings: RomaSettings | None = None) -> None:
        self._settings = settings or RomaSettings()
        from counterview.devices import resolve_device

        build = _romatch()
        self.device = resolve_device(self._settings.device)
        weights, dinov2 = self._settings.weights, self._settings.dinov2_weights
        url = PUBLISHED.get(weights)
        paths = (
            fetch_weights(url, _WHAT) if url else Path(weights),
            Path(dinov2) if dinov2 else fetch_weights(DINOV2, _WHAT),
        )
        states = [read_weights(path, _WHAT) for path in paths]
        self._hashes = [sha256_file(path) for path in paths]
        try:
            self._model = build(
                device=str(self.device),
                weights=states[0],
                dinov2_weights=states[1],
                coarse_res=self._settings.coarse_px,
                upsample_res=self._settings.fine_px,
                symmetric=False,  # the warp from target to query is not used
                use_custom_corr=False,  # needs a CUDA extension that romatch does not install
            )
        except RuntimeError as error:
            if "state_dict" not in str(error):  # torch's word for weights of other names or shapes
                raise
            detail = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise CheckpointError("the weights are not RoMa's", path=paths[0], found=detail) from None

    def settings(self) -> dict[str, Any]:
        """All settings but the device, and hashes of both files of weights."""
        values = dataclasses.asdict(self._settings)
        del values["device"]
        return {**values, "weights_sha256": self._hashes[0], "dinov2_sha256": self._hashes[1]}

    def encode(self, image: RgbImage) -> RgbImage:
        """The image ``(H, W, 3)`` itself: RoMa looks at both images of a pair together.

        Raises:
            ImageError: another shape or dtype.
        """
        return as_rgb(image)

    def match(self, query: RgbImage, target: RgbImage) -> PointMatches:
        """See :meth:`counterview.baselines.geometric.base.ImageMatcher.match`; the confidence is RoMa's certainty."""
        from PIL import Image

        warp, certainty = self._model.match(Image.fromarray(query), Image.fromarray(target), device=self.device)
        points = warp.reshape(-1, 4).double().cpu().numpy()
        confidence = certainty.reshape(-1).double().cpu().numpy()
        kept = np.flatnonzero(confidence >= max(self._settings.min_certainty, np.finfo(float).tiny))
        ends = []
        for image, columns in ((query, slice(0, 2)), (target, slice(2, 4))):
            # RoMa's coordinates go from -1 to 1 between the outer edges of the image: a "size" of 2 x 2.
            ends.append(to_image_px(points[kept, columns] + 0.5, (2, 2), (image.shape[0], image.shape[1])))
        return PointMatches(ends[0], ends[1], confidence[kept].clip(0.0, 1.0))


def _romatch() -> Callable[..., Any]:
    """What builds RoMa with the published settings."""
    import importlib

    try:
        build: Callable[..., Any] = importlib.import_module("romatch").roma_outdoor
        return build  # indoor weights have the same architecture
    except ImportError:
        raise MissingExtraError("roma", f"{_WHAT} (the package romatch)") from None
    except Exception as error:  # a torchvision that does not fit torch raises anything
        import torch

        detail = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CounterviewError(
            f"{_WHAT}: the package romatch cannot be imported",
            found=detail,
            fix=f"Install the torchvision that belongs to torch {torch.__version__}.",
        ) from None
