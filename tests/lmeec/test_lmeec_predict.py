"""Prediction of a data set in the official format, through the same function as every other method."""

import json

import numpy as np
import pytest
import torch

from counterview.data.dataset import DIRECTIONS
from counterview.data.pairs import enumerate_pairs, pairs_of_take
from counterview.evaluation.layout import LAYOUTS
from counterview.inference.dataset import predict
from counterview.inference.takes import ClipPredictor
from counterview.lmeec.inference import predict_take
from counterview.lmeec.preprocess import to_native
from counterview.lmeec.session import Session
from counterview.masks.rle import from_coco
from counterview.types import ObjectMask
from tests.lmeec.lmeec_fill import small_model
from tests.lmeec.lmeec_takes import DiscTake, disc_dataset


def test_every_official_question_is_answered_absent_targets_included(tmp_path):
    dataset = disc_dataset(2, frames=6, absent=(2, 3))
    predictor = ClipPredictor(small_model())
    counts = predict(predictor, dataset, list(DIRECTIONS), tmp_path / "p.json", progress=False)
    questions = [p for d in DIRECTIONS for p in enumerate_pairs(dataset, d)]
    assert any(p.target_visible is False for p in questions)
    assert counts["predictions"] == len(questions)
    assert not counts["failed"]
    assert not counts["empty"]
    assert json.loads((tmp_path / "p.json").read_text())
    again = predict(predictor, dataset, list(DIRECTIONS), tmp_path / "q.json", progress=False)
    assert again["predictions"] == counts["predictions"]
    assert (tmp_path / "p.json").read_bytes() == (tmp_path / "q.json").read_bytes()


def test_settings_tell_weights_and_configuration_apart():
    one = ClipPredictor(small_model()).settings()
    assert one == ClipPredictor(small_model()).settings()
    assert one != ClipPredictor(small_model(seed=1)).settings()
    assert one != ClipPredictor(small_model(compression="fifo")).settings()


def wanted(take, targets):
    pairs = {}
    for direction in DIRECTIONS:
        for pair in pairs_of_take(take, direction, targets=targets):
            pairs.setdefault(pair.frame, []).append((direction, pair))
    return pairs


@pytest.mark.parametrize("behaviour", ["paper", "released"])
def test_each_track_as_a_clip_of_its_own_is_what_it_is_alone(behaviour):
    """Oracle: a session for one object alone, which visits the frames where the target has a mask, from number 0 on."""
    take, model = DiscTake("take0", frames=8, absent=(0, 3)), small_model(behaviour=behaviour)
    together = {
        (answer.direction, answer.pair): answer.result
        for _, answers in predict_take(model, take, wanted(take, "visible"), clip="track")
        for answer in answers
    }
    tracks = {(direction, pair.object) for direction, pair in together}
    assert len(tracks) == 6
    differs = False
    for direction, name in tracks:
        pairs = sorted(
            (pair for way, pair in together if (way, pair.object) == (direction, name)), key=lambda p: p.frame
        )
        session = Session(model, frames=len(pairs))
        for index, pair in enumerate(pairs):
            query, target = (take.frame(c, pair.frame) for c in (pair.query_camera, pair.target_camera))
            mask = take.mask(name, pair.query_camera, pair.frame).to_array()
            alone = session.step(query, {name: mask}, target, frame=index)[name]
            result = together[direction, pair]
            np.testing.assert_allclose(result.low_res_logits, alone.low_res_logits, rtol=0, atol=2e-4)
            assert result.visibility == pytest.approx(alone.visibility, abs=1e-5)
        # The frames that are left out change the memory: the walk through every frame has other logits.
        every = {
            pair.frame: answer.result.low_res_logits
            for _, answers in predict_take(model, take, wanted(take, "official"))
            for answer in answers
            for way, pair in [(answer.direction, answer.pair)]
            if (way, pair.object) == (direction, name)
        }
        last = pairs[-1]
        differs |= float(np.abs(every[last.frame] - together[direction, last].low_res_logits).max()) > 1e-3
    assert differs


def test_the_layout_of_lmeec_writes_squares_for_frames_with_a_target_mask(tmp_path):
    dataset = disc_dataset(1, frames=6, absent=(2, 3))
    model = small_model()
    predictor = ClipPredictor(model, layout=LAYOUTS["lmeec"])
    counts = predict(predictor, dataset, list(DIRECTIONS), tmp_path / "p.json", progress=False)
    visible = [p for d in DIRECTIONS for p in enumerate_pairs(dataset, d) if p.target_visible]
    assert counts["predictions"] == len(visible) < sum(len(enumerate_pairs(dataset, d)) for d in DIRECTIONS)
    values = json.loads((tmp_path / "p.json").read_text())
    take = dataset.take("take0")
    results = {
        (a.direction, a.pair): a.result
        for _, answers in predict_take(model, take, wanted(take, "visible"), clip="track")
        for a in answers
    }
    number = 0
    for (direction, pair), result in results.items():
        masks = values["ego-exo" if direction == "ego2exo" else "exo-ego"]["results"]["take0"]["masks"]
        entry = masks[pair.object][f"{pair.query_camera}_{pair.target_camera}"][str(pair.frame)]
        mask = from_coco(entry["pred_mask"])
        assert mask.size_hw == (480, 480)
        # Straight from the model's logits: not by way of the image's shape, which would lose detail.
        assert mask == ObjectMask.from_array(to_native(torch.from_numpy(result.low_res_logits), (480, 480)))
        number += 1
    assert number == len(visible)
    held = values["ego-exo"]["counterview"]["holds"]
    assert (held["layout"], held["sizes"], held["takes"]) == ("lmeec", "480 x 480 squares", ["take0"])
