"""Prediction of a data set in the official format, through the same function as every other method."""

import json

from counterview.data.dataset import DIRECTIONS
from counterview.data.pairs import enumerate_pairs
from counterview.inference.dataset import predict
from counterview.inference.takes import ClipPredictor
from tests.lmeec.lmeec_fill import small_model
from tests.lmeec.lmeec_takes import disc_dataset


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
