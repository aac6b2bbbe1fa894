"""Boxes of the masks of one image with the proposer's scores, and the points at which their objects stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoredBoxes:
    """Boxes of N masks of one image.

    Attributes:
        xywh: ``(N, 4)`` left, top, width and height in pixels.
        size_hw: height and width of the image in pixels.
        scores: ``(N,)`` of the proposer, the best 1; ones for masks without scores.
    """

    xywh: NDArray[np.floating]
    size_hw: tuple[int, int]
    scores: NDArray[np.floating]

    def __len__(self) -> int:
        return len(self.xywh)

    def best(self, count: int) -> NDArray[np.int64]:
        """Rows ``(min(N, count),)`` of the highest scores; of equal ones the first."""
        return np.argsort(-self.scores, kind="stable")[:count]

    def at(self, rows: NDArray[np.int64]) -> ScoredBoxes:
        """The boxes of ``rows`` ``(M,)``."""
        return ScoredBoxes(self.xywh[rows], self.size_hw, self.scores[rows])

    @classmethod
    def make(
        cls, xywh: NDArray[np.floating], size_hw: tuple[int, int], scores: NDArray[np.floating] | None = None
    ) -> ScoredBoxes:
        """Boxes with scores on any scale, or without.

        Args:
            xywh: ``(N, 4)`` left, top, width and height in pixels.
            size_hw: height and width of the image in pixels.
            scores: ``(N,)``; they are divided by the largest.

        >>> import numpy as np
        >>> boxes = ScoredBoxes.make(np.array([[0, 0, 4, 2], [4, 0, 4, 8]]), (10, 20), np.array([2.0, 8.0]))
        >>> boxes.scores.tolist(), boxes.best(1).tolist()
        ([0.25, 1.0], [1])
        """
        return cls(xywh, size_hw, np.ones(len(xywh)) if scores is None else relative_scores(scores))


def relative_scores(scores: NDArray[np.floating]) -> NDArray[np.floating]:
    """Scores ``(N,)`` divided by their largest magnitude; if all are zero, or N is 0, they are returned unchanged."""
    largest = float(np.abs(scores).max(initial=0.0))
    return scores / largest if largest else scores


def ground_points(boxes_xywh: NDArray[np.floating], size_hw: tuple[int, int]) -> F64:
    """Where objects stand: the centres of the lower edges of their boxes.

    Args:
        boxes_xywh: ``(N, 4)`` in pixels.
        size_hw: height and width of the image in pixels.

    Returns:
        ``(N, 2)`` x and y, measured from the image's centre in halves of its width: x runs from -1 to 1.

    >>> import numpy as np
    >>> ground_points(np.array([[90, 20, 20, 30]]), (100, 200)).tolist()
    [[0.0, 0.0]]
    """
    boxes = np.asarray(boxes_xywh, dtype=np.float64).reshape(-1, 4)
    height, width = size_hw
    points = boxes[:, :2] + boxes[:, 2:] * (0.5, 1.0)
    return (points - (width / 2, height / 2)) / (width / 2)
