"""Videos of coloured rectangles, and a predictor that knows them by colour alone: seconds instead of networks."""

import numpy as np
import torch

from counterview.inference.prompted import PromptedPredictor
from counterview.media.encode import write_video
from counterview.proposals.base import Proposals
from counterview.tracking.tracker import MemoryTracker
from counterview.tracking.weighing import EvidenceWeighing, WeighingConfig
from tests.tracking.coloured import COLOURS, GROUND, ColourModel, draw

PALETTE = np.array([*COLOURS.values(), GROUND], dtype=np.int32)
EGO = {"red": (10, 20, 20, 15), "blue": (60, 40, 25, 20), "green": (90, 10, 12, 18)}
CAM = {"red": (90, 20, 14, 12), "blue": (30, 45, 20, 18), "green": (10, 8, 10, 16)}


def snapped(image):
    """An image whose colours a codec changed a little, with the nearest of the palette."""
    distance = ((image[:, :, None].astype(np.int32) - PALETTE) ** 2).sum(-1)
    return PALETTE[distance.argmin(-1)].astype(np.uint8)


def shift(boxes, dx, dy=0):
    return {name: (max(0, x + dx), max(0, y + dy), w, h) for name, (x, y, w, h) in boxes.items()}


def without(boxes, *names):
    return {name: box for name, box in boxes.items() if name not in names}


def ego_images(count):
    return [draw(shift(EGO, n % 6)) for n in range(count)]


def cam_images(count, hidden=()):
    """The other camera; red is covered in the frames ``hidden``."""
    return [draw(without(shift(CAM, -(n % 4)), *(("red",) if n in hidden else ()))) for n in range(count)]


def write_two(folder, count=20, fps=5, hidden=()):
    """``ego.mp4`` and ``cam01.mp4``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / "ego.mp4", ego_images(count), fps, crf=4)
    write_video(folder / "cam01.mp4", cam_images(count, hidden), fps, crf=4)
    return str(folder / "ego.mp4"), str(folder / "cam01.mp4")


class SnappedColours(ColourModel):
    def encode(self, image):
        return super().encode(snapped(image))


def weighing():
    """Visible if it is more alike than not: the rest of the network is untrained."""
    torch.manual_seed(0)
    network = EvidenceWeighing(WeighingConfig())
    with torch.no_grad():
        for layer in network.visibility:
            if hasattr(layer, "weight"):
                layer.weight.mul_(0)
                layer.bias.mul_(0)
        network.visibility[-1].bias.add_(2.0)
    return network


class ColourPredictor(PromptedPredictor):
    """Chooses among the areas of one colour."""

    def __init__(self):
        self.steps = 0

    def settings(self):
        return {"name": "colours"}

    def encode(self, image, proposals=None, *, name=None, color="rgb"):
        return SnappedColours().encode(image)

    def prompt_proposals(self, query):
        count = len(query.masks)
        return Proposals(query.size_hw, tuple(query.masks), np.ones(count, np.float32)), None

    def prompt_settings(self):
        return {"name": "colours"}

    def make_engine(self, cameras, config=None):
        outer = self

        class Counted(MemoryTracker):
            def step(self, images, time_s, prompts):
                outer.steps += 1
                return super().step(images, time_s, prompts)

        return Counted(SnappedColours(), cameras, weighing(), config)
