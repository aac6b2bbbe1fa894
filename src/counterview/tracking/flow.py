"""Dense optical flow between frames, and what it says about a key frame that lies many frames away.

Flow is that of Kroeger et al. (2016), dense inverse search, by OpenCV. Flow from a frame to the next and back again
ends where it began, but where something is covered or uncovered, or the flow is wrong (Sundaram et al. 2010). Fields
of neighbouring frames are composed, so that masks are sampled once, from the key frame, and lose nothing on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.types import RgbImage

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

_RELATIVE, _ABSOLUTE_PX2 = 0.01, 0.5
"""Squared error of the way there and back that counts as consistent: a part of the squared lengths, and px^2."""
_SMALLEST_PX = 24
"""Shorter sides are enlarged to this: the search needs a few patches of 8 px."""
_STILL = 7.0
"""Grey levels by which a pixel may differ from the key frame and count as unchanged: noise of a sensor and a codec."""
_STILL_PX = 5
"""Side of the window in which all pixels must be unchanged."""


@dataclass(frozen=True, eq=False)
class FlowPair:
    """Flow between two frames, both ways.

    Attributes:
        forward: ``(h, w, 2)`` float16, px (x, y) from a pixel of the earlier frame to its place in the later one.
        backward: ``(h, w, 2)`` float16, from the later to the earlier.
        forward_ok: ``(h, w)`` uint8, 1 where ``forward`` and ``backward`` agree, on the earlier frame's pixels.
        backward_ok: ``(h, w)`` uint8, the same on the later frame's.
    """

    forward: NDArray[np.float16]
    backward: NDArray[np.float16]
    forward_ok: U8
    backward_ok: U8


class FlowEstimator:
    """Flow between two frames by OpenCV's dense inverse search."""

    def __init__(self) -> None:
        self._search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        # The presets stop at half or a quarter of the size, where small objects take the motion of what is around them.
        self._search.setFinestScale(0)
        # Variational refinement costs as much as the rest and smooths over edges: masks were worse with it.
        self._search.setVariationalRefinementIterations(0)

    def __call__(self, earlier: RgbImage, later: RgbImage) -> FlowPair:
        """Flow both ways between two images ``(h, w, 3)`` uint8 of one size, at working size."""
        a, b = (np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8) for image in (earlier, later))
        forward, backward = self._flow(a, b), self._flow(b, a)
        ok = (_consistent(forward, backward), _consistent(backward, forward))
        return FlowPair(forward.astype(np.float16), backward.astype(np.float16), *ok)

    def _flow(self, a: U8, b: U8) -> F32:
        height, width = a.shape
        grown = (max(width, _SMALLEST_PX), max(height, _SMALLEST_PX))
        if grown == (width, height):
            return np.asarray(self._search.calc(a, b, None), np.float32)  # type: ignore[call-overload]
        flow = self._search.calc(cv2.resize(a, grown), cv2.resize(b, grown), None)  # type: ignore[call-overload]
        return np.asarray(cv2.resize(flow, (width, height)) * (width / grown[0], height / grown[1]), np.float32)


def sample(values: NDArray[Any], places: F32, repeat_border: bool) -> F32:
    """Values at places between pixels, bilinearly.

    Args:
        values: ``(h, w)`` or ``(h, w, C)``, uint8 or float32.
        places: ``(H, W, 2)``, (x, y) in pixels.
        repeat_border: beyond the border, take the nearest value; otherwise 0.

    Returns:
        ``(H, W)`` or ``(H, W, C)`` float32.
    """
    border = cv2.BORDER_REPLICATE if repeat_border else cv2.BORDER_CONSTANT
    x, y = np.ascontiguousarray(places[..., 0]), np.ascontiguousarray(places[..., 1])
    return np.asarray(cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=border), np.float32)


def pixel_grid(height: int, width: int) -> F32:
    """Coordinates (x, y) of all pixels, ``(h, w, 2)`` float32."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([x, y], -1)


def _consistent(there: F32, back: F32) -> U8:
    """Where going there and back ends near the start: ``(h, w)`` uint8, 0 or 1; 0 where it leads out of the image."""
    to = pixel_grid(*there.shape[:2]) + there
    returned = sample(back, to, True)
    error = np.square(there + returned).sum(-1)
    allowed = _RELATIVE * (np.square(there).sum(-1) + np.square(returned).sum(-1)) + _ABSOLUTE_PX2
    height, width = there.shape[:2]
    inside = (to >= -0.5).all(-1) & (to[..., 0] <= width - 0.5) & (to[..., 1] <= height - 0.5)
    return ((error <= allowed) & inside).astype(np.uint8)


class FlowChain:
    """Where each pixel of the current frame was in a key frame, however many frames away.

    Args:
        key: ``(h, w, 3)`` uint8, the key frame at working size.

    Attributes:
        places: ``(h, w, 2)`` float32, (x, y) in the key frame, of every pixel of the current frame.
        trust: ``(h, w)`` float32, 1 where the flow was consistent all the way, 0 where it was not.
    """

    def __init__(self, key: RgbImage) -> None:
        self._grid = pixel_grid(*key.shape[:2])
        self._key = key
        self.places, self.trust = self._grid, np.ones(key.shape[:2], np.float32)

    def step(self, flow: NDArray[np.float16], ok: U8) -> None:
        """Go on to the next frame.

        Args:
            flow: ``(h, w, 2)`` px from the next frame's pixels to the current frame.
            ok: ``(h, w)``, where it is consistent.
        """
        to = self._grid + flow.astype(np.float32)
        # Displacements are composed, not places: beyond the border they are repeated.
        moved = sample(self.places - self._grid, to, True)
        self.places = moved + to
        self.trust = sample(self.trust, to, False) * ok

    def compare(self, image: RgbImage) -> tuple[F32, F32]:
        """Places and trust, put right where nothing has changed since the key frame.

        Where an image looks like the key frame at the very same place, the place is kept: a static object does not
        drift, and is back at once when a hand that covered it is gone.

        Args:
            image: ``(h, w, 3)`` uint8, the current frame at working size.

        Returns:
            as ``places`` and ``trust``.
        """
        changed = cv2.absdiff(cv2.blur(image, (3, 3)), cv2.blur(self._key, (3, 3))).max(-1) > _STILL
        still = cv2.dilate(changed.astype(np.uint8), np.ones((_STILL_PX, _STILL_PX), np.uint8)) == 0
        return np.where(still[..., None], self._grid, self.places), np.where(still, np.float32(1), self.trust)

    def residual(self, image: RgbImage, places: F32) -> F32:
        """Difference of colours between the current frame and the key frame where its pixels came from.

        Args:
            image: ``(h, w, 3)`` uint8, the current frame at working size.
            places: ``(h, w, 2)``, see :meth:`compare`.

        Returns:
            ``(h, w, 3)`` float32, grey levels, with sign.
        """
        came_from = sample(np.asarray(cv2.blur(self._key, (3, 3))), places, True)
        return cv2.blur(image, (3, 3)).astype(np.float32) - came_from
