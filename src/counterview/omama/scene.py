"""Which candidate stands where the object should: the scene around it, beside its looks. Beyond the paper.

Of two cups of one set, descriptors cannot tell which is meant; where they stand can. The proposals of both images say
how the views lie to each other (:mod:`counterview.geometry.homography`), which says where each query object ought
to be, and how large. A small network weighs that against similarity, and says whether the object can be seen: one that
should be there and is not like anything there is hidden, and one that belongs outside the image is outside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from counterview.config import out_of_range
from counterview.errors import ConfigError
from counterview.geometry.homography import Homography, find_homography, places
from counterview.omama.visibility import STATISTICS, Calibration, similarity_statistics

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

RELATIONS = 14
"""Numbers about a query object and a candidate: see :func:`relate`."""
STANDINGS = 6
"""Numbers about a query object: see :func:`relate`."""
_NEAR, _NEARBY = 0.12, 0.35  # half widths: as exact as a homography can be, and the right part of the table
_SAME = 0.5  # of the smaller box inside the other: such proposals of the query image are the object, or a part of it
_LEAST_SHARE = 0.9
_POOLS = 3
_FEW = 0.3  # of candidates near a place: so much less counts what stands where hardly anything does
_SCALE, _PRIOR = 10.0, 2.0  # what training begins with: similarity, and a fifth of the proposer's score


@dataclass(frozen=True)
class SceneConfig:
    """How the scene around an object is used."""

    proposals: int = field(
        default=0,
        metadata={
            "help": "the best proposals of both images that say how the views lie to each other; "
            "0: each candidate by itself, as in the paper"
        },
    )
    homographies: int = field(
        default=8, metadata={"help": "found from shares of these proposals; what follows from each is averaged"}
    )
    hidden: int = field(
        default=32, metadata={"help": "width of the networks that weigh place against similarity and say what is seen"}
    )

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "proposals", at_least=0),
            *out_of_range(self, "homographies", at_least=1),
            *out_of_range(self, "hidden", at_least=2),
        ]
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True, eq=False)
class Boxes:
    """Masks of one image as the scene sees them.

    Attributes:
        xywh: ``(n, 4)`` pixels.
        size_hw: of the image.
        scores: ``(n,)`` of the proposer, its best 1; ones for masks that nobody scored.
    """

    xywh: NDArray[np.floating]
    size_hw: tuple[int, int]
    scores: NDArray[np.floating]

    def __len__(self) -> int:
        return len(self.xywh)

    def best(self, count: int) -> NDArray[np.int64]:
        """Places of the ``count`` highest scores, the first among equals."""
        return np.argsort(-self.scores, kind="stable")[:count]

    def at(self, rows: NDArray[np.int64]) -> Boxes:
        """Those at these places."""
        return Boxes(self.xywh[rows], self.size_hw, self.scores[rows])

    @classmethod
    def make(
        cls, xywh: NDArray[np.floating], size_hw: tuple[int, int], scores: NDArray[np.floating] | None = None
    ) -> Boxes:
        """With scores on any scale, or none."""
        return cls(xywh, size_hw, np.ones(len(xywh)) if scores is None else relative(scores))


def relative(scores: NDArray[np.floating]) -> NDArray[np.floating]:
    """Scores of a proposer by their largest magnitude; all zeros, or none, stay as they are."""
    most = float(np.abs(scores).max(initial=0.0))
    return scores / most if most else scores


def view_homographies(
    likeness: NDArray[np.floating], query: Boxes, target: Boxes, count: int
) -> tuple[Homography | None, ...]:
    """Homographies between two images, each from another share of the proposals; ``None`` where there is none.

    One may be wrong, and says so only in part; several that differ say how far any is to be trusted.

    Args:
        likeness: ``(len(query), len(target))`` cosines.
        query, target: the proposals that say how the views lie to each other; each counts by its score.
        count: how many.
    """
    at, to = (places(boxes.xywh, boxes.size_hw) for boxes in (query, target))
    found = []
    for number in range(count):
        rng = np.random.default_rng(number)
        here, there = (np.flatnonzero(rng.random(len(p)) < rng.uniform(_LEAST_SHARE, 1)) for p in (at, to))
        scores = query.scores[here], target.scores[there]
        found.append(find_homography(at[here], to[there], likeness[np.ix_(here, there)], scores, seed=number))
    return tuple(found)


def relate(
    similarity: NDArray[np.floating],
    query: Boxes,
    candidates: Boxes,
    homography: Homography | None,
    likeness: NDArray[np.floating],
    others: Boxes,
) -> tuple[F32, F32]:
    """What is known of each query object and candidate, in numbers.

    Args:
        similarity: ``(Q, N)`` cosines.
        query, candidates: Q and N masks.
        homography: from the query to the target image, if one was found.
        likeness: ``(M, N)`` cosines of proposals of the query image with the candidates.
        others: these proposals. What overlaps a query object is no rival of it.

    Returns:
        ``(Q, N, 14)``: similarity; the candidate's score; how near it stands to where it should, strictly and
        loosely; how far right and below of there; how much wider and higher it is than the query object, and the same
        in the scale that the homography says; how many proposals agree on the homography, and their share; how much
        more the candidate is like the object than like any other thing of the query image, and the same with place.
        ``(Q, 6)``: whether the object has a place in the target image's plane; how far inside the image that is;
        the logarithms of the query object's size and of its size to be; how many agree, and their share.
    """
    count, number = similarity.shape
    stands = places(candidates.xywh, candidates.size_hw)
    own, rival = (_stand(boxes, stands, homography) for boxes in (query, others))
    sizes = [np.log(np.maximum(b.xywh[:, 2:], 1) / b.size_hw[1] * 2) for b in (query, candidates)]
    support = share = 0.0
    if homography is not None:
        support, share = np.log1p(homography.support) / 3, homography.share
    larger = sizes[1][None] - sizes[0][:, None]
    pairs = np.zeros((count, number, RELATIONS), dtype=np.float32)
    pairs[..., 0] = similarity
    pairs[..., 1] = candidates.scores
    pairs[..., 2], pairs[..., 3] = own.near(_NEAR), own.near(_NEARBY)
    pairs[..., 4:6] = (own.away / _NEARBY).clip(-2, 2)
    pairs[..., 6:8] = larger.clip(-3, 3)
    pairs[..., 8:10] = ((larger - own.growth[:, None, None]) * own.known[:, None, None]).clip(-3, 3)
    pairs[..., 10], pairs[..., 11] = support, share
    free = ~_overlapping(query.xywh, others.xywh)
    pairs[..., 12] = _lead(similarity, likeness, free)
    pairs[..., 13] = _lead(similarity + own.near(_NEARBY) / 2, likeness + rival.near(_NEARBY) / 2, free)
    limit = np.array([1.0, candidates.size_hw[0] / candidates.size_hw[1]])
    inside = (limit - np.abs(own.to)).min(-1).clip(-0.5, 0.5) * own.known
    size = sizes[0].mean(-1)
    columns = [
        own.known, inside, size / 3, (size + own.growth) * own.known / 3, np.full(count, support), np.full(count, share)
    ]  # fmt: skip
    return pairs, np.stack(columns, -1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Standing:
    """Where boxes of the query image should stand: ``to (n, 2)``, how much they grow ``(n,)``, whether that is known
    ``(n,)``, and how far from there N candidates stand ``(n, N, 2)``."""

    to: F64
    growth: F64
    known: F64
    away: F64

    def near(self, reach: float) -> F64:
        """``(n, N)`` from 0 to 1."""
        square = (self.away**2).sum(-1)
        return np.asarray(np.exp(-square / (2 * reach**2)) * self.known[:, None])


def _stand(boxes: Boxes, stands: F64, homography: Homography | None) -> _Standing:
    count = len(boxes)
    if homography is None:
        return _Standing(np.zeros((count, 2)), np.zeros(count), np.zeros(count), np.zeros((count, len(stands), 2)))
    to, growth, ahead = homography.map(places(boxes.xywh, boxes.size_hw))
    away = (stands[None] - to[:, None]).clip(-4, 4) * ahead[:, None, None]
    return _Standing(to, np.where(ahead, growth, 0.0).clip(-3, 3), ahead.astype(np.float64), away)


def _overlapping(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.bool_]:
    """``(n, m)`` whether most of the smaller of two boxes lies in the other."""
    first, last = (np.asarray(b, dtype=np.float64)[:, :2] for b in (one, other))
    end, stop = (np.asarray(b, dtype=np.float64)[:, :2] + np.asarray(b)[:, 2:] for b in (one, other))
    both = (np.minimum(end[:, None], stop[None]) - np.maximum(first[:, None], last[None])).clip(0).prod(-1)
    areas = [np.asarray(b, dtype=np.float64)[:, 2:].prod(-1) for b in (one, other)]
    return np.asarray(both > _SAME * np.minimum(areas[0][:, None], areas[1][None]))


def _lead(own: NDArray[np.floating], rivals: NDArray[np.floating], free: NDArray[np.bool_]) -> F64:
    """``(Q, N)``: by how much each beats the best of its rivals ``(M, N)``, those that ``free (Q, M)`` leaves; 0 where
    there is none."""
    lead = np.zeros(own.shape)
    for row, left in enumerate(free):
        if left.any():
            lead[row] = own[row] - rivals[left].max(0)
    return lead


class SceneHead(nn.Module):
    """Weighs place against similarity, and says whether the object can be seen.

    Args:
        config: what it is made of.
    """

    def __init__(self, config: SceneConfig) -> None:
        super().__init__()
        self.pair = nn.Sequential(
            nn.Linear(RELATIONS, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, 1),
        )
        nn.init.zeros_(self.pair[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.pair[-1].bias)  # type: ignore[arg-type]
        self.straight = nn.Parameter(torch.tensor([_SCALE, _PRIOR]))
        around = config.hidden // 2
        self.around = nn.Sequential(
            nn.Linear(RELATIONS + 1, config.hidden), nn.GELU(), nn.Linear(config.hidden, around)
        )
        known = 2 * STATISTICS + RELATIONS + STANDINGS + _POOLS * around
        self.seen = nn.Sequential(nn.Linear(known, config.hidden), nn.GELU(), nn.Linear(config.hidden, 1))
        self.calibration = Calibration()

    def forward(self, pairs: Tensor, standings: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Rank candidates.

        Args:
            pairs: ``(B, Q, N, 14)`` of :func:`relate`, N at least 1.
            standings: ``(B, Q, 6)``.
            mask: ``(B, N)`` bool, false for padding.

        Returns:
            ``(B, Q, N)`` logits, minus infinity for padding: their softmax is how likely each is the object;
            ``(B, Q)`` logits of its being visible, before calibration.
        """
        rank = self.pair(pairs)[..., 0] + pairs[..., :2] @ self.straight
        similarity = pairs[..., 0]
        if mask is not None:
            gone = ~mask[:, None, :]
            rank, similarity = rank.masked_fill(gone, -torch.inf), similarity.masked_fill(gone, -torch.inf)
        settled = rank.detach()
        best = settled.argmax(-1, keepdim=True)
        chosen = pairs.gather(-2, best[..., None].expand(*best.shape, RELATIONS))[..., 0, :]
        statistics = [similarity_statistics(settled / _SCALE), similarity_statistics(similarity)]
        known = [*statistics, chosen, standings, self._around(pairs, settled)]
        return rank, self.seen(torch.cat(known, -1))[..., 0]

    def _around(self, pairs: Tensor, settled: Tensor) -> Tensor:
        """What all candidates say together: that which was chosen does not show what hides the object.

        Args:
            pairs: ``(B, Q, N, 14)``.
            settled: ``(B, Q, N)`` ranks without gradient, minus infinity for padding.

        Returns:
            ``(B, Q, 3 * hidden // 2)``: learned numbers of each candidate, the most of each, their means near the place
            where the object should stand, and their means by how likely each candidate is the object.
        """
        share, real = torch.softmax(settled, -1)[..., None], torch.isfinite(settled)[..., None]
        said = self.around(torch.cat([pairs, share], -1))
        near = pairs[..., 3:4] * real
        most = said.masked_fill(~real, torch.finfo(said.dtype).min).amax(-2)
        beside = (said * near).sum(-2) / (near.sum(-2) + _FEW)
        return torch.cat([most, beside, (said * share).sum(-2)], -1)

    def over_homographies(self, pairs: Tensor, standings: Tensor) -> tuple[Tensor, Tensor]:
        """What several homographies say together.

        Args:
            pairs: ``(K, Q, N, 14)`` of :func:`relate`, for each of K homographies.
            standings: ``(K, Q, 6)``.

        Returns:
            ``(Q, N)`` logarithm of the mean probability of each candidate; ``(Q,)`` mean logit of being visible.
        """
        rank, logit = self(pairs, standings)
        return torch.logsumexp(torch.log_softmax(rank, -1), 0) - math.log(len(rank)), logit.mean(0)
