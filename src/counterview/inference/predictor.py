"""The interface of all predictors: they find objects of one image in another image.

Each image is encoded once (:meth:`Predictor.encode`), whatever the number of objects and of images that it is matched
with. There are three implementations: :class:`~counterview.inference.proposal_matcher.ProposalMatcher` chooses among
proposals by their descriptors, :class:`~counterview.inference.geometric_matcher.GeometricMatcher` by matched points,
:class:`~counterview.inference.mask_tracker.MaskTracker` draws a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from counterview.errors import InputError
from counterview.inference.prompts import Box, Point, check_query_mask, check_shape
from counterview.proposals.base import Proposals
from counterview.types import BoolImage, Match, ObjectMask, RgbImage, View, as_rgb

QueryMasks = BoolImage | ObjectMask | Sequence[BoolImage | ObjectMask] | Mapping[str, BoolImage | ObjectMask]
"""One query mask ``(H, W)``, several, or several by name."""


class Encoding(Protocol):
    """What a predictor computes from one image alone. The contents depend on the predictor."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        ...


E = TypeVar("E", bound=Encoding)


@runtime_checkable
class Predictor(Protocol[E]):
    """Finds objects of a query image in a target image."""

    def settings(self) -> dict[str, Any]:
        """Everything beside the images and masks that a match depends on, as plain values."""
        ...

    def encode(self, image: RgbImage | View, proposals: Proposals | None = None, *, name: str | None = None) -> E:
        """Compute everything that depends on one image alone, for any number of matches.

        Args:
            image: ``(H, W, 3)`` uint8, or a view.
            proposals: candidate masks to use instead of the proposer's, for predictors that choose among proposals.
            name: of the image, as :class:`counterview.proposals.Proposer` takes it; ``folder:PATH`` looks for it.

        Raises:
            ImageError: not an RGB image.
            ProposalError: proposals of another size than the image.
        """
        ...

    def resolve(self, query: E, prompt: ObjectMask | Point | Box, name: str = "object") -> ObjectMask:
        """Turn a mask, a point or a box into a query mask.

        Args:
            query: the encoded query image, of size ``(H, W)``.
            prompt: a mask ``(H, W)``, which is checked and returned, or a point or a box, which select a proposal.
            name: of the object, for error messages.

        Raises:
            MaskError: a mask that is empty or of another size than the image.
            InputError: a point or a box outside the image.
            ProposalError: no proposal at the point or in the box.
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
            names: of the objects, if ``query_masks`` has none; by default ``object 1``, ``object 2``, …
            top_k: number of candidates to return for each object, at least 1.

        Returns:
            One :class:`~counterview.types.Match` for each object, in the order of the masks; the ``mask`` of each is
            ``(H', W')`` bool.

        Raises:
            ImageError: an image that is not RGB.
            MaskError: a query mask that is empty or of another size than the query image.
            InputError: no query mask, names that are not unique, or ``top_k`` below 1.
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
        """:meth:`match` for encoded images; cheap in comparison with encoding them.

        Args:
            query: the encoded query image, of size ``(H, W)``.
            query_masks: masks ``(H, W)``, one or more.
            target: the encoded target image.
            names: of the objects; by default ``object 1``, ``object 2``, …
            top_k: number of candidates to return for each object, at least 1.

        Raises:
            MaskError: a query mask that is empty or of another size than the query image.
            InputError: no query mask, names that are not unique, or ``top_k`` below 1.
            ProposalError: the target image has no proposals.
        """
        ...


def match_images(
    predictor: Predictor[E],
    query_image: RgbImage | View,
    query_masks: QueryMasks,
    target_image: RgbImage | View,
    names: Sequence[str] | None,
    top_k: int,
    encode_query: Callable[[RgbImage], E] | None = None,
) -> list[Match]:
    """Check the input, encode both images and match them: :meth:`Predictor.match` for any predictor.

    Args:
        predictor: encodes and matches.
        query_image: ``(H, W, 3)`` uint8, or a view.
        query_masks: ``(H, W)`` bool or :class:`ObjectMask`: one, several, or several by name.
        target_image: ``(H', W', 3)`` uint8, or a view.
        names: of the objects.
        top_k: number of candidates for each object.
        encode_query: encodes the query image, where that may cost less than :meth:`Predictor.encode`.

    Raises:
        ImageError, MaskError, InputError, ProposalError: see :meth:`Predictor.match`; before anything is encoded, if
            the input is malformed.
    """
    masks, names = name_masks(query_masks, names)
    query_rgb, target_rgb = as_rgb(query_image, what="query image"), as_rgb(target_image, what="target image")
    check_shape(query_rgb.shape[:2], "query image")
    check_shape(target_rgb.shape[:2], "target image")
    for mask, name in zip(masks, names, strict=True):
        check_query_mask(mask, query_rgb.shape[:2], name)
    query, target = (encode_query or predictor.encode)(query_rgb), predictor.encode(target_rgb)
    return predictor.match_encoded(query, masks, target, names=names, top_k=top_k)


def name_masks(masks: QueryMasks, names: Sequence[str] | None = None) -> tuple[list[ObjectMask], list[str]]:
    """Bring query masks into the form of a list, with a name for each.

    Args:
        masks: ``(H, W)`` bool or :class:`ObjectMask`: one, several, or several by name.
        names: one for each mask; by default the keys of ``masks``, or ``object 1``, ``object 2``, …

    Returns:
        the masks and their names.

    Raises:
        MaskError: an array that is not a 2-D mask.
        InputError: no mask, another number of names than of masks, or a name twice.

    >>> import numpy as np
    >>> mask = np.array([[False, True], [True, True]])
    >>> name_masks([mask, mask])[1]
    ['object 1', 'object 2']
    >>> name_masks({"mug": mask})
    ([ObjectMask(size_hw=(2, 2), area=3, box_xywh=(0, 0, 2, 2))], ['mug'])
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
        raise InputError("the names of query objects are not unique", found=f"{len(encoded)} masks and {names}")
    return encoded, names
