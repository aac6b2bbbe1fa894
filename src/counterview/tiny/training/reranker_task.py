"""Training of the geometric re-ranker (:mod:`counterview.tiny.reranker`) beside a frozen ``tiny-match``. Ours.

A sample is one pair of images with all its query objects. Similarities of all masks of both images, and homographies
from several subsets of the proposals, are computed once and kept on disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from counterview.config import out_of_range, to_dict
from counterview.data.pairs import FramePair
from counterview.errors import ConfigError
from counterview.features.cache import ArrayStore
from counterview.geometry.boxes import ScoredBoxes
from counterview.geometry.homography import Homography, view_homographies
from counterview.geometry.relations import PairFeature, PairFeatureConfig, QueryFeature, pair_features
from counterview.nn.weights import weights_fingerprint
from counterview.omama.training.image_store import ImageObjects, ImageRecord, ImageStore
from counterview.omama.training.task import start_from
from counterview.omama.training.validation import by_image_pair
from counterview.tiny.config import TinyMatchConfig
from counterview.tiny.model import TinyMatch
from counterview.tiny.reranker import RerankerConfig
from counterview.tiny.training.head_task import TinyMatchHeadRecipe, TinyMatchHeadTask

_LAYOUT = 3  # raised when the stored arrays change their meaning


@dataclass(frozen=True)
class RerankerTraining:
    """Settings of training the re-ranker.

    Raises:
        ConfigError: a value out of range; all problems at once.
    """

    min_rival_fraction: float = field(
        default=0.6,
        metadata={
            "help": "fraction of the query image's proposals that are rivals: drawn from here to 1",
            "formerly": ("least_share",),
        },
    )
    true_candidates: float = field(
        default=0.3, metadata={"help": "probability that the candidates are the true masks, not the proposals"}
    )
    swap: float = field(default=0.5, metadata={"help": "probability that a proposal of the object is the query"})
    swap_iou: float = field(default=0.6, metadata={"help": "IoU with the object from which a proposal shows it"})
    min_candidate_fraction: float = field(
        default=0.4,
        metadata={"help": "fraction of the candidates that is kept: drawn from here to 1", "formerly": ("least_kept",)},
    )
    noise: float = field(default=0.02, metadata={"help": "standard deviation of the noise on similarities"})
    score_noise: float = field(
        default=0.0,
        metadata={"help": "standard deviation of the noise on the proposer's scores, the best of which is 1"},
    )
    learnable_iou: float = field(default=0.2, metadata={"help": "best candidate's IoU below which a query is skipped"})

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "true_candidates", "swap", "swap_iou", "learnable_iou", at_least=0, at_most=1),
            *out_of_range(self, "min_rival_fraction", "min_candidate_fraction", above=0, at_most=1),
            *out_of_range(self, "noise", "score_noise", at_least=0),
        ]
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class RerankerRecipe(TinyMatchHeadRecipe):
    """The keys of a recipe beside ``method`` and ``training``.

    Raises:
        ConfigError: no re-ranker to train, or no model to train it beside.
    """

    reranker: RerankerTraining = field(default_factory=RerankerTraining)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.reranker is None:
            raise ConfigError("model.reranker is not given: there is no re-ranker to train")
        if self.init is None:
            raise ConfigError("init is not given: the re-ranker needs a trained model", fix="Set init to its folder.")


@dataclass(frozen=True, eq=False)
class ImagePair:
    """A pair of images and its query objects: K and K' objects, M and N proposals.

    Attributes:
        similarity: ``(K + M, K' + N)`` float16 cosines, objects first.
        homographies: from :func:`counterview.geometry.view_homographies`.
        query: boxes of the query image's objects and proposals.
        target: boxes of the target image's objects and proposals.
        overlap: ``(K, M)`` and ``(K', N)`` IoU of the objects with the proposals of their image.
        query_rows: ``(Q,)`` rows of the query objects among the objects of the query image.
        target_rows: ``(Q,)`` their rows among those of the target image; -1 where they are not visible.
    """

    similarity: NDArray[np.float16]
    homographies: tuple[Homography | None, ...]
    query: tuple[ScoredBoxes, ScoredBoxes]
    target: tuple[ScoredBoxes, ScoredBoxes]
    overlap: tuple[NDArray[np.float32], NDArray[np.float32]]
    query_rows: NDArray[np.int64]
    target_rows: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RerankerExample:
    """Features of an image pair, and the truth.

    Attributes:
        pair_features: ``(Q, N, 14)`` from :func:`counterview.geometry.pair_features`.
        query_features: ``(Q, 6)`` likewise.
        overlap: ``(Q, N)`` IoU of each candidate with the true mask.
        visible: ``(Q,)`` bool.
        trains_visibility: false where the candidates are the true masks, from which visibility would be read off.
    """

    pair_features: NDArray[np.float32]
    query_features: NDArray[np.float32]
    overlap: NDArray[np.float32]
    visible: NDArray[np.bool_]
    trains_visibility: bool


class RerankerTask(TinyMatchHeadTask):
    """Trains the geometric re-ranker; see :class:`counterview.omama.training.task.OMaMaTask`."""

    config_class: ClassVar[type] = RerankerRecipe

    def __init__(self, config: RerankerRecipe, *, store: ImageStore | None = None, progress: bool = True) -> None:
        super().__init__(config, store=store)
        super().prepare(progress)
        pairs = [pair for _, pair in self.train_pairs]
        groups = [[pairs[n] for n in numbers] for numbers in by_image_pair(pairs)]
        # Without the re-ranker: its weights are random here, and the name of the cache depends on all weights.
        model = self._model(replace(config.model, reranker=None)).eval()
        reranker = self.reranker_config
        settings = {
            "layout": _LAYOUT,
            "model": weights_fingerprint(model),
            "images": self.store.descriptor_store.folder.name,
            "proposals": reranker.proposals,
            "homographies": reranker.homographies,
            "homography": to_dict(reranker.homography),
        }
        root = self.store.root / "scenes"
        self._similarities = ArrayStore(root, settings)
        self._homographies = ArrayStore(root, {**settings, "weights": "scores"}, storage="float32")
        bar = tqdm(groups, "image pairs", unit="pair", disable=None if progress else True)
        self.image_pairs = [p for group in bar if (p := self._image_pair(model, group)) is not None]

    def prepare(self, progress: bool = True) -> None:
        """Nothing: the number of samples depends on what the constructor has computed.

        Args:
            progress: not used.
        """

    @property
    def query_proposals(self) -> bool:
        """True: the homographies between the views come from the proposals of both images."""
        return True

    @property
    def reranker_config(self) -> RerankerConfig:
        """The configuration of the re-ranker."""
        return cast(RerankerConfig, self.config.model.reranker)

    def _model(self, config: TinyMatchConfig) -> TinyMatch:
        """A model with the weights of ``init``."""
        model = TinyMatch(config)
        start_from(model, str(self.config.init), rounded=config.network is not None, optional="reranker.")
        return model

    def _image_pair(self, model: TinyMatch, pairs: Sequence[FramePair]) -> ImagePair | None:
        """Objects, proposals, similarities and homographies of one pair of images.

        Args:
            model: computes the similarities.
            pairs: of one time and one pair of cameras.

        Returns:
            ``None`` where the target image has no proposals, or no query object has usable masks.
        """
        first, take = pairs[0], self.train_data.take(pairs[0].take)
        cameras = (first.query_camera, first.target_camera)
        records = [self.store.record(take, camera, first.frame) for camera in cameras]
        objects = [self.store.objects(take, camera, first.frame) for camera in cameras]
        if not len(records[1].descriptors):
            return None
        query_rows, target_rows = [], []
        for pair in pairs:
            query_row, target_row = (annotated.usable_row(pair.object) for annotated in objects)
            if query_row is not None and (target_row is not None or not pair.target_visible):
                query_rows.append(query_row)
                target_rows.append(target_row if pair.target_visible and target_row is not None else -1)
        if not query_rows:
            return None
        boxes = []
        for camera, record, annotated in zip(cameras, records, objects, strict=True):
            scores = self.store.proposals(take, camera, first.frame).scores
            boxes.append(
                (
                    ScoredBoxes.make(annotated.boxes_xywh, record.size_hw),
                    ScoredBoxes.make(record.boxes_xywh, record.size_hw, scores),
                )
            )
        key = " ".join(
            part
            for camera in cameras
            for part in self.store.objects_key(self.store.key(take, camera, first.frame), take, camera, first.frame)[0]
        )
        similarity = self._similarities.get_or_make(key, lambda: _similarity(model, records, objects))
        rows = self._homographies.get_or_make(key, lambda: self._homography_rows(similarity, objects, boxes))
        homographies = tuple(
            None if row[9] == 0 else Homography(row[:9].reshape(3, 3).astype(float), *row[9:].tolist()) for row in rows
        )
        return ImagePair(
            similarity,
            homographies,
            boxes[0],
            boxes[1],
            (objects[0].overlap, objects[1].overlap),
            np.array(query_rows),
            np.array(target_rows),
        )

    def _homography_rows(
        self,
        similarity: NDArray[np.floating],
        objects: Sequence[ImageObjects],
        boxes: Sequence[tuple[ScoredBoxes, ScoredBoxes]],
    ) -> NDArray[np.float32]:
        """``(homographies, 11)``: matrix, inlier weight (0 where no homography was found) and inlier fraction."""
        config = self.reranker_config
        query_best, target_best = (proposals.best(config.proposals) for _, proposals in boxes)
        of_proposals = np.asarray(similarity[len(objects[0].names) :, len(objects[1].names) :], dtype=np.float64)
        homographies = view_homographies(
            of_proposals[np.ix_(query_best, target_best)],
            boxes[0][1].at(query_best),
            boxes[1][1].at(target_best),
            config.homographies,
            config.homography,
        )
        rows = np.zeros((len(homographies), 11), dtype=np.float32)
        for row, homography in zip(rows, homographies, strict=True):
            if homography is not None:
                matrix = homography.query_to_target.ravel()
                row[:] = *matrix, max(homography.inlier_weight, 1e-6), homography.inlier_fraction
        return rows

    def build_model(self) -> nn.Module:
        """A model with the weights of ``init``, frozen but for its re-ranker."""
        model = self._model(self.config.model).requires_grad_(False)
        model.reranker.requires_grad_(True)
        return model

    def train_length(self, epoch: int) -> int:
        """Number of image pairs."""
        return len(self.image_pairs)

    def sample(self, epoch: int, index: int, rng: np.random.Generator) -> Any:
        """Features of one image pair; see :func:`make_reranker_example`."""
        config = self.reranker_config
        return make_reranker_example(
            self.image_pairs[index], self.config.reranker, config.proposals, rng, config.features
        )

    def collate(self, samples: Sequence[Any]) -> Any:
        """See :func:`collate_reranker_examples`."""
        return collate_reranker_examples(samples)

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Cross-entropy of the choice, weighted by IoU, and of the visibility."""
        scores, logit = cast(TinyMatch, model).reranker(
            batch["pair_features"], batch["query_features"], batch["candidate_mask"]
        )
        overlap, is_query, visible = batch["overlap"], batch["is_query"], batch["visible"]
        best = overlap.amax(-1)
        learned = is_query & visible & (best > self.config.reranker.learnable_iou)
        credit = (overlap / best.clamp(min=1e-6)[..., None]).clamp(min=1e-4).log()
        matching = -torch.logsumexp(torch.log_softmax(scores, -1).clamp(min=-1e4) + credit, -1)
        matching = (matching * learned).sum() / learned.sum().clamp(min=1)
        counted = is_query & batch["trains_visibility"][:, None]
        visibility = functional.binary_cross_entropy_with_logits(logit, visible.to(logit.dtype), reduction="none")
        visibility = (visibility * counted).sum() / counted.sum().clamp(min=1)
        right = (overlap.gather(-1, scores.argmax(-1, keepdim=True))[..., 0] > 0.5) & learned
        parts = {
            "matching": matching.detach(),
            "visibility": visibility.detach(),
            "right": right.sum() / learned.sum().clamp(min=1),
        }
        return matching + self.config.loss.visibility * visibility, parts


def make_reranker_example(
    pair: ImagePair,
    config: RerankerTraining,
    proposal_count: int,
    rng: np.random.Generator,
    features: PairFeatureConfig | None = None,
) -> RerankerExample:
    """Features of an image pair under random changes.

    Args:
        pair: the images.
        config: the changes.
        proposal_count: best proposals of the query image from which the rivals are drawn.
        rng: the only source of randomness.
        features: constants of the pair features; the defaults if not given.
    """
    objects, proposals = pair.query
    rows = pair.query_rows.copy()
    for index, row in enumerate(pair.query_rows.tolist()):
        same_object = np.flatnonzero(pair.overlap[0][row] >= config.swap_iou)
        if len(same_object) and rng.random() < config.swap:
            rows[index] = len(objects) + int(rng.choice(same_object))
    query = ScoredBoxes.make(np.concatenate([objects.xywh, proposals.xywh])[rows], objects.size_hw)
    visible = pair.target_rows >= 0
    use_true_masks = bool(rng.random() < config.true_candidates) and len(pair.target[0]) > 1
    if use_true_masks:
        columns, candidates = np.arange(len(pair.target[0])), pair.target[0]
        overlap = (columns[None] == pair.target_rows[:, None]).astype(np.float32)
    else:
        boxes = pair.target[1]
        kept = np.flatnonzero(rng.random(len(boxes)) < rng.uniform(config.min_candidate_fraction, 1))
        kept = kept if len(kept) else np.arange(1)
        scores = boxes.scores[kept] + rng.normal(0, config.score_noise, len(kept))
        candidates = ScoredBoxes(boxes.xywh[kept], boxes.size_hw, scores)
        columns = len(pair.target[0]) + kept
        overlap = np.zeros((len(rows), len(kept)), np.float32)
        overlap[visible] = pair.overlap[1][pair.target_rows[visible]][:, kept]
    similarity = pair.similarity[np.ix_(rows, columns)].astype(np.float64)
    similarity += rng.normal(0, config.noise, similarity.shape)
    homography = pair.homographies[int(rng.integers(len(pair.homographies)))]
    rival_rows = proposals.best(proposal_count)
    rival_rows = rival_rows[rng.random(len(rival_rows)) < rng.uniform(config.min_rival_fraction, 1)]
    rivals = proposals.at(rival_rows)
    rival_similarity = pair.similarity[np.ix_(len(objects) + rival_rows, columns)].astype(np.float64)
    pairs, queries = pair_features(similarity, query, candidates, homography, rival_similarity, rivals, features)
    if rng.random() < 0.5:
        mirror(pairs)
    return RerankerExample(pairs, queries, overlap, visible, not use_true_masks)


def mirror(pairs: NDArray[np.float32]) -> None:
    """Change pair features ``(Q, N, 14)`` in place to those of both images mirrored left to right.

    Only the horizontal offset changes its sign.
    """
    pairs[..., PairFeature.OFFSET_X] *= -1


def collate_reranker_examples(examples: Sequence[RerankerExample]) -> dict[str, Tensor]:
    """A batch of examples, padded to the largest Q and N.

    Returns:
        ``pair_features (B, Q, N, 14)``, ``query_features (B, Q, 6)``, ``overlap (B, Q, N)``, ``candidate_mask (B, N)``,
        ``is_query`` and ``visible (B, Q)``, ``trains_visibility (B,)``.
    """
    queries, candidates = (max(e.pair_features.shape[axis] for e in examples) for axis in (0, 1))
    shape = (len(examples), queries)
    batch = {
        "pair_features": torch.zeros(*shape, candidates, len(PairFeature)),
        "query_features": torch.zeros(*shape, len(QueryFeature)),
        "overlap": torch.zeros(*shape, candidates),
        "candidate_mask": torch.zeros(len(examples), candidates, dtype=torch.bool),
        "is_query": torch.zeros(shape, dtype=torch.bool),
        "visible": torch.zeros(shape, dtype=torch.bool),
        "trains_visibility": torch.tensor([e.trains_visibility for e in examples]),
    }
    for row, example in enumerate(examples):
        q, n = example.overlap.shape
        batch["pair_features"][row, :q, :n] = torch.from_numpy(example.pair_features)
        batch["query_features"][row, :q] = torch.from_numpy(example.query_features)
        batch["overlap"][row, :q, :n] = torch.from_numpy(example.overlap)
        batch["candidate_mask"][row, :n] = True
        batch["is_query"][row, :q] = True
        batch["visible"][row, :q] = torch.from_numpy(example.visible)
    return batch


@torch.inference_mode()
def _similarity(
    model: TinyMatch, records: Sequence[ImageRecord], objects: Sequence[ImageObjects]
) -> NDArray[np.float32]:
    """``(K + M, K' + N)`` cosines of all masks of both images, objects first."""
    descriptors = [np.concatenate([o.descriptors, p.descriptors]) for o, p in zip(objects, records, strict=True)]
    arrays = (descriptors[0], descriptors[1], records[0].map, records[1].map)
    output = model(*(torch.from_numpy(a)[None].float() for a in arrays), keep_queries=True)
    return np.asarray(output.similarity[0].numpy())
