"""``fastsam``: the proposals of O-MaMa's paper, through the optional package ultralytics.

ultralytics is licensed AGPL-3.0, Counterview Apache-2.0. It is not installed with Counterview, is imported only when
this proposer is loaded, and that is logged: whoever distributes a product with it is bound by AGPL-3.0.

Its weights are pickles, which can run code when they are read, so they need the user's word: ``trust``, or the SHA-256
of the file. ultralytics then reads them with its own restrictions (``ULTRALYTICS_SAFE_LOAD=1``).
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from counterview.errors import ConfigError, MissingExtraError, TrustError, WeightsError, shown
from counterview.guard import reason, regular_file
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
    sha256: str = field(default="", metadata={"help": "SHA-256 of the weights, by which you vouch for them"})

    def __post_init__(self) -> None:
        if not 32 <= self.image_size <= 8192 or not 1 <= self.max_masks <= 100_000:
            raise ConfigError(
                "invalid settings of the fastsam proposer",
                found=f"image_size {shown(self.image_size)}, max_masks {shown(self.max_masks)}",
                expected="32 to 8192 and 1 to 100000",
            )


class FastSamProposer:
    """Masks of FastSAM.

    Args:
        settings: see :class:`FastSamSettings`.
        build: makes the network from the weights; by default ``ultralytics.FastSAM``.
        trust: read the weights, which are a pickle, whatever their hash.

    Raises:
        MissingExtraError: ultralytics is not installed.
        WeightsError: the weights are not available.
        TrustError: neither ``trust`` nor the hash of the weights was given.
    """

    name = "fastsam"

    def __init__(
        self,
        settings: FastSamSettings | None = None,
        build: Callable[[str], Any] | None = None,
        *,
        trust: bool = False,
    ) -> None:
        self._settings = settings or FastSamSettings()
        if build is None:
            build = _ultralytics()
            _check_weights(self._settings, trust)
        from counterview.devices import resolve_device
        from counterview.proposals.weights import WITHOUT_WEIGHTS

        self.device = str(resolve_device(self._settings.device))
        try:
            self._network = build(self._settings.weights)
        except Exception as error:  # a missing file, a failed download or a damaged one: ultralytics raises anything
            raise WeightsError(
                f"--proposals fastsam: the weights {self._settings.weights} cannot be loaded",
                found=reason(error),
                fix=f"Give the file as fastsam:PATH. {WITHOUT_WEIGHTS}",
            ) from None

    def settings(self) -> dict[str, Any]:
        """All settings but the device and the given hash, and a hash of the weights file if it is a local file."""
        values = dataclasses.asdict(self._settings)
        del values["device"], values["sha256"]
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


def _check_weights(settings: FastSamSettings, trust: bool) -> None:
    """Refuse weights for which the user has not vouched, and addresses, from which ultralytics would fetch them."""
    weights, path = settings.weights, Path(settings.weights)
    if "://" in weights or weights.startswith("\\\\"):
        raise WeightsError(
            "--proposals fastsam: the weights are an address", found=shown(weights), expected="a file",
            fix="Download the file, and give it as fastsam:PATH.",
        )  # fmt: skip
    if path.exists():
        digest = sha256_file(regular_file(path, WeightsError))
        if settings.sha256 and settings.sha256.lower() != digest:
            raise WeightsError("--proposals fastsam: other weights", path=path, found=digest, expected=settings.sha256)
        if trust or settings.sha256:
            return
        found = f"a file with the SHA-256 {digest}"
    elif trust and not settings.sha256 and path.name == weights:
        return  # ultralytics fetches it
    elif trust or settings.sha256:
        raise WeightsError("--proposals fastsam: no such file", path=path, fix="Download it first.")
    else:
        found = "no such file; ultralytics would download it"
    raise TrustError(
        "--proposals fastsam: its weights are a pickle, which can run code when it is read", path=path, found=found,
        fix="If you trust it, add --trust (in Python, trust=True), or give its hash as the setting sha256 of the "
        "proposer.",
    )  # fmt: skip


def _ultralytics() -> Callable[[str], Any]:
    os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "1")  # read when ultralytics is imported
    try:
        from ultralytics import FastSAM
    except ImportError:
        raise MissingExtraError("fastsam", "--proposals fastsam (the package ultralytics, AGPL-3.0)") from None
    except Exception as error:  # a torchvision that does not fit torch
        raise WeightsError("--proposals fastsam: ultralytics cannot be imported", found=reason(error)) from error
    try:
        from ultralytics.utils import SAFE_LOAD as restricted
    except ImportError:
        restricted = False
    _log.warning("fastsam uses the package ultralytics, which is licensed AGPL-3.0; Counterview itself is Apache-2.0.")
    if not restricted:
        _log.warning("this ultralytics reads pickles without restrictions; its version 8.4.67 and later do not.")
    build: Callable[[str], Any] = FastSAM
    return build
