"""O-MaMa as a task of the training engine (:mod:`counterview.training.task`)."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from counterview.data.dataset import Dataset, Direction, Take
from counterview.data.digest import annotation_digest
from counterview.data.open import open_dataset, open_datasets
from counterview.data.pairs import FramePair, PairTable, enumerate_pairs, subset
from counterview.errors import ConfigError, InputError
from counterview.features import Backbone
from counterview.omama.config import OMaMaConfig
from counterview.omama.model import OMaMa, OMaMaOutput
from counterview.omama.training.fill_store import fill_store
from counterview.omama.training.image_store import ImageStore
from counterview.omama.training.loss import info_nce, visibility_loss, with_batch_negatives
from counterview.omama.training.recipe import DataConfig, LossConfig, OMaMaRecipe
from counterview.omama.training.samples import Example, collate, make_example
from counterview.omama.training.sheet import match_sheet
from counterview.omama.training.validation import OMaMaValidator, ScoredMatch, summarise
from counterview.types import RgbImage

logger = logging.getLogger(__name__)

CACHE = ".counterview"
"""Folder below a data set for features and proposals, where the recipe names no other."""


class OMaMaTask:
    """Trains O-MaMa on frozen features (paper: Training; ``recipes/omama`` has the published settings).

    :meth:`prepare` computes features and proposals of all images that it needs; without it they are computed at their
    first use.

    Args:
        config: the recipe's keys.
        store: computes and keeps features and proposals; the recipe's if not given.

    Raises:
        InputError: the data set is missing, of the wrong kind, or without pairs.
        ConfigError: settings that do not fit the data or the backbone.
    """

    config_class: ClassVar[type] = OMaMaRecipe
    free_to_change: ClassVar[tuple[str, ...]] = (
        "data.cache", "data.cache_gb", "data.workers", "data.engine", "data.memory_mb"
    )  # fmt: skip
    config: Any

    def __init__(self, config: Any, *, store: ImageStore | None = None) -> None:
        self.config = config
        data, model = config.data, self.omama
        if not model.matching_head:
            raise ConfigError(
                "model.matching_head is false: the k-NN baseline has nothing to train",
                fix="Predict with it: counterview predict knn.",
            )
        self.train_data = open_datasets(data.roots, data.split)
        self.val_data = open_dataset(data.val_root or data.root, data.val_split)
        self.train_pairs = pairs_of(self.train_data, data, data.fraction, data.frame_step)
        if not any(pair.target_visible for _, pair in self.train_pairs):
            raise InputError(
                "there are no training pairs",
                path=data.root,
                found=f"{len(self.train_data)} takes, none with an object that is visible in both cameras",
                fix="Check data.split, data.directions and the masks.",
            )
        self.val_pairs = pairs_of(self.val_data, data, data.val_fraction, data.val_frame_step)
        sampling = config.sampling
        self.store = store or ImageStore(
            model,
            data.cache or Path(data.root) / CACHE,
            order=sampling.order,
            duplicate_iou=sampling.duplicate_iou,
            memory_mb=data.memory_mb,
            backbone=self.initial_backbone(),
            stretch_portrait=data.stretch_portrait,
        )
        _check_channels(self.store, model)
        self._groups = {uid: number for number, uid in enumerate(self.train_data.uids)}
        visible = sum(bool(pair.target_visible) for _, pair in self.train_pairs)
        self.visible_fraction = visible / len(self.train_pairs)
        self.validator = OMaMaValidator(self._validation_store(), self.val_data, self.val_pairs)

    def _validation_store(self) -> ImageStore:
        """The store of validation images, which keep their shape where training's are stretched."""
        if not self.store.stretch_portrait:
            return self.store
        store, data = self.store, self.config.data
        return ImageStore(
            store.config, store.root, order=store.order, duplicate_iou=store.duplicate_iou, memory_mb=data.memory_mb,
            backbone=store.backbone.backbone, proposer=store.proposer.proposer,
        )  # fmt: skip

    def prepare(self, progress: bool = True) -> None:
        """Compute features and proposals of all images of training and validation, unless they are in the cache.

        Args:
            progress: show a bar, and beforehand what it will cost.

        Raises:
            CounterviewError: the cache would be larger than ``data.cache_gb``, or than its disk.
        """
        data = self.config.data
        train = (data.roots, self.train_data, self.train_pairs)
        validation = ((data.val_root or data.root,), self.val_data, self.val_pairs)
        if self.validator.store is self.store:
            self._fill(self.store, (train, validation), progress)
        else:
            self._fill(self.store, (train,), progress)
            self._fill(self.validator.store, (validation,), progress)

    def _fill(
        self,
        store: ImageStore,
        parts: Sequence[tuple[tuple[str, ...], Dataset, Sequence[tuple[Direction, FramePair]]]],
        progress: bool,
    ) -> None:
        """Compute what a store lacks of the images of some pairs; each part has its roots, data set and pairs."""
        images: dict[tuple[tuple[str, ...], str], dict[tuple[str, int], bool]] = {}
        takes: list[tuple[tuple[str, ...], Take]] = []
        for roots, dataset, pairs in parts:
            for _, pair in pairs:
                if (roots, pair.take) not in images:
                    takes.append((roots, dataset.take(pair.take)))
                of_take = images.setdefault((roots, pair.take), {})
                of_take.setdefault((pair.query_camera, pair.frame), self.query_proposals)
                of_take[pair.target_camera, pair.frame] = True
        # Each process of a distributed run begins at another take; what the others have computed is only read.
        rank, world_size = (int(os.environ.get(n, d)) for n, d in (("RANK", "0"), ("WORLD_SIZE", "1")))
        start = len(takes) * rank // world_size
        takes = takes[start:] + takes[:start]
        fill_store(
            store, takes, images, engine=self.config.data.job_engine, limit_gb=self.config.data.cache_gb,
            progress=progress and rank == 0,
        )  # fmt: skip

    # ------------------------------------------------------------------- what a model around O-MaMa overrides

    @property
    def omama(self) -> OMaMaConfig:
        """The configuration of O-MaMa itself."""
        return cast(OMaMaConfig, self.config.model)

    def new_model(self) -> Any:
        """A model with random weights."""
        return OMaMa(self.config.model)

    @property
    def query_proposals(self) -> bool:
        """Whether the proposals of query images are needed too."""
        return False

    def initial_backbone(self) -> Backbone | None:
        """The backbone, where it is not the one that the configuration names."""
        return None

    # ------------------------------------------------------------------------------------------- training

    def build_model(self) -> nn.Module:
        """A model with the weights of ``init`` if given; a visibility head that is not trained is frozen."""
        model = self.new_model()
        if self.config.init is not None:
            start_from(model, self.config.init)
        if self.omama.visibility == "released" or self.config.loss.visibility == 0:
            model.visibility_head.requires_grad_(False)
        return cast(nn.Module, model)

    def parameter_groups(self, model: nn.Module, base_lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """See :func:`split_decay`; one group of all parameters where the recipe says so."""
        if isinstance(self.config, OMaMaRecipe) and self.config.decay == "all":
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            return [{"name": "all", "params": trained, "lr": base_lr, "weight_decay": weight_decay}]
        return split_decay(model, base_lr, weight_decay)

    def train_length(self, epoch: int) -> int:
        """Number of training pairs."""
        return len(self.train_pairs)

    def sample(self, epoch: int, index: int, rng: np.random.Generator) -> Example:
        """One training pair; see :func:`~counterview.omama.training.samples.make_example`."""
        pair = self.train_pairs[index][1]
        take = self.train_data.take(pair.take)
        return make_example(self.store, take, pair, self.config.sampling, rng, self._groups[pair.take])

    def collate(self, samples: Sequence[Example]) -> list[dict[str, Tensor]]:
        """Batches by map grids; see :func:`~counterview.omama.training.samples.collate`."""
        return collate(samples)

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """InfoNCE plus the weighted cross-entropy of visibility, both averaged over the batch's examples."""
        config = self.config.loss
        outputs: list[OMaMaOutput] = [
            model(p["query"], p["candidates"], p["query_map"], p["target_map"], p["candidate_mask"]) for p in batch
        ]
        joined = {name: torch.cat([p[name] for p in batch]) for name in batch[0] if not name.endswith("map")}
        similarity = torch.cat([o.similarity for o in outputs])
        weight = joined["weight"].to(similarity.dtype)
        visible = joined["visible"] & (weight > 0)
        counts = joined["candidate_mask"]
        right = (torch.cat([o.best for o in outputs]) == joined["positive"]) & visible
        overlap = joined["overlap"] if config.graded else None
        if config.batch_negatives:
            queries = torch.cat([o.query_embedding for o in outputs])
            candidates = torch.cat([o.candidate_embeddings for o in outputs])
            similarity, counts = with_batch_negatives(queries, candidates, counts, joined["group"])
            if overlap is not None:
                overlap = nn.functional.pad(overlap, (0, similarity.shape[1] - overlap.shape[1]))
        matching = info_nce(
            similarity,
            joined["positive"],
            visible=visible,
            candidate_mask=counts,
            overlap=overlap,
            temperature=config.temperature,
        ).mean()
        parts = {"matching": matching.detach(), "right": right.float().mean()}
        if self.omama.visibility == "released" or config.visibility == 0:
            return matching, parts
        logits = torch.cat([o.visibility_logit for o in outputs])
        if config.visibility_balance and 0 < self.visible_fraction < 1:
            fraction = torch.where(joined["visible"], self.visible_fraction, 1 - self.visible_fraction)
            weight = weight * 0.5 / fraction.to(weight.dtype)
        visibility = visibility_loss(logits, joined["visible"], weight).mean()
        parts["visibility"] = visibility.detach()
        return matching + config.visibility * visibility, parts

    # ----------------------------------------------------------------------------------------- validation

    def validate(self, model: nn.Module, device: torch.device, rank: int = 0, world_size: int = 1) -> Any:
        """Scored matches of this process's part of the validation pairs, as lists."""
        return [row.to_json() for row in self.validator.rows(cast(Any, model), rank, world_size)]

    def summarise(self, parts: Sequence[Any]) -> dict[str, float]:
        """Metrics over all processes; see :func:`summarise_parts`."""
        return summarise_parts(parts, self.validator.pairs, self.config.data.directions)

    def sample_sheet(self, model: nn.Module, device: torch.device) -> RgbImage | None:
        """A contact sheet of matches; see :func:`~counterview.omama.training.sheet.match_sheet`."""
        return match_sheet(self.validator, cast(Any, model))

    def finish(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Calibrates visibility; see :func:`calibrate`."""
        return calibrate(self.validator, cast(Any, model), self.config.loss)

    # -------------------------------------------------------------------------------------------- identity

    def fingerprint(self) -> dict[str, Any]:
        """Settings of features and proposals, and hashes of the pairs and of their annotation."""
        result: dict[str, Any] = {}
        for group, settings in (
            ("features", self.store.backbone.settings()),
            ("proposals", self.store.proposer.settings()),
        ):
            # A folder of weights may have moved at the next run; its name is enough.
            result |= {f"{group}.{k}": Path(v).name if isinstance(v, str) else v for k, v in settings.items()}
        result |= pairs_fingerprint("train", self.train_pairs)
        result |= pairs_fingerprint("validation", self.val_pairs)
        return result | {
            "train_annotation": annotation_digest(self.train_data, (pair.take for _, pair in self.train_pairs)),
            "validation_annotation": annotation_digest(self.val_data, (pair.take for _, pair in self.val_pairs)),
        }

    def model_config(self, model: nn.Module) -> dict[str, Any]:
        """Content of ``config.json``."""
        return cast(OMaMa, model).header()

    def model_card(self, model: nn.Module, metrics: Mapping[str, float]) -> str:
        """Text of ``README.md``."""
        return cast(OMaMa, model).card(metrics=metrics)


def _check_channels(store: ImageStore, model: OMaMaConfig) -> None:
    """Raise ``ConfigError`` where the store's features have other channels than the model."""
    configured = {"channels": model.channels, "object_channels": model.object_width}
    wrong = {name: width for name, width in store.widths().items() if configured[name] != width}
    if wrong:
        raise ConfigError(
            f"the features {model.backbone!r} have another number of channels than the model",
            found=", ".join(f"model.{name} = {configured[name]}" for name in wrong),
            expected=", ".join(f"{name}: {width}" for name, width in wrong.items()),
        )


def pairs_of(dataset: Dataset, data: DataConfig, fraction: float, step: int) -> list[tuple[Direction, FramePair]]:
    """The pairs of all directions.

    Args:
        dataset: the takes.
        data: names the directions, and which pairs are among them.
        fraction: of the pairs that is drawn, from each direction by itself.
        step: only every ``step``-th frame of each take is used.
    """
    result: list[tuple[Direction, FramePair]] = []
    frames = {take.uid: frozenset(take.frames[::step]) for take in dataset} if step > 1 else {}
    for direction in data.directions:
        table = enumerate_pairs(dataset, direction, targets=data.targets)
        if step > 1:
            table = PairTable.from_pairs(pair for pair in table if pair.frame in frames[pair.take])
        result += [(direction, pair) for pair in subset(table, fraction, data.seed)]
    return result


def start_from(model: nn.Module, folder: str, prefix: str = "", *, rounded: bool = False, optional: str = "-") -> None:
    """Copy weights of a saved model of the same class into a model.

    Args:
        model: with ``from_pretrained``; changed in place.
        folder: the saved model.
        prefix: only weights whose names begin with it are copied.
        rounded: to half precision, in which models ship. Weights that stay frozen then are exactly those that the
            others were trained beside.
        optional: weights whose names begin with it may be missing in the saved model.

    Raises:
        CheckpointError: not a model of that class.
        ConfigError: it is of another architecture.
    """
    saved = cast(Any, type(model)).from_pretrained(folder)
    state = {k: v for k, v in saved.state_dict().items() if k.startswith(prefix)}
    expected = {k: v for k, v in model.state_dict().items() if k.startswith(prefix)}
    wrong = sorted(
        k
        for k in {*state, *expected}
        if (k not in state and not k.startswith(optional))
        or k not in expected
        or (k in state and state[k].shape != expected[k].shape)
    )
    if wrong or not state:
        raise ConfigError(
            "training cannot begin with a model of another architecture", path=folder,
            found=f"{len(wrong)} weights differ, {wrong[0]} among them" if wrong else f"no weights of {prefix!r}",
        )  # fmt: skip
    if rounded:
        state = {k: v.half().to(v.dtype) if v.is_floating_point() else v for k, v in state.items()}
    model.load_state_dict(state, strict=False)


def split_decay(model: nn.Module, base_lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for ``torch.optim``: biases, norms and position embeddings do not decay.

    Args:
        model: its parameters that require a gradient.
        base_lr: peak learning rate of both groups.
        weight_decay: of the others.
    """
    decaying: list[nn.Parameter] = []
    constant: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (constant if parameter.ndim < 2 or "position" in name else decaying).append(parameter)
    groups = [
        {"name": "weights", "params": decaying, "lr": base_lr, "weight_decay": weight_decay},
        {"name": "biases, norms, positions", "params": constant, "lr": base_lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def summarise_parts(
    parts: Sequence[Any], pairs: Sequence[tuple[Direction, FramePair]], directions: Sequence[Direction]
) -> dict[str, float]:
    """Metrics of the scored matches of all processes; of each direction too where there are two.

    Args:
        parts: for each process the lists of :meth:`~counterview.omama.training.validation.ScoredMatch.to_json`.
        pairs: of the validation.
        directions: that the recipe names.
    """
    rows = sorted((ScoredMatch.from_json(r) for part in parts for r in part), key=lambda row: row.number)
    metrics = summarise(rows)
    if len(directions) > 1:
        scored_pairs = [(d, p) for d, p in pairs if p.target_visible is not None]
        for direction in directions:
            of_direction = summarise([row for row in rows if scored_pairs[row.number][0] == direction])
            metrics |= {f"{name}_{direction}": value for name, value in of_direction.items() if name != "pairs"}
    return metrics


def calibrate(validator: OMaMaValidator, model: Any, config: LossConfig) -> dict[str, float]:
    """Fit the calibration of a model's visibility to validation data, in place.

    Args:
        validator: of the validation pairs.
        model: with ``calibration`` and ``match``, in evaluation mode.
        config: the kind of calibration; a visibility weight of 0 means none.

    Returns:
        Scale and offset for the log; empty where nothing was fitted.
    """
    calibration = model.calibration
    if calibration is None or config.visibility == 0 or config.calibration == "none":
        return {}
    rows = [row for row in validator.rows(model) if row.logit is not None]
    visible = np.array([row.visible for row in rows], dtype=bool)
    if len(set(visible.tolist())) < 2:
        logger.warning("visibility is not calibrated: validation needs visible and absent objects")
        return {}
    calibration.fit(np.array([row.logit for row in rows]), visible, kind=config.calibration, prior=config.prior)
    return {"calibration_scale": float(calibration.scale), "calibration_offset": float(calibration.offset)}


def pairs_fingerprint(name: str, pairs: Sequence[tuple[Direction, FramePair]], extra: str = "") -> dict[str, Any]:
    """Number and hash of pairs, in their order.

    Args:
        name: the keys are ``{name}_pairs`` and ``{name}_hash``.
        pairs: to be hashed.
        extra: further text to be hashed.
    """
    digest = hashlib.sha256(extra.encode("utf-8", "surrogatepass"))
    for direction, pair in pairs:
        digest.update(f"{direction}\0{pair.key}\0{pair.target_visible}\n".encode("utf-8", "surrogatepass"))
    return {f"{name}_pairs": len(pairs), f"{name}_hash": digest.hexdigest()[:16]}
