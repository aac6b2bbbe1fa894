"""What sessions of whole images and of windows have in common: frame numbers, and the memory of each track."""

from __future__ import annotations

import numpy as np
import torch

from counterview.errors import InputError
from counterview.lmeec.memory import TrackMemory
from counterview.lmeec.network import LMEECNetwork
from counterview.lmeec.session_file import TrackKey
from counterview.lmeec.track_step import TrackPredictor


class ClipSession:
    """One clip, whose frames come one at a time and in order.

    Args:
        model: an LM-EEC, in eval mode.
        frames: number of frames of the clip, if it is known. The position of object pointers depends on it, in clips
            shorter than ``config.max_pointers``.
        stride: distance of neighbouring frame numbers, for instance 30 for Ego-Exo4D's annotations.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to compute in half precision.

    Attributes:
        frame: number of the last frame; ``None`` before the first.
        start: number of the first frame.
        tracks: memory of each object in each target camera, by both names.

    Raises:
        InputError: a length, stride or precision that a session cannot have.
    """

    def __init__(
        self, model: LMEECNetwork, frames: int | None = None, stride: int = 1, autocast: torch.dtype | None = None
    ) -> None:
        for name, value in (("frames", frames), ("stride", stride)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f"{name} is an integer of at least 1", found=repr(value))
        if autocast not in (None, torch.bfloat16, torch.float16):
            raise InputError("autocast is torch.bfloat16, torch.float16 or None", found=autocast)
        self.model = model
        self.frames = frames
        self.stride = stride
        self.autocast = autocast
        self.frame: int | None = None
        self.start: int | None = None
        self.tracks: dict[TrackKey, TrackMemory] = {}

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the objects so far, in the order of their first appearance."""
        return tuple(dict.fromkeys(name for name, _ in self.tracks))

    def forget(self, name: str) -> None:
        """Drop all memory of an object. It may be shown again later, as a new one."""
        self.tracks = {key: track for key, track in self.tracks.items() if key[0] != name}

    def _number(self, frame: int | None) -> tuple[int, int]:
        """The frame's number, and its index counted in strides from the first."""
        if frame is None:
            number = 0 if self.frame is None else self.frame + self.stride
        elif isinstance(frame, bool) or not isinstance(frame, (int, np.integer)) or frame < 0:
            raise InputError("a frame number is an integer of at least 0", found=repr(frame))
        else:
            number = int(frame)
        if self.frame is not None and number <= self.frame:
            raise InputError(
                "frames go forward", found=f"frame {number} after frame {self.frame}", fix="Start a new session."
            )
        start = number if self.start is None else self.start
        if (number - start) % self.stride:
            raise InputError(
                f"frame {number} is not on the session's grid",
                found=f"{number - start} after the first frame",
                expected=f"a multiple of the stride, {self.stride}",
            )
        index = (number - start) // self.stride
        if self.frames is not None and index >= self.frames:
            raise InputError(f"the session has only {self.frames} frames", found=f"frame {number}, the {index + 1}th")
        return number, index

    @property
    def _predictor(self) -> TrackPredictor:
        return TrackPredictor(self.model, self.autocast, self.frames)
