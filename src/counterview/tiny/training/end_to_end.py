"""O-MaMa with a small backbone of its own, both trained together, as a task of the training engine.

Beyond the paper, whose backbone is frozen: all cameras of a moment are looked at together, each through a crop of its
own (:mod:`counterview.tiny.training.image_crops`), every ordered pair of them is a pair of query and target image, and
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
from counterview.features.tiny import TinyMaps
from counterview.omama.training.loss import info_nce, visibility_loss
from counterview.omama.training.recipe import DataConfig, LossConfig, SamplingConfig
from counterview.omama.training.task import (
    CACHE,
    calibrate,
    pairs_fingerprint,
    start_from,
)
from counterview.proposals import CachedProposer, load_proposer
from counterview.tiny.config import TinyMatchConfig
from counterview.tiny.model import TinyMatch
from counterview.tiny.training.backbone_task import BackboneTask, draw_cameras, objects_in
from counterview.tiny.training.crop_batches import collate_crops, describe_crops
from counterview.tiny.training.image_crops import BoolArray, Crop, CropConfig, draw_crop


@dataclass(frozen=True)
class EndToEndConfig:
    """What is particular to training end to end."""

    views: int = field(default=3, metadata={"help": "cameras of a sample, one of them ego; 2 or more"})
    passes: int = field(default=1, metadata={"help": "how often an epoch goes through all moments"})
    proposals: bool = field(
        default=False, metadata={"help": "real proposals as distractors, made once; false: made-up ones"}
    )
    descriptor_loss: float = field(
        default=1.0,
        metadata={"help": "weight of the loss on object descriptors alone, without the head", "formerly": ("direct",)},
    )
    descriptor_temperature: float = field(
        default=0.1, metadata={"help": "its temperature", "formerly": ("direct_temperature",)}
    )
    credit_power: float = field(default=2.0, metadata={"help": "power of the IoU by which a candidate is right"})
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
class EndToEndRecipe:
    """The keys of a recipe beside ``method`` and ``training``."""

    data: DataConfig
    model: TinyMatchConfig
    end_to_end: EndToEndConfig = field(default_factory=EndToEndConfig)
    crops: CropConfig = field(default_factory=CropConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        if self.model.network is None:
            raise ConfigError("model.network is not given: there is nothing to train end to end")
        # Its candidates are always graded, its own loss has the other takes, and absent objects have their weight.
        idle = [n for n, d in (("graded", False), ("batch_negatives", False), ("visibility_balance", True))
                if getattr(self.loss, n) != d]  # fmt: skip
        if idle:
            raise ConfigError(
                f"loss.{' and loss.'.join(idle)} changes nothing in end-to-end training", fix="Leave it out."
            )


@dataclass(frozen=True)
class Moment:
    """A frame of a take with the cameras that show something in it."""

    take: str
    frame: int
    cameras: tuple[str, ...]


class EndToEndTask(BackboneTask):
    """Trains backbone and head together.

    Args:
        config: the recipe's keys.

    Raises:
        InputError: the data set is missing, of the wrong kind, or no moment has two cameras with an object in common.
        ConfigError: settings that do not go together.
    """

    config_class: ClassVar[type] = EndToEndRecipe
    config: EndToEndRecipe
    free_to_change: ClassVar[tuple[str, ...]] = ("data.cache", "data.memory_mb", "end_to_end.image_mb")

    def __init__(self, config: EndToEndRecipe) -> None:
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
        """See :class:`counterview.training.task.Task`, as for all below."""
        model = TinyMatch(self.config.model)
        if self.config.end_to_end.init is not None:
            start_from(model, self.config.end_to_end.init)
        return model.train()

    def train_length(self, epoch: int) -> int:
        return len(self.moments) * self.config.end_to_end.passes

    def sample(self, epoch: int, index: int, rng: np.random.Generator) -> tuple[int, list[Crop]]:
        moment = self.moments[index % len(self.moments)]
        take = self.train_data.take(moment.take)
        cameras = draw_cameras(take, moment.cameras, self.config.end_to_end.views, rng)
        mirrored = bool(rng.random() < self.config.crops.flip)
        seen = [self._view(take, camera, moment.frame) for camera in cameras]
        common = [name for name in seen[0][1] if any(name in view[1] for view in seen[1:])]
        anchor = common[int(rng.integers(len(common)))] if common else None
        crops = []
        for image, masks, absent, proposals in seen:
            dense = {name: mask.to_array() for name, mask in masks.items()}
            chosen: list[BoolArray] = []
            if proposals:
                order = rng.permutation(len(proposals))[: 3 * self.config.crops.distractors]
                chosen = [proposals[i].to_array() for i in order]
            crops.append(draw_crop(self.config.crops, image, dense, absent, chosen, mirrored, rng, anchor))
        return self._groups[moment.take], crops

    def _view(self, take: Take, camera: str, frame: int) -> tuple[Any, ...]:
        """Image, masks, names of absent objects, proposals."""
        key = (take.uid, camera, frame)
        if key in self._kept:
            return cast(tuple[Any, ...], self._kept[key])
        image = take.frame(camera, frame)
        masks, absent = objects_in(take, camera, frame, image)
        proposals = self.proposer(image, str(frame)).masks if self.config.end_to_end.proposals else ()
        value = (image, masks, frozenset(absent), proposals)
        size = image.nbytes + 4000 * (len(masks) + len(proposals))
        self._keep(key, value, size, self.config.end_to_end.image_mb)
        return value

    def collate(self, samples: Sequence[tuple[int, list[Crop]]]) -> dict[str, Any]:
        return collate_crops(samples)

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        model = cast(TinyMatch, model)
        maps = model.network(batch["pixels"].float() / 255)
        with torch.autocast(batch["pixels"].device.type, enabled=False):
            return self._head_loss(model, maps, batch)

    def _head_loss(self, model: TinyMatch, maps: TinyMaps, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        config, loss = self.config.end_to_end, self.config.loss
        maps = TinyMaps(maps.colours.float(), maps.fine.float(), maps.map.float())
        points = [part.cpu().numpy() for part in batch["points"]]
        table = describe_crops(model.network, maps, points, model.config.omama.descriptor.context_px)
        query_of, target_of = batch["pairs"].unbind(1)
        rows = batch["query"][..., None].expand(-1, -1, table.shape[-1])
        out = model(
            table[query_of].gather(1, rows),
            table[target_of],
            maps.map[query_of],
            maps.map[target_of],
            batch["candidates"][target_of],
            keep_queries=True,
        )
        number, queries, candidates = out.similarity.shape
        own = out.similarity.reshape(number * queries, candidates)
        counts = batch["candidates"][target_of][:, None].expand(-1, queries, -1).reshape(own.shape)
        overlap = batch["overlap"].reshape(own.shape) ** config.credit_power
        weight = batch["weight"].flatten()
        seen = batch["visible"].flatten() & (weight > 0)
        positive = batch["positive"].flatten()
        each = info_nce(
            own, positive, visible=seen, candidate_mask=counts, overlap=overlap, temperature=loss.temperature
        )
        share = batch["share"].flatten()  # a sample counts as one, however many objects it has
        matching = (each * share).sum()
        descriptor = matching.new_zeros(())
        if config.descriptor_loss > 0:
            descriptor = (self._descriptor_loss(table, batch) * share).sum()
        right = ((own.argmax(1) == positive) & seen).float().sum() / seen.float().sum().clamp(min=1)
        absent = torch.where(batch["visible"].flatten(), 1.0, config.absent_weight)
        visibility = (
            visibility_loss(out.visibility_logit.flatten(), batch["visible"].flatten(), absent * weight) * share
        ).sum()
        parts = {"matching": matching, "descriptor": descriptor, "visibility": visibility, "right": right}
        total = matching + config.descriptor_loss * descriptor + loss.visibility * visibility
        return total, {name: value.detach() for name, value in parts.items()}

    def _descriptor_loss(self, table: Tensor, batch: Any) -> Tensor:
        """InfoNCE on the cosines of object descriptors alone, with the candidates of the batch's other takes.

        It teaches the backbone what tells objects apart. The head is kept out of it: from context and attention it
        would learn to tell takes apart, and nothing about the objects of one image.
        """
        query_of, target_of = batch["pairs"].unbind(1)
        objects = nn.functional.normalize(table[..., : self.config.model.omama.object_width], dim=-1)
        rows = batch["query"][..., None].expand(-1, -1, objects.shape[-1])
        queries = objects[query_of].gather(1, rows)
        number, most = batch["query"].shape
        candidates = objects.shape[1]
        similarity = torch.einsum("pqd,cnd->pqcn", queries, objects)
        crops = torch.arange(len(objects), device=objects.device)
        own = (crops[None] == target_of[:, None])[:, None, :, None]
        foreign = (batch["crop_group"][None] != batch["group"][:, None])[:, None, :, None]
        # A mask that covers part of the object is neither right nor wrong here.
        clear = batch["overlap"] < 0.3
        clear.scatter_(2, batch["positive"][..., None], True)
        counts = batch["candidates"][None, None] & (foreign | (own & clear[:, :, None]))
        positive = target_of[:, None] * candidates + batch["positive"]
        return info_nce(
            similarity.reshape(number * most, -1),
            positive.flatten(),
            visible=batch["visible"].flatten() & (batch["weight"].flatten() > 0),
            candidate_mask=counts.expand(number, most, -1, -1).reshape(number * most, -1),
            temperature=self.config.end_to_end.descriptor_temperature,
        )

    def finish(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        model = cast(TinyMatch, model)
        return calibrate(self._validate_with(model, device), model, self.config.loss)

    # -------------------------------------------------------------------------------------------- identity

    def fingerprint(self) -> dict[str, Any]:
        result: dict[str, Any] = {f"proposals.{k}": v for k, v in self.proposer.settings().items()}
        moments_text = "\n".join(f"{m.take}\0{m.frame}\0{','.join(m.cameras)}" for m in self.moments)
        return result | {
            "moments": len(self.moments),
            **pairs_fingerprint("validation", self.val_pairs),
            **pairs_fingerprint("train", [], extra=moments_text),
        }


def moments(dataset: Dataset, step: int = 1) -> Iterator[Moment]:
    """All frames in which some object is seen by two cameras, every ``step``-th of a take."""
    for take in dataset:
        for frame in take.frames[::step]:
            seen: dict[str, int] = {}
            for name in take.objects:
                cameras = [c for c, frames in take.raw_masks[name].items() if frame in frames]
                for camera in cameras:
                    seen[camera] = max(seen.get(camera, 0), len(cameras))
            cameras_here = tuple(c for c in take.cameras if c in seen and take.has_frame(c, frame))
            if len(cameras_here) >= 2 and max(seen.values()) >= 2:
                yield Moment(take.uid, frame, cameras_here)
