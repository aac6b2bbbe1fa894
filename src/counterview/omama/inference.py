"""What a model answers for two images whose masks are described: one way, in use and in validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from counterview.geometry.homography import Homography
from counterview.omama.model import OMaMa, choice_rank
from counterview.omama.scene import Boxes, relate, view_homographies

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Side:
    """One image. N masks, C channels.

    Attributes:
        descriptors: ``(N, D)``.
        map: ``(C, h, w)``.
        boxes: of the masks.
    """

    descriptors: Tensor
    map: Tensor
    boxes: Boxes


@dataclass(frozen=True, eq=False)
class Answer:
    """How Q query objects fit N candidates.

    Attributes:
        similarity: ``(Q, N)`` cosines.
        rank: ``(Q, N)`` what candidates are chosen by, the largest first.
        visibility: ``(Q,)`` probability that the object can be seen.
        logit: ``(Q,)`` of it, before calibration.
        homographies: from the query to the target image, as :func:`counterview.omama.scene.view_homographies` gives
            them; none from a model that does not look at the scene.
    """

    similarity: F64
    rank: F64
    visibility: F64
    logit: F64
    homographies: tuple[Homography | None, ...] = ()


@torch.inference_mode()
def answer(
    model: OMaMa, queries: Tensor, query_boxes: Boxes, query: Side, target: Side, around: Side | None = None
) -> Answer:
    """Compare query objects with the target's masks.

    Args:
        model: in evaluation mode.
        queries: ``(Q, D)`` descriptors of the query objects.
        query_boxes: their boxes.
        query: the query image with its proposals, which only a model with a scene looks at.
        target: the target image; its masks are the candidates, at least one.
        around: the target image with its proposals, where the candidates are other masks.
    """
    device = model.device
    count, scene = len(queries), model.config.scene.proposals
    near = query.boxes.best(scene)
    whole = torch.cat([queries.to(device), query.descriptors[torch.from_numpy(near)].to(device)]) if scene else queries
    out = model(
        whole[None].to(device),
        target.descriptors[None].to(device),
        query.map[None].to(device),
        target.map[None].to(device),
        keep_queries=True,
    )
    similarity = _numbers(out.similarity[0].clamp(-1.0, 1.0))
    if not scene:
        chosen = choice_rank(similarity, target.boxes.scores, model.config.proposal_prior).astype(np.float64)
        return Answer(similarity, chosen, _numbers(out.visibility[0]), _numbers(out.visibility_logit[0]))
    place, likeness = target, similarity[count:]
    if around is not None:
        place = around
        embedded = model.embed_candidates(around.descriptors[None].to(device), query.map[None].to(device))
        likeness = _numbers(out.query_embedding[0, count:] @ embedded[0].T)
    far = place.boxes.best(scene)
    stand, there = query.boxes.at(near), place.boxes.at(far)
    homographies = view_homographies(likeness[:, far], stand, there, model.config.scene.homographies)
    related = [
        relate(similarity[:count], query_boxes, target.boxes, h, similarity[count:], stand) for h in homographies
    ]
    pairs, standings = (torch.from_numpy(np.stack(part)).to(device) for part in zip(*related, strict=True))
    rank, logit = model.scene_head.over_homographies(pairs, standings)
    visibility = torch.sigmoid(model.calibration(logit))
    return Answer(similarity[:count], _numbers(rank), _numbers(visibility), _numbers(logit), homographies)


def _numbers(tensor: Tensor) -> F64:
    return np.asarray(tensor.cpu().double().numpy())
