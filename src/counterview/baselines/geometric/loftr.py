"""``loftr``: Efficient LoFTR (Wang et al., CVPR 2024), semi-dense matches without keypoints, through transformers.

The two stages of matching are computed here from the network's features. ``EfficientLoFTRForKeypointMatching`` of
transformers 5 does both, but lists the points of the query image in the order of the target's cells and those of the
target image in the order of the query's, and refines each with the window of the other's partner: pairs are right only
where nothing but a shift is between the images.

Its image processor stretches both images to one shape. Here they keep their aspect ratios, and are padded on the right
and at the bottom; nothing is matched with the padding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from counterview.baselines.geometric.base import PointMatches
from counterview.baselines.geometric.network import NetworkMatcher
from counterview.baselines.geometric.scaling import grey, input_hw, resized, to_image_px
from counterview.config import out_of_range
from counterview.errors import ConfigError
from counterview.types import RgbImage, as_rgb

if TYPE_CHECKING:
    from torch import Tensor

_MULTIPLE = 32  # cells of 8 px, of which 4 x 4 are pooled for attention


@dataclass(frozen=True)
class LoftrSettings:
    """Settings of the ``loftr`` matcher."""

    weights: str = field(
        default="zju-community/efficientloftr", metadata={"help": "Hub id, or folder made by save_pretrained"}
    )
    device: str = field(default="auto", metadata={"help": "auto, cpu, cuda, cuda:N or mps"})
    longest_side_px: int = field(default=640, metadata={"help": "images are scaled to this longer side"})

    def __post_init__(self) -> None:
        problems = out_of_range(self, "longest_side_px", at_least=64)
        if problems:
            raise ConfigError("invalid settings of the loftr matcher: " + "; ".join(problems))


@dataclass(frozen=True, eq=False)
class GreyImage:
    """An image scaled to a matcher's input.

    Attributes:
        size_hw: height and width of the image in pixels.
        pixels: ``(h, w)`` uint8, the scaled luma.
    """

    size_hw: tuple[int, int]
    pixels: NDArray[np.uint8]


class LoftrMatcher(NetworkMatcher):
    """Efficient LoFTR.

    Args:
        settings: see :class:`LoftrSettings`.
        model: an ``EfficientLoFTRForKeypointMatching``, used instead of ``settings.weights``.

    Raises:
        WeightsError: the weights are not on this machine, and the Hub cannot be reached or refuses.
        CheckpointError: the folder's weights are not those of an ``EfficientLoFTRForKeypointMatching``.
        ConfigError: a device that is not available.
    """

    name = "loftr"
    network_class = "EfficientLoFTRForKeypointMatching"

    def __init__(self, settings: LoftrSettings | None = None, model: Any = None) -> None:
        super().__init__(settings or LoftrSettings(), model)

    def encode(self, image: RgbImage) -> GreyImage:
        """The scaled luma of an image ``(H, W, 3)``: the network looks at both images of a pair together.

        Raises:
            ImageError: another shape or dtype.
        """
        image = as_rgb(image)
        size = (image.shape[0], image.shape[1])
        scaled = input_hw(size, self._settings.longest_side_px, multiple=_MULTIPLE)
        return GreyImage(size, resized(grey(image), scaled))

    def match(self, query: GreyImage, target: GreyImage) -> PointMatches:
        """See :meth:`counterview.baselines.geometric.base.ImageMatcher.match`.

        The confidence is that of the coarse stage: the product of the two softmaxes.
        """
        import torch

        images = (query, target)
        height, width = (max(image.pixels.shape[axis] for image in images) for axis in (0, 1))
        pixels = torch.zeros(1, 2, 1, height, width, device=self.device)
        for row, image in enumerate(images):
            h, w = image.pixels.shape
            pixels[0, row, 0, :h, :w] = torch.from_numpy(image.pixels).to(self.device, torch.float32) / 255
        config = self._model.config
        with torch.no_grad():
            coarse, *residual = self._model.efficientloftr(pixels).feature_maps
            columns = int(coarse.shape[-1])
            cell_px = width // columns
            sizes = [tuple(side // cell_px for side in image.pixels.shape) for image in images]
            cells_q, cells_t, confidence = coarse_matches(coarse[0, 0], coarse[0, 1], sizes[0], sizes[1], config)
            if not len(confidence):
                return PointMatches.none()
            windows_q, windows_t = self._model.refinement_layer(coarse / config.hidden_size**0.5, residual)
            offset_q, offset_t = fine_offsets(windows_q[0, cells_q], windows_t[0, cells_t], config)
        points = []
        for image, cells, offset in ((query, cells_q, offset_q), (target, cells_t, offset_t)):
            at = torch.stack([cells % columns, cells // columns], 1) * cell_px + offset
            h, w = image.pixels.shape
            inside = at.double().cpu().numpy().clip(0, (w - 1, h - 1))
            points.append(to_image_px(inside, (h, w), image.size_hw))
        return PointMatches(points[0], points[1], confidence.double().cpu().numpy().clip(0.0, 1.0))


def coarse_matches(
    query: Tensor, target: Tensor, query_hw: tuple[int, ...], target_hw: tuple[int, ...], config: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The coarse stage: mutual nearest cells by the product of the softmaxes over both images.

    Args:
        query: ``(C, h, w)`` features of the query image's cells.
        target: ``(C, h, w)`` of the target image's.
        query_hw: rows and columns of cells that the query image covers; the others are padding.
        target_hw: those of the target image.
        config: the ``EfficientLoFTRConfig``; ``coarse_matching_border_removal`` cells along the edges are not matched.

    Returns:
        ``(K,)`` cells of the query image, row by row, ``(K,)`` their partners, int64, and ``(K,)`` confidences.
    """
    import torch

    def cells(size_hw: tuple[int, ...], margin: int) -> Tensor:
        inside = torch.zeros(query.shape[1:], dtype=torch.bool, device=query.device)
        inside[margin : max(size_hw[0] - margin, 0), margin : max(size_hw[1] - margin, 0)] = True
        return inside.flatten()

    similarity = query.flatten(1).T @ target.flatten(1) / len(query) / config.coarse_matching_temperature
    covered = cells(query_hw, 0)[:, None] & cells(target_hw, 0)[None]
    score = similarity.masked_fill(~covered, -torch.inf)
    if not config.coarse_matching_skip_softmax:
        score = (score.softmax(0) * score.softmax(1)).nan_to_num(0.0)  # nothing but padding has no softmax
    values, partners = score.max(1)
    mutual = score.argmax(0)[partners] == torch.arange(len(score), device=score.device)
    margin = int(config.coarse_matching_border_removal)
    usable = cells(query_hw, margin) & cells(target_hw, margin)[partners]
    kept = (mutual & usable & (values > config.coarse_matching_threshold)).nonzero()[:, 0]
    return kept, partners[kept], values[kept]


def fine_offsets(query: Tensor, target: Tensor, config: Any) -> tuple[Tensor, Tensor]:
    """The fine stage: the best pair of pixels of two windows, and a position between pixels in the target's.

    Args:
        query: ``(K, 64, C)`` features of the 8 x 8 pixels of each cell of the query image.
        target: ``(K, 100, C)`` of the 10 x 10 pixels around each cell of the target image.
        config: the ``EfficientLoFTRConfig``; its last ``fine_matching_slice_dim`` channels are for the second step.

    Returns:
        ``(K, 2)`` x and y in pixels of the input, from the cell's corner, in each image; the middle of a window is 0,
        as in training.
    """
    import torch

    side = int(config.fine_kernel_size)
    extra = int(config.fine_matching_slice_dim)
    count, channels = len(query), query.shape[2] - extra
    similarity = query[..., :channels] @ target[..., :channels].transpose(1, 2) / channels
    score = (similarity.softmax(1) * similarity.softmax(2)).reshape(count, side * side, side + 2, side + 2)
    best = score[..., 1:-1, 1:-1].reshape(count, -1).argmax(1)
    pixel_q, pixel_t = best // side**2, best % side**2
    rows = torch.arange(count, device=query.device)
    close = query[rows, pixel_q, None, channels:] @ target[..., channels:].transpose(1, 2) / extra**0.5
    close = close.reshape(count, side + 2, side + 2)
    y, x = (
        pixel_t // side,
        pixel_t % side,
    )  # in the window without its margin: the 3 x 3 around starts at the same index
    steps = torch.arange(3, device=query.device)
    around = close[rows[:, None, None], (y[:, None] + steps)[:, :, None], (x[:, None] + steps)[:, None, :]]
    weight = (around.reshape(count, 9) / config.fine_matching_regress_temperature).softmax(1).reshape(count, 3, 3)
    shift = torch.stack([(weight.sum(1) * (steps - 1)).sum(1), (weight.sum(2) * (steps - 1)).sum(1)], 1)
    middle = (side - 1) / 2
    return (
        torch.stack([pixel_q % side, pixel_q // side], 1) - middle,
        torch.stack([x, y], 1) - middle + shift,
    )
