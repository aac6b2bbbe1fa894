"""Matched points as a predictor: the matches of the query mask's pixels say where the object is in the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from counterview.baselines.geometric.config import GeometricConfig
from counterview.errors import ProposalError
from counterview.inference.mask_tracker import NOT_A_PROPOSAL
from counterview.inference.prompted import PromptedPredictor, image_name
from counterview.masks.geometry import same_aspect
from counterview.media.inputs import ColorOrder, ImageInput, load_rgb
from counterview.proposals.base import fit_proposals
from counterview.types import Candidate, Match, ObjectMask, RgbImage

if TYPE_CHECKING:
    from counterview.baselines.geometric.base import ImageMatcher, PointMatches
    from counterview.proposals.base import Proposals, Proposer


@dataclass(frozen=True, eq=False)
class GeometricImage:
    """An image with what its matcher needs of it alone.

    Attributes:
        image: ``(H, W, 3)`` uint8.
        encoded: of the matcher: the image's keypoints, or the image itself.
        propose: makes the proposals of the image.
        propose_for_prompts: makes the masks that points and boxes choose among; the same by default.
    """

    image: RgbImage
    encoded: Any
    propose: Callable[[], Proposals]
    propose_for_prompts: Callable[[], Proposals] | None = None

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @cached_property
    def proposals(self) -> Proposals:
        """The candidate masks of the image; computed on first use."""
        return self.propose()

    @cached_property
    def prompt_proposals(self) -> Proposals:
        """The masks that points and boxes choose among; computed on first use."""
        return self.proposals if self.propose_for_prompts is None else self.propose_for_prompts()


class GeometricMatcher(PromptedPredictor[GeometricImage]):
    """Carries masks from image to image by matched points.

    The answer is the proposal of the target image that the matches of the query mask fall into, or the convex hull of
    these matches. An object with fewer than ``config.min_matches`` matches has no answer: an empty mask, visibility 0,
    and a note.

    Otherwise, with ``n`` the matches inside the answer, the visibility is ``(n + 1) / (n + 1 + min_matches)``: above
    0.5 from ``min_matches`` on. It is not calibrated on any data. The similarity of a candidate is, for a proposal, the
    vote that it is ordered by: the IoU over matches (see :func:`counterview.baselines.geometric.transfer.vote`) or the
    fraction of the object's matches inside; for a hull, the mean confidence of the matches.

    Args:
        matcher: finds the matches.
        proposer: makes candidate masks of an image, when they are needed: for proposals as answers, and for objects
            that are given by a point or a box.
        config: see :class:`~counterview.baselines.geometric.config.GeometricConfig`.
        prompt_proposer: makes the masks that points and boxes choose among; ``proposer`` by default.

    >>> import counterview
    >>> import numpy as np
    >>> small = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    >>> image = small.repeat(4, axis=0).repeat(4, axis=1)
    >>> square = np.zeros((120, 160), dtype=bool)
    >>> square[30:90, 60:130] = True
    >>> moved = np.roll(image, (8, -20), axis=(0, 1))
    >>> match = counterview.load("geometric:sift+hull").match(image, square, moved)[0]
    >>> x, y = match.mask_rle.centroid_xy
    >>> abs(x - 74.5) < 5, abs(y - 67.5) < 5, match.visibility > 0.8  # the square's was at (94.5, 59.5)
    (True, True, True)
    """

    def __init__(
        self,
        matcher: ImageMatcher,
        proposer: Proposer,
        config: GeometricConfig | None = None,
        prompt_proposer: Proposer | None = None,
    ) -> None:
        self.matcher, self.proposer, self.prompt_proposer = matcher, proposer, prompt_proposer
        self.config = config or GeometricConfig()

    def settings(self) -> dict[str, Any]:
        """See :meth:`counterview.Predictor.settings`. A hull does not depend on proposals, so they are left out."""
        from counterview.config import to_dict

        settings = {
            "matcher": {
                "name": "geometric",
                **to_dict(self.config),
                "matches": {"name": self.matcher.name, **self.matcher.settings()},
            }
        }
        if self.config.select == "proposal":
            settings["proposals"] = {"name": self.proposer.name, **self.proposer.settings()}
        return settings

    def encode(
        self,
        image: ImageInput,
        proposals: Proposals | None = None,
        *,
        name: str | None = None,
        color: ColorOrder = "rgb",
    ) -> GeometricImage:
        """Find the keypoints of an image ``(H, W, 3)``, if the matcher has any; proposals are made when needed.

        See :meth:`counterview.Predictor.encode`.
        """
        rgb, name = load_rgb(image, color=color), name or image_name(image)
        size = (rgb.shape[0], rgb.shape[1])

        def propose(proposer: Proposer = self.proposer) -> Proposals:
            made = proposer(rgb, name) if proposals is None else proposals
            if not same_aspect(made.size_hw, size):
                raise ProposalError("the proposals do not fit the image", found=made.size_hw, expected=size)
            return fit_proposals(made, size)

        if proposals is not None:
            propose()
        for_prompts = None if self.prompt_proposer is None else partial(propose, self.prompt_proposer)
        return GeometricImage(rgb, self.matcher.encode(rgb), propose, for_prompts)

    def prompt_proposals(self, query: GeometricImage) -> tuple[Proposals, RgbImage | None]:
        """See :meth:`PromptedPredictor.prompt_proposals`; masks ``(H, W)`` of the encoded image."""
        return query.prompt_proposals, query.image

    def prompt_settings(self) -> dict[str, Any]:
        """See :meth:`PromptedPredictor.prompt_settings`."""
        proposer = self.prompt_proposer or self.proposer
        return {"name": proposer.name, **proposer.settings()}

    def match_masks(
        self,
        query: GeometricImage,
        masks: Sequence[ObjectMask],
        names: Sequence[str],
        target: GeometricImage,
        top_k: int,
    ) -> list[Match]:
        """See :meth:`PromptedPredictor.match_masks`; masks are ``(H, W)``.

        Raises:
            ProposalError: the target image has no proposals; only if an object has enough matches to choose one.
        """
        from counterview.baselines.geometric.transfer import in_mask

        matches = self.matcher.match(query.encoded, target.encoded)
        own = [matches.take(in_mask(matches.query_xy, mask)) for mask in masks]
        answer = self._hulls if self.config.select == "hull" else self._proposals
        return answer(matches, own, names, target, top_k)

    def _hulls(
        self, matches: PointMatches, own: list[PointMatches], names: Sequence[str], target: GeometricImage, top_k: int
    ) -> list[Match]:
        from counterview.baselines.geometric.transfer import hull, inside

        answers = []
        for name, points in zip(names, own, strict=True):
            points = points.take(inside(points.target_xy, target.size_hw))
            if len(points) < self.config.min_matches:
                answers.append(self._too_few(name, target.size_hw))
                continue
            confidence = float(points.confidence.mean())
            candidate = Candidate(hull(points.target_xy, target.size_hw), confidence, NOT_A_PROPOSAL)
            answers.append(Match(name, candidate.mask_rle, confidence, self._visibility(len(points)), (candidate,)))
        return answers

    def _proposals(
        self, matches: PointMatches, own: list[PointMatches], names: Sequence[str], target: GeometricImage, top_k: int
    ) -> list[Match]:
        from counterview.baselines.geometric.transfer import count_in_masks, vote

        if all(len(points) < self.config.min_matches for points in own):
            return [self._too_few(name, target.size_hw) for name in names]
        proposals = target.proposals
        if not proposals.masks:
            raise ProposalError(
                "the target image has no proposals",
                fix="Try another proposer, or the hull of the matches, as in geometric:sift+hull.",
            )
        total = count_in_masks(matches.target_xy, proposals.masks, target.size_hw)
        answers = []
        for name, points in zip(names, own, strict=True):
            if len(points) < self.config.min_matches:
                answers.append(self._too_few(name, target.size_hw))
                continue
            votes = vote(points, total, proposals, self.config.vote)
            if not len(votes.order):
                answers.append(_nothing(name, target.size_hw, "no proposal contains a match of the object"))
                continue
            scores = votes.overlap if self.config.vote == "overlap" else votes.count / len(points)
            best = tuple(
                Candidate(proposals.masks[i], float(scores[i]), int(i), float(scores[i])) for i in votes.order[:top_k]
            )
            visibility = self._visibility(int(votes.count[best[0].proposal]))
            answers.append(Match(name, best[0].mask_rle, best[0].similarity, visibility, best))
        return answers

    def _visibility(self, inside: int) -> float:
        return (inside + 1) / (inside + 1 + self.config.min_matches)

    def _too_few(self, name: str, size_hw: tuple[int, int]) -> Match:
        return _nothing(name, size_hw, f"fewer than {self.config.min_matches} matches of the object")


def _nothing(name: str, size_hw: tuple[int, int], note: str) -> Match:
    """No answer: an empty mask of ``size_hw``."""
    return Match(name, ObjectMask.empty(size_hw), 0.0, 0.0, (), (note,))
