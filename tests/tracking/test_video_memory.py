"""The engine by SAM 2.1's video memory and a matcher: when it matches, what wins, what is doubtful, and states."""

import json

import numpy as np
import pytest
import torch

import counterview
from counterview.errors import ConfigError, InputError, MaskError
from counterview.masks.geometry import iou
from counterview.tracking.base import UNKNOWN
from counterview.tracking.decision import Found, Propagated, VideoMemorySettings, decide
from counterview.tracking.sam2_memory import VideoMemoryNetwork
from counterview.tracking.video_memory import VideoMemoryEngine
from counterview.types import Match, ObjectMask
from tests.lmeec.lmeec_fill import disc, random_images
from tests.tracking.sam2_models import ScriptedMatcher, small_sam2

torch.set_num_threads(1)
CAMERAS, SIZES = ("ego", "cam01", "cam02"), ((48, 80), (60, 40), (40, 44))
PLACES = {size: ObjectMask.from_array(disc(size, 15, 18, 9)) for size in SIZES}
MUG = ObjectMask.from_array(disc(SIZES[0], 30, 24, 10))


def images(t, cameras=(0, 1, 2)):
    return {CAMERAS[n]: random_images(1, SIZES[n], seed=10 * t + n)[0] for n in cameras}


@pytest.fixture(scope="module")
def network():
    return VideoMemoryNetwork(small_sam2())


def engine_of(network, cameras=3, matcher=None, **settings):
    matcher = matcher or ScriptedMatcher(dict(PLACES))
    return VideoMemoryEngine(CAMERAS[:cameras], network, matcher, VideoMemorySettings(**settings)), matcher


def conditioning(engine, name, camera):
    return [(frame.step, frame.is_given) for frame in engine._memories[name, camera].conditioning]


# ------------------------------------------------------------------------------------------ which mask counts


def propagated(mask, visibility=0.9, predicted_iou=0.9):
    return Propagated(mask, visibility, predicted_iou, torch.zeros(1), torch.zeros(1))


def found(mask, visibility=0.9, way_back_iou=1.0):
    return Found(Match("mug", mask, 0.5, visibility), way_back_iou)


HERE, NEAR, AWAY = (ObjectMask.from_array(disc((40, 40), x, 20, 8)) for x in (12, 13, 30))
NOWHERE = ObjectMask.empty((40, 40))


@pytest.mark.parametrize(
    ("followed", "match", "expected"),
    [
        # nothing remembered: the match begins a memory, if the object is visible
        (None, found(HERE), (HERE, 0.9, "matched", True, False, False, set())),
        (None, found(HERE, 0.2), (HERE, 0.2, "matched", False, False, False, set())),
        (None, found(NOWHERE), (None, 0.5, "matched", False, False, False, set())),
        (None, found(HERE, 0.9, 0.2), (HERE, 0.9, "matched", True, False, False, {"way_back"})),
        # no match due
        (propagated(HERE), None, (HERE, 0.9, "propagated", False, False, True, set())),
        (propagated(HERE, 0.9, 0.3), None, (HERE, 0.9, "propagated", False, False, True, {"low_score"})),
        (propagated(HERE, 0.1), None, (HERE, 0.1, "propagated", False, False, True, set())),
        # both agree: the outline of SAM 2.1
        (propagated(HERE), found(NEAR), (HERE, 0.9, "propagated", False, False, True, set())),
        # they differ, and the surer one wins
        (propagated(HERE), found(AWAY, 0.7), (HERE, 0.9, "propagated", False, False, True, {"cameras_disagree"})),
        (propagated(HERE, 0.8), found(AWAY, 0.9), (AWAY, 0.9, "matched", True, True, False, {"cameras_disagree"})),
        (
            propagated(HERE, 0.8), found(AWAY, 0.9, 0.1),
            (HERE, 0.8, "propagated", False, False, True, {"cameras_disagree", "way_back"}),
        ),
        # the matcher sees nothing
        (propagated(HERE), found(HERE, 0.4), (HERE, 0.9, "propagated", False, False, True, {"cameras_disagree"})),
        (propagated(HERE, 0.7), found(HERE, 0.1), (HERE, 0.1, "propagated", False, False, False, {"cameras_disagree"})),
        # lost: a match finds it again, and is added to what is remembered
        (propagated(HERE, 0.1), found(AWAY), (AWAY, 0.9, "matched", True, False, False, set())),
        (propagated(HERE, 0.9, 0.3), found(AWAY), (AWAY, 0.9, "matched", True, False, False, set())),
        (propagated(HERE, 0.1), found(AWAY, 0.2), (HERE, 0.1, "propagated", False, False, True, set())),
        (propagated(HERE, 0.1), found(AWAY, 0.9, 0.0), (HERE, 0.1, "propagated", False, False, True, {"way_back"})),
    ],
)  # fmt: skip
def test_which_mask_counts(followed, match, expected):
    decision = decide(followed, match, "propagated", VideoMemorySettings())
    seen = decision.observation
    assert (
        seen.mask_rle, seen.visibility, seen.source, decision.is_conditioning, decision.forgets, decision.remembers,
        set(seen.doubts),
    ) == expected  # fmt: skip
    assert all(0 < amount <= 1 for amount in seen.doubts.values())


def test_the_doubt_says_how_much():
    doubts = decide(propagated(HERE, 0.9, 0.4), None, "followed", VideoMemorySettings()).observation.doubts
    assert doubts == {"low_score": pytest.approx(0.2)}
    doubts = decide(propagated(HERE), found(AWAY, 0.7), "followed", VideoMemorySettings()).observation.doubts
    assert doubts == {"cameras_disagree": 1.0}


# ------------------------------------------------------------------------------------------------- over time


def test_a_prompt_conditions_its_camera_and_a_match_the_others(network):
    engine, matcher = engine_of(network)
    assert engine.step(images(0), 0, {}) == {c: {} for c in CAMERAS}
    first = engine.step(images(1), 1, {"ego": {"mug": MUG}})
    assert first["ego"]["mug"].mask_rle == MUG
    assert [first[c]["mug"].source for c in CAMERAS] == ["given", "matched", "matched"]
    for n in (1, 2):
        assert first[CAMERAS[n]]["mug"].mask_rle == PLACES[SIZES[n]]
        assert conditioning(engine, "mug", CAMERAS[n]) == [(1, False)]
    assert conditioning(engine, "mug", "ego") == [(1, True)]
    assert matcher.encoded == [("query", SIZES[0]), ("both", SIZES[1]), ("both", SIZES[2])]
    second = engine.step(images(2), 2, {})
    assert [second[c]["mug"].source for c in CAMERAS] == ["followed", "propagated", "propagated"]
    assert len(matcher.calls) == 2  # the object is followed, and no key time has come
    for camera, size in zip(CAMERAS, SIZES, strict=True):
        assert second[camera]["mug"].mask_rle.size_hw == size
        assert second[camera]["mug"].visibility > 0.9
        assert [n for n, _ in engine._memories["mug", camera].recent] == [2]


def test_key_times_and_who_is_matched_then(network):
    engine, matcher = engine_of(network, 2, rematch_s=3.0)
    for t in range(8):
        prompts = {0: {"ego": {"mug": MUG}}, 1: {"ego": {"pan": PLACES[SIZES[0]]}}}
        engine.step(images(t, (0, 1)), float(t), prompts.get(t, {}))
    assert [names for _, _, names in matcher.calls] == [("mug",), ("pan",), ("mug",), ("pan",), ("mug",), ("pan",)]
    assert all(query == SIZES[0] and target == SIZES[1] for query, target, _ in matcher.calls)


def test_a_match_that_is_surer_replaces_what_was_propagated(network):
    for visibility, source, frames in ((0.99999, "matched", [(2, False)]), (0.7, "propagated", [(0, False)])):
        engine, matcher = engine_of(network, 2, rematch_s=2.0)
        engine.step(images(0, (0, 1)), 0, {"ego": {"mug": MUG}})
        engine.step(images(1, (0, 1)), 1, {})
        before = engine._memories["mug", "cam01"]
        here = engine._propagate({c: network.encode(i) for c, i in images(2, (0, 1)).items()}, images(2, (0, 1)), {})
        assert engine._index == 1
        # Somewhere else than SAM 2.1 says.
        matcher.masks[SIZES[1]] = ObjectMask.from_array(~here["mug", "cam01"].mask_rle.to_array())
        matcher.visibility = visibility
        seen = engine.step(images(2, (0, 1)), 2, {})["cam01"]["mug"]
        assert seen.source == source
        assert seen.doubts["cameras_disagree"] == pytest.approx(1, abs=0.05)
        assert conditioning(engine, "mug", "cam01") == frames
        assert (engine._memories["mug", "cam01"] is before) == (source == "propagated")
        matcher.masks[SIZES[1]] = PLACES[SIZES[1]]


def test_a_lost_object_is_matched_anew_and_not_more_often_than_retry_s():
    network = VideoMemoryNetwork(small_sam2(score=-5.0))  # SAM 2.1 loses everything at once
    engine, matcher = engine_of(network, 2, retry_s=2.0, rematch_s=100.0)
    seen = [engine.step(images(t, (0, 1)), float(t), {"ego": {"mug": MUG}}) for t in range(4)]
    assert [s["cam01"]["mug"].source for s in seen] == ["matched", "propagated", "matched", "propagated"]
    assert [s["cam01"]["mug"].is_visible for s in seen] == [True, False, True, False]
    assert seen[1]["cam01"]["mug"].mask_rle is not None
    assert [call[:2] for call in matcher.calls] == [(SIZES[0], SIZES[1])] * 2
    assert conditioning(engine, "mug", "cam01") == [(0, False), (2, False)]


def test_the_query_camera_finds_a_lost_object_from_another_camera(network):
    lost = VideoMemoryNetwork(small_sam2(score=-5.0))
    engine, matcher = engine_of(lost, 2)
    engine.step(images(0, (0, 1)), 0, {"ego": {"mug": MUG}})
    matcher.calls.clear()
    seen = engine.step(images(1, (0, 1)), 1, {"cam01": {"mug": PLACES[SIZES[1]]}})  # the user shows it there
    assert matcher.calls == [(SIZES[1], SIZES[0], ("mug",))]
    assert seen["ego"]["mug"].source == "matched"
    assert conditioning(engine, "mug", "ego") == [(0, True), (1, False)]
    # First shown in a target.
    other, matcher = engine_of(network, 3)
    seen = other.step(images(0), 0, {"cam02": {"mug": PLACES[SIZES[2]]}})
    assert [seen[c]["mug"].source for c in CAMERAS] == ["matched", "matched", "given"]
    assert {call[0] for call in matcher.calls} == {SIZES[2]}


def test_nothing_is_matched_without_a_camera_that_shows_the_object(network):
    engine, matcher = engine_of(network)
    seen = engine.step(images(0), 0, {"ego": {"mug": None}})
    assert (seen["ego"]["mug"].visibility, seen["ego"]["mug"].source) == (0.0, "given")
    assert seen["cam01"]["mug"] == UNKNOWN
    assert matcher.encoded == []
    assert engine._memories == {}


def test_not_visible_is_recorded_and_not_remembered(network):
    engine, matcher = engine_of(network, 2, rematch_s=1.0)
    engine.step(images(0, (0, 1)), 0, {"ego": {"mug": MUG}})
    seen = engine.step(images(1, (0, 1)), 1, {"cam01": {"mug": None}})
    observation = seen["cam01"]["mug"]
    assert (observation.mask_rle, observation.visibility, observation.source) == (None, 0.0, "given")
    assert not engine._memories["mug", "cam01"].recent
    assert len(matcher.calls) == 1  # nobody asks the matcher against the user


def test_a_correction_that_contradicts_drops_what_was_remembered(network):
    def follow():
        engine, _ = engine_of(network, 2)
        engine.step(images(0, (0, 1)), 0, {"ego": {"mug": MUG, "pan": PLACES[SIZES[0]]}})
        return engine

    start = follow()
    start.step(images(1, (0, 1)), 1, {})
    followed = start.step(images(2, (0, 1)), 2, {})["ego"]["mug"].mask_rle
    away = ObjectMask.from_array(~followed.to_array())
    agreeing, contradicting, at_once = follow(), follow(), follow()
    for engine, mask in ((agreeing, followed), (contradicting, away)):
        engine.step(images(1, (0, 1)), 1, {})
        engine.step(images(2, (0, 1)), 2, {"ego": {"mug": mask}})
    assert conditioning(agreeing, "mug", "ego") == [(0, True), (2, True)]
    assert conditioning(agreeing, "mug", "cam01") == [(0, False)]
    assert conditioning(contradicting, "mug", "ego") == [(2, True)]
    assert conditioning(contradicting, "mug", "cam01") == [(2, False)]  # matched anew
    assert conditioning(contradicting, "pan", "ego") == [(0, True)]
    # With masks at every step nothing wrong is remembered, whatever would have been followed.
    at_once.step(images(1, (0, 1)), 1, {"ego": {"mug": away}})
    assert conditioning(at_once, "mug", "ego") == [(0, True), (1, True)]
    assert conditioning(at_once, "mug", "cam01") == [(0, False)]


def test_the_way_back_is_matched_and_doubted(network):
    engine, matcher = engine_of(network, 2, way_back=True)
    seen = engine.step(images(0, (0, 1)), 0, {"ego": {"mug": MUG}})
    assert [call[:2] for call in matcher.calls] == [(SIZES[0], SIZES[1]), (SIZES[1], SIZES[0])]
    assert matcher.encoded == [("both", SIZES[0]), ("both", SIZES[1])]
    assert set(seen["cam01"]["mug"].doubts) == {"way_back"}  # the scripted matcher returns to another place
    matcher.masks[SIZES[0]] = MUG
    engine, _ = engine_of(network, 2, matcher, way_back=True)
    assert engine.step(images(0, (0, 1)), 0, {"ego": {"mug": MUG}})["cam01"]["mug"].doubts == {}


def test_a_target_without_candidates_is_unknown_and_tried_again(network):
    engine, matcher = engine_of(network, 2)
    matcher.empty = True
    assert engine.step(images(0, (0, 1)), 0, {"ego": {"mug": MUG}})["cam01"]["mug"] == UNKNOWN
    matcher.empty = False
    assert engine.step(images(1, (0, 1)), 1, {})["cam01"]["mug"].source == "matched"


def test_cameras_without_image_are_unknown(network):
    engine, _ = engine_of(network)
    engine.step(images(0), 0, {"ego": {"mug": MUG}})
    seen = engine.step(images(1, (2,)), 1, {})
    assert seen["ego"]["mug"] == seen["cam01"]["mug"] == UNKNOWN
    assert seen["cam02"]["mug"].source == "propagated"


def test_a_restored_engine_goes_on_bit_for_bit(network):
    def prompts(t):
        return {0: {"ego": {"mug": MUG}}, 3: {"cam02": {"pan": PLACES[SIZES[2]]}}}.get(t, {})

    engine, _ = engine_of(network, rematch_s=2.0)
    for t in range(5):
        engine.step(images(t), t, prompts(t))
    state = engine.state()
    assert all(isinstance(array, np.ndarray) for array in state["tensors"].values())
    plain = json.loads(json.dumps({key: value for key, value in state.items() if key != "tensors"}))
    again, _ = engine_of(network, rematch_s=2.0)
    again.restore({**plain, "tensors": state["tensors"]})
    for t in range(5, 9):
        assert engine.step(images(t), t, {}) == again.step(images(t), t, {})
    for name, array in engine.state()["tensors"].items():
        np.testing.assert_array_equal(array, again.state()["tensors"][name])
    with pytest.raises(InputError, match=r"other settings.*rematch_s"):
        engine_of(network)[0].restore(state)
    with pytest.raises(InputError, match="other cameras"):
        engine_of(network, 2)[0].restore(state)
    with pytest.raises(InputError, match="damaged"):
        again.restore({**state, "tensors": {}})


def test_memory_does_not_grow(network):
    engine, _ = engine_of(network, 2, rematch_s=2.0)
    sizes = []
    for t in range(40):
        engine.step(images(t % 5, (0, 1)), t, {"ego": {"mug": MUG}} if t % 4 == 0 else {})
        sizes.append(sum(array.nbytes for array in engine.state()["tensors"].values()))
    assert max(sizes[20:]) == max(sizes[30:]) <= 2 * (10 * 16 * 64 * 2 + 19 * 128 * 4)


def test_the_packages_own_matcher_fits_the_interface(network):
    """k-NN over object crops, on images with one red square each."""

    def scene(size, x, y):
        image = np.full((*size, 3), 90, np.uint8)
        image[y : y + 14, x : x + 14] = (200, 30, 30)
        image[y : y + 10, x + 18 : x + 30] = (30, 60, 200)
        return image, ObjectMask.from_array((image == (200, 30, 30)).all(-1))

    engine = VideoMemoryEngine(("ego", "cam01"), network, counterview.load("knn", device="cpu"))
    (ego, mask), (exo, truth) = scene((60, 80), 10, 20), scene((50, 70), 30, 10)
    seen = engine.step({"ego": ego, "cam01": exo}, 0.0, {"ego": {"red": mask}})
    assert seen["cam01"]["red"].source == "matched"
    assert iou(seen["cam01"]["red"].mask_rle, truth) > 0.9
    assert {"engine", "video_memory", "matcher", "proposals", "features", "rematch_s"} <= set(engine.settings())
    json.dumps(engine.settings())


def test_bad_input_is_refused(network):
    engine, _ = engine_of(network)
    engine.step(images(0), 1.0, {"ego": {"mug": MUG}})
    with pytest.raises(InputError, match="times ascend"):
        engine.step(images(1), 0.5, {})
    with pytest.raises(InputError, match="unknown camera"):
        engine.step({"cam9": images(1)["ego"]}, 2, {})
    with pytest.raises(MaskError, match="is empty"):
        engine.step(images(1), 2, {"ego": {"mug": ObjectMask.empty(SIZES[0])}})
    with pytest.raises(ConfigError, match=r"min_predicted_iou.*rematch_s"):
        VideoMemorySettings(min_predicted_iou=2, rematch_s=-1)
