"""``lightglue``: SuperPoint keypoints matched by LightGlue (Lindenberger et al., ICCV 2023), through transformers.

Images are prepared here: transformers' own image processor stretches both to one shape. Here each keeps its aspect
ratio, as in LightGlue's own evaluation, and its keypoints are computed once.

The licence of SuperPoint's published weights, which LightGlue's checkpoint contains, forbids commercial use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from counterview.baselines.geometric.base import ImageKeypoints, PointMatches
from counterview.baselines.geometric.network import NetworkMatcher
from counterview.baselines.geometric.scaling import grey, input_hw, resized, to_image_px
from counterview.config import out_of_range
from counterview.errors import ConfigError
from counterview.types import RgbImage, as_rgb

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LightGlueSettings:
    """Settings of the ``lightglue`` matcher."""

    weights: str = field(
        default="ETH-CVG/lightglue_superpoint", metadata={"help": "Hub id, or folder made by save_pretrained"}
    )
    device: str = field(default="auto", metadata={"help": "auto, cpu, cuda, cuda:N or mps"})
    longest_side_px: int = field(default=1024, metadata={"help": "images are scaled to this longer side"})
    max_keypoints: int = field(default=2048, metadata={"help": "keypoints of an image, the strongest first"})

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "longest_side_px", at_least=64),
            *out_of_range(self, "max_keypoints", at_least=1),
        ]
        if problems:
            raise ConfigError("invalid settings of the lightglue matcher: " + "; ".join(problems))


class LightGlueMatcher(NetworkMatcher):
    """SuperPoint and LightGlue.

    Args:
        settings: see :class:`LightGlueSettings`.
        model: a ``LightGlueForKeypointMatching``, used instead of ``settings.weights``.

    Raises:
        WeightsError: the weights are not on this machine, and the Hub cannot be reached or refuses.
        CheckpointError: the folder's weights are not those of a ``LightGlueForKeypointMatching``.
        ConfigError: a device that is not available.
    """

    name = "lightglue"
    network_class = "LightGlueForKeypointMatching"

    def __init__(self, settings: LightGlueSettings | None = None, model: Any = None) -> None:
        super().__init__(settings or LightGlueSettings(), model)

    def encode(self, image: RgbImage) -> ImageKeypoints:
        """SuperPoint's keypoints of an image ``(H, W, 3)``, the strongest first; descriptors are an ``(N, D)`` tensor.

        Raises:
            ImageError: another shape or dtype.
        """
        import torch

        image = as_rgb(image)
        size = (image.shape[0], image.shape[1])
        scaled = input_hw(size, self._settings.longest_side_px, multiple=8)  # SuperPoint's cells
        pixels = torch.from_numpy(resized(grey(image), scaled)).to(self.device, torch.float32)[None, None] / 255
        with torch.no_grad():
            output = self._model.keypoint_detector(pixels)
        order = output.scores[0].argsort(descending=True, stable=True)[: self._settings.max_keypoints]
        relative = output.keypoints[0][order].double().cpu().numpy()
        return ImageKeypoints(
            size,
            to_image_px(relative * (scaled[1], scaled[0]), scaled, size),
            output.scores[0][order].double().cpu().numpy(),
            output.descriptors[0][order],
        )

    def match(self, query: ImageKeypoints, target: ImageKeypoints) -> PointMatches:
        """See :meth:`counterview.baselines.geometric.base.ImageMatcher.match`; the confidence is LightGlue's score."""
        import torch

        counts = (len(query), len(target))
        if min(counts) == 0:
            return PointMatches.none()
        most = max(counts)
        keypoints = torch.zeros(1, 2, most, 2, device=self.device)
        descriptors = torch.zeros(1, 2, most, query.descriptors.shape[1], device=self.device)
        mask = torch.zeros(1, 2, most, dtype=torch.int, device=self.device)
        for row, image in enumerate((query, target)):
            keypoints[0, row, : counts[row]] = _centred(image).to(self.device)
            descriptors[0, row, : counts[row]] = image.descriptors
            mask[0, row, : counts[row]] = 1
        with torch.no_grad():  # a size of 2 x 2: the network subtracts 1, half of it, and divides by 1
            matches, scores, *_ = self._model._match_image_pair(keypoints, descriptors, 2, 2, mask=mask)
        partner = matches.reshape(2, most)[0, : counts[0]].cpu().numpy()
        confidence = scores.reshape(2, most)[0, : counts[0]].double().cpu().numpy()
        kept = np.flatnonzero((partner >= 0) & (partner < counts[1]))
        return PointMatches(query.xy[kept], target.xy[partner[kept]], np.clip(confidence[kept], 0.0, 1.0))


def _centred(image: ImageKeypoints) -> Tensor:
    """Keypoints ``(N, 2)`` float32 as LightGlue normalises those of an image of its own size, plus 1.

    The longer side goes from -1 to 1; 0 is the middle of the image.
    """
    import torch

    height, width = image.size_hw
    centre = np.array([width, height]) / 2
    return torch.from_numpy((image.xy - centre) / (max(height, width) / 2) + 1).float()
