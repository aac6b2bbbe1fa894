"""What tasks share that train a backbone of the model's own: their views, their validation, what they export."""

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
from counterview.omama.training.task import pairs_of, split_decay, summarise_shares
from counterview.omama.training.validation import OMaMaValidator, true_candidates
from counterview.proposals import CachedProposer
from counterview.tiny.model import TinyMatch
from counterview.types import ObjectMask, RgbImage


class BackboneTask:
    """The part of a :class:`counterview.training.task.Task` that does not depend on what is learned.

    Args:
        config: the recipe's keys; ``data`` and ``model`` are read here.
        proposer: makes the candidates of validation.
        sampling: how proposals of validation are laid out.
    """

    config: Any

    def __init__(self, config: Any, proposer: CachedProposer, sampling: SamplingConfig) -> None:
        data = config.data
        self.config, self.proposer, self._sampling = config, proposer, sampling
        self.val_data = open_dataset(data.val_root or data.root, data.val_split)
        self.val_pairs = pairs_of(self.val_data, data, data.val_fraction, data.val_frame_step)
        self._kept: dict[Any, Any] = {}
        self._bytes = 0
        self._scratch = tempfile.TemporaryDirectory(prefix="counterview-")
        self._validator: OMaMaValidator | None = None

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()  # for workers, which start with nothing kept and never validate
        return state | {"_kept": {}, "_bytes": 0, "_scratch": None, "_validator": None}

    def _keep(self, key: Any, value: Any, nbytes: int, most_mb: int) -> None:
        """Keep a view in memory, as long as there is room."""
        if self._bytes + nbytes <= most_mb * 1_000_000:
            self._kept[key], self._bytes = value, self._bytes + nbytes

    def parameter_groups(self, model: nn.Module, base_lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """See :class:`counterview.training.task.Task`, as for all below."""
        return split_decay(model, base_lr, weight_decay)

    def validate(self, model: nn.Module, device: torch.device, rank: int = 0, world_size: int = 1) -> Any:
        model = cast(TinyMatch, model)
        validator = self._validate_with(model, device)
        rows = [row.to_json() for row in validator.rows(model, rank, world_size)]
        return {"rows": rows, "truth": true_candidates(validator, model, rank, world_size)}

    def _validate_with(self, model: TinyMatch, device: torch.device) -> OMaMaValidator:
        """A validator whose features are those of the weights as they are now."""
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

    def summarise(self, shares: Sequence[Any]) -> dict[str, float]:
        metrics = summarise_shares([s["rows"] for s in shares], self.val_pairs, self.config.data.directions)
        right, total = (sum(s["truth"][i] for s in shares) for i in (0, 1))
        return metrics | ({"top1_true_candidates": right / total} if total else {})

    def sample_sheet(self, model: nn.Module, device: torch.device) -> RgbImage | None:
        model = cast(TinyMatch, model)
        return match_sheet(self._validator or self._validate_with(model, device), model)

    def model_config(self, model: nn.Module) -> dict[str, Any]:
        return cast(TinyMatch, model).header()

    def model_card(self, model: nn.Module, metrics: Mapping[str, float]) -> str:
        return cast(TinyMatch, model).card(metrics=metrics)


def draw_cameras(take: Take, cameras: Sequence[str], number: int, rng: np.random.Generator) -> list[str]:
    """So many of a moment's cameras: an ego camera, then exo cameras in random order, then other ego cameras."""
    exo = [c for c in cameras if not take.is_ego(c)]
    ego = [c for c in cameras if take.is_ego(c)]
    return [*ego[:1], *rng.permutation(exo).tolist(), *ego[1:]][:number]


def objects_in(take: Take, camera: str, frame: int, image: RgbImage) -> tuple[dict[str, ObjectMask], set[str]]:
    """Masks of the objects that an image shows, at its size, and names of those looked for in vain.

    A mask that does not decode is noted and left out: nothing is known of its object.
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
