"""Small synthetic takes in memory: coloured discs that move in two cameras, and are at times out of sight."""

from pathlib import Path

import numpy as np

from counterview.data.dataset import Dataset, Take
from counterview.types import ObjectMask
from tests.lmeec.lmeec_fill import disc

EGO, EXO = "aria01_214-1", "cam01"
SIZES = {EGO: (48, 48), EXO: (36, 64)}
COLOURS = {"red disc": (220, 40, 40), "green disc": (40, 200, 60), "blue disc": (50, 60, 220)}
STEP = 30


class DiscTake(Take):
    def __init__(self, uid, frames=10, absent=(4, 5)):
        super().__init__(uid, scenario="discs")
        self.seed = int(uid.removeprefix("take"))
        self._frames = tuple(range(0, frames * STEP, STEP))
        self._absent = frozenset(f * STEP for f in absent)
        self._masks = {name: {c: self._track(i, c) for c in SIZES} for i, name in enumerate(COLOURS)}
        self.reads = []

    def _track(self, i, camera):
        height, width = SIZES[camera]
        rng = np.random.default_rng((self.seed, i, camera == EGO))
        x, y = rng.uniform(0.25, 0.75, 2) * (width, height)
        dx, dy = rng.uniform(-1, 1, 2)
        frames = [f for f in self._frames if camera == EGO or i != 0 or f not in self._absent]
        return {
            f: ObjectMask.from_array(disc((height, width), x + dx * f / STEP, y + dy * f / STEP, height / 7))
            for f in frames
        }

    @property
    def path(self):
        return Path("in memory")

    @property
    def raw_masks(self):
        return self._masks

    def annotated_frames(self, name, camera):
        return frozenset(self._frames)

    def decode_mask(self, raw):
        return raw

    @property
    def frames(self):
        return self._frames

    def has_frame(self, camera, frame):
        return frame in self._frames

    def frame(self, camera, frame):
        self.reads.append((camera, frame))
        image = np.full((*SIZES[camera], 3), 110 if camera == EGO else 130, np.uint8)
        for name, colour in COLOURS.items():
            mask = self._masks[name][camera].get(frame)
            if mask is not None:
                image[mask.to_array()] = colour
        return image


def disc_dataset(takes=2, **settings):
    return Dataset(
        Path("discs"), "prepared", None, [f"take{i}" for i in range(takes)], lambda u: DiscTake(u, **settings)
    )
