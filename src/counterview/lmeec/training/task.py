"""LM-EEC as a task of the training engine (:mod:`counterview.training.task`)."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from counterview.config import to_dict
from counterview.data.clips import ClipSampler, ClipSource, clip_sources
from counterview.data.digest import annotation_digest
from counterview.data.open import open_dataset, open_datasets
from counterview.errors import ConfigError, InputError
from counterview.lmeec.model import LMEEC
from counterview.lmeec.released import load_sam2
from counterview.lmeec.sam2_parts import ImageFeatures
from counterview.lmeec.training.calibration import fit_visibility
from counterview.lmeec.training.drop_path import add_drop_path
from counterview.lmeec.training.groups import parameter_groups
from counterview.lmeec.training.loss import FrameLoss, frame_loss, mean_over_clips, shrink_truth
from counterview.lmeec.training.recipe import LMEECRecipe
from counterview.lmeec.training.samples import ClipReader, ClipSample, collate
from counterview.lmeec.training.unroll import ClipBatch, unroll, unused_parameters
from counterview.lmeec.training.validation import LMEECScore, LMEECValidator, summarise
from counterview.nn.checkpoint import is_checkpoint
from counterview.types import RgbImage

logger = logging.getLogger(__name__)

LATER_KEYS = (
    *("data.clips_per_track", "data.resize"),
    *("augment.shear_y", "augment.colour_order"),
    *("augment.frame_brightness", "augment.frame_contrast", "augment.frame_saturation"),
    *("optim.position_lr_decay", "optim.drop_path", "optim.no_decay"),
    "model.window_position",
)
"""Keys that runs of earlier versions had not. Fingerprints leave them out, so that those are resumed: the recipe is a
part of a run's identity anyway, and there keys that it did not have count with their defaults."""


class LMEECTask:
    """Trains LM-EEC on clips of two cameras, from weights of SAM 2.1 (LM-EEC, section 4.1).

    Args:
        config: the recipe's keys.

    Raises:
        InputError: the data set is missing, of the wrong kind, or without clips of that length.
    """

    config_class: ClassVar[type] = LMEECRecipe
    model_class: ClassVar[type[LMEEC]] = LMEEC
    config: LMEECRecipe

    def __init__(self, config: LMEECRecipe) -> None:
        self.config = config
        data = config.data
        self.train_data = open_datasets(data.roots, data.split)
        self.val_data = open_dataset(data.val_root or data.root, data.val_split)
        sources = [
            source
            for direction in data.directions
            for source in clip_sources(
                self.train_data,
                direction,
                length=data.clip_frames,
                targets="annotated" if data.absent else "visible",
            )
        ]
        if not sources:
            raise InputError(
                f"there are no clips of {data.clip_frames} frames to train on",
                path=data.root,
                found=f"{len(self.train_data)} takes, in none of which an object is in both cameras for so long",
                fix="Set data.clip_frames lower, or check data.split, data.directions and the masks.",
            )
        self.sampler = ClipSampler(
            sources, length=data.clip_frames, max_objects=data.max_objects, clips_per_source=data.clips_per_track
        )
        size = config.model.image_size
        self.reader = ClipReader(self.train_data, size, config.augment, data.cache_mb, data.resize)
        self.validator = LMEECValidator(self.val_data, data.directions, takes=data.val_takes, frames=data.val_frames)

    # ------------------------------------------------------------------------------------------- training

    def build_model(self) -> nn.Module:
        """See :class:`counterview.training.task.Task`, as for all below.

        Raises:
            ConfigError: the recipe has no weights to begin with, or such of another architecture; or it asks for
                stochastic depth in an encoder without residual blocks of Hiera.
        """
        source = self.config.init_from
        model = self.new_model()
        if source is not None and is_checkpoint(source):
            self._continue_from(model, source)
        elif source is not None:
            load_sam2(model.sam, source, model.config.backbone)
        for name in unused_parameters(model):
            model.get_parameter(name).requires_grad_(False)
        add_drop_path(model.sam.vision_encoder.backbone, self.config.optim.drop_path)
        return model

    def new_model(self) -> LMEEC:
        """The model of the recipe with its random weights, before those of ``init_from`` are loaded.

        Raises:
            ConfigError: there is no ``init_from``.
        """
        if self.config.init_from is None:
            raise ConfigError(
                "LM-EEC does not train from random weights",
                found="no init_from",
                fix="Set init_from, for instance to facebook/sam2.1-hiera-base-plus; "
                '"method: tiny-follow" trains from scratch.',
            )
        return self.model_class(self.config.model)

    def _continue_from(self, model: LMEEC, source: str) -> None:
        """Load the weights of a trained model. Another fusion of the two views than that one's starts afresh.

        Raises:
            ConfigError: weights of other names or shapes.
        """
        start = self.model_class.from_pretrained(source)
        state, own = start.state_dict(), model.state_dict()
        if start.config.fusion != model.config.fusion:
            state = {name: value for name, value in state.items() if not name.startswith("fusion.")}
            state |= {name: value for name, value in own.items() if name.startswith("fusion.")}
        wrong = sorted(n for n in {*state, *own} if n not in state or n not in own or state[n].shape != own[n].shape)
        if wrong:
            raise ConfigError(
                "training cannot begin with a model of another architecture",
                path=source,
                found=f"{len(wrong)} weights differ, {wrong[0]} among them",
                fix="Set model as in init_from.",
            )
        model.load_state_dict(state)

    def parameter_groups(self, model: nn.Module, base_lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """As :meth:`counterview.training.task.Task.parameter_groups`."""
        blocks = len(cast(LMEEC, model).sam.vision_encoder.backbone.blocks)
        return parameter_groups(model, self.config.optim, blocks, base_lr, weight_decay)

    def train_length(self, epoch: int) -> int:
        """As :meth:`counterview.training.task.Task.train_length`."""
        return self.config.data.clips_per_epoch or len(self.sampler)

    def sample(self, epoch: int, index: int, rng: np.random.Generator) -> ClipSample:
        """As :meth:`counterview.training.task.Task.sample`."""
        return self.reader.read(self.sampler.clip(epoch, index), rng)

    def collate(self, samples: Sequence[ClipSample]) -> ClipBatch:
        """As :meth:`counterview.training.task.Task.collate`."""
        return collate(samples)

    def loss(self, model: nn.Module, batch: ClipBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """As :meth:`counterview.training.task.Task.loss`."""
        values = self.frame_losses(cast(LMEEC, model), batch)
        parts = {name: mean_over_clips(value, batch.clip_of, batch.clips) for name, value in values.items()}
        total = sum(
            (getattr(self.config.loss, name) * value for name, value in parts.items()),
            start=torch.zeros(()).to(batch.clip_of.device),
        )
        return total, {name: value.detach() for name, value in parts.items()}

    def frame_losses(self, model: LMEEC, batch: ClipBatch) -> dict[str, Tensor]:
        """Each loss of every frame and track, ``(T, N)``, by the name of its weight in ``config.loss``."""
        return self.decoder_losses(model, batch)

    def decoder_losses(
        self, model: LMEEC, batch: ClipBatch, watch: Callable[[ImageFeatures, ImageFeatures], None] | None = None
    ) -> dict[str, Tensor]:
        """The four losses of what is decoded, ``(T, N)`` each, by name.

        Args:
            model: the model.
            batch: T frames of N tracks.
            watch: see :func:`counterview.lmeec.training.unroll.unroll`.
        """
        weights, optim = self.config.loss, self.config.optim
        frames = unroll(model, batch, recompute=optim.recompute, recompute_images=optim.recompute_images, watch=watch)
        losses = [
            frame_loss(decoded, shrink_truth(batch.target_masks[:, t], weights.stride), weights.focal, weights.dice)
            for t, decoded in enumerate(frames)
        ]
        return {name: torch.stack([getattr(one, name) for one in losses]) for name in FrameLoss.__dataclass_fields__}

    # ----------------------------------------------------------------------------------------- validation

    def validate(self, model: nn.Module, device: torch.device, rank: int = 0, world_size: int = 1) -> Any:
        """As :meth:`counterview.training.task.Task.validate`."""
        return [score.to_json() for score in self.validator.scores(cast(LMEEC, model), rank, world_size)]

    def summarise(self, shares: Sequence[Any]) -> dict[str, float]:
        """As :meth:`counterview.training.task.Task.summarise`."""
        scores = [LMEECScore.from_json(values) for share in shares for values in share]
        metrics = summarise(scores)
        if len(self.config.data.directions) > 1:
            for direction in self.config.data.directions:
                part = summarise([score for score in scores if score.direction == direction])
                metrics |= {f"{name}_{direction}": value for name, value in part.items()}
        return metrics

    def sample_sheet(self, model: nn.Module, device: torch.device) -> RgbImage | None:
        """As :meth:`counterview.training.task.Task.sample_sheet`."""
        return self.validator.sheet(cast(LMEEC, model))

    def finish(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """As :meth:`counterview.training.task.Task.finish`."""
        prior = self.config.loss.calibration
        if prior == "none":
            return {}
        scores = [score for score in self.validator.scores(cast(LMEEC, model)) if score.score is not None]
        return fit_visibility(
            cast(LMEEC, model),
            np.array([score.score for score in scores], dtype=np.float64),
            np.array([score.visible for score in scores], dtype=bool),
            balanced=prior == "balanced",
        )

    # -------------------------------------------------------------------------------------------- identity

    def fingerprint(self) -> dict[str, Any]:
        """As :meth:`counterview.training.task.Task.fingerprint`."""
        result = recipe_values(self.config)
        for key in LATER_KEYS:
            result.pop(key)
        return result | {
            "train_tracks": len(self.sampler.sources),
            "train_hash": sources_hash(self.sampler.sources),
            **self.validator.identity(),
            "train_annotation": annotation_digest(self.train_data, (s.take for s in self.sampler.sources)),
            "validation_annotation": annotation_digest(self.val_data, self.validator.uids),
        }

    def model_config(self, model: nn.Module) -> dict[str, Any]:
        """As :meth:`counterview.training.task.Task.model_config`."""
        return cast(LMEEC, model).header()

    def model_card(self, model: nn.Module, metrics: Mapping[str, float]) -> str:
        """As :meth:`counterview.training.task.Task.model_card`."""
        rows = {"trained for": ", ".join(self.config.data.directions)}
        return cast(LMEEC, model).card(metrics=metrics, rows=rows)


def recipe_values(config: Any) -> dict[str, Any]:
    """The keys of a recipe that a run depends on, as flat values by ``group.key``; of paths the last part.

    Args:
        config: the recipe; its ``data`` has ``root``, ``more_roots`` and ``cache_mb``.
    """
    values = to_dict(config)
    roots = [values["data"].pop("root"), *values["data"].pop("more_roots")]
    values["data"].pop("cache_mb")
    result: dict[str, Any] = {"data.root": ", ".join(Path(root).name for root in roots)}
    for group, settings in values.items():
        for key, value in settings.items() if isinstance(settings, dict) else [("", settings)]:
            text = Path(value).name if isinstance(value, str) and os.sep in value else value
            result[f"{group}.{key}".rstrip(".")] = text
    return result


def sources_hash(sources: Iterable[ClipSource]) -> str:
    """16 hex digits that change with what is trained on.

    Args:
        sources: objects in pairs of cameras, with their frames.
    """
    digest = hashlib.sha256()
    for s in sources:
        line = f"{s.take}\0{s.query_camera}\0{s.target_camera}\0{s.object}\0{s.frames}\0{sorted(s.visible)}\n"
        digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]
