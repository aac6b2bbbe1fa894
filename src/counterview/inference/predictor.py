"""The interface of all predictors: they find objects of one image in another image.

Each image is encoded once (:meth:`Predictor.encode`), whatever the number of objects and of images that it is matched
with. There are three implementations: :class:`~counterview.inference.proposal_matcher.ProposalMatcher` chooses among
proposals by their descriptors, :class:`~counterview.inference.geometric_matcher.GeometricMatcher` by matched points,
:class:`~counterview.inference.mask_tracker.MaskTracker` draws a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from counterview.errors import InputError
from counterview.inference.prompts import AnyPrompt, Box, Point, QueryObjects, name_prompts
from counterview.inference.selection import Selection
from counterview.media.inputs import ColorOrder, ImageInput
from counterview.proposals.base import Proposals
from counterview.types import Match, ObjectMask


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

    def encode(
        self,
        image: ImageInput,
        proposals: Proposals | None = None,
        *,
        name: str | None = None,
        color: ColorOrder = "rgb",
    ) -> E:
        """Compute everything that depends on one image alone, for any number of matches.

        Args:
            image: ``(H, W, 3)`` uint8, a view, an image of Pillow, or the path of a file.
            proposals: candidate masks to use instead of the proposer's, for predictors that choose among proposals.
            name: of the image, as :class:`counterview.proposals.Proposer` takes it; ``folder:PATH`` looks for it. By
                default that of the file, if the image is a path.
            color: order of the channels of an array: ``rgb``, or ``bgr`` as OpenCV reads images.

        Raises:
            ImageError: not an image.
            ProposalError: proposals of another size than the image.
        """
        ...

    def resolve(self, query: E, prompt: AnyPrompt, name: str = "object") -> ObjectMask:
        """Turn a mask, a point, a box, or several of them for one object, into a query mask.

        Args:
            query: the encoded query image, of size ``(H, W)``.
            prompt: a mask ``(H, W)``, which is checked and returned, or what selects a proposal
                (:func:`counterview.inference.selection.select`).
            name: of the object, for error messages.

        Raises:
            MaskError: a mask that is empty or of another size than the image.
            InputError: a point or a box outside the image.
            ProposalError: no proposal at the point or in the box.
        """
        ...

    def select(self, query: E, prompt: AnyPrompt, name: str = "object") -> Selection:
        """:meth:`resolve`, with notes for the user.

        Args:
            query: the encoded query image, of size ``(H, W)``.
            prompt: as for :meth:`resolve`.
            name: likewise.

        Raises:
            MaskError, InputError, ProposalError: as :meth:`resolve`.
        """
        ...

    def match(
        self,
        query_image: ImageInput,
        query_masks: QueryObjects | None = None,
        target_image: ImageInput | None = None,
        *,
        point: Point | tuple[float, float] | None = None,
        box: Box | tuple[float, float, float, float] | None = None,
        names: Sequence[str] | None = None,
        top_k: int = 5,
        color: ColorOrder = "rgb",
    ) -> list[Match]:
        """Find objects of one image in another.

        Args:
            query_image: ``(H, W, 3)`` uint8, a view, an image of Pillow, or the path of a file.
            query_masks: what is to be found: masks ``(H, W)`` bool (or :class:`ObjectMask`, or the path of a PNG),
                points, boxes or prompts; one, several, or several by name.
            target_image: likewise, ``(H', W', 3)``; of any size.
            point: instead of ``query_masks``: a pixel ``(x, y)`` of the one object to find.
            box: instead of ``query_masks``, or with ``point``: a box ``(x1, y1, x2, y2)`` around the one object.
            names: of the objects, if ``query_masks`` has none; by default ``object 1``, ``object 2``, …
            top_k: number of candidates to return for each object, at least 1.
            color: order of the channels of arrays: ``rgb``, or ``bgr`` as OpenCV reads images.

        Returns:
            One :class:`~counterview.types.Match` for each object, in the order of the masks; the ``mask`` of each is
            ``(H', W')`` bool. Each holds its images and can draw itself (:meth:`counterview.Match.show`).

        Raises:
            ImageError: an image that is not RGB.
            MaskError: a query mask that is empty or of another size than the query image.
            InputError: no query object, a point or box outside the image, names that are not unique, or ``top_k``
                below 1.
            ProposalError: the target image has no proposals, or no proposal is at a point or in a box.
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


def name_masks(masks: Any, names: Sequence[str] | None = None) -> tuple[list[ObjectMask], list[str]]:
    """Bring query masks into the form of a list, with a name for each.

    Args:
        masks: ``(H, W)`` bool or :class:`ObjectMask`: one, several, or several by name.
        names: one for each mask; by default the keys of ``masks``, or ``object 1``, ``object 2``, …

    Returns:
        the masks and their names.

    Raises:
        MaskError: an array that is not a 2-D mask.
        InputError: no mask, a point or a box, another number of names than of masks, or a name twice.

    >>> import numpy as np
    >>> mask = np.array([[False, True], [True, True]])
    >>> name_masks([mask, mask])[1]
    ['object 1', 'object 2']
    >>> name_masks({"mug": mask})
    ([ObjectMask(size_hw=(2, 2), area=3, box_xywh=(0, 0, 2, 2))], ['mug'])
    """
    prompts, given = name_prompts(masks, names)
    found: list[ObjectMask] = []
    for prompt, name in zip(prompts, given, strict=True):
        if not isinstance(prompt, ObjectMask):
            raise InputError(
                f"encoded images are matched by masks, and {name!r} is none", found=type(prompt).__name__,
                fix="Turn it into a mask first: model.resolve(query, prompt).",
            )  # fmt: skip
        found.append(prompt)
    return found, given
