"""tiny-window as a task of the training engine: objects in windows, in places as wrong as a matcher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from counterview.data.clips import ClipSource, clip_sources
from counterview.data.dataset import Dataset
from counterview.data.digest import annotation_digest
from counterview.data.open import open_dataset, open_datasets
from counterview.data.pairs import shuffled_index
from counterview.errors import InputError
from counterview.lmeec.model import LMEEC
from counterview.lmeec.sam2_parts import ImageFeatures
from counterview.lmeec.training.calibration import fit_visibility
from counterview.lmeec.training.task import LMEECTask, recipe_values, sources_hash
from counterview.lmeec.training.unroll import ClipBatch
from counterview.nn.checkpoint import is_checkpoint
from counterview.tiny.appearance import FineMaps
from counterview.tiny.training.follow_loss import matched_features, matching_losses
from counterview.tiny.training.window_recipe import TinyWindowRecipe
from counterview.tiny.training.window_samples import WindowBatch, WindowReader, WindowSample, collate_windows
from counterview.tiny.training.window_validation import WindowScore, WindowValidator, summarise_windows
from counterview.tiny.window import TinyWindow
from counterview.tiny.window_initial import initialise_window
from counterview.types import RgbImage


class TinyWindowTask(LMEECTask):
    """Trains tiny-window.

    Args:
        config: the recipe's keys.

    Raises:
        InputError: a data set is missing, of the wrong kind, or without an object in two cameras.
    """

    config_class: ClassVar[type] = TinyWindowRecipe
    model_class: ClassVar[type[LMEEC]] = TinyWindow
    free_to_change: ClassVar[tuple[str, ...]] = ("data.cache_mb",)
    config: Any  # a TinyWindowRecipe, whose data are not LM-EEC's

    def __init__(self, config: TinyWindowRecipe) -> None:
        self.config = config
        data, size = config.data, config.model.image_size
        self.train_data = open_datasets(data.roots, data.split)
        self.val_data = open_dataset(data.val_root or data.root, data.val_split)
        self.sources = self._sources(self.train_data, "annotated" if data.absent else "visible")
        if not self.sources:
            raise InputError(
                "there is nothing to train on",
                path=data.root,
                found=f"{len(self.train_data)} takes, in none of which an object is in both cameras",
                fix="Check data.split, data.directions and the masks.",
            )
        self.window_reader = WindowReader(self.train_data, self.sources, size, config.windows, data.cache_mb)
        self.window_validator = WindowValidator(
            self.val_data, self._sources(self.val_data, "annotated"), size, config.windows, data.val_questions
        )

    def _sources(self, dataset: Dataset, targets: Any) -> list[ClipSource]:
        return [
            source
            for direction in self.config.data.directions
            for source in clip_sources(dataset, direction, length=1, targets=targets)
        ]

    # ------------------------------------------------------------------------------------------- training

    def new_model(self) -> LMEEC:
        """The model of the recipe with its first weights, before those of ``init_from`` are loaded."""
        model = TinyWindow(self.config.model)
        if self.config.init_from is not None and not is_checkpoint(self.config.init_from):
            raise InputError("init_from is not a model's folder", path=self.config.init_from)
        initialise_window(model)
        return model

    def train_length(self, epoch: int) -> int:
        """As :meth:`counterview.training.task.Task.train_length`."""
        data = self.config.data
        return int(data.clips_per_epoch or len(self.sources) * data.clips_per_track)

    def sample(self, epoch: int, index: int, rng: np.random.Generator) -> WindowSample:  # type: ignore[override]
        """As :meth:`counterview.training.task.Task.sample`."""
        number = epoch * self.train_length(epoch) + index  # epochs may be shorter than the list of sources
        source = self.sources[shuffled_index(len(self.sources), 0, 0, number)]
        return self.window_reader.read(source, self.config.data.clip_frames, rng)

    def collate(self, samples: Sequence[WindowSample]) -> WindowBatch:  # type: ignore[override]
        """As :meth:`counterview.training.task.Task.collate`."""
        return collate_windows(samples)

    def frame_losses(self, model: LMEEC, batch: ClipBatch) -> dict[str, Tensor]:
        """As :meth:`counterview.training.task.Task.frame_losses`."""
        features: list[tuple[FineMaps, FineMaps]] = []

        def watch(query: ImageFeatures, target: ImageFeatures) -> None:
            features.append((matched_features(query), matched_features(target)))

        weight = self.config.loss.match
        values = self.decoder_losses(model, batch, watch if weight else None)
        if weight:
            losses = [
                matching_losses(query, batch.query_masks[:, t], target, batch.target_masks[:, t] > 0.5)
                for t, (query, target) in enumerate(features)
            ]
            values["match"] = torch.stack(losses)
        return values

    # ----------------------------------------------------------------------------------------- validation

    def validate(self, model: nn.Module, device: torch.device, rank: int = 0, world_size: int = 1) -> Any:
        """As :meth:`counterview.training.task.Task.validate`."""
        scores = self.window_validator.scores(cast(TinyWindow, model), device, rank, world_size)
        return [score.to_json() for score in scores]

    def summarise(self, shares: Sequence[Any]) -> dict[str, float]:
        """As :meth:`counterview.training.task.Task.summarise`."""
        return summarise_windows([WindowScore.from_json(values) for share in shares for values in share])

    def sample_sheet(self, model: nn.Module, device: torch.device) -> RgbImage | None:
        """As :meth:`counterview.training.task.Task.sample_sheet`."""
        return self.window_validator.sheet(cast(TinyWindow, model), device)

    def finish(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """As :meth:`counterview.training.task.Task.finish`."""
        prior = self.config.loss.calibration
        if prior == "none":
            return {}
        scores = [
            score for score in self.window_validator.scores(cast(TinyWindow, model), device) if not score.true_place
        ]
        return fit_visibility(
            cast(LMEEC, model),
            np.array([score.score for score in scores], dtype=np.float64),
            np.array([score.visible for score in scores], dtype=bool),
            balanced=prior == "balanced",
        )

    # ------------------------------------------------------------------------------------------- identity

    def fingerprint(self) -> dict[str, Any]:
        """As :meth:`counterview.training.task.Task.fingerprint`."""
        return recipe_values(self.config) | {
            "train_tracks": len(self.sources),
            "train_hash": sources_hash(self.sources),
            **self.window_validator.identity(),
            "train_annotation": annotation_digest(self.train_data, (s.take for s in self.sources)),
            "validation_annotation": annotation_digest(
                self.val_data, (q.take for q in self.window_validator.questions)
            ),
        }
