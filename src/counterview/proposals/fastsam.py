"""``fastsam``: the proposals of O-MaMa's paper, through the optional package ultralytics.

ultralytics is licensed AGPL-3.0, Counterview Apache-2.0. It is not installed with Counterview, is imported only when
this proposer is loaded, and that is logged: whoever distributes a product with it is bound by AGPL-3.0.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from counterview.errors import ConfigError, MissingExtraError, WeightsError
from counterview.media.files import sha256_file
from counterview.proposals.base import Proposals
from counterview.proposals.scaling import mask_from_score_map
from counterview.types import RgbImage, as_rgb

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FastSamSettings:
    """Settings of the ``fastsam`` proposer."""

    weights: str = field(default="FastSAM-x.pt", metadata={"help": "weights file, or a name that ultralytics fetches"})
    device: str = field(default="auto", metadata={"help": "auto, cpu, cuda, cuda:N or mps"})
    image_size: int = field(default=1024, metadata={"help": "longer side of the network's input, in pixels"})
    min_score: float = field(default=0.4, metadata={"help": "masks below are dropped"})
    duplicate_box_iou: float = field(default=0.9, metadata={"help": "of boxes with a higher IoU, the best is kept"})
    max_masks: int = field(default=300, metadata={"help": "masks kept at most"})

    def __post_init__(self) -> None:
        if self.image_size < 32 or self.max_masks < 1:
            raise ConfigError(
                "invalid settings of the fastsam proposer",
                found=f"image_size {self.image_size}, max_masks {self.max_masks}",
                expected="at least 32 and at least 1",
            )


class FastSamProposer:
    """Masks of FastSAM.

    Args:
        settings: see :class:`FastSamSettings`.
        build: makes the network from the weights; by default ``ultralytics.FastSAM``.

    Raises:
        MissingExtraError: ultralytics is not installed.
        WeightsError: the weights are not available.
    """

    name = "fastsam"

    def __init__(self, settings: FastSamSettings | None = None, build: Callable[[str], Any] | None = None) -> None:
        self._settings = settings or FastSamSettings()
        if build is None:
            build = _ultralytics()
        from counterview.devices import resolve_device
        from counterview.proposals.weights import WITHOUT_WEIGHTS

        self.device = str(resolve_device(self._settings.device))
        try:
            self._network = build(self._settings.weights)
        except Exception as error:  # a missing file, a failed download or a damaged one: ultralytics raises anything
            detail = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise WeightsError(
                f"--proposals fastsam: the weights {self._settings.weights} cannot be loaded",
                found=detail,
                fix=f"Give the file as fastsam:PATH. {WITHOUT_WEIGHTS}",
            ) from None

    def settings(self) -> dict[str, Any]:
        """All settings but the device, and a hash of the weights file if it is a local file."""
        values = dataclasses.asdict(self._settings)
        del values["device"]
        path = Path(self._settings.weights)
        return {**values, "weights_sha256": sha256_file(path) if path.is_file() else None}

    def __call__(self, image: RgbImage, name: str | None = None) -> Proposals:
        """Propose masks, by falling score.

        Args:
            image: ``(H, W, 3)`` uint8, RGB.
            name: not used.

        Raises:
            ImageError: another shape or dtype.
        """
        image = as_rgb(image)
        settings, size_hw = self._settings, (image.shape[0], image.shape[1])
        (result,) = self._network(
            np.ascontiguousarray(image[..., ::-1]),  # ultralytics takes OpenCV's order
            device=self.device,
            imgsz=settings.image_size,
            conf=settings.min_score,
            iou=settings.duplicate_box_iou,
            max_det=settings.max_masks,
            retina_masks=True,  # masks at the size of the image, without the padding of the network's input
            verbose=False,
        )
        if result.masks is None:
            return Proposals.none(size_hw)
        maps, scores = result.masks.data, result.boxes.conf.float().cpu().numpy()
        masks, kept = [], []
        for index in np.argsort(-scores, kind="stable")[: settings.max_masks]:
            mask = mask_from_score_map(maps[int(index)].float().cpu().numpy(), 0.5, size_hw)
            if not mask.is_empty:
                masks.append(mask)
                kept.append(scores[index])
        return Proposals(size_hw, tuple(masks), np.array(kept, dtype=np.float32))


def _ultralytics() -> Callable[[str], Any]:
    try:
        from ultralytics import FastSAM
    except ImportError:
        raise MissingExtraError("fastsam", "--proposals fastsam (the package ultralytics, AGPL-3.0)") from None
    _log.warning("fastsam uses the package ultralytics, which is licensed AGPL-3.0; Counterview itself is Apache-2.0.")
    build: Callable[[str], Any] = FastSAM
    return build
