"""tiny-follow as a task of the training engine: LM-EEC's, from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from counterview.data.clips import ClipSampler
from counterview.lmeec.model import LMEEC
from counterview.lmeec.sam2_parts import ImageFeatures
from counterview.lmeec.training.loss import FrameLoss
from counterview.lmeec.training.samples import ClipSample, collate
from counterview.lmeec.training.task import LMEECTask
from counterview.lmeec.training.unroll import ClipBatch, encode_frames, frame_rows
from counterview.nn.checkpoint import is_checkpoint
from counterview.tiny.appearance import FineMaps
from counterview.tiny.follow import TinyFollow
from counterview.tiny.initial import initialise
from counterview.tiny.training.follow_loss import matched_features, matching_losses
from counterview.tiny.training.follow_recipe import TinyFollowRecipe


@dataclass(frozen=True)
class FollowSample(ClipSample):
    """One clip.

    Attributes:
        decode: false where only the features of both views are to be matched.
    """

    decode: bool = True


@dataclass
class FollowBatch(ClipBatch):
    """B clips of T frames with N tracks in all.

    Attributes:
        decode: ``()`` bool; false where only the features of both views are to be matched, and no mask decoded.
    """

    decode: Tensor = field(default_factory=lambda: torch.tensor(True))


class TinyFollowTask(LMEECTask):
    """Trains tiny-follow on clips of two cameras.

    The first epochs may match features alone, the next ones show single frames, the rest clips.

    Args:
        config: the recipe's keys.

    Raises:
        InputError: the data set is missing, of the wrong kind, or without clips of that length.
    """

    config_class: ClassVar[type] = TinyFollowRecipe
    model_class: ClassVar[type[LMEEC]] = TinyFollow
    config: TinyFollowRecipe

    def __init__(self, config: TinyFollowRecipe) -> None:
        super().__init__(config)
        self.frame_sampler = ClipSampler(
            self.sampler.sources,
            length=1,
            max_objects=config.data.max_objects,
            clips_per_source=config.data.clips_per_track,
        )

    def new_model(self) -> LMEEC:
        """The model of the recipe with its first weights, before those of ``init_from`` are loaded."""
        model = TinyFollow(self.config.model)
        if self.config.init_from is None or is_checkpoint(self.config.init_from):
            initialise(model)  # weights of SAM 2.1 would replace nearly all of it
        return model

    def train_length(self, epoch: int) -> int:
        """As :meth:`counterview.training.task.Task.train_length`."""
        data = self.config.data
        return super().train_length(epoch) * (data.match_times if epoch < data.match_epochs else 1)

    def sample(self, epoch: int, index: int, rng: np.random.Generator) -> FollowSample:
        """As :meth:`counterview.training.task.Task.sample`."""
        data = self.config.data
        sampler = self.frame_sampler if epoch < max(data.short_epochs, data.match_epochs) else self.sampler
        sample = self.reader.read(sampler.clip(epoch, index), rng)
        return FollowSample(**vars(sample), decode=epoch >= data.match_epochs)

    def collate(self, samples: Sequence[ClipSample]) -> FollowBatch:
        """As :meth:`counterview.training.task.Task.collate`."""
        decode = all(cast(FollowSample, sample).decode for sample in samples)
        return FollowBatch(**vars(collate(samples)), decode=torch.tensor(decode))

    def frame_losses(self, model: LMEEC, batch: ClipBatch) -> dict[str, Tensor]:
        """As :meth:`counterview.training.task.Task.frame_losses`."""
        features: list[tuple[FineMaps, FineMaps]] = []

        def watch(query: ImageFeatures, target: ImageFeatures) -> None:
            features.append((matched_features(query), matched_features(target)))

        weight, frames = self.config.loss.match, batch.query_images.shape[1]
        if bool(cast(FollowBatch, batch).decode):
            values = self.decoder_losses(model, batch, watch if weight else None)
        else:
            query, target = (
                matched_features(encode_frames(model, images)) for images in (batch.query_images, batch.target_images)
            )
            for t in range(frames):
                rows = frame_rows(batch, t)
                features.append((query.pick(rows), target.pick(rows)))
            nothing = torch.zeros(frames, len(batch.clip_of), device=batch.clip_of.device)
            values = dict.fromkeys(FrameLoss.__dataclass_fields__, nothing)
        if weight:
            losses = [
                matching_losses(query, batch.query_masks[:, t], target, batch.target_masks[:, t])
                for t, (query, target) in enumerate(features)
            ]
            values["match"] = torch.stack(losses)
        return values
