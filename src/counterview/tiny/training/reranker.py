"""Training of the scene head (:mod:`counterview.omama.scene`) on a model that stays as it is.

A sample is one pair of images with everything that is sought there. Similarities of all masks of both images, and
homographies from several shares of the proposals, are made once and kept on disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from counterview.config import out_of_range
from counterview.data.pairs import FramePair
from counterview.errors import ConfigError
from counterview.features.cache import ArrayStore
from counterview.geometry.homography import Homography
from counterview.nn.checkpoint import weights_fingerprint
from counterview.omama.config import OMaMaConfig
from counterview.omama.model import OMaMa
from counterview.omama.scene import RELATIONS, STANDINGS, Boxes, SceneConfig, relate, view_homographies
from counterview.omama.training.image_store import ImageStore, Objects
from counterview.omama.training.recipe import OMaMaRecipe
from counterview.omama.training.task import OMaMaTask, start_from
from counterview.omama.training.validation import by_image_pair

_LAYOUT = 3  # raised when the kept arrays change their meaning


@dataclass(frozen=True)
class SceneTraining:
    """What is particular to training the scene head."""

    least_share: float = field(
        default=0.6, metadata={"help": "share of the query image's proposals that are rivals, from here to 1"}
    )
    true_candidates: float = field(
        default=0.3, metadata={"help": "how often the candidates are the true masks, not the proposals"}
    )
    swap: float = field(default=0.5, metadata={"help": "how often a proposal of the object is the query"})
    swap_iou: float = field(default=0.6, metadata={"help": "IoU with the object from which one is"})
    least_kept: float = field(default=0.4, metadata={"help": "share of the candidates that is left, from here to 1"})
    noise: float = field(default=0.02, metadata={"help": "standard deviation added to similarities"})
    score_noise: float = field(
        default=0.0,
        metadata={"help": "the same for the proposer's scores, whose best is 1: other images have other ones"},
    )
    learnable_iou: float = field(default=0.2, metadata={"help": "best candidate's IoU below which nothing is learned"})

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "true_candidates", "swap", "swap_iou", "learnable_iou", at_least=0, at_most=1),
            *out_of_range(self, "least_share", "least_kept", above=0, at_most=1),
            *out_of_range(self, "noise", "score_noise", at_least=0),
        ]
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class SceneRecipe(OMaMaRecipe):
    """The keys of a recipe beside ``method`` and ``training``."""

    scene: SceneTraining = field(default_factory=SceneTraining)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model.scene.proposals:
            raise ConfigError("model.scene.proposals is 0: there is no scene head to train")
        if self.init is None:
            raise ConfigError("nothing says whose similarities the scene head weighs", fix="Set init to a model.")


@dataclass(frozen=True, eq=False)
class Scene:
    """A pair of images and what is sought there. K and K' objects, M and N proposals.

    Attributes:
        similarity: ``(K + M, K' + N)`` float16, objects first.
        homographies: of :func:`counterview.omama.scene.view_homographies`.
        query, target: boxes of objects and proposals.
        owned: ``(K, M)`` and ``(K', N)`` IoU of objects with proposals of their image.
        asked: ``(Q,)`` the objects that are sought, by their places in the query image.
        truth: ``(Q,)`` their places in the target image; -1 where they cannot be seen.
    """

    similarity: NDArray[np.float16]
    homographies: tuple[Homography | None, ...]
    query: tuple[Boxes, Boxes]
    target: tuple[Boxes, Boxes]
    owned: tuple[NDArray[np.float32], NDArray[np.float32]]
    asked: NDArray[np.int64]
    truth: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SceneExample:
    """What the head sees of a scene, and what is right.

    Attributes:
        pairs: ``(Q, N, 14)`` of :func:`counterview.omama.scene.relate`.
        standings: ``(Q, 6)``.
        credit: ``(Q, N)`` IoU of each candidate with the truth.
        visible: ``(Q,)`` bool.
        counted: whether its visibility counts: true masks tell who is there.
    """

    pairs: NDArray[np.float32]
    standings: NDArray[np.float32]
    credit: NDArray[np.float32]
    visible: NDArray[np.bool_]
    counted: bool


class SceneTask(OMaMaTask):
    """Trains the scene head; see :class:`counterview.omama.training.task.OMaMaTask`."""

    config_class: ClassVar[type] = SceneRecipe
    config: SceneRecipe

    def __init__(self, config: SceneRecipe, *, store: ImageStore | None = None, progress: bool = True) -> None:
        super().__init__(config, store=store, progress=progress)
        pairs = [pair for _, pair in self.train_pairs]
        groups = [[pairs[n] for n in numbers] for numbers in by_image_pair(pairs)]
        # Without the head, whose weights are chance here and would be another cache each time.
        model = self._model(replace(config.model, scene=SceneConfig())).eval()
        about = {
            "layout": _LAYOUT,
            "model": weights_fingerprint(model),
            "images": self.store.half.folder.name,
            "proposals": config.model.scene.proposals,
            "homographies": config.model.scene.homographies,
        }
        self._similarities = ArrayStore(self.store.root / "scenes", about)
        self._homographies = ArrayStore(self.store.root / "scenes", {**about, "weights": "scores"}, storage="float32")
        made = tqdm(groups, "scenes", unit="pair", disable=None if progress else True)
        self.scenes = [scene for group in made if (scene := self._scene(model, group)) is not None]

    def _model(self, config: OMaMaConfig) -> OMaMa:
        model = OMaMa(config)
        start_from(model, str(self.config.init), rounded=config.learned_backbone, optional="scene_head.")
        return model

    def _scene(self, model: OMaMa, pairs: Sequence[FramePair]) -> Scene | None:
        """``None`` where nothing can be learned."""
        first, take = pairs[0], self.train_data.take(pairs[0].take)
        cameras = (first.query_camera, first.target_camera)
        records = [self.store.record(take, camera, first.frame) for camera in cameras]
        objects = [self.store.objects(take, camera, first.frame) for camera in cameras]
        if not len(records[1].descriptors):
            return None
        asked, truth = [], []
        for pair in pairs:
            here, there = (part.usable(pair.object) for part in objects)
            if here is not None and (there is not None or not pair.target_visible):
                asked.append(here)
                truth.append(there if pair.target_visible and there is not None else -1)
        if not asked:
            return None
        boxes = []
        for camera, record, known in zip(cameras, records, objects, strict=True):
            scores = self.store.proposals(take, camera, first.frame).scores
            boxes.append((Boxes.make(known.boxes_xywh, record.size_hw),
                          Boxes.make(record.boxes_xywh, record.size_hw, scores)))  # fmt: skip
        key = " ".join(
            part
            for camera in cameras
            for part in self.store.objects_name(self.store.key(take, camera, first.frame), take, camera, first.frame)[0]
        )
        similarity = self._similarities.get_or_make(key, lambda: _similarity(model, records, objects))
        rows = self._homographies.get_or_make(key, lambda: self._shares(similarity, objects, boxes))
        found = tuple(None if row[9] == 0 else Homography(row[:9].reshape(3, 3).astype(float), *row[9:].tolist())
                      for row in rows)  # fmt: skip
        return Scene(similarity, found, boxes[0], boxes[1], (objects[0].overlap, objects[1].overlap),
                     np.array(asked), np.array(truth))  # fmt: skip

    def _shares(
        self, similarity: NDArray[np.floating], objects: Sequence[Objects], boxes: Sequence[tuple[Boxes, Boxes]]
    ) -> NDArray[np.float32]:
        """``(homographies, 11)``: matrix, support and share; support 0 where there is none."""
        scene = self.config.model.scene
        near, far = (proposals.best(scene.proposals) for _, proposals in boxes)
        between = np.asarray(similarity[len(objects[0].names) :, len(objects[1].names) :], dtype=np.float64)
        found = view_homographies(
            between[np.ix_(near, far)], boxes[0][1].at(near), boxes[1][1].at(far), scene.homographies
        )
        rows = np.zeros((len(found), 11), dtype=np.float32)
        for row, one in zip(rows, found, strict=True):
            if one is not None:
                row[:] = *one.matrix.ravel(), max(one.support, 1e-6), one.share
        return rows

    def build_model(self) -> nn.Module:
        """See :class:`counterview.training.task.Task`, as for all below."""
        model = self._model(self.config.model).requires_grad_(False)
        model.scene_head.requires_grad_(True)
        return model

    def train_length(self, epoch: int) -> int:
        return len(self.scenes)

    def sample(self, epoch: int, index: int, rng: np.random.Generator) -> Any:
        return make_scene_example(self.scenes[index], self.config.scene, self.config.model.scene.proposals, rng)

    def collate(self, samples: Sequence[Any]) -> Any:
        return collate_scenes(samples)

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        rank, logit = model.scene_head(batch["pairs"], batch["standings"], batch["mask"])  # type: ignore[operator]
        credit, asked, visible = batch["credit"], batch["asked"], batch["visible"]
        best = credit.amax(-1)
        learned = asked & visible & (best > self.config.scene.learnable_iou)
        share = (credit / best.clamp(min=1e-6)[..., None]).clamp(min=1e-4).log()
        matching = -torch.logsumexp(torch.log_softmax(rank, -1).clamp(min=-1e4) + share, -1)
        matching = (matching * learned).sum() / learned.sum().clamp(min=1)
        counted = asked & batch["counted"][:, None]
        seen = functional.binary_cross_entropy_with_logits(logit, visible.to(logit.dtype), reduction="none")
        seen = (seen * counted).sum() / counted.sum().clamp(min=1)
        right = (credit.gather(-1, rank.argmax(-1, keepdim=True))[..., 0] > 0.5) & learned
        parts = {
            "matching": matching.detach(),
            "visibility": seen.detach(),
            "right": right.sum() / learned.sum().clamp(min=1),
        }
        return matching + self.config.loss.visibility * seen, parts


def make_scene_example(scene: Scene, config: SceneTraining, around: int, rng: np.random.Generator) -> SceneExample:
    """What the head sees of a scene and ``around`` proposals once; all chance comes from ``rng``."""
    objects, proposals = scene.query
    rows = scene.asked.copy()
    for place, row in enumerate(scene.asked.tolist()):
        same = np.flatnonzero(scene.owned[0][row] >= config.swap_iou)
        if len(same) and rng.random() < config.swap:
            rows[place] = len(objects) + int(rng.choice(same))
    query = Boxes.make(np.concatenate([objects.xywh, proposals.xywh])[rows], objects.size_hw)
    there = scene.truth >= 0
    true = bool(rng.random() < config.true_candidates) and len(scene.target[0]) > 1
    if true:
        columns, candidates = np.arange(len(scene.target[0])), scene.target[0]
        credit = (columns[None] == scene.truth[:, None]).astype(np.float32)
    else:
        every = scene.target[1]
        kept = np.flatnonzero(rng.random(len(every)) < rng.uniform(config.least_kept, 1))
        kept = kept if len(kept) else np.arange(1)
        scores = every.scores[kept] + rng.normal(0, config.score_noise, len(kept))
        candidates = Boxes(every.xywh[kept], every.size_hw, scores)
        columns = len(scene.target[0]) + kept
        credit = np.zeros((len(rows), len(kept)), np.float32)
        credit[there] = scene.owned[1][scene.truth[there]][:, kept]
    similarity = scene.similarity[np.ix_(rows, columns)].astype(np.float64)
    similarity += rng.normal(0, config.noise, similarity.shape)
    homography = scene.homographies[int(rng.integers(len(scene.homographies)))]
    near = proposals.best(around)
    near = near[rng.random(len(near)) < rng.uniform(config.least_share, 1)]
    others = proposals.at(near)
    likeness = scene.similarity[np.ix_(len(objects) + near, columns)].astype(np.float64)
    pairs, standings = relate(similarity, query, candidates, homography, likeness, others)
    if rng.random() < 0.5:  # both images mirrored
        pairs[..., 4] *= -1
    return SceneExample(pairs, standings, credit, there, not true)


def collate_scenes(examples: Sequence[SceneExample]) -> dict[str, Tensor]:
    """One batch: ``pairs (B, Q, N, 14)``, ``standings (B, Q, 6)``, ``credit (B, Q, N)``, ``mask (B, N)``, ``asked`` and
    ``visible (B, Q)``, ``counted (B,)``; Q and N are the largest of all."""
    count, most = (max(e.pairs.shape[axis] for e in examples) for axis in (0, 1))
    shape = (len(examples), count)
    batch = {
        "pairs": torch.zeros(*shape, most, RELATIONS),
        "standings": torch.zeros(*shape, STANDINGS),
        "credit": torch.zeros(*shape, most),
        "mask": torch.zeros(len(examples), most, dtype=torch.bool),
        "asked": torch.zeros(shape, dtype=torch.bool),
        "visible": torch.zeros(shape, dtype=torch.bool),
        "counted": torch.tensor([e.counted for e in examples]),
    }
    for row, example in enumerate(examples):
        queries, candidates = example.credit.shape
        batch["pairs"][row, :queries, :candidates] = torch.from_numpy(example.pairs)
        batch["standings"][row, :queries] = torch.from_numpy(example.standings)
        batch["credit"][row, :queries, :candidates] = torch.from_numpy(example.credit)
        batch["mask"][row, :candidates] = True
        batch["asked"][row, :queries] = True
        batch["visible"][row, :queries] = torch.from_numpy(example.visible)
    return batch


@torch.inference_mode()
def _similarity(model: OMaMa, records: Sequence[Any], objects: Sequence[Objects]) -> NDArray[np.float32]:
    described = [np.concatenate([o.descriptors, p.descriptors]) for o, p in zip(objects, records, strict=True)]
    arrays = (described[0], described[1], records[0].map, records[1].map)
    out = model(*(torch.from_numpy(a)[None].float() for a in arrays), keep_queries=True)
    return np.asarray(out.similarity[0].numpy())
