"""Training of the object crops of ``tiny-match`` (:mod:`counterview.features.object_crops`). Ours.

A sample is a take: several cameras of one moment, and views of its other moments. Every object of every view is matched
with every other view of the take. The candidates are the objects of that view and some of its proposals, among them
parts of objects and objects with some of their surroundings. Matching is by nearest neighbour: no head is trained and
the maps stay frozen, so that a step is cheap. The head is trained afterwards, on frozen features.
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
from counterview.features.object_crops import INPUT_PX, STORED_PX, ObjectCropNet, crop_objects
from counterview.jobs.run import for_each_item
from counterview.omama.training.image_store import mask_overlaps
from counterview.omama.training.recipe import SamplingConfig
from counterview.omama.training.task import CACHE, pairs_fingerprint, start_from
from counterview.proposals import CachedProposer, load_proposer
from counterview.proposals.base import image_proposals
from counterview.tiny.alignment import GREY
from counterview.tiny.model import TinyMatch
from counterview.tiny.training.backbone_task import BackboneTask, draw_cameras, objects_in
from counterview.tiny.training.crops_recipe import ObjectCropRecipe, ObjectCropTraining
from counterview.tiny.training.image_crops import affine, change_colours
from counterview.types import ObjectMask, RgbImage

UNKNOWN, ABSENT, VISIBLE = -1, 0, 1
SAME_OBJECT_IOU = 0.5
"""IoU with an object from which a proposal shows it."""


@dataclass(frozen=True, eq=False)
class TakeView:
    """One camera's image of one moment: R object crops, the first K of them objects; the take has M objects.

    Attributes:
        pixels: ``(R, STORED_PX, STORED_PX, 4)`` uint8; in a sample ``(R, INPUT_PX, INPUT_PX, 4)``.
        sizes: ``(R, 2)`` float32.
        overlap: ``(R, M)`` float32, IoU of each with each object of the take.
        objects: ``(K,)`` number of each object among those of the take.
        states: ``(M,)`` :data:`VISIBLE`, :data:`ABSENT`, or :data:`UNKNOWN` where the object was not annotated.
    """

    pixels: NDArray[np.uint8]
    sizes: NDArray[np.float32]
    overlap: NDArray[np.float32]
    objects: NDArray[np.int64]
    states: NDArray[np.int64]


class ObjectCropTask(BackboneTask):
    """Trains the object crops of a ``tiny-match``.

    Args:
        config: the recipe's keys.

    Raises:
        InputError: a data set is missing, of the wrong kind, or no take has two views with an object in common.
        ConfigError: settings that do not go together.
    """

    config_class: ClassVar[type] = ObjectCropRecipe
    config: ObjectCropRecipe
    free_to_change: ClassVar[tuple[str, ...]] = (
        "data.cache", "data.workers", "data.engine", "data.memory_mb", "object_crops.memory_mb"
    )  # fmt: skip

    def __init__(self, config: ObjectCropRecipe) -> None:
        data = config.data
        self.train_data = open_datasets(data.roots, data.split)
        self.views: dict[str, dict[int, tuple[str, ...]]] = {}
        for take in self.train_data:
            views = _views(take)
            if any(len(cameras) >= 2 for cameras in views.values()):
                self.views[take.uid] = views
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
        # Loaded here, not at the first sample: building a model draws from the random generators.
        self._initial_net = _object_crops_of(config.object_crops.init) if config.object_crops.look_alikes else None
        if config.object_crops.proposals:
            self._fill_proposals()

    def _fill_proposals(self) -> None:
        """Compute the proposals of all images of samples, unless they are in the cache."""
        items = [
            (uid, camera, frame)
            for uid in self.takes
            for frame in self._moments(uid)
            for camera in self.views[uid][frame]
        ]
        progress = int(os.environ.get("RANK", "0")) == 0
        for_each_item(
            _proposal_maker, (self.config.data.roots, self.proposer), items, engine=self.config.data.job_engine,
            label="proposals", progress=progress,
        )  # fmt: skip

    def _moments(self, uid: str) -> list[int]:
        """Frames of a take from which samples are drawn: every n-th, if two cameras show an object in it."""
        with_two_cameras = [frame for frame, cameras in self.views[uid].items() if len(cameras) >= 2]
        frames = self.train_data.take(uid).frames[:: self.config.data.frame_step]
        return sorted(set(with_two_cameras) & set(frames)) or with_two_cameras[:1]

    # ------------------------------------------------------------------------------------------- training

    def build_model(self) -> nn.Module:
        """A model with the maps of ``init`` if given, frozen but for its object crops."""
        model = TinyMatch(self.config.model)
        if self.config.object_crops.init is not None:
            start_from(model, self.config.object_crops.init, "network.", optional="network.object_crops.")
        model.requires_grad_(False)
        model.network.object_crops.requires_grad_(True)
        return model.train()

    def train_length(self, epoch: int) -> int:
        """Number of takes, times the passes of an epoch."""
        return len(self.takes) * self.config.object_crops.passes

    def sample(self, epoch: int, index: int, rng: np.random.Generator) -> list[TakeView]:
        """Augmented views of a take: cameras of one moment, then views of other moments."""
        config = self.config.object_crops
        uid = self.takes[index % len(self.takes)]
        take, showing = self.train_data.take(uid), self.views[uid]
        moments = self._moments(uid)
        frame = moments[int(rng.integers(len(moments)))]
        cameras = draw_cameras(take, showing[frame], config.views, rng)
        other_moments = [(c, f) for f, names in showing.items() if f != frame for c in names]
        others = [other_moments[i] for i in rng.permutation(len(other_moments))[: config.other_views]]
        mirrored = bool(rng.random() < config.flip)
        grey = config.grey > 0 and bool(rng.random() < config.grey)
        views = [self._view(uid, c, frame, config.proposals > 0) for c in cameras]
        views += [self._view(uid, c, f, False) for c, f in others]
        return [self._augmented(view, mirrored, grey, rng) for view in views]

    def _view(self, uid: str, camera: str, frame: int, proposals: bool) -> TakeView:
        """A view before augmentation, from memory if it was read before."""
        key = (uid, camera, frame, proposals)
        if key in self._memory:
            return cast(TakeView, self._memory[key])
        take = self.train_data.take(uid)
        image = take.frame(camera, frame)
        names = list(take.objects)
        visible, absent = objects_in(take, camera, frame, image)
        masks = list(visible.values())
        objects = [names.index(name) for name in visible]
        states = np.array(
            [VISIBLE if n in visible else ABSENT if n in absent else UNKNOWN for n in names], dtype=np.int64
        )
        overlap = np.zeros((len(masks), len(names)), dtype=np.float32)
        overlap[np.arange(len(masks)), objects] = 1
        if proposals:
            found_masks = image_proposals(self.proposer, image, uid, camera, frame).masks
            iou = mask_overlaps(found_masks, masks)
            look_alikes = self._look_alikes(image, masks, found_masks, iou)
            others = np.setdiff1d(np.arange(len(found_masks)), look_alikes)
            count = self.config.object_crops.kept_proposals - len(look_alikes)
            near_objects = others[_draw_near_objects(iou[others], count, f"{uid} {camera} {frame}")]
            kept = np.sort(np.concatenate([look_alikes, near_objects]))
            proposal_overlap = np.zeros((len(kept), len(names)), dtype=np.float32)
            proposal_overlap[:, objects] = iou[kept]
            overlap = np.concatenate([overlap, proposal_overlap])
            masks += [found_masks[i] for i in kept]
        crops = crop_objects(image, masks)
        view = TakeView(crops.pixels, crops.sizes, overlap, np.array(objects, dtype=np.int64), states)
        self._remember(key, view, crops.pixels.nbytes, self.config.object_crops.memory_mb)
        return view

    def _look_alikes(
        self, image: RgbImage, objects: Sequence[ObjectMask], proposals: Sequence[ObjectMask], iou: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        """Indices of the proposals that the network of ``init`` finds most similar to an object that they do not show.

        Args:
            image: ``(H, W, 3)``.
            objects: K masks.
            proposals: N masks.
            iou: ``(N, K)`` of proposals and objects.
        """
        count = min(self.config.object_crops.look_alikes, len(proposals))
        if self._initial_net is None or count == 0 or not objects:
            return np.zeros(0, dtype=np.int64)
        # Half precision ranks as well, in half the time.
        with torch.autocast("cpu", torch.bfloat16):
            descriptors = self._initial_net.describe(crop_objects(image, [*objects, *proposals]))
        descriptors = functional.normalize(descriptors.float(), dim=1)
        similarity = (descriptors[len(objects) :] @ descriptors[: len(objects)].T).numpy()
        largest = np.where(iou < SAME_OBJECT_IOU, similarity, -1.0).max(1)
        return np.argsort(-largest, kind="stable")[:count].astype(np.int64)

    def _augmented(self, view: TakeView, mirrored: bool, grey: bool, rng: np.random.Generator) -> TakeView:
        """A view with some of its proposals, every object crop moved, and all of them changed in colour, or grey."""
        config, count = self.config.object_crops, len(view.objects)
        proposal_rows = rng.permutation(len(view.pixels) - count)[: config.proposals] + count
        rows = np.concatenate([np.arange(count), proposal_rows]).astype(np.int64)
        pixels = np.stack([_moved(config, view.pixels[row], mirrored, rng) for row in rows])
        # All object crops of a view change in the same way: they are of one image.
        strip = np.ascontiguousarray(pixels[..., :3]).reshape(-1, INPUT_PX, 3)
        strip = change_colours(strip, config.colour, 0.0, rng)
        strip = GREY.apply(strip) if grey else strip
        pixels[..., :3] = strip.reshape(len(rows), INPUT_PX, INPUT_PX, 3)
        return TakeView(pixels, view.sizes[rows], view.overlap[rows], view.objects, view.states)

    def collate(self, samples: Sequence[list[TakeView]]) -> dict[str, Any]:
        """All views of a batch: V views, R object crops of all, at most M objects in a take.

        Returns:
            ``pixels (R, INPUT_PX, INPUT_PX, 4)`` uint8, ``sizes (R, 2)``, ``overlap (R, M)``, ``states (V, M)``,
            ``rows (V,)`` object crops of each view, ``objects`` a list of V arrays, ``takes (V,)`` sample of each view.
        """
        views = [view for sample in samples for view in sample]
        count = max(len(view.states) for view in views)
        overlap = [np.pad(v.overlap, ((0, 0), (0, count - v.overlap.shape[1]))) for v in views]
        states = [np.pad(v.states, (0, count - len(v.states)), constant_values=UNKNOWN) for v in views]
        return {
            "pixels": torch.from_numpy(np.concatenate([v.pixels for v in views])),
            "sizes": torch.from_numpy(np.concatenate([v.sizes for v in views])),
            "overlap": torch.from_numpy(np.concatenate(overlap)),
            "states": torch.from_numpy(np.stack(states)),
            "rows": torch.tensor([len(v.pixels) for v in views]),
            "objects": [torch.from_numpy(v.objects) for v in views],
            "takes": torch.tensor([number for number, sample in enumerate(samples) for _ in sample]),
        }

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Graded InfoNCE within the view, with other takes, and of objects that the view does not show."""
        net = cast(TinyMatch, model).network.object_crops
        pixels = batch["pixels"].permute(0, 3, 1, 2).float() / 255
        descriptors = net(pixels, batch["sizes"])
        with torch.autocast(descriptors.device.type, enabled=False):
            return self._matching(functional.normalize(descriptors.float(), dim=1), batch)

    def _matching(self, descriptors: Tensor, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss and its parts, from ``(R, D)`` descriptors of length 1."""
        config = self.config.object_crops
        takes, rows, states = batch["takes"], batch["rows"].tolist(), batch["states"]
        take_count = int(takes.max()) + 1
        take_of_row = torch.repeat_interleave(takes, batch["rows"])
        view_descriptors = list(descriptors.split(rows))
        overlaps = list(batch["overlap"].split(rows))
        matching, cross_take, absent, right = ([[] for _ in range(take_count)] for _ in range(4))  # type: ignore[var-annotated]
        for query_view, objects in enumerate(batch["objects"]):
            if len(objects) == 0:
                continue
            queries = view_descriptors[query_view][: len(objects)]
            take = int(takes[query_view])
            # Nothing that other takes show is an object of this one.
            other_takes = queries @ descriptors.T / config.temperature
            other_takes = torch.logsumexp(other_takes.masked_fill(take_of_row[None] == take, -torch.inf), dim=1)
            for view in range(len(rows)):
                if view == query_view or int(takes[view]) != take or rows[view] == 0:
                    continue
                logits = queries @ view_descriptors[view].T / config.temperature
                credit = overlaps[view][:, objects].T ** config.credit_power
                not_visible = logits.new_full((len(queries), 1), config.absent_similarity / config.temperature)
                total = torch.logsumexp(torch.cat([logits, not_visible], dim=1), dim=1)
                state = states[view][objects]
                is_visible, is_absent = state == VISIBLE, state == ABSENT
                if bool(is_visible.any()):
                    # A tiny number instead of 0: a row that is minus infinity throughout has no gradient.
                    credited = torch.logsumexp(logits + credit.clamp(min=1e-30).log(), dim=1)
                    matching[take].append((total - credited)[is_visible])
                    cross_take[take].append((torch.logaddexp(total, other_takes) - credited)[is_visible])
                    best = logits.argmax(1, keepdim=True)
                    right[take].append(credit.gather(1, best)[is_visible, 0])
                if bool(is_absent.any()):
                    absent[take].append((total - not_visible[:, 0])[is_absent])
        lists = {"matching": matching, "cross_take": cross_take, "absent": absent, "right": right}
        parts = {name: _mean_of_means(values, descriptors) for name, values in lists.items()}
        total = parts["matching"] + config.cross_take_weight * parts["cross_take"] + config.absent * parts["absent"]
        return total, {name: value.detach() for name, value in parts.items()}

    def finish(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Nothing is calibrated: the model has no head."""
        return {}

    # -------------------------------------------------------------------------------------------- identity

    def fingerprint(self) -> dict[str, Any]:
        """Settings of the proposals, and hashes of views and validation pairs."""
        result: dict[str, Any] = {f"proposals.{k}": v for k, v in self.proposer.settings().items()}
        text = "\n".join(f"{uid}\0{sorted(self.views[uid].items())}" for uid in self.takes)
        return result | {
            "takes": len(self.takes),
            **pairs_fingerprint("validation", self.val_pairs),
            **pairs_fingerprint("train", [], extra=text),
        }


def _object_crops_of(folder: str | None) -> ObjectCropNet:
    """The object-crop network of a trained model, in evaluation mode.

    Raises:
        ConfigError: the model has none.
    """
    model = TinyMatch.from_pretrained(str(folder))
    if model.config.network is None or not model.config.network.object_crops:
        raise ConfigError(
            "init has no object crops, by which look-alikes are found", path=folder,
            fix="Set object_crops.look_alikes to 0, or init to a model of tiny-match-crops.",
        )  # fmt: skip
    return model.network.object_crops.eval()


def _proposal_maker(roots: Sequence[str], proposer: CachedProposer) -> Callable[[tuple[str, str, int]], None]:
    """A function that caches the proposals of an image, given take, camera and frame; called in each process."""
    dataset = open_datasets(roots)

    def propose(item: tuple[str, str, int]) -> None:
        uid, camera, frame = item
        image_proposals(proposer, dataset.take(uid).frame(camera, frame), uid, camera, frame)

    return propose


def _views(take: Take) -> dict[int, tuple[str, ...]]:
    """For each frame of a take the cameras that show an object in it."""
    showing: dict[int, set[str]] = {}
    for name in take.objects:
        for camera, frames in take.raw_masks[name].items():
            for frame in frames:
                showing.setdefault(frame, set()).add(camera)
    result = {}
    for frame in take.frames:
        cameras = tuple(c for c in take.cameras if c in showing.get(frame, ()) and take.has_frame(c, frame))
        if cameras:
            result[frame] = cameras
    return result


def _draw_near_objects(overlap: NDArray[np.float32], count: int, name: str) -> NDArray[np.int64]:
    """Draw proposals, three in four of which overlap an object, if there are as many.

    Args:
        overlap: ``(N, K)`` IoU of proposals and objects.
        count: of proposals to draw, at most.
        name: of the image; the draw depends on nothing else.

    Returns:
        Indices in ascending order.
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    largest = overlap.max(1, initial=0.0)
    near, far = (rng.permutation(np.flatnonzero(chosen)) for chosen in (largest > 0.1, largest <= 0.1))
    near = near[: count * 3 // 4]
    return np.asarray(np.sort(np.concatenate([near, far[: count - len(near)]])), dtype=np.int64)


def _moved(
    config: ObjectCropTraining, pixels: NDArray[np.uint8], mirrored: bool, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A stored crop ``(STORED_PX, STORED_PX, 4)`` rotated, scaled and shifted, ``(INPUT_PX, INPUT_PX, 4)``."""
    angle = np.deg2rad(rng.uniform(-config.degrees, config.degrees))
    scale = float(np.exp(rng.uniform(-config.zoom, config.zoom)))
    centre = np.array([(STORED_PX - 1) / 2] * 2) + rng.uniform(-config.shift, config.shift, 2) * STORED_PX
    matrix, size = affine(angle, scale, mirrored, centre, INPUT_PX), (INPUT_PX, INPUT_PX)
    moved = cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if rng.random() < config.downscale_prob:
        side = int(rng.integers(INPUT_PX // 4, INPUT_PX * 5 // 8))
        downscaled = cv2.resize(moved[..., :3], (side, side), interpolation=cv2.INTER_AREA)
        moved[..., :3] = cv2.resize(downscaled, size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(moved, dtype=np.uint8)


def _mean_of_means(values: Sequence[Sequence[Tensor]], like: Tensor) -> Tensor:
    """The mean over samples of each sample's mean; a sample without values counts as 0."""
    means = [torch.cat(list(part)).mean() if part else like.sum() * 0 for part in values]
    return torch.stack(means).mean()
