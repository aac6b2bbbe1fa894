"""``sam2``: SAM 2's automatic mask generation (Ravi et al. 2024): masks of a grid of point prompts, filtered.

Uses transformers' ``Sam2Model`` and no torchvision: this module prepares images as in SAM 2's training (a square,
ImageNet's mean and standard deviation) and does the non-maximum suppression.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from counterview.devices import resolve_device
from counterview.errors import ConfigError, shown
from counterview.hub import transformers_class
from counterview.nn.weights import weights_fingerprint
from counterview.proposals.base import Proposals
from counterview.proposals.scaling import mask_from_score_map
from counterview.proposals.weights import load_config_of, load_network
from counterview.types import ObjectMask, RgbImage, as_rgb

if TYPE_CHECKING:
    from transformers import Sam2Model

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Sam2Settings:
    """Settings of the ``sam2`` proposer; the defaults are those of SAM 2's automatic mask generator."""

    model: str = field(
        default="facebook/sam2.1-hiera-base-plus", metadata={"help": "Hub id, or folder made by save_pretrained"}
    )
    device: str = field(default="auto", metadata={"help": "auto, cpu, cuda, cuda:N or mps"})
    image_size: int = field(default=0, metadata={"help": "side of SAM 2's square input, in pixels; 0: the model's"})
    points_per_side: int = field(default=32, metadata={"help": "points along each side of the grid"})
    points_per_batch: int = field(default=64, metadata={"help": "points decoded at once"})
    min_predicted_iou: float = field(default=0.8, metadata={"help": "masks below are dropped"})
    min_stability: float = field(default=0.95, metadata={"help": "masks below are dropped"})
    stability_offset: float = field(
        default=1.0, metadata={"help": "logits by which the threshold is moved up and down"}
    )
    duplicate_box_iou: float = field(default=0.7, metadata={"help": "of boxes with a higher IoU, the best is kept"})
    crop_layers: int = field(default=0, metadata={"help": "1: also a 2x2 grid of crops; 2: and a 4x4 grid; …"})
    crop_overlap: float = field(default=512 / 1500, metadata={"help": "overlap of crops, as a fraction of their side"})
    min_area_px: int = field(default=1, metadata={"help": "smallest mask, in pixels of the image"})
    max_masks: int = field(default=0, metadata={"help": "masks kept at most; 0: all"})

    def __post_init__(self) -> None:
        problems = []
        for name, most in (("points_per_side", 512), ("points_per_batch", 65_536), ("min_area_px", 2**31)):
            if not 1 <= getattr(self, name) <= most:
                problems.append(f"{name} must be from 1 to {most}, not {shown(getattr(self, name))}")
        for name in ("crop_layers", "max_masks", "stability_offset"):
            if getattr(self, name) < 0:
                problems.append(f"{name} must not be negative, not {getattr(self, name)}")
        if self.crop_layers > 4:
            problems.append(f"crop_layers must be at most 4, not {self.crop_layers}")
        if not 0 <= self.crop_overlap < 1:
            problems.append(f"crop_overlap must be from 0 to below 1, not {self.crop_overlap}")
        if not 0 <= self.image_size <= 8192 or self.image_size % 32:
            problems.append(f"image_size must be a multiple of 32 up to 8192, not {shown(self.image_size)}")
        if problems:
            raise ConfigError("invalid settings of the sam2 proposer: " + "; ".join(problems))


class Sam2Proposer:
    """Automatic masks of SAM 2 or 2.1.

    Args:
        settings: see :class:`Sam2Settings`.
        model: a ``Sam2Model``, used instead of ``settings.model``.

    Raises:
        WeightsError: the weights are not on this machine, and the Hub cannot be reached or refuses.
        CheckpointError: the folder's weights are not those of a ``Sam2Model``.
        ConfigError: a device that is not available.
    """

    name = "sam2"

    def __init__(self, settings: Sam2Settings | None = None, model: Sam2Model | None = None) -> None:
        self._settings = settings or Sam2Settings()
        self.device = resolve_device(self._settings.device)
        network: Any = _load(self._settings) if model is None else model
        self._model: Any = network.to(self.device).eval()
        self._side = input_side(self._model)
        if model is not None and self._settings.image_size not in (0, self._side):
            raise ConfigError(
                "image_size cannot be changed for a model that is already built",
                found=self._settings.image_size,
                expected=self._side,
            )
        self._weights: str | None = None

    @property
    def model(self) -> Any:
        """The ``Sam2Model``, in evaluation mode on its device."""
        return self._model

    def settings(self) -> dict[str, Any]:
        """All settings but the device and the batch size, and a fingerprint of the weights."""
        values = dataclasses.asdict(self._settings)
        if self._weights is None:
            self._weights = weights_fingerprint(self._model)
        for name in ("device", "points_per_batch"):
            del values[name]
        return {**values, "image_size": self._side, "weights_sha256": self._weights}

    @torch.no_grad()
    def __call__(self, image: RgbImage, name: str | None = None) -> Proposals:
        """Propose masks, by falling predicted IoU.

        Args:
            image: ``(H, W, 3)`` uint8, RGB.
            name: not used.

        Raises:
            ImageError: another shape or dtype.
        """
        image = as_rgb(image)
        settings, size_hw = self._settings, (image.shape[0], image.shape[1])
        masks: list[ObjectMask] = []
        scores: list[float] = []
        priority: list[float] = []
        for layer, (x0, y0, x1, y1) in crop_boxes(size_hw, settings.crop_layers, settings.crop_overlap):
            for mask, score in self._masks_of(image[y0:y1, x0:x1], (y0, x0), size_hw, layer):
                masks.append(mask)
                scores.append(score)
                # Of duplicates from several crops, the one from the smallest crop has the finest outline.
                priority.append(layer * 10.0 + score)
        if not masks:
            return Proposals.none(size_hw)
        boxes = torch.tensor([mask.box_xywh for mask in masks], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        kept = suppress_boxes(boxes, torch.tensor(priority), settings.duplicate_box_iou).tolist()
        kept.sort(key=lambda index: -scores[index])
        kept = kept[: settings.max_masks or None]
        return Proposals(size_hw, tuple(masks[i] for i in kept), np.array([scores[i] for i in kept], np.float32))

    def _masks_of(
        self, crop: RgbImage, offset_yx: tuple[int, int], size_hw: tuple[int, int], layer: int
    ) -> Iterator[tuple[ObjectMask, float]]:
        """The masks of one crop that pass the filters, after suppression within the crop."""
        settings, crop_hw = self._settings, (crop.shape[0], crop.shape[1])
        embeddings = self._model.get_image_embeddings(prepare(crop, self._side).to(self.device, self._model.dtype))
        points = point_grid(max(1, settings.points_per_side // 2**layer), self._side).to(self.device, self._model.dtype)
        maps, scores = [], []
        for start in range(0, len(points), settings.points_per_batch):
            output = self._model(
                image_embeddings=[level.clone() for level in embeddings],
                input_points=points[None, start : start + settings.points_per_batch, None, :],
                multimask_output=True,
            )
            logits, predicted = output.pred_masks[0].flatten(0, 1).float(), output.iou_scores[0].flatten().float()
            good = predicted >= settings.min_predicted_iou
            logits, predicted = logits[good], predicted[good]
            good = stability(logits, settings.stability_offset) >= settings.min_stability
            maps.append(logits[good].cpu())
            scores.append(predicted[good].cpu())
        all_logits, score = torch.cat(maps), torch.cat(scores)
        boxes, nonempty = boxes_of(all_logits > 0)
        candidates = nonempty.nonzero().flatten()
        kept = candidates[suppress_boxes(boxes[candidates], score[candidates], settings.duplicate_box_iou)]
        for index in kept.tolist():
            mask = mask_from_score_map(all_logits[index].numpy(), 0.0, crop_hw, within_hw=size_hw, offset_yx=offset_yx)
            if mask.area >= settings.min_area_px and not _is_truncated(mask, offset_yx, crop_hw, size_hw):
                yield mask, float(score[index])


def prepare(image: RgbImage, side_px: int) -> torch.Tensor:
    """SAM 2's input ``(1, 3, side_px, side_px)`` float32 of an image ``(H, W, 3)`` uint8: stretched and normalised."""
    values = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
    values = torch.nn.functional.interpolate(
        values, size=(side_px, side_px), mode="bilinear", align_corners=False, antialias=True
    )
    return (values - torch.tensor(_MEAN).view(1, 3, 1, 1)) / torch.tensor(_STD).view(1, 3, 1, 1)


def point_grid(per_side: int, side_px: int) -> torch.Tensor:
    """Cell centres ``(per_side ** 2, 2)`` of a square grid: x and y in pixels, row by row."""
    at = (torch.arange(per_side, dtype=torch.float32) + 0.5) / per_side * side_px
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def stability(logits: torch.Tensor, offset: float) -> torch.Tensor:
    """Stability score ``(N,)``: IoU of the masks at thresholds ``+offset`` and ``-offset``; 0 if both are empty.

    Args:
        logits: ``(N, h, w)``.
        offset: in logits.
    """
    inner = (logits > offset).flatten(1).sum(1)
    outer = (logits > -offset).flatten(1).sum(1)  # the inner mask lies within the outer one
    return inner / outer.clamp(min=1)


def boxes_of(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounding boxes of masks.

    Args:
        masks: ``(N, h, w)`` bool.

    Returns:
        half-open boxes ``(N, 4)`` float32 x1, y1, x2, y2, zeros for an empty mask; and ``(N,)`` bool, not empty.
    """
    height, width = masks.shape[-2:]
    rows, columns = masks.any(2), masks.any(1)
    nonempty = rows.any(1)
    first_y, first_x = rows.int().argmax(1), columns.int().argmax(1)
    last_y, last_x = height - rows.flip(1).int().argmax(1), width - columns.flip(1).int().argmax(1)
    boxes = torch.stack([first_x, first_y, last_x, last_y], 1).float()
    return boxes * nonempty[:, None], nonempty


def suppress_boxes(boxes_xyxy: torch.Tensor, scores: torch.Tensor, max_iou: float) -> torch.Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes_xyxy: ``(N, 4)`` half-open.
        scores: ``(N,)``; of equal ones the first goes first.
        max_iou: a box with a higher IoU with a kept one is dropped.

    Returns:
        indices ``(K,)`` int64 of the kept boxes by falling score.
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    boxes = boxes_xyxy[order]
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
    alive = torch.ones(len(boxes), dtype=torch.bool)
    kept = []
    for index in range(len(boxes)):
        if not alive[index]:
            continue
        kept.append(index)
        rest = boxes[index + 1 :]
        common = (
            (torch.minimum(boxes[index, 2:], rest[:, 2:]) - torch.maximum(boxes[index, :2], rest[:, :2]))
            .clamp(min=0)
            .prod(1)
        )
        union = (area[index] + area[index + 1 :] - common).clamp(min=1e-9)
        alive[index + 1 :] &= (common / union <= max_iou).to(alive.device)
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]


def crop_boxes(
    size_hw: tuple[int, int], layers: int, overlap: float
) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """Layer and box (x0, y0, x1, y1) of the full image, then of ``2^l x 2^l`` overlapping crops a layer."""
    height, width = size_hw
    yield 0, (0, 0, width, height)
    for layer in range(1, layers + 1):
        count = 2**layer
        shared = int(overlap * min(size_hw) * 2 / count)
        sides = [int(np.ceil((shared * (count - 1) + side) / count)) for side in (width, height)]
        for row in range(count):
            for column in range(count):
                x0, y0 = column * (sides[0] - shared), row * (sides[1] - shared)
                x1, y1 = min(x0 + sides[0], width), min(y0 + sides[1], height)
                if x1 > x0 and y1 > y0:
                    yield layer, (x0, y0, x1, y1)


def _is_truncated(
    mask: ObjectMask, offset_yx: tuple[int, int], crop_hw: tuple[int, int], size_hw: tuple[int, int]
) -> bool:
    """Whether a mask touches a side of its crop that is not a side of the image: the crop probably truncates it."""
    x, y, width, height = mask.box_xywh
    (top, left), (crop_height, crop_width) = offset_yx, crop_hw
    bottom, right = top + crop_height, left + crop_width
    return bool(
        (x <= left and left > 0)
        or (y <= top and top > 0)
        or (x + width >= right and right < size_hw[1])
        or (y + height >= bottom and bottom < size_hw[0])
    )


def input_side(model: Any) -> int:
    """Side in pixels of the square that a ``Sam2Model`` takes."""
    size = model.config.prompt_encoder_config.image_size
    return int(size if isinstance(size, int) else size[0])


def _load(settings: Sam2Settings) -> Sam2Model:
    from transformers import Sam2Config

    what = "--proposals sam2"
    config = None
    if settings.image_size:
        config = load_config_of(Sam2Config, settings.model, what)
        side = settings.image_size
        # The size is stored twice and has to agree; feature maps are a 4th, an 8th and a 16th of it.
        config.vision_config.backbone_feature_sizes = [[side // step] * 2 for step in (4, 8, 16)]
        config.prompt_encoder_config.image_size = side
    model: Sam2Model = load_network(transformers_class("Sam2Model"), settings.model, what, config)
    return model
