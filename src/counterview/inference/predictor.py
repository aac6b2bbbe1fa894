"""The interface of everything that finds objects of one image in another, whatever the method.

Each image is encoded once (:meth:`Predictor.encode`), however many objects are sought in it and however many images it
is compared with. There are two implementations:
:class:`~counterview.inference.proposal_matcher.ProposalMatcher` chooses among proposals,
:class:`~counterview.inference.mask_tracker.MaskTracker` draws a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from counterview.errors import InputError
from counterview.inference.prompts import Box, Point, check_query_mask
from counterview.proposals.base import Proposals
from counterview.types import BoolImage, Match, ObjectMask, RgbImage, View, as_rgb

QueryMasks = BoolImage | ObjectMask | Sequence[BoolImage | ObjectMask] | Mapping[str, BoolImage | ObjectMask]
"""One query mask, several, or several by name."""


class Encoding(Protocol):
    """An image after everything that depends on it alone. What it holds is the predictor's business."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        ...


E = TypeVar("E", bound=Encoding)


@runtime_checkable
class Predictor(Protocol[E]):
    """Finds objects of a query image in a target image."""

    def settings(self) -> dict[str, Any]:
        """Everything that a match depends on beside the images, as plain values."""
        ...

    def encode(self, image: RgbImage | View, proposals: Proposals | None = None, *, name: str | None = None) -> E:
        """Everything that depends on one image alone, once an image.

        Args:
            image: ``(H, W, 3)`` uint8, or a view.
            proposals: candidate masks made elsewhere, for predictors that choose among proposals.
            name: of the image, by which proposals in a folder are found: its file name without ending.

        Raises:
            ImageError: not an RGB image.
            ProposalError: proposals of another size.
        """
        ...

    def resolve(self, query: E, prompt: ObjectMask | Point | Box, name: str = "object") -> ObjectMask:
        """The query mask that a mask, a point or a box refers to.

        Raises:
            MaskError: a mask that is empty or of another size.
            InputError: a point or box outside the image.
            ProposalError: no proposal is there.
        """
        ...

    def match(
        self,
        query_image: RgbImage | View,
        query_masks: QueryMasks,
        target_image: RgbImage | View,
        *,
        names: Sequence[str] | None = None,
        top_k: int = 5,
    ) -> list[Match]:
        """Find objects of one image in another.

        Args:
            query_image: ``(H, W, 3)`` uint8, or a view.
            query_masks: ``(H, W)`` bool (or :class:`ObjectMask`): one, several, or several by name.
            target_image: ``(H', W', 3)`` uint8, or a view; of any size.
            names: of the objects, where ``query_masks`` has none.
            top_k: how many candidates to report for each.

        Returns:
            One :class:`Match` an object, in order; ``match[0].mask`` is ``(H', W')`` bool.

        Raises:
            ImageError, MaskError: malformed input, a mask that is empty or of another size.
            ProposalError: the target image has no proposals.
        """
        ...

    def match_encoded(
        self,
        query: E,
        query_masks: Sequence[ObjectMask],
        target: E,
        *,
        names: Sequence[str] | None = None,
        top_k: int = 5,
    ) -> list[Match]:
        """:meth:`match` for images that were encoded before. Costs little beside encoding.

        Raises:
            MaskError: a mask that is empty or of another size.
            ProposalError: the target has no proposals.
        """
        ...


def match_images(
    predictor: Predictor[E],
    query_image: RgbImage | View,
    query_masks: QueryMasks,
    target_image: RgbImage | View,
    names: Sequence[str] | None,
    top_k: int,
) -> list[Match]:
    """:meth:`Predictor.match`, by encoding both images. What is wrong with the input is told before that."""
    masks, names = name_masks(query_masks, names)
    query_image, target_image = as_rgb(query_image, what="query image"), as_rgb(target_image, what="target image")
    for mask, name in zip(masks, names, strict=True):
        check_query_mask(mask, query_image.shape[:2], name)
    query, target = predictor.encode(query_image), predictor.encode(target_image)
    return predictor.match_encoded(query, masks, target, names=names, top_k=top_k)


def name_masks(masks: QueryMasks, names: Sequence[str] | None = None) -> tuple[list[ObjectMask], list[str]]:
    """Query masks as a list with a name each: those given, or ``object 1``, ``object 2``, …

    Raises:
        MaskError: something that is not a mask.
        InputError: another number of names than of masks, or a name twice.
    """
    if isinstance(masks, Mapping):
        names = list(masks) if names is None else names
        masks = list(masks.values())
    elif isinstance(masks, ObjectMask) or getattr(masks, "ndim", 0) == 2:
        masks = [masks]  # type: ignore[list-item]
    encoded = [m if isinstance(m, ObjectMask) else ObjectMask.from_array(m) for m in masks]
    if not encoded:
        raise InputError("no query object was given", expected="at least one mask")
    names = [f"object {i}" for i in range(1, len(encoded) + 1)] if names is None else [str(n) for n in names]
    if len(names) != len(encoded) or len(set(names)) != len(names):
        raise InputError("every query object needs a name of its own", found=f"{len(encoded)} masks and {names}")
    return encoded, names
