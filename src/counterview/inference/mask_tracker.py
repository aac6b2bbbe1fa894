"""LM-EEC behind the interface of a :class:`~counterview.inference.predictor.Predictor`: one pair of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from counterview.inference.predictor import Predictor, name_masks
from counterview.inference.prompts import Box, Point, check_query_mask, mask_at
from counterview.types import Candidate, Match, ObjectMask, RgbImage, as_rgb

if TYPE_CHECKING:
    import torch

    from counterview.lmeec.frame import SessionImage
    from counterview.lmeec.model import LMEEC
    from counterview.lmeec.session import Session
    from counterview.proposals.base import Proposals

CANDIDATE = -1
"""Stands for the index of a proposal: the mask was drawn by the model and is none of a set."""


@dataclass(frozen=True, eq=False)
class FollowView:
    """An image that LM-EEC's image encoder has seen.

    Attributes:
        image: ``(H, W, 3)`` uint8.
        encoded: what the encoder made of it.
    """

    image: RgbImage
    encoded: SessionImage

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @cached_property
    def proposals(self) -> Proposals:
        """Proposals that a point or a box chooses from; made when they are first asked for."""
        from counterview.proposals import load_proposer

        return load_proposer("graph")(self.image)


class Follower(Predictor):
    """Draws the mask of an object of one image in another, by LM-EEC.

    A single pair of images is a clip of one frame: nothing is remembered from pair to pair. :meth:`session` follows
    objects through a clip, as does :class:`counterview.inference.clips.ClipPredictor` through a take.

    Args:
        model: in eval mode.
        source: where it came from, for the settings.
    """

    def __init__(self, model: LMEEC, *, source: str = "") -> None:
        self.model, self.source = model.eval(), source

    def settings(self) -> dict[str, Any]:
        """Source, configuration, and a hash of configuration and weights."""
        from counterview.config import to_dict

        return {
            "matcher": {
                "name": "lmeec",
                "source": self.source,
                "weights": self.model.fingerprint()[:16],
                "config": to_dict(self.model.config),
            }
        }

    def session(self, frames: int | None = None, stride: int = 1, autocast: torch.dtype | None = None) -> Session:
        """Begin to follow objects through a clip: see :class:`counterview.lmeec.session.Session`."""
        return self.model.session(frames, stride, autocast)

    def encode(  # type: ignore[override]
        self, image: RgbImage, proposals: Proposals | None = None, *, name: str | None = None
    ) -> FollowView:
        """Run the image encoder over an image. Proposals are not used.

        Raises:
            ImageError: not such an image.
        """
        as_rgb(image)
        return FollowView(image, self.model.session().encode([image])[0])

    def resolve(  # type: ignore[override]
        self, query: FollowView, prompt: ObjectMask | Point | Box, name: str = "object"
    ) -> ObjectMask:
        """See :meth:`Predictor.resolve`; a point or a box chooses among ``graph`` proposals."""
        if isinstance(prompt, ObjectMask):
            check_query_mask(prompt, query.size_hw, name)
            return prompt
        prompt.check(query.size_hw)
        return mask_at(prompt, query.proposals)

    def match_encoded(  # type: ignore[override]
        self,
        query: FollowView,
        query_masks: Sequence[ObjectMask],
        target: FollowView,
        *,
        names: Sequence[str] | None = None,
        top_k: int = 5,
    ) -> list[Match]:
        """See :meth:`Predictor.match_encoded`. There is one candidate, and its similarity is the IoU that the model
        expects of its mask.
        """
        masks, names = name_masks(list(query_masks), names)
        for mask, name in zip(masks, names, strict=True):
            check_query_mask(mask, query.size_hw, name)
        shown = {name: mask.to_array() for name, mask in zip(names, masks, strict=True)}
        results = self.session(frames=1).step(query.encoded, shown, target.encoded)
        matches = []
        for name in names:
            result = results[name]
            expected = min(1.0, max(0.0, result.predicted_iou or 0.0))
            candidate = Candidate(result.mask_rle, expected, CANDIDATE)
            matches.append(Match(name, result.mask_rle, expected, result.visibility, (candidate,)))
        return matches
