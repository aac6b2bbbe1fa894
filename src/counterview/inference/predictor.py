"""What a user calls: propose, describe, match.

Each image is encoded once (:meth:`Predictor.encode`), whatever the number of objects sought in it and of
images it is compared with.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from counterview.errors import ConfigError, InputError, ProposalError
from counterview.inference.bundled import default_model
from counterview.inference.encoded import EncodedView
from counterview.inference.prompts import Box, Point, check_query_mask, mask_at
from counterview.types import BoolImage, Candidate, Match, ObjectMask, RgbImage, as_rgb

if TYPE_CHECKING:
    from counterview.features.base import Backbone
    from counterview.inference.matchers import Matcher
    from counterview.inference.zoo import Source
    from counterview.omama.model import OMaMa
    from counterview.proposals.base import Proposals, Proposer

QueryMasks = BoolImage | ObjectMask | Sequence[BoolImage | ObjectMask] | Mapping[str, BoolImage | ObjectMask]
"""One query mask, several, or several by name."""


class Predictor:
    """Finds objects of a query image in a target image.

    Args:
        proposer: makes candidate masks.
        backbone: makes feature maps and descriptors.
        matcher: compares query objects with candidates.
    """

    def __init__(self, proposer: Proposer, backbone: Backbone, matcher: Matcher) -> None:
        self.proposer = proposer
        self.backbone = backbone
        self.matcher = matcher

    def settings(self) -> dict[str, Any]:
        """Everything that an answer depends on beside the images, as plain values."""
        return {
            "matcher": {"name": self.matcher.name, **self.matcher.settings()},
            "proposals": {"name": self.proposer.name, **self.proposer.settings()},
            "features": {"name": self.backbone.name, **self.backbone.settings()},
        }

    def encode(self, image: RgbImage, proposals: Proposals | None = None, *, name: str | None = None) -> EncodedView:
        """Propose and describe, once an image.

        Args:
            image: ``(H, W, 3)`` uint8.
            proposals: candidate masks made elsewhere, instead of the proposer's.
            name: of the image, by which proposals in a folder are found: its file name without ending.

        Raises:
            ImageError: not such an image.
            ProposalError: proposals of another size.
        """
        as_rgb(image)
        found = self.proposer(image, name) if proposals is None else proposals
        size = (image.shape[0], image.shape[1])
        if tuple(found.size_hw) != size:
            raise ProposalError("the proposals do not fit the image", found=found.size_hw, expected=size)
        features = self.backbone.encode(image)
        return EncodedView(size, features, found, self.matcher.describe(self.backbone, features, found.masks))

    def resolve(self, query: EncodedView, prompt: ObjectMask | Point | Box, name: str = "object") -> ObjectMask:
        """The query mask that a mask, a point or a box stands for.

        Raises:
            MaskError: a mask that is empty or of another size.
            InputError: a point or box outside the image.
            ProposalError: no proposal lies there.
        """
        if isinstance(prompt, ObjectMask):
            check_query_mask(prompt, query.size_hw, name)
            return prompt
        return mask_at(prompt, query.proposals)

    def match(
        self,
        query_image: RgbImage,
        query_masks: QueryMasks,
        target_image: RgbImage,
        *,
        names: Sequence[str] | None = None,
        top_k: int = 5,
    ) -> list[Match]:
        """Find objects of one image in another.

        Args:
            query_image: ``(H, W, 3)`` uint8.
            query_masks: ``(H, W)`` bool (or :class:`ObjectMask`): one, several, or several by name.
            target_image: ``(H', W', 3)`` uint8; any other size.
            names: of the objects, where ``query_masks`` does not tell.
            top_k: how many candidates to report for each.

        Returns:
            One :class:`Match` an object, in order; ``match[0].mask`` is ``(H', W')`` bool.

        Raises:
            ImageError, MaskError: malformed input, a mask that is empty or of another size.
            ProposalError: the target image has no proposals.
        """
        masks, names = name_masks(query_masks, names)
        as_rgb(target_image, what="target image")
        for mask, name in zip(masks, names, strict=True):
            check_query_mask(mask, as_rgb(query_image, what="query image").shape[:2], name)
        return self.match_encoded(self.encode(query_image), masks, self.encode(target_image), names=names, top_k=top_k)

    def match_encoded(
        self,
        query: EncodedView,
        query_masks: Sequence[ObjectMask],
        target: EncodedView,
        *,
        names: Sequence[str] | None = None,
        top_k: int = 5,
    ) -> list[Match]:
        """:meth:`match` for images that were encoded before. Costs little beside encoding.

        Raises:
            MaskError: a mask that is empty or of another size.
            ProposalError: the target has no proposals.
        """
        masks, names = name_masks(list(query_masks), names)
        if top_k < 1:
            raise InputError("at least one candidate must be asked for", found=top_k)
        for mask, name in zip(masks, names, strict=True):
            check_query_mask(mask, query.size_hw, name)
        if not target.proposals.masks:
            raise ProposalError(
                "the target image has no proposals",
                fix="Try another proposer, or give masks with --proposals folder:PATH.",
            )
        scores = self.matcher.score(self.backbone, query, masks, target)
        order = (-scores.rank).argsort(axis=1, kind="stable")[:, :top_k]
        matches = []
        for row, name in enumerate(names):
            candidates = tuple(
                Candidate(target.proposals.masks[i], float(scores.similarity[row, i]), int(i)) for i in order[row]
            )
            best = candidates[0]
            matches.append(
                Match(
                    name, best.mask_rle, best.similarity, float(scores.visibility[row]), candidates, scores.notes[row]
                )
            )
        return matches


def name_masks(masks: QueryMasks, names: Sequence[str] | None = None) -> tuple[list[ObjectMask], list[str]]:
    """Query masks as a list with a name each: given ones, or ``object 1``, ``object 2``, …

    Raises:
        MaskError: something that is no mask.
        InputError: names of another number, or one twice.
    """
    if isinstance(masks, Mapping):
        names = list(masks) if names is None else names
        masks = list(masks.values())
    elif isinstance(masks, ObjectMask) or getattr(masks, "ndim", 0) == 2:
        masks = [masks]  # type: ignore[list-item]
    found = [m if isinstance(m, ObjectMask) else ObjectMask.from_array(m) for m in masks]
    if not found:
        raise InputError("no query object was given", expected="at least one mask")
    names = [f"object {i}" for i in range(1, len(found) + 1)] if names is None else [str(n) for n in names]
    if len(names) != len(found) or len(set(names)) != len(names):
        raise InputError("every query object needs a name of its own", found=f"{len(found)} masks and {names}")
    return found, names


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    proposals: str | None = None,
    features: str | None = None,
    device: str = "auto",
    cache: str | os.PathLike[str] | None = None,
) -> Predictor:
    """Build a predictor by name.

    Args:
        model: ``knn``, the nearest neighbour among the target's proposals (O-MaMa, k-NN row); ``base``, the same on
            DINOv2-B and SAM 2.1; ``tiny`` and other models that come with the package; a trained folder, a recipe,
            or the id ``owner/name`` of a repository on the Hub: see :mod:`counterview.inference.zoo`. Not given:
            :data:`counterview.inference.bundled.DEFAULT_MODEL`, or ``knn`` if ``features`` are.
        proposals: ``graph``, ``tiny``, ``sam2[:ID or folder]``, ``fastsam`` or ``folder:PATH``. Not given: ``graph``
            for ``knn``, and what it was trained with for a checkpoint.
        features: of ``knn``: ``classical`` (the default), ``dinov2-base-reg``, ``dinov2-base``, ``clip``,
            ``dinov3``, a Hub id, or a folder. A checkpoint has its own and takes no other.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        cache: a folder in which proposals are kept, and found again.

    Returns:
        A predictor; for an LM-EEC a :class:`counterview.inference.mask_tracker.Follower`.

    Raises:
        ConfigError: an unknown name; the nearest known one is named.
        CheckpointError: a folder that holds no checkpoint, a damaged one, or a recipe that was not trained.
        WeightsError: weights that cannot be fetched, or a shipped model that this installation lacks.
        MissingExtraError: an extra that is not installed.
    """
    from counterview.inference.zoo import resolve

    name = default_model(features) if model is None else model
    return load_source(resolve(name), proposals=proposals, features=features, device=device, cache=cache)


def load_source(
    source: Source,
    *,
    proposals: str | None = None,
    features: str | None = None,
    device: str = "auto",
    cache: str | os.PathLike[str] | None = None,
) -> Predictor:
    """:func:`load` for a model that was found by :func:`counterview.inference.zoo.resolve`."""
    from counterview.devices import resolve_device
    from counterview.features import load_backbone
    from counterview.inference.matchers import KnnMatcher, OMaMaMatcher
    from counterview.inference.zoo import refuse_options

    if source.method == "knn":
        backbone = load_backbone(features or source.options.get("features", "classical"), device=device)
        chosen = proposals or source.options.get("proposals", "graph")
        return Predictor(_proposer(chosen, {}, device, cache), backbone, KnnMatcher())
    if source.method == "lmeec":
        from counterview.inference.mask_tracker import Follower
        from counterview.nn.checkpoint import read_header
        from counterview.tiny.follow import follow_class

        refuse_options(source.method, proposals=proposals, features=features, cache=cache)
        assert source.folder is not None
        return Follower(
            follow_class(read_header(source.folder)).from_pretrained(source.folder).to(resolve_device(device)),
            source=source.name,
        )
    head = _head(source)
    config = head.config
    if features is not None and features != config.backbone:
        raise ConfigError(
            f"the model {source.name} was trained on other features", found=features, expected=config.backbone,
            fix="Leave --features out.",
        )  # fmt: skip
    same = proposals is None or proposals == config.proposer
    proposer = _proposer(proposals or config.proposer, config.proposer_settings if same else {}, device, cache)
    backbone = head.own_backbone(resolve_device(device)) or load_backbone(
        config.backbone, device=device, **config.backbone_settings
    )
    matcher = OMaMaMatcher(head, source=source.name, device=str(resolve_device(device)))
    return Predictor(proposer, backbone, matcher)


def _head(source: Source) -> OMaMa:
    """The model of a folder, or the untrained nearest neighbour that a recipe describes."""
    from counterview.config import load_config
    from counterview.omama.checkpoint import load_model
    from counterview.omama.config import OMaMaConfig
    from counterview.omama.model import OMaMa

    if source.folder is not None:
        return load_model(source.folder)
    return OMaMa(load_config(OMaMaConfig, dict(source.settings or {})))


def _proposer(name: str, settings: Mapping[str, Any], device: str, cache: str | os.PathLike[str] | None) -> Proposer:
    from counterview.proposals import load_proposer
    from counterview.proposals.cache import CachedProposer

    placed = {"device": device} if name.partition(":")[0] in ("sam2", "fastsam") else {}
    proposer = load_proposer(name, **placed, **settings)
    return proposer if cache is None else CachedProposer(proposer, cache)
