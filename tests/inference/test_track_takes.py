"""tiny-track on the bundled take: every wanted pair is answered, in order, better than chance, also from one click."""

from collections import defaultdict
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from counterview.data.dataset import DIRECTIONS
from counterview.data.open import open_dataset
from counterview.data.pairs import pairs_of_take
from counterview.errors import ConfigError
from counterview.inference.loading import load, load_take_predictor, tracking_protocol
from counterview.inference.prompts import Point
from counterview.inference.track_takes import TrackingPredictor, click_on
from counterview.masks.geometry import iou, resize_mask
from counterview.types import ObjectMask

TAKE = Path(str(files("counterview"))) / "assets" / "take"
FRAMES = 3


@pytest.fixture(scope="module")
def take():
    dataset = open_dataset(TAKE, "test")
    return dataset.take(dataset.uids[0])


@pytest.fixture(scope="module")
def wanted(take):
    by_frame = defaultdict(list)
    for direction in DIRECTIONS:
        for pair in pairs_of_take(take, direction, targets="annotated"):
            by_frame[pair.frame].append((direction, pair))
    return {frame: by_frame[frame] for frame in sorted(by_frame)[:FRAMES]}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("proposals")


@pytest.fixture(scope="module")
def matcher(cache):
    return load("tiny-match", cache=cache)


@pytest.mark.parametrize(("protocol", "least"), [("given", 0.6), ("click", 0.4)])
def test_every_pair_is_answered_in_order(take, wanted, matcher, protocol, least):
    found = list(TrackingPredictor(matcher, protocol=protocol).predict(take, wanted))
    assert [frame for frame, _ in found] == list(wanted)
    overlaps = []
    for frame, predictions in found:
        assert [(p.direction, p.pair) for p in predictions] == wanted[frame]
        for p in predictions:
            truth = take.mask(p.pair.object, p.pair.target_camera, frame) if p.pair.target_visible else None
            if truth is not None:
                overlaps.append(iou(resize_mask(truth, p.mask.size_hw), p.mask))
            assert 0 <= p.confidence <= 1
            assert max(p.mask.size_hw) == 480
    assert np.mean(overlaps) > least


def test_without_smoothing_frames_come_at_once(take, wanted, matcher):
    predictor = TrackingPredictor(matcher, smooth=False)
    first = next(iter(predictor.predict(take, wanted)))
    assert first[0] == min(wanted)
    assert predictor.settings()["smooth"] is False
    assert not predictor.restartable


def test_masks_are_drawn_again_where_that_is_asked_for(take, wanted, matcher, cache):
    drawn = load_take_predictor("tiny-track", refine="auto", cache=cache)
    assert drawn.settings()["model"]["refinement"]["name"] == "bundled"
    with pytest.raises(ConfigError, match="refine"):
        load_take_predictor("tiny-track", refine="yes")
    frames = dict(list(wanted.items())[:1])
    ((_, plain),) = TrackingPredictor(matcher, smooth=False).predict(take, frames)
    drawn.smooth = False
    ((_, found),) = drawn.predict(take, frames)
    assert [p.confidence for p in found] == [p.confidence for p in plain]
    changed = [iou(a.mask, b.mask) for a, b in zip(found, plain, strict=True)]
    assert min(changed) < 1, "some are drawn"
    assert np.mean(changed) > 0.5, "at the same places"


def test_names():
    assert tracking_protocol("tiny-track") == "given"
    assert tracking_protocol(None) is None
    predictor = load_take_predictor("tiny-track:click")
    assert isinstance(predictor, TrackingPredictor)
    assert predictor.settings()["protocol"] == "click"
    assert predictor.settings()["engine"] == "tiny-track"
    with pytest.raises(ConfigError, match="own proposals and features"):
        load_take_predictor("tiny-track", proposals="graph")


def test_a_click_is_where_the_mask_is_deepest():
    dense = np.zeros((30, 40), dtype=bool)
    dense[5:16, 8:30] = True
    dense[10, 0:8] = True  # a thin arm
    point = click_on(ObjectMask.from_array(dense))
    assert isinstance(point, Point)
    assert point.y_px == 10
    assert 13 <= point.x_px <= 24
