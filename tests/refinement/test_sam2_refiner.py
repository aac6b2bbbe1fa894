from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import Sam2Model

from counterview.errors import ImageError
from counterview.masks.geometry import iou
from counterview.proposals.sam2 import Sam2Proposer, Sam2Settings
from counterview.refinement.base import Proposed
from counterview.refinement.sam2 import Sam2Refiner
from tests.proposals.test_sam2 import _tiny_config as tiny_config
from tests.refinement.conftest import rectangle

SIDE = 64


class Recorder:
    """In place of a ``Sam2Model``: keeps its prompts, and draws a box of window pixels."""

    dtype, device = torch.float32, torch.device("cpu")
    config = SimpleNamespace(prompt_encoder_config=SimpleNamespace(image_size=SIDE))

    def __init__(self, drawn_xyxy):
        self.drawn, self.given = drawn_xyxy, None

    def get_image_embeddings(self, pixels):
        return [pixels]

    def __call__(self, **given):
        self.given = given
        logits = torch.full((1, 1, 1, SIDE // 4, SIDE // 4), -5.0)
        x0, y0, x1, y1 = (v // 4 for v in self.drawn)
        logits[..., y0:y1, x0:x1] = 5.0
        return SimpleNamespace(pred_masks=logits, iou_scores=torch.tensor([[[0.75]]]))


def proposed(mask):
    return Proposed(mask, None, [], np.zeros(0))


def test_the_decoder_is_asked_in_the_window_and_answers_in_the_image(scene):
    image, _, (whole, _) = scene  # x 60 to 90, y 40 to 80: a window of 80 pixels around 75, 60
    model = Recorder((20, 16, 44, 48))
    (refined,) = Sam2Refiner(model)(image, [proposed(whole)])
    assert model.given["input_boxes"].flatten().tolist() == pytest.approx([20, 16, 44, 48])
    mask = model.given["input_masks"][0, 0]
    assert mask.shape == (SIDE, SIDE)
    assert mask[30, 30] == 10
    assert mask[5, 5] == -10
    red = model.given["image_embeddings"][0][0, 0]
    assert red[30, 30] > red[5, 5]
    assert iou(refined.mask, whole) > 0.95
    assert refined.drawn_iou == 0.75


def test_what_is_drawn_elsewhere_is_not_taken(scene):
    image, _, (whole, _) = scene
    (refined,) = Sam2Refiner(Recorder((0, 0, 12, 12)))(image, [proposed(whole)])
    assert refined.mask == whole
    with pytest.raises(ImageError):
        Sam2Refiner(Recorder((0, 0, 12, 12)))(image[..., 0], [proposed(whole)])


def test_a_network_of_transformers_takes_these_prompts(scene):
    torch.manual_seed(0)
    model = Sam2Model(tiny_config()).eval()
    proposer = Sam2Proposer(Sam2Settings(device="cpu"), model=model)
    refiner = Sam2Refiner(proposer.model)
    assert refiner.settings()["image_size"] == SIDE
    one, other = (refiner(scene[0], [proposed(rectangle(60, 40, 90, 80))])[0] for _ in range(2))
    assert one.mask == other.mask
    assert one.mask.size_hw == scene[0].shape[:2]
    with torch.no_grad():  # what the mask prompt says reaches the decoder
        changed = refiner(scene[0], [proposed(rectangle(60, 40, 75, 80))])[0]
    assert changed.drawn_iou != one.drawn_iou
