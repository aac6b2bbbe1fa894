"""LM-EEC as a task of the training engine (:mod:`counterview.training.task`)."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from counterview.config import to_dict
from counterview.data.clips import ClipSampler, clip_sources
from counterview.data.open import open_dataset, open_datasets
from counterview.errors import ConfigError, InputError
from counterview.lmeec.model import LMEEC
from counterview.lmeec.training.calibration import fit_visibility
from counterview.lmeec.training.card import model_card
from counterview.lmeec.training.loss import (
    FrameLoss,
    frame_loss,
    match_loss,
    mean_over_clips,
    shrink_truth,
    tell_apart_loss,
)
from counterview.lmeec.training.recipe import LMEECRecipe
from counterview.lmeec.training.samples import ClipReader, ClipSample, collate
from counterview.lmeec.training.unroll import ClipBatch, matched_features, unroll, unused_parameters
from counterview.lmeec.training.validation import Row, Validator, summarise
from counterview.lmeec.weights import CONFIG_NAME, load_sam2, model_config
from counterview.tiny.appearance import FineMaps
from counterview.tiny.initial import initialise
from counterview.types import RgbImage

logger = logging.getLogger(__name__)

ENCODER = "sam.vision_encoder."
BACKBONE = "sam.vision_encoder.backbone."


class LMEECTask:
    """Trains LM-EEC on clips of two cameras.

    Args:
        config: the recipe's keys.

    Raises:
        InputError: the data set is missing, of the wrong kind, or without clips of the length asked for.
    """

    config_class: ClassVar[type] = LMEECRecipe
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
                found=f"{len(self.train_data)} takes, none with an object in both cameras for so long",
                fix="Set data.clip_frames lower, or check data.split, data.directions and the masks.",
            )
        self.sampler = ClipSampler(sources, length=data.clip_frames, max_objects=data.max_objects)
        self.short_sampler = ClipSampler(sources, length=1, max_objects=data.max_objects)
        self.reader = ClipReader(self.train_data, config.model.image_size, config.augment, data.cache_mb)
        self.validator = Validator(self.val_data, data.directions, takes=data.val_takes, frames=data.val_frames)

    # ------------------------------------------------------------------------------------------- training

    def build_model(self) -> nn.Module:
        """See :class:`counterview.training.task.Task`, as for all below."""
        source = self.config.init_from
        if source is None:
            model = LMEEC(self.config.model)
            initialise(model)
        elif (Path(source) / CONFIG_NAME).is_file() and "counterview-lmeec" in (Path(source) / CONFIG_NAME).read_text(
            encoding="utf-8"
        ):
            model = LMEEC(self.config.model)
            initialise(model)
            _go_on_from(model, source)
        else:
            model = LMEEC(self.config.model)
            load_sam2(model, source)
        for name in unused_parameters(model):
            model.get_parameter(name).requires_grad_(False)
        return model

    def parameter_groups(self, model: nn.Module, base_lr: float, weight_decay: float) -> list[dict[str, Any]]:
        blocks = len(cast(LMEEC, model).sam.vision_encoder.backbone.blocks)
        groups: dict[tuple[float, float], dict[str, Any]] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            scale = self._lr_scale(name, blocks)
            decay = 0.0 if parameter.ndim < 2 or name.endswith("bias") else weight_decay
            label = f"lr x {scale:.4g}, {'decay' if decay else 'no decay'}"
            group = groups.setdefault(
                (scale, decay), {"name": label, "params": [], "lr": base_lr * scale, "weight_decay": decay}
            )
            group["params"].append(parameter)
        return list(groups.values())

    def _lr_scale(self, name: str, blocks: int) -> float:
        optim = self.config.optim
        if not name.startswith(ENCODER):
            return 1.0
        if not name.startswith(BACKBONE):
            return optim.encoder_lr_scale  # the neck stands above the last block
        rest = name.removeprefix(BACKBONE)
        # Patch and position embeddings lie below the first block.
        depth = int(rest.split(".")[1]) + 1 if rest.startswith("blocks.") else 0
        return optim.encoder_lr_scale * optim.layer_decay ** (blocks + 1 - depth)

    def train_length(self, epoch: int) -> int:
        data = self.config.data
        times = data.match_times if epoch < data.match_epochs else 1
        return times * (data.clips_per_epoch or len(self.sampler))

    def sample(self, epoch: int, index: int, rng: np.random.Generator) -> ClipSample:
        data = self.config.data
        sampler = self.short_sampler if epoch < max(data.short_epochs, data.match_epochs) else self.sampler
        sample = self.reader.read(sampler.clip(epoch, index), rng)
        return replace(sample, decode=epoch >= data.match_epochs)

    def collate(self, samples: Sequence[ClipSample]) -> ClipBatch:
        return collate(samples)

    def loss(self, model: nn.Module, batch: ClipBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        weights, optim = self.config.loss, self.config.optim
        tops: list[tuple[FineMaps, FineMaps]] = []
        if bool(batch.decode):
            frames = unroll(
                cast(LMEEC, model),
                batch,
                recompute=optim.recompute,
                recompute_images=optim.recompute_images,
                watch=tops if weights.match else None,
            )
            losses = [
                frame_loss(decoded, shrink_truth(batch.target_masks[:, t], weights.stride), weights.focal, weights.dice)
                for t, decoded in enumerate(frames)
            ]
            values = {
                name: torch.stack([getattr(one, name) for one in losses]) for name in FrameLoss.__dataclass_fields__
            }
        else:
            tops = matched_features(cast(LMEEC, model), batch)
            nothing = torch.zeros(len(tops), len(batch.clip_of), device=batch.clip_of.device)
            values = dict.fromkeys(FrameLoss.__dataclass_fields__, nothing)
        if weights.match:
            values["match"] = torch.stack([self._match(batch, t, *both) for t, both in enumerate(tops)])
        parts = {name: mean_over_clips(value, batch.clip_of, batch.clips) for name, value in values.items()}
        total = sum(
            (getattr(weights, name) * value for name, value in parts.items()),
            start=torch.zeros(()).to(batch.clip_of.device),
        )
        return total, {name: value.detach() for name, value in parts.items()}

    @staticmethod
    def _match(batch: ClipBatch, frame: int, query: FineMaps, target: FineMaps) -> Tensor:
        there = (query, batch.query_masks[:, frame], target, batch.target_masks[:, frame])
        back = (*there[2:], *there[:2])
        return sum((f(*way) for f in (match_loss, tell_apart_loss) for way in (there, back)), torch.zeros(())) / 2

    # ----------------------------------------------------------------------------------------- validation

    def validate(self, model: nn.Module, device: torch.device, rank: int = 0, world_size: int = 1) -> Any:
        return [row.to_json() for row in self.validator.rows(cast(LMEEC, model), rank, world_size)]

    def summarise(self, shares: Sequence[Any]) -> dict[str, float]:
        rows = [Row.from_json(row) for share in shares for row in share]
        metrics = summarise(rows)
        if len(self.config.data.directions) > 1:
            for direction in self.config.data.directions:
                part = summarise([row for row in rows if row.direction == direction])
                metrics |= {f"{name}_{direction}": value for name, value in part.items()}
        return metrics

    def sample_sheet(self, model: nn.Module, device: torch.device) -> RgbImage | None:
        return self.validator.sheet(cast(LMEEC, model))

    def finish(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        how = self.config.loss.calibration
        if how == "none":
            return {}
        rows = [row for row in self.validator.rows(cast(LMEEC, model)) if row.score is not None]
        return fit_visibility(
            cast(LMEEC, model),
            np.array([row.score for row in rows], dtype=np.float64),
            np.array([row.visible for row in rows], dtype=bool),
            balanced=how == "balanced",
        )

    # -------------------------------------------------------------------------------------------- identity

    def fingerprint(self) -> dict[str, Any]:
        values = to_dict(self.config)
        roots = [values["data"].pop("root"), *values["data"].pop("more_roots")]
        values["data"].pop("cache_mb")
        result: dict[str, Any] = {"data.root": ", ".join(Path(root).name for root in roots)}
        for group, settings in values.items():
            for key, value in settings.items() if isinstance(settings, dict) else [("", settings)]:
                text = Path(value).name if isinstance(value, str) and os.sep in value else value
                result[f"{group}.{key}".rstrip(".")] = text
        digest = hashlib.sha256()
        for s in self.sampler.sources:
            digest.update(
                f"{s.take}\0{s.query_camera}\0{s.target_camera}\0{s.object}\0{s.frames}\0{sorted(s.visible)}\n".encode(
                    "utf-8", "surrogatepass"
                )
            )
        return result | {
            "train_tracks": len(self.sampler.sources),
            "train_hash": digest.hexdigest()[:16],
            **self.validator.identity(),
        }

    def model_config(self, model: nn.Module) -> dict[str, Any]:
        return model_config(cast(LMEEC, model))

    def model_card(self, model: nn.Module, metrics: Mapping[str, float]) -> str:
        return model_card(cast(LMEEC, model), self.config, metrics)


def _go_on_from(model: LMEEC, source: str) -> None:
    """Give a model the weights of a trained one. Another fusion of the two views than that one's starts afresh.

    Raises:
        ConfigError: weights of other names or shapes.
    """
    start = LMEEC.from_pretrained(source)
    state, own = start.state_dict(), model.state_dict()
    if start.config.fusion != model.config.fusion:
        state = {name: value for name, value in state.items() if not name.startswith("fusion.")}
        state |= {name: value for name, value in own.items() if name.startswith("fusion.")}
    wrong = sorted(n for n in {*state, *own} if n not in state or n not in own or state[n].shape != own[n].shape)
    if wrong:
        raise ConfigError(
            "training cannot begin with a model of another architecture", path=source,
            found=f"{len(wrong)} weights differ, {wrong[0]} among them", fix="Give model the settings of init_from's.",
        )  # fmt: skip
    model.load_state_dict(state)
