"""Training of object crops (:mod:`counterview.features.object_crops`): which of an image's masks shows this object?

A sample is a take: all cameras of one moment, and views of its other moments. Every object of every view asks every
view of the take from another camera or moment. The candidates are what the view shows: its objects, and proposals,
parts of objects and objects with a surplus among them. No head is trained and no map is changed, so this is nearest
neighbour, and cheap; the head comes after it, on features that stay as they are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from counterview.data.dataset import Take
from counterview.data.open import open_datasets
from counterview.errors import ConfigError, InputError
from counterview.features.object_crops import CUT, SIZE, ObjectCropNet, cut
from counterview.omama.training.image_store import mask_overlaps
from counterview.omama.training.recipe import SamplingConfig
from counterview.omama.training.task import CACHE, pairs_fingerprint, start_from
from counterview.proposals import CachedProposer, load_proposer
from counterview.tiny.model import TinyMatch
from counterview.tiny.training.backbone_task import BackboneTask, draw_cameras, objects_in
from counterview.tiny.training.image_crops import affine, change_colours
from counterview.tiny.training.object_crop_recipe import ObjectCropRecipe, ObjectCropTraining
from counterview.types import ObjectMask, RgbImage
from counterview.workers import for_each_item

UNKNOWN, ABSENT, VISIBLE = -1, 0, 1
SAME = 0.5
"""A proposal that overlaps an object by this IoU shows it."""


@dataclass(frozen=True, eq=False)
class TakeView:
    """One camera's image of one moment. R object crops, the first K of them objects; the take has M objects.

    Attributes:
        pixels: ``(R, CUT, CUT, 4)`` uint8, in a sample ``(R, SIZE, SIZE, 4)``.
        numbers: ``(R, 2)`` float32.
        overlap: ``(R, M)`` float32, IoU of each with each object of the take.
        objects: ``(K,)`` number of each object among those of the take.
        states: ``(M,)`` whether the view shows each object: 1, 0, or -1 where nobody looked.
    """

    pixels: NDArray[np.uint8]
    numbers: NDArray[np.float32]
    overlap: NDArray[np.float32]
    objects: NDArray[np.int64]
    states: NDArray[np.int64]


class ObjectCropTask(BackboneTask):
    """Trains the object crops of a ``tiny`` backbone.

    Args:
        config: the recipe's keys.

    Raises:
        InputError: a data set is missing, of the wrong kind, or no take has two views with an object in common.
        ConfigError: settings that do not go together.
    """

    config_class: ClassVar[type] = ObjectCropRecipe
    config: ObjectCropRecipe
    free_to_change: ClassVar[tuple[str, ...]] = ("data.cache", "data.memory_mb", "object_crops.memory_mb")

    def __init__(self, config: ObjectCropRecipe) -> None:
        data = config.data
        self.train_data = open_datasets(data.roots, data.split)
        self.views: dict[str, dict[int, tuple[str, ...]]] = {}
        for take in self.train_data:
            seen = _views(take)
            if any(len(cameras) >= 2 for cameras in seen.values()):
                self.views[take.uid] = seen
        self.takes = list(self.views)
        if not self.takes:
            raise InputError(
                "there is nothing to train on",
                path=data.root,
                found=f"{len(self.train_data)} takes, no frame with an object in each of two cameras",
                fix="Check data.split and the masks.",
            )
        proposer = load_proposer(config.model.omama.proposer, **config.model.omama.proposer_settings)
        cache = Path(data.cache or Path(data.root) / CACHE)
        super().__init__(config, CachedProposer(proposer, cache / "proposals"), SamplingConfig())
        # Before training seeds anything, and not within it: what a sample is must not touch the generators.
        self._first_net = _object_crops_of(config.object_crops.init) if config.object_crops.look_alikes else None
        if config.object_crops.proposals:
            self._prepare()

    def _prepare(self) -> None:
        """Make the proposals of all images of which they are asked for, unless they are there."""
        items = [
            (uid, camera, frame)
            for uid in self.takes
            for frame in self._moments(uid)
            for camera in self.views[uid][frame]
        ]
        progress = int(os.environ.get("RANK", "0")) == 0
        for_each_item(
            _proposing, (self.config.data.roots, self.proposer), items, workers=self.config.data.workers,
            label="proposals", progress=progress,
        )  # fmt: skip

    def _moments(self, uid: str) -> list[int]:
        """Frames of a take that a sample is made about: every n-th, if two cameras show something in it."""
        seen = self.views[uid]
        several = [frame for frame, cameras in seen.items() if len(cameras) >= 2]
        frames = self.train_data.take(uid).frames[:: self.config.data.frame_step]
        return sorted(set(several) & set(frames)) or several[:1]

    # ------------------------------------------------------------------------------------------- training

    def build_model(self) -> nn.Module:
        """See :class:`counterview.training.task.Task`, as for all below."""
        model = TinyMatch(self.config.model)
        if self.config.object_crops.init is not None:
            start_from(model, self.config.object_crops.init, "network.", optional="network.object_crops.")
        model.requires_grad_(False)
        model.network.object_crops.requires_grad_(True)
        return model.train()

    def train_length(self, epoch: int) -> int:
        return len(self.takes) * self.config.object_crops.passes

    def sample(self, epoch: int, index: int, rng: np.random.Generator) -> list[TakeView]:
        config = self.config.object_crops
        uid = self.takes[index % len(self.takes)]
        take, seen = self.train_data.take(uid), self.views[uid]
        moments = self._moments(uid)
        frame = moments[int(rng.integers(len(moments)))]
        cameras = draw_cameras(take, seen[frame], config.views, rng)
        rest = [(c, f) for f, there in seen.items() if f != frame for c in there]
        others = [rest[i] for i in rng.permutation(len(rest))[: config.other_views]]
        mirrored = bool(rng.random() < config.flip)
        views = [self._changed(self._view(uid, c, frame, config.proposals > 0), mirrored, rng) for c in cameras]
        return views + [self._changed(self._view(uid, c, f, False), mirrored, rng) for c, f in others]

    def _view(self, uid: str, camera: str, frame: int, proposals: bool) -> TakeView:
        """A view before any change, from memory if it was made before."""
        key = (uid, camera, frame, proposals)
        if key in self._kept:
            return cast(TakeView, self._kept[key])
        take = self.train_data.take(uid)
        image = take.frame(camera, frame)
        names = list(take.objects)
        shown, absent = objects_in(take, camera, frame, image)
        masks = list(shown.values())
        objects = [names.index(name) for name in shown]
        states = np.array(
            [VISIBLE if n in shown else ABSENT if n in absent else UNKNOWN for n in names], dtype=np.int64
        )
        overlap = np.zeros((len(masks), len(names)), dtype=np.float32)
        overlap[np.arange(len(masks)), objects] = 1
        if proposals:
            found = self.proposer(image, str(frame)).masks
            iou = mask_overlaps(found, masks)
            alike = self._look_alikes(image, masks, found, iou)
            rest = np.setdiff1d(np.arange(len(found)), alike)
            number = self.config.object_crops.kept_proposals - len(alike)
            chosen = np.sort(np.concatenate([alike, rest[_hard(iou[rest], number, f"{uid} {camera} {frame}")]]))
            table = np.zeros((len(chosen), len(names)), dtype=np.float32)
            table[:, objects] = iou[chosen]
            overlap = np.concatenate([overlap, table])
            masks += [found[i] for i in chosen]
        cuts = cut(image, masks)
        view = TakeView(cuts.pixels, cuts.numbers, overlap, np.array(objects, dtype=np.int64), states)
        self._keep(key, view, cuts.pixels.nbytes, self.config.object_crops.memory_mb)
        return view

    def _look_alikes(
        self, image: RgbImage, objects: Sequence[ObjectMask], found: Sequence[ObjectMask], iou: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        """The proposals that the network of ``init`` takes most readily for an object that they are not."""
        number = min(self.config.object_crops.look_alikes, len(found))
        if self._first_net is None or number == 0 or not objects:
            return np.zeros(0, dtype=np.int64)
        # Half the digits rank as well as all, in half the time.
        with torch.autocast("cpu", torch.bfloat16):
            described = self._first_net.describe(cut(image, [*objects, *found]))
        described = functional.normalize(described.float(), dim=1)
        similarity = (described[len(objects) :] @ described[: len(objects)].T).numpy()
        most = np.where(iou < SAME, similarity, -1.0).max(1)
        return np.argsort(-most, kind="stable")[:number].astype(np.int64)

    def _changed(self, view: TakeView, mirrored: bool, rng: np.random.Generator) -> TakeView:
        """A view as training shows it: some of its proposals, each object crop moved, all of them in another light."""
        config, count = self.config.object_crops, len(view.objects)
        extra = rng.permutation(len(view.pixels) - count)[: config.proposals] + count
        rows = np.concatenate([np.arange(count), extra]).astype(np.int64)
        moved = np.stack([_moved(config, view.pixels[row], mirrored, rng) for row in rows])
        # One change of light for all object crops of a view, as one image has one light.
        strip = np.ascontiguousarray(moved[..., :3]).reshape(-1, SIZE, 3)
        moved[..., :3] = change_colours(strip, config.colour, 0.0, rng).reshape(len(rows), SIZE, SIZE, 3)
        return TakeView(moved, view.numbers[rows], view.overlap[rows], view.objects, view.states)

    def collate(self, samples: Sequence[list[TakeView]]) -> dict[str, Any]:
        views = [view for sample in samples for view in sample]
        most = max(len(view.states) for view in views)
        overlap = [np.pad(v.overlap, ((0, 0), (0, most - v.overlap.shape[1]))) for v in views]
        states = [np.pad(v.states, (0, most - len(v.states)), constant_values=UNKNOWN) for v in views]
        return {
            "pixels": torch.from_numpy(np.concatenate([v.pixels for v in views])),
            "numbers": torch.from_numpy(np.concatenate([v.numbers for v in views])),
            "overlap": torch.from_numpy(np.concatenate(overlap)),
            "states": torch.from_numpy(np.stack(states)),
            "rows": torch.tensor([len(v.pixels) for v in views]),
            "objects": [torch.from_numpy(v.objects) for v in views],
            "takes": torch.tensor([number for number, sample in enumerate(samples) for _ in sample]),
        }

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        net = cast(TinyMatch, model).network.object_crops
        pixels = batch["pixels"].permute(0, 3, 1, 2).float() / 255
        described = net(pixels, batch["numbers"])
        with torch.autocast(described.device.type, enabled=False):
            return self._matching(functional.normalize(described.float(), dim=1), batch)

    def _matching(self, described: Tensor, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        config = self.config.object_crops
        takes, rows, states = batch["takes"], batch["rows"].tolist(), batch["states"]
        number = int(takes.max()) + 1
        take_of = torch.repeat_interleave(takes, batch["rows"])
        tables = list(described.split(rows))
        overlaps = list(batch["overlap"].split(rows))
        losses, cross_take, gone, right = ([[] for _ in range(number)] for _ in range(4))  # type: ignore[var-annotated]
        for query_view, objects in enumerate(batch["objects"]):
            if len(objects) == 0:
                continue
            queries = tables[query_view][: len(objects)]
            take = int(takes[query_view])
            # What other takes show is no answer to any question of this one.
            elsewhere = queries @ described.T / config.temperature
            elsewhere = torch.logsumexp(elsewhere.masked_fill(take_of[None] == take, -torch.inf), dim=1)
            for view in range(len(rows)):
                if view == query_view or int(takes[view]) != take or rows[view] == 0:
                    continue
                logits = queries @ tables[view].T / config.temperature
                credit = overlaps[view][:, objects].T ** config.credit_power
                nothing = logits.new_full((len(queries), 1), config.absent_similarity / config.temperature)
                total = torch.logsumexp(torch.cat([logits, nothing], dim=1), dim=1)
                state = states[view][objects]
                shown, missing = state == VISIBLE, state == ABSENT
                if bool(shown.any()):
                    # The smallest number instead of 0: minus infinity throughout has no gradient.
                    gained = torch.logsumexp(logits + credit.clamp(min=1e-30).log(), dim=1)
                    losses[take].append((total - gained)[shown])
                    cross_take[take].append((torch.logaddexp(total, elsewhere) - gained)[shown])
                    best = logits.argmax(1, keepdim=True)
                    right[take].append(credit.gather(1, best)[shown, 0])
                if bool(missing.any()):
                    gone[take].append((total - nothing[:, 0])[missing])
        sums = {"matching": losses, "cross_take": cross_take, "absent": gone, "right": right}
        parts = {name: _mean_of_means(values, described) for name, values in sums.items()}
        total = parts["matching"] + config.cross_take_weight * parts["cross_take"] + config.absent * parts["absent"]
        return total, {name: value.detach() for name, value in parts.items()}

    def finish(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        return {}

    # -------------------------------------------------------------------------------------------- identity

    def fingerprint(self) -> dict[str, Any]:
        result: dict[str, Any] = {f"proposals.{k}": v for k, v in self.proposer.settings().items()}
        text = "\n".join(f"{uid}\0{sorted(self.views[uid].items())}" for uid in self.takes)
        return result | {
            "takes": len(self.takes),
            **pairs_fingerprint("validation", self.val_pairs),
            **pairs_fingerprint("train", [], extra=text),
        }


def _object_crops_of(folder: str | None) -> ObjectCropNet:
    """The network of a trained model, as it is.

    Raises:
        ConfigError: the model has none.
    """
    model = TinyMatch.from_pretrained(str(folder))
    if model.config.network is None or not model.config.network.object_crops:
        raise ConfigError(
            "init has no object crops with which look-alikes could be found", path=folder,
            fix="Set object_crops.look_alikes to 0, or init to a model of tiny-match-crops.",
        )  # fmt: skip
    return model.network.object_crops.eval()


def _proposing(roots: Sequence[str], proposer: CachedProposer) -> Callable[[tuple[str, str, int]], None]:
    """What makes the proposals of one image, in a process of its own."""
    dataset = open_datasets(roots)

    def propose(item: tuple[str, str, int]) -> None:
        uid, camera, frame = item
        proposer(dataset.take(uid).frame(camera, frame), str(frame))

    return propose


def _views(take: Take) -> dict[int, tuple[str, ...]]:
    """For each frame the cameras that show some object in it."""
    seen: dict[int, set[str]] = {}
    for name in take.objects:
        for camera, frames in take.raw_masks[name].items():
            for frame in frames:
                seen.setdefault(frame, set()).add(camera)
    result = {}
    for frame in take.frames:
        cameras = tuple(c for c in take.cameras if c in seen.get(frame, ()) and take.has_frame(c, frame))
        if cameras:
            result[frame] = cameras
    return result


def _hard(overlap: NDArray[np.float32], number: int, name: str) -> NDArray[np.int64]:
    """Which proposals are kept: three in four touch an object, where there are so many; the choice is the name's."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    most = overlap.max(1, initial=0.0)
    touching, rest = (rng.permutation(np.flatnonzero(part)) for part in (most > 0.1, most <= 0.1))
    first = touching[: number * 3 // 4]
    return np.asarray(np.sort(np.concatenate([first, rest[: number - len(first)]])), dtype=np.int64)


def _moved(
    config: ObjectCropTraining, pixels: NDArray[np.uint8], mirrored: bool, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The object crop ``(SIZE, SIZE, 4)`` out of a cut, turned, scaled and shifted."""
    angle = np.deg2rad(rng.uniform(-config.degrees, config.degrees))
    scale = float(np.exp(rng.uniform(-config.zoom, config.zoom)))
    centre = np.array([(CUT - 1) / 2] * 2) + rng.uniform(-config.shift, config.shift, 2) * CUT
    matrix = affine(angle, scale, mirrored, centre, SIZE)
    moved = cv2.warpAffine(pixels, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if rng.random() < config.downscale_prob:
        side = int(rng.integers(SIZE // 4, SIZE * 5 // 8))
        far = cv2.resize(moved[..., :3], (side, side), interpolation=cv2.INTER_AREA)
        moved[..., :3] = cv2.resize(far, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    return np.asarray(moved, dtype=np.uint8)


def _mean_of_means(values: Sequence[Sequence[Tensor]], like: Tensor) -> Tensor:
    """The mean over samples of each sample's mean; a sample without values counts as 0."""
    means = [torch.cat(list(part)).mean() if part else like.sum() * 0 for part in values]
    return torch.stack(means).mean()
