"""Small images with known objects."""

import cv2
import numpy as np
import pytest

from counterview.proposals.boundary import EMBEDDING, EXTENT
from counterview.proposals.bundled import DensePrediction
from counterview.proposals.tiny import oversegment_along


def _shapes(size_hw=(180, 240), seed=0):
    """A textured ground with four objects, noise on top: ``(H, W, 3)`` uint8 and the objects' masks by name."""
    rng = np.random.default_rng(seed)
    height, width = size_hw
    grain = cv2.resize(rng.uniform(-12, 12, (height // 6, width // 6, 3)).astype(np.float32), (width, height))
    image = np.full((height, width, 3), (150, 120, 90), np.float32) + grain
    masks = {}

    def paint(name, colour, draw):
        mask = np.zeros(size_hw, np.uint8)
        draw(mask)
        image[mask > 0] = colour
        masks[name] = mask > 0

    unit = height / 180
    at = lambda x, y: (round(x * unit), round(y * unit))  # noqa: E731
    paint("plate", (230, 230, 235), lambda m: cv2.ellipse(m, at(60, 60), at(40, 25), 0, 0, 360, 1, -1))
    paint("box", (40, 70, 160), lambda m: cv2.rectangle(m, at(130, 30), at(190, 80), 1, -1))
    paint("pen", (190, 30, 40), lambda m: cv2.line(m, at(20, 150), at(100, 120), 1, max(3, round(6 * unit))))
    paint("berry", (90, 20, 110), lambda m: cv2.circle(m, at(180, 140), round(5 * unit), 1, -1))
    noisy = cv2.GaussianBlur(image, (0, 0), 0.6) + rng.normal(0, 3, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), masks


def _best_iou(proposals, mask):
    """Largest IoU of a proposal with a dense mask, counted pixel by pixel."""
    best = 0.0
    for proposal in proposals.masks:
        dense = proposal.to_array()
        best = max(best, (dense & mask).sum() / (dense | mask).sum())
    return best


@pytest.fixture(scope="session")
def shapes():
    return _shapes


@pytest.fixture(scope="session")
def best_iou():
    return _best_iou


def _extent_of(mask):
    """The extent ``(5,)`` of an instance: centre, log deviations, log area."""
    y, x = np.nonzero(mask)
    deviations = [np.log(np.sqrt(v.var() + 1 / 12)) for v in (x, y)]
    return np.float32([x.mean(), y.mean(), *deviations, np.log(len(x))])


@pytest.fixture(scope="session")
def extent_of():
    return _extent_of


@pytest.fixture(scope="session")
def segmented():
    """A small image, the prediction of a perfect boundary network, and the regions of both."""
    image, objects = _shapes((90, 120))
    edge = np.zeros((90, 120), bool)
    for mask in objects.values():
        edge[1:] |= mask[1:] != mask[:-1]
        edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    embedding = np.zeros((90, 120, EMBEDDING), np.float32)
    for number, mask in enumerate(objects.values(), start=1):
        embedding[mask, number % EMBEDDING] = 4
    embedding += np.random.default_rng(0).normal(0, 0.05, embedding.shape).astype(np.float32)
    extent = np.zeros((90, 120, EXTENT), np.float32)
    for mask in (*objects.values(), ~np.any(list(objects.values()), axis=0)):
        extent[mask] = _extent_of(mask)
    prediction = DensePrediction(edge.astype(np.uint8) * 255, embedding, extent)
    return image, prediction, oversegment_along(image, prediction, 60)
