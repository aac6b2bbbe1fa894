"""What every image matcher takes and returns.

Points are ``(x, y)`` in pixels of the image, x to the right and y down, with **pixel centres at integers**: the centre
of the top left pixel is ``(0, 0)``, its corner ``(-0.5, -0.5)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterview.errors import InputError
from counterview.types import RgbImage

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PointMatches:
    """M pairs of points that show the same place of a scene.

    Attributes:
        query_xy: ``(M, 2)`` float64, in pixels of the query image, pixel centres at integers.
        target_xy: ``(M, 2)`` float64, in pixels of the target image.
        confidence: ``(M,)`` float64 in ``[0, 1]``; comparable within one matcher, not between two.

    Raises:
        InputError: other shapes, or numbers that are not finite.

    >>> matches = PointMatches([[0, 0], [5, 5]], [[3, 1], [8, 6]], [1.0, 0.5])
    >>> len(matches), matches.take([False, True]).target_xy.tolist()
    (2, [[8.0, 6.0]])
    """

    query_xy: F64
    target_xy: F64
    confidence: F64

    def __post_init__(self) -> None:
        confidence = _floats(self.confidence, (-1,), "confidences")
        object.__setattr__(self, "confidence", confidence)
        for name in ("query_xy", "target_xy"):
            object.__setattr__(self, name, _floats(getattr(self, name), (len(confidence), 2), name))

    def __len__(self) -> int:
        return len(self.confidence)

    def take(self, kept: ArrayLike) -> PointMatches:
        """The matches at indices ``(K,)``, or those that are true in a mask ``(M,)``."""
        index = np.asarray(kept)
        return PointMatches(self.query_xy[index], self.target_xy[index], self.confidence[index])

    @classmethod
    def none(cls) -> PointMatches:
        """No matches."""
        return cls(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))


@dataclass(frozen=True, eq=False)
class ImageKeypoints:
    """The keypoints of one image.

    Attributes:
        size_hw: height and width of the image in pixels.
        xy: ``(N, 2)`` float64, in pixels of the image, pixel centres at integers.
        scores: ``(N,)`` float64, strength of each keypoint.
        descriptors: ``(N, D)``, an array or a tensor, as the matcher compares them.
    """

    size_hw: tuple[int, int]
    xy: F64
    scores: F64
    descriptors: Any

    def __len__(self) -> int:
        return len(self.xy)


@runtime_checkable
class ImageMatcher(Protocol):
    """Finds corresponding points of two images.

    Attributes:
        name: as :func:`counterview.baselines.geometric.load_image_matcher` takes it.
    """

    name: str

    def settings(self) -> dict[str, Any]:
        """Everything beside the images that the matches depend on, as plain values."""
        ...

    def encode(self, image: RgbImage) -> Any:
        """What :meth:`match` needs of one image: its keypoints, or the image itself.

        Args:
            image: ``(H, W, 3)`` uint8.
        """
        ...

    def match(self, query: Any, target: Any) -> PointMatches:
        """The matches of two encoded images, ``(M, 2)`` points in each and ``(M,)`` confidences; M may be 0.

        Args:
            query: of :meth:`encode`, for the query image.
            target: of :meth:`encode`, for the target image.
        """
        ...


def find_matches(matcher: ImageMatcher, query_image: RgbImage, target_image: RgbImage) -> PointMatches:
    """The matches of two images.

    Args:
        matcher: of :func:`counterview.baselines.geometric.load_image_matcher`.
        query_image: ``(H, W, 3)`` uint8.
        target_image: ``(H', W', 3)`` uint8.

    Returns:
        ``(M, 2)`` points of each image and ``(M,)`` confidences.
    """
    return matcher.match(matcher.encode(query_image), matcher.encode(target_image))


def _floats(values: ArrayLike, shape: tuple[int, ...], what: str) -> F64:
    array = np.array(values, dtype=np.float64)
    fits = array.ndim == len(shape) and all(s in (-1, n) for s, n in zip(shape, array.shape, strict=True))
    if not fits or not np.isfinite(array).all():
        raise InputError(f"the {what} of matches are not finite numbers", found=f"shape {array.shape}", expected=shape)
    return array
