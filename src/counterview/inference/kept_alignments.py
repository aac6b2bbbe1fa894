"""How the cameras of a clip differ in colour: found once for each pair, and kept while it fits. Ours.

Finding it costs as much as describing an image, and what is found for single images near the least gain comes and goes.
A camera's colours stay until it is turned towards other light. So what was found is kept, and looked at again

- after 1, 2, 4, 8 and then every 16 frames as long as it fits: a transfer fits while descriptors agree no worse for it;
  none fits until a clear gain is found;
- where the mean colours of the two images no longer differ as they did, which costs next to nothing to see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterview.features.colour_transfer import ColourTransfer
from counterview.tiny.alignment import Alignment, AlignmentConfig, CameraRegions, Recolouring, align, gain_of

LONGEST = 16
"""Frames of a camera after which its pairs are looked at again at the latest."""
CHANGED = 0.25
"""Change of the difference of two cameras' mean colours, in logarithms, at which they are looked at again."""
_HELD = 1.05
"""Factor on the least gain for a transfer to take the place of none, and under it for one to be given up."""


@dataclass(frozen=True, eq=False)
class ClipFrame:
    """Which frame of which clip an image is.

    Attributes:
        camera: its name.
        number: how many of the camera's images there were before.
        alignments: of the clip.
    """

    camera: str
    number: int
    alignments: KeptAlignments


@dataclass(frozen=True, eq=False)
class _Kept:
    """What was found for a pair, in the order of the cameras' names.

    Attributes:
        alignment: what was found.
        numbers: the frames in which it was.
        interval: frames after which it is looked for again.
        difference: ``(3,)`` of the logarithms of the mean colours.
        colourless: which of the two have no colour.
    """

    alignment: Alignment
    numbers: tuple[int, int]
    interval: int
    difference: NDArray[np.float64]
    colourless: tuple[bool, bool]


class KeptAlignments:
    """The alignments of a clip's camera pairs.

    Args:
        longest: frames of a camera after which its pairs are looked at again at the latest.
    """

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._pairs: dict[tuple[str, str], _Kept] = {}

    def between(
        self,
        query: tuple[ClipFrame, CameraRegions],
        target: tuple[ClipFrame, CameraRegions],
        config: AlignmentConfig,
    ) -> Alignment:
        """How two images of the clip are brought to one look.

        Args:
            query: one image: which it is, and what it tells of its camera.
            target: the other, of another camera.
            config: constants.
        """
        if query[0].camera > target[0].camera:
            swapped = self.between(target, query, config)
            return Alignment(swapped.target, swapped.query, swapped.gain)
        frames, regions = (query[0], target[0]), (query[1], target[1])
        key = frames[0].camera, frames[1].camera
        known = self._pairs.get(key)
        numbers = frames[0].number, frames[1].number
        difference = np.log(np.maximum(regions[0].mean_colour, 0.02) / np.maximum(regions[1].mean_colour, 0.02))
        colourless = regions[0].is_colourless, regions[1].is_colourless
        if known is not None and not self._is_due(known, numbers, difference, colourless):
            return known.alignment
        colours_stay = known is not None and not self._has_moved(known, difference, colourless)
        if known is not None and colours_stay and self._fits(known.alignment, *regions, config):
            interval = min(2 * known.interval, self._longest)
            self._pairs[key] = _Kept(known.alignment, numbers, interval, known.difference, colourless)
            return known.alignment
        found = align(*regions, config)
        self._pairs[key] = _Kept(found, numbers, 1, difference, colourless)
        return found

    @staticmethod
    def _fits(alignment: Alignment, first: CameraRegions, second: CameraRegions, config: AlignmentConfig) -> bool:
        if first.is_colourless != second.is_colourless:
            return True  # one of them is made grey, whatever is in the images
        if alignment.query is None and alignment.target is None:
            return align(first, second, config).gain < _HELD * config.min_gain
        return gain_of(alignment, first, second, config) >= config.min_gain / _HELD

    @classmethod
    def _is_due(
        cls, known: _Kept, numbers: tuple[int, int], difference: NDArray[np.float64], colourless: tuple[bool, bool]
    ) -> bool:
        age = max(now - then for now, then in zip(numbers, known.numbers, strict=True))
        return age >= known.interval or cls._has_moved(known, difference, colourless)

    @staticmethod
    def _has_moved(known: _Kept, difference: NDArray[np.float64], colourless: tuple[bool, bool]) -> bool:
        return float(np.abs(difference - known.difference).max()) > CHANGED or colourless != known.colourless

    def state(self) -> list[dict[str, Any]]:
        """Everything that :meth:`restore` needs, as plain values."""
        return [
            {
                "cameras": list(key),
                "changes": [_to_plain(change) for change in (kept.alignment.query, kept.alignment.target)],
                "gain": kept.alignment.gain,
                "numbers": list(kept.numbers),
                "interval": kept.interval,
                "difference": kept.difference.tolist(),
                "colourless": list(kept.colourless),
            }
            for key, kept in self._pairs.items()
        ]

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Go on from a state.

        Args:
            state: what :meth:`state` gave.
        """
        self._pairs = {}
        for values in state:
            first, second = values["cameras"]
            query, target = (_from_plain(change) for change in values["changes"])
            alignment = Alignment(query, target, float(values["gain"]))
            numbers = int(values["numbers"][0]), int(values["numbers"][1])
            colourless = bool(values["colourless"][0]), bool(values["colourless"][1])
            difference = np.asarray(values["difference"], dtype=np.float64)
            self._pairs[first, second] = _Kept(alignment, numbers, int(values["interval"]), difference, colourless)


def _to_plain(change: Recolouring | None) -> dict[str, Any] | None:
    if change is None:
        return None
    transfer = change.transfer
    return {
        "gains": list(transfer.gains),
        "gamma": transfer.gamma,
        "saturation": transfer.saturation,
        "backwards": change.backwards,
    }


def _from_plain(values: Mapping[str, Any] | None) -> Recolouring | None:
    if values is None:
        return None
    red, green, blue = (float(v) for v in values["gains"])
    transfer = ColourTransfer((red, green, blue), float(values["gamma"]), float(values["saturation"]))
    return Recolouring(transfer, bool(values["backwards"]))
