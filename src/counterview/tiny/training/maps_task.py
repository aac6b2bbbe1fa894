"""Training of the maps of ``tiny-match`` end to end with its head, as a task of the training engine. Ours.

In the paper the backbone is frozen. Here a sample is one moment in several cameras, each through its own augmented crop
(:mod:`counterview.tiny.training.image_crops`); every ordered pair of them is a pair of query and target image, and
candidates of the batch's other takes are negatives too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from counterview.config import out_of_range
from counterview.data.dataset import Dataset, Take
from counterview.data.open import open_datasets
from counterview.errors import ConfigError, InputError
from counterview.features.tiny_pooling import TinyMaps
from counterview.omama.training.loss import info_nce, visibility_loss
from counterview.omama.training.recipe import DataConfig, LossConfig, SamplingConfig
from counterview.omama.training.task import CACHE, calibrate, pairs_fingerprint, start_from
from counterview.proposals import CachedProposer, load_proposer
from counterview.proposals.base import image_proposals
from counterview.tiny.config import TinyMatchConfig
from counterview.tiny.model import TinyMatch
from counterview.tiny.training.backbone_task import BackboneTask, draw_cameras, objects_in
from counterview.tiny.training.crop_batches import collate_crops, describe_crops
from counterview.tiny.training.image_crops import BoolArray, Crop, CropConfig, draw_crop


@dataclass(frozen=True)
class EndToEndConfig:
    """Settings of training end to end.

    Raises:
        ConfigError: a value out of range; all problems at once.
    """

    views: int = field(default=3, metadata={"help": "cameras of a sample, one of them ego; 2 or more"})
    passes: int = field(default=1, metadata={"help": "passes of an epoch through all moments"})
    proposals: bool = field(
        default=False, metadata={"help": "real proposals as distractors, computed once; false: made-up ones"}
    )
    descriptor_loss: float = field(
        default=1.0,
        metadata={"help": "weight of the loss on object descriptors alone, without the head", "formerly": ("direct",)},
    )
    descriptor_temperature: float = field(
        default=0.1, metadata={"help": "its temperature", "formerly": ("direct_temperature",)}
    )
    credit_power: float = field(default=2.0, metadata={"help": "power of the IoU by which a candidate counts as right"})
    absent_weight: float = field(default=2.0, metadata={"help": "weight of absent objects in the visibility loss"})
    init: str | None = field(default=None, metadata={"help": "folder of a model whose weights training begins with"})
    image_mb: int = field(
        default=3000, metadata={"help": "decoded images kept in memory, per process", "formerly": ("picture_mb",)}
    )

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "views", at_least=2),
            *out_of_range(self, "passes", at_least=1),
            *out_of_range(self, "descriptor_temperature", above=0),
            *out_of_range(self, "credit_power", "absent_weight", "descriptor_loss", at_least=0, below=100),
        ]
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class MapsRecipe:
    """The keys of a recipe beside ``method`` and ``training``.

    Raises:
        ConfigError: no network to train, or a setting of the loss that would change nothing.
    """

    data: DataConfig
    model: TinyMatchConfig
    end_to_end: EndToEndConfig = field(default_factory=EndToEndConfig)
    crops: CropConfig = field(default_factory=CropConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        if self.model.network is None:
            raise ConfigError("model.network is not given: there is nothing to train end to end")
        # Candidates are always graded, the descriptor loss has the other takes, absent objects have their weight.
        unused = [n for n, d in (("graded", False), ("batch_negatives", False), ("visibility_balance", True))
                  if getattr(self.loss, n) != d]  # fmt: skip
        if unused:
            raise ConfigError(
                f"loss.{' and loss.'.join(unused)} changes nothing in end-to-end training", fix="Leave it out."
            )


@dataclass(frozen=True)
class Moment:
    """A frame of a take, and the cameras that show an object in it."""

    take: str
    frame: int
    cameras: tuple[str, ...]


class MapsTask(BackboneTask):
    """Trains network and head of a ``tiny-match`` together.

    Args:
        config: the recipe's keys.

    Raises:
        InputError: the data set is missing, of the wrong kind, or no moment has two cameras with an object in common.
        ConfigError: settings that do not go together.
    """

    config_class: ClassVar[type] = MapsRecipe
    config: MapsRecipe
    free_to_change: ClassVar[tuple[str, ...]] = ("data.cache", "data.memory_mb", "end_to_end.image_mb")

    def __init__(self, config: MapsRecipe) -> None:
        data = config.data
        self.train_data = open_datasets(data.roots, data.split)
        self.moments = list(moments(self.train_data, data.frame_step))
        if not self.moments:
            raise InputError(
                "there is nothing to train on",
                path=data.root,
                found=f"{len(self.train_data)} takes, no frame with one object in two cameras",
                fix="Check data.split and the masks.",
            )
        cache = Path(data.cache or Path(data.root) / CACHE)
        proposer = load_proposer(config.model.omama.proposer, **config.model.omama.proposer_settings)
        super().__init__(config, CachedProposer(proposer, cache / "proposals"), config.sampling)
        self._groups = {uid: number for number, uid in enumerate(self.train_data.uids)}

    # ------------------------------------------------------------------------------------------- training

    def build_model(self) -> nn.Module:
        """A model, with the weights of ``init`` if given."""
        model = TinyMatch(self.config.model)
        if self.config.end_to_end.init is not None:
            start_from(model, self.config.end_to_end.init)
        return model.train()

    def train_length(self, epoch: int) -> int:
        """Number of moments, times the passes of an epoch."""
        return len(self.moments) * self.config.end_to_end.passes

    def sample(self, epoch: int, index: int, rng: np.random.Generator) -> tuple[int, list[Crop]]:
        """Number of a take, and crops of one of its moments in several cameras."""
        moment = self.moments[index % len(self.moments)]
        take = self.train_data.take(moment.take)
        cameras = draw_cameras(take, moment.cameras, self.config.end_to_end.views, rng)
        mirrored = bool(rng.random() < self.config.crops.flip)
        views = [self._view(take, camera, moment.frame) for camera in cameras]
        common = [name for name in views[0][1] if any(name in view[1] for view in views[1:])]
        anchor = common[int(rng.integers(len(common)))] if common else None
        crops = []
        for image, masks, absent, proposals in views:
            dense = {name: mask.to_array() for name, mask in masks.items()}
            chosen: list[BoolArray] = []
            if proposals:
                order = rng.permutation(len(proposals))[: 3 * self.config.crops.distractors]
                chosen = [proposals[i].to_array() for i in order]
            crops.append(draw_crop(self.config.crops, image, dense, absent, chosen, mirrored, rng, anchor))
        return self._groups[moment.take], crops

    def _view(self, take: Take, camera: str, frame: int) -> tuple[Any, ...]:
        """Image ``(H, W, 3)``, masks by name, names of absent objects, proposals."""
        key = (take.uid, camera, frame)
        if key in self._memory:
            return cast(tuple[Any, ...], self._memory[key])
        image = take.frame(camera, frame)
        masks, absent = objects_in(take, camera, frame, image)
        proposals: Sequence[Any] = ()
        if self.config.end_to_end.proposals:
            proposals = image_proposals(self.proposer, image, take.uid, camera, frame).masks
        view = (image, masks, frozenset(absent), proposals)
        nbytes = image.nbytes + 4000 * (len(masks) + len(proposals))
        self._remember(key, view, nbytes, self.config.end_to_end.image_mb)
        return view

    def collate(self, samples: Sequence[tuple[int, list[Crop]]]) -> dict[str, Any]:
        """See :func:`~counterview.tiny.training.crop_batches.collate_crops`."""
        return collate_crops(samples)

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Graded InfoNCE, the descriptor loss, and the cross-entropy of visibility."""
        model = cast(TinyMatch, model)
        maps = model.network(batch["pixels"].float() / 255)
        with torch.autocast(batch["pixels"].device.type, enabled=False):
            return self._head_loss(model, maps, batch)

    def _head_loss(self, model: TinyMatch, maps: TinyMaps, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        config, loss = self.config.end_to_end, self.config.loss
        maps = TinyMaps(maps.colours.float(), maps.fine.float(), maps.map.float())
        masks = [crop_masks.cpu().numpy() for crop_masks in batch["masks"]]
        descriptors = describe_crops(model.network, maps, masks, model.config.omama.descriptor.context_px)
        query_crop, target_crop = batch["pairs"].unbind(1)
        rows = batch["query"][..., None].expand(-1, -1, descriptors.shape[-1])
        output = model(
            descriptors[query_crop].gather(1, rows),
            descriptors[target_crop],
            maps.map[query_crop],
            maps.map[target_crop],
            batch["candidates"][target_crop],
            keep_queries=True,
        )
        pairs, queries, candidates = output.similarity.shape
        similarity = output.similarity.reshape(pairs * queries, candidates)
        counts = batch["candidates"][target_crop][:, None].expand(-1, queries, -1).reshape(similarity.shape)
        overlap = batch["overlap"].reshape(similarity.shape) ** config.credit_power
        weight, mean_weight = batch["weight"].flatten(), batch["mean_weight"].flatten()
        visible = batch["visible"].flatten() & (weight > 0)
        positive = batch["positive"].flatten()
        matching = info_nce(
            similarity, positive, visible=visible, candidate_mask=counts, overlap=overlap, temperature=loss.temperature
        )
        matching = (matching * mean_weight).sum()
        descriptor = matching.new_zeros(())
        if config.descriptor_loss > 0:
            descriptor = (self._descriptor_loss(descriptors, batch) * mean_weight).sum()
        right = ((similarity.argmax(1) == positive) & visible).float().sum() / visible.float().sum().clamp(min=1)
        class_weight = torch.where(batch["visible"].flatten(), 1.0, config.absent_weight)
        visibility = visibility_loss(
            output.visibility_logit.flatten(), batch["visible"].flatten(), class_weight * weight
        )
        visibility = (visibility * mean_weight).sum()
        parts = {"matching": matching, "descriptor": descriptor, "visibility": visibility, "right": right}
        total = matching + config.descriptor_loss * descriptor + loss.visibility * visibility
        return total, {name: value.detach() for name, value in parts.items()}

    def _descriptor_loss(self, descriptors: Tensor, batch: Any) -> Tensor:
        """InfoNCE on the cosines of object descriptors alone, with the candidates of the batch's other takes.

        It trains the network to distinguish objects. The head has no part in it: from context and attention it would
        learn to distinguish takes, and nothing about the objects of one image.

        Args:
            descriptors: ``(crops, N, D + C)`` of all candidates.
            batch: of :func:`~counterview.tiny.training.crop_batches.collate_crops`.

        Returns:
            ``(P * Q,)``.
        """
        query_crop, target_crop = batch["pairs"].unbind(1)
        objects = nn.functional.normalize(descriptors[..., : self.config.model.omama.object_width], dim=-1)
        rows = batch["query"][..., None].expand(-1, -1, objects.shape[-1])
        queries = objects[query_crop].gather(1, rows)
        pair_count, query_count = batch["query"].shape
        similarity = torch.einsum("pqd,cnd->pqcn", queries, objects)
        crops = torch.arange(len(objects), device=objects.device)
        is_target_crop = (crops[None] == target_crop[:, None])[:, None, :, None]
        is_other_take = (batch["crop_group"][None] != batch["group"][:, None])[:, None, :, None]
        # A mask that covers part of the object is neither right nor wrong here.
        is_clear = batch["overlap"] < 0.3
        is_clear.scatter_(2, batch["positive"][..., None], True)
        counts = batch["candidates"][None, None] & (is_other_take | (is_target_crop & is_clear[:, :, None]))
        positive = target_crop[:, None] * objects.shape[1] + batch["positive"]
        return info_nce(
            similarity.reshape(pair_count * query_count, -1),
            positive.flatten(),
            visible=batch["visible"].flatten() & (batch["weight"].flatten() > 0),
            candidate_mask=counts.expand(pair_count, query_count, -1, -1).reshape(pair_count * query_count, -1),
            temperature=self.config.end_to_end.descriptor_temperature,
        )

    def finish(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Calibrates visibility; see :func:`counterview.omama.training.task.calibrate`."""
        model = cast(TinyMatch, model)
        return calibrate(self._validate_with(model, device), model, self.config.loss)

    # -------------------------------------------------------------------------------------------- identity

    def fingerprint(self) -> dict[str, Any]:
        """Settings of the proposals, and hashes of moments and validation pairs."""
        result: dict[str, Any] = {f"proposals.{k}": v for k, v in self.proposer.settings().items()}
        moments_text = "\n".join(f"{m.take}\0{m.frame}\0{','.join(m.cameras)}" for m in self.moments)
        return result | {
            "moments": len(self.moments),
            **pairs_fingerprint("validation", self.val_pairs),
            **pairs_fingerprint("train", [], extra=moments_text),
        }


def moments(dataset: Dataset, step: int = 1) -> Iterator[Moment]:
    """All moments in which two cameras show the same object.

    Args:
        dataset: the takes.
        step: only every ``step``-th frame of each take is used.
    """
    for take in dataset:
        for frame in take.frames[::step]:
            # For each camera, the number of cameras that show one of its objects, at most.
            camera_counts: dict[str, int] = {}
            for name in take.objects:
                showing = [c for c, frames in take.raw_masks[name].items() if frame in frames]
                for camera in showing:
                    camera_counts[camera] = max(camera_counts.get(camera, 0), len(showing))
            cameras = tuple(c for c in take.cameras if c in camera_counts and take.has_frame(c, frame))
            if len(cameras) >= 2 and max(camera_counts.values()) >= 2:
                yield Moment(take.uid, frame, cameras)
