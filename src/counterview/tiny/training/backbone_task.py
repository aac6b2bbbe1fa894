"""The common part of tasks that train the network of a ``tiny-match``: memory, validation, export."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from counterview.data.dataset import Take
from counterview.data.open import open_dataset
from counterview.errors import MaskError
from counterview.masks.geometry import fit_mask
from counterview.omama.training.image_store import ImageStore
from counterview.omama.training.recipe import SamplingConfig
from counterview.omama.training.sheet import match_sheet
from counterview.omama.training.task import pairs_of, split_decay, summarise_parts
from counterview.omama.training.validation import OMaMaValidator, true_candidates
from counterview.proposals import CachedProposer
from counterview.tiny.model import TinyMatch
from counterview.types import ObjectMask, RgbImage


class BackboneTask:
    """The part of a :class:`counterview.training.task.Task` that does not depend on what is learned.

    Args:
        config: the recipe's keys; ``data`` and ``model`` are read here.
        proposer: gives the candidates of validation.
        sampling: order of neighbours and duplicates of the candidates of validation.

    Raises:
        InputError: the validation data are missing or of the wrong kind.
    """

    config: Any

    def __init__(self, config: Any, proposer: CachedProposer, sampling: SamplingConfig) -> None:
        data = config.data
        self.config, self.proposer, self._sampling = config, proposer, sampling
        self.val_data = open_dataset(data.val_root or data.root, data.val_split)
        self.val_pairs = pairs_of(self.val_data, data, data.val_fraction, data.val_frame_step)
        self._memory: dict[Any, Any] = {}
        self._bytes_in_memory = 0
        self._scratch = tempfile.TemporaryDirectory(prefix="counterview-")
        self._validator: OMaMaValidator | None = None

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()  # for workers, which begin with an empty memory and never validate
        return state | {"_memory": {}, "_bytes_in_memory": 0, "_scratch": None, "_validator": None}

    def _remember(self, key: Any, value: Any, nbytes: int, limit_mb: int) -> None:
        """Keep a view in memory if there is room."""
        if self._bytes_in_memory + nbytes <= limit_mb * 1_000_000:
            self._memory[key], self._bytes_in_memory = value, self._bytes_in_memory + nbytes

    def parameter_groups(self, model: nn.Module, base_lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """See :func:`counterview.omama.training.task.split_decay`."""
        return split_decay(model, base_lr, weight_decay)

    def validate(self, model: nn.Module, device: torch.device, rank: int = 0, world_size: int = 1) -> Any:
        """Scored matches of this process's part of the validation pairs, and choices among true masks."""
        model = cast(TinyMatch, model)
        validator = self._validate_with(model, device)
        rows = [row.to_json() for row in validator.rows(model, rank, world_size)]
        return {"rows": rows, "truth": true_candidates(validator, model, rank, world_size)}

    def _validate_with(self, model: TinyMatch, device: torch.device) -> OMaMaValidator:
        """A validator with features of the current weights."""
        store = ImageStore(
            self.config.model.omama,
            Path(self._scratch.name) / "features",
            order=self._sampling.order,
            duplicate_iou=self._sampling.duplicate_iou,
            memory_mb=self.config.data.memory_mb,
            backbone=model.own_backbone(device),
            proposer=self.proposer,
        )
        self._validator = OMaMaValidator(store, self.val_data, self.val_pairs)
        return self._validator

    def summarise(self, parts: Sequence[Any]) -> dict[str, float]:
        """Metrics over all processes, ``top1_true_candidates`` among them."""
        metrics = summarise_parts([p["rows"] for p in parts], self.val_pairs, self.config.data.directions)
        right, total = (sum(p["truth"][i] for p in parts) for i in (0, 1))
        return metrics | ({"top1_true_candidates": right / total} if total else {})

    def sample_sheet(self, model: nn.Module, device: torch.device) -> RgbImage | None:
        """A contact sheet of matches; see :func:`~counterview.omama.training.sheet.match_sheet`."""
        model = cast(TinyMatch, model)
        return match_sheet(self._validator or self._validate_with(model, device), model)

    def model_config(self, model: nn.Module) -> dict[str, Any]:
        """Content of ``config.json``."""
        return cast(TinyMatch, model).header()

    def model_card(self, model: nn.Module, metrics: Mapping[str, float]) -> str:
        """Text of ``README.md``."""
        return cast(TinyMatch, model).card(metrics=metrics)


def draw_cameras(take: Take, cameras: Sequence[str], number: int, rng: np.random.Generator) -> list[str]:
    """Draw cameras of a moment: an ego camera, then exo cameras in random order, then other ego cameras.

    Args:
        take: tells ego from exo cameras.
        cameras: of the moment.
        number: of cameras to draw, at most.
        rng: the only source of randomness.
    """
    exo = [c for c in cameras if not take.is_ego(c)]
    ego = [c for c in cameras if take.is_ego(c)]
    return [*ego[:1], *rng.permutation(exo).tolist(), *ego[1:]][:number]


def objects_in(take: Take, camera: str, frame: int, image: RgbImage) -> tuple[dict[str, ObjectMask], set[str]]:
    """The objects that an image shows, and those that it does not.

    Args:
        take: of the image.
        camera: of the image.
        frame: of the image.
        image: ``(H, W, 3)``.

    Returns:
        Masks of the visible objects at the image's size, by name; and names of those that the annotation calls absent.
        An object whose mask does not decode is in neither, and noted with the take.
    """
    masks: dict[str, ObjectMask] = {}
    absent = set()
    for name in take.objects:
        if camera not in take.cameras_of(name):
            continue
        try:
            mask = take.mask(name, camera, frame)
        except MaskError as error:
            take.note(str(error))
            continue
        if mask is not None and not mask.is_empty:
            masks[name] = fit_mask(mask, (image.shape[0], image.shape[1]))
        elif frame in take.annotated_frames(name, camera):
            absent.add(name)
    return masks, absent
