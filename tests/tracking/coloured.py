"""A world of coloured rectangles, and a model that knows them by colour alone: an oracle for the tracker."""

import numpy as np

from counterview.geometry.boxes import ScoredBoxes
from counterview.tracking.place import small_gray
from counterview.tracking.views import EncodedView, ViewComparison
from counterview.types import ObjectMask

COLOURS = {"red": (200, 30, 30), "blue": (30, 60, 200), "green": (30, 160, 60), "yellow": (220, 200, 40)}
GROUND = (90, 90, 90)


def draw(boxes, size_hw=(90, 120)):
    """An image ``(H, W, 3)`` with boxes ``(x, y, w, h)`` by colour; later ones are in front."""
    image = np.full((*size_hw, 3), GROUND, dtype=np.uint8)
    for name, (x, y, w, h) in boxes.items():
        image[y : y + h, x : x + w] = COLOURS[name]
    return image


def mask_of(image, name):
    return ObjectMask.from_array((image == COLOURS[name]).all(-1))


class ColourModel:
    """Candidates are the areas of one colour; two are alike if their colours are."""

    def settings(self):
        return {"name": "colours"}

    def clip(self, *, share_frames, keep_alignments):
        return ColourClip(self)

    def encode(self, image):
        masks = [mask_of(image, name) for name in COLOURS if (image == COLOURS[name]).all(-1).any()]
        background = ObjectMask.from_array((image == GROUND).all(-1))
        masks = [*masks, background]
        boxes = ScoredBoxes.make(np.array([m.box_xywh for m in masks], float), image.shape[:2], np.ones(len(masks)))
        view = EncodedView(image.shape[:2], masks, boxes, np.zeros((0, 0), np.float32), small_gray(image), image)
        return EncodedView(view.size_hw, masks, boxes, self.describe(view, masks), view.gray, image)

    def describe(self, view, masks):
        rows = []
        for mask in masks:
            mean = view.handle[mask.to_array()].mean(0) - 100.0
            rows.append(np.concatenate([mean, [20.0]]) / np.linalg.norm([*mean, 20.0]))
        return np.array(rows, np.float32)

    def compare(self, query, masks, target):
        similarity = (self.describe(query, masks) @ target.looks.T).astype(np.float64)
        scores = similarity / 0.05
        shifted = scores - scores.max(1, keepdims=True)
        log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        visibility = 1 / (1 + np.exp(-(similarity.max(1) - 0.9) * 60))
        return ViewComparison(similarity, log_probability, visibility)


class ColourClip:
    """Encodes every image by itself."""

    def __init__(self, model):
        self.model = model

    def encode(self, image, camera):
        return self.model.encode(image)

    def state(self):
        return {}

    def restore(self, state):
        pass
