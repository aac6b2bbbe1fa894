"""The engine by LM-EEC: what is remembered of whom, corrections, gaps, and states."""

import json

import numpy as np
import pytest
import torch

from counterview.errors import ImageError, InputError, MaskError
from counterview.lmeec.track_step import TrackPredictor
from counterview.tiny.follow import TinyFollow
from counterview.tiny.follow_config import TinyFollowConfig
from counterview.tracking.base import UNKNOWN
from counterview.tracking.lmeec_engine import LMEECEngine
from counterview.types import ObjectMask
from tests.lmeec.lmeec_fill import disc, random_images, small_model

torch.set_num_threads(1)
CAMERAS, SIZES = ("ego", "cam01", "cam02"), ((48, 80), (60, 40), (40, 40))


def shown(i, camera=0):
    return ObjectMask.from_array(disc(SIZES[camera], 20 + 8 * i, 20 + 3 * i, 8 + i))


def images(t, count=3):
    return {CAMERAS[n]: random_images(1, SIZES[n], seed=10 * t + n)[0] for n in range(count)}


@pytest.fixture(scope="module")
def model():
    return small_model(bank_size=2)


@pytest.fixture(scope="module")
def tiny_follow():
    torch.manual_seed(1)
    config = TinyFollowConfig(
        backbone="conv-tiny", image_size=64, channels=64, attention_layers=1, feed_forward=32, bank_size=2, appearance=8
    )
    model = TinyFollow(config).eval()
    with torch.no_grad():
        model.sam.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(5.0)
    return model


def same(a, b):
    assert a.keys() == b.keys()
    for camera in a:
        assert a[camera] == b[camera]


def test_an_object_shown_once_is_followed_in_every_camera(model):
    engine = LMEECEngine(CAMERAS, model)
    assert engine.step(images(0), 0.0, {}) == {c: {} for c in CAMERAS}
    first = engine.step(images(1), 0.5, {"ego": {"mug": shown(0)}})
    assert first["ego"]["mug"].mask_rle == shown(0)
    assert first["ego"]["mug"].source == "given"
    second = engine.step(images(2), 1.0, {"ego": {"pan": shown(1)}})
    third = engine.step(images(3), 1.5, {})
    for found, name in ((second, "mug"), (third, "mug"), (third, "pan")):
        assert [found[c][name].source for c in CAMERAS] == ["followed", "matched", "matched"]
        for camera, size in zip(CAMERAS, SIZES, strict=True):
            observation = found[camera][name]
            assert observation.mask_rle.size_hw == size
            assert 0.5 < observation.visibility <= 1  # the small model finds everything visible
            assert observation.alternatives == ()


def test_the_query_view_is_the_frame_before_and_the_banks_hold_given_masks(model, monkeypatch):
    """The own camera: the view of a step is the mask of the step before; for the targets, that of the step itself."""
    views, steps = [], []
    inner_views, inner_at = TrackPredictor.views, TrackPredictor.at
    monkeypatch.setattr(
        TrackPredictor, "views", lambda self, i, m: (views.append(inner_views(self, i, m)) or views[-1]) if m else {}
    )
    monkeypatch.setattr(
        TrackPredictor, "at", lambda self, index, key, track, view: steps.append((index, key[1], view))
        or inner_at(self, index, key, track, view)
    )  # fmt: skip
    engine = LMEECEngine(CAMERAS[:2], model)
    engine.step(images(0, 2), 0, {"ego": {"mug": shown(0)}})
    engine.step(images(1, 2), 1, {})
    given, followed = (v["mug"] for v in views)
    assert [(index, camera, view is given, view is followed) for index, camera, view in steps] == [
        (0, "ego", True, False), (0, "cam01", True, False), (1, "ego", True, False), (1, "cam01", False, True),
    ]  # fmt: skip
    track = engine._tracks["mug", "ego"]
    assert torch.equal(track.target.entries[0], given.memory)  # the user's mask, not the network's
    assert [int(n) for n in track.query.numbers] == [0]  # the view of the first step is remembered once
    assert engine._tracks["mug", "cam01"].query.numbers == [0, 1]


def test_objects_in_a_batch_equal_objects_one_at_a_time(model):
    together, alone = LMEECEngine(CAMERAS, model), [LMEECEngine(CAMERAS, model) for _ in range(2)]
    for t in range(4):
        prompts = [{"ego": {"a": shown(0)}} if t == 0 else {}, {"ego": {"b": shown(1)}} if t == 1 else {}]
        both = {"ego": {**prompts[0].get("ego", {}), **prompts[1].get("ego", {})}}
        found = together.step(images(t), t, both)
        for engine, name, prompt in zip(alone, "ab", prompts, strict=True):
            expected = engine.step(images(t), t, prompt)
            for camera in CAMERAS:
                if name not in expected[camera]:
                    continue
                a, b = found[camera][name], expected[camera][name]
                assert a.visibility == pytest.approx(b.visibility, abs=1e-4)
                differing = np.mean(a.mask_rle.to_array() != b.mask_rle.to_array())
                assert differing < 0.01


@pytest.mark.parametrize("which", ["model", "tiny_follow"])
def test_a_restored_engine_goes_on_bit_for_bit(which, request):
    model = request.getfixturevalue(which)
    engine = LMEECEngine(CAMERAS, model, source="a folder")
    for t in range(4):
        prompts = {0: {"ego": {"a": shown(0)}}, 2: {"cam02": {"b": shown(0, 2)}}}
        engine.step(images(t), t, prompts.get(t, {}))
    state = engine.state()
    plain = json.loads(json.dumps({k: v for k, v in state.items() if k not in ("tensors", "images")}))
    assert all(isinstance(v, np.ndarray) for v in (*state["tensors"].values(), *state["images"].values()))
    again = LMEECEngine(CAMERAS, model, source="a folder")
    again.restore({**plain, "tensors": state["tensors"], "images": state["images"]})
    for t in range(4, 7):
        prompts = {"ego": {"a": shown(1)}} if t == 5 else {}
        same(engine.step(images(t), t, prompts), again.step(images(t), t, prompts))
    left, right = engine.state(), again.state()
    for name, array in left["tensors"].items():
        np.testing.assert_array_equal(array, right["tensors"][name])
    with pytest.raises(InputError, match=r"other settings.*source"):
        LMEECEngine(CAMERAS, model, source="another").restore(state)
    with pytest.raises(InputError, match="other cameras"):
        LMEECEngine(CAMERAS[:2], model, source="a folder").restore(state)
    with pytest.raises(InputError, match="damaged"):
        again.restore({**state, "tensors": {}})
    with pytest.raises(InputError, match="version 1"):
        again.restore({"engine": "video-memory"})


def test_memory_does_not_grow(model):
    engine = LMEECEngine(CAMERAS, model)
    sizes = []
    for t in range(26):
        engine.step(images(t), t, {"ego": {"a": shown(0), "b": shown(1)}} if t == 0 else {})
        state = engine.state()
        sizes.append(sum(a.nbytes for a in (*state["tensors"].values(), *state["images"].values())))
    assert sizes[-1] == sizes[18]  # 16 pointers and two full banks
    assert sizes[18] > sizes[0]


def test_not_visible_is_recorded_and_not_remembered(model):
    engine = LMEECEngine(CAMERAS, model)
    engine.step(images(0), 0, {"ego": {"mug": shown(0)}})
    before = {key: list(track.target.numbers) for key, track in engine._tracks.items()}
    found = engine.step(images(1), 1, {"ego": {"mug": None}, "cam01": {"mug": None}})
    for camera in ("ego", "cam01"):
        observation = found[camera]["mug"]
        assert (observation.mask_rle, observation.visibility, observation.source) == (None, 0.0, "given")
        assert engine._tracks["mug", camera].target.numbers == before["mug", camera]
    assert found["cam02"]["mug"].source == "followed"  # from memory: the query camera does not show it now
    assert engine._tracks["mug", "cam02"].target.numbers == [0, 1]
    assert engine._tracks["mug", "cam02"].query.numbers == [0]


def test_an_object_that_is_only_said_to_be_absent_is_unknown_elsewhere(model):
    found = LMEECEngine(CAMERAS, model).step(images(0), 0, {"ego": {"mug": None}})
    assert found["ego"]["mug"].visibility == 0.0
    assert found["cam01"]["mug"] == UNKNOWN


def test_cameras_without_image_are_unknown_and_their_memory_stays(model):
    engine = LMEECEngine(CAMERAS, model)
    engine.step(images(0), 0, {"ego": {"mug": shown(0)}})
    found = engine.step({"cam02": images(1)["cam02"], "ego": None}, 1, {})
    assert found["ego"]["mug"] == UNKNOWN
    assert found["cam01"]["mug"] == UNKNOWN
    assert found["cam02"]["mug"].source == "followed"
    assert engine._tracks["mug", "ego"].target.numbers == [0]
    assert engine.step(images(2), 2, {})["cam01"]["mug"].source == "matched"


def test_an_object_first_shown_in_a_target_is_searched_in_the_query_camera(model):
    engine = LMEECEngine(CAMERAS, model)
    found = engine.step(images(0), 0, {"cam01": {"mug": shown(0, 1)}})
    assert found["cam01"]["mug"].mask_rle == shown(0, 1)
    assert found["ego"]["mug"].source == "followed"
    assert found["ego"]["mug"].mask_rle.size_hw == SIZES[0]
    assert found["cam02"]["mug"].mask_rle.size_hw == SIZES[2]


def test_a_correction_that_contradicts_resets_and_one_that_agrees_does_not(model):
    def follow():
        engine = LMEECEngine(CAMERAS, model)
        engine.step(images(0), 0, {"ego": {"mug": shown(0), "pan": shown(1)}})
        return engine

    start = follow()
    start.step(images(1), 1, {})
    followed = start.step(images(2), 2, {})
    away = ObjectMask.from_array(~followed["ego"]["mug"].mask)
    agreeing, contradicting, at_once, in_target = (follow() for _ in range(4))
    for engine, mask in ((agreeing, followed["ego"]["mug"].mask_rle), (contradicting, away)):
        engine.step(images(1), 1, {})
        engine.step(images(2), 2, {"ego": {"mug": mask}})
    at_once.step(images(1), 1, {"ego": {"mug": away}})
    for camera in CAMERAS:
        assert agreeing._tracks["mug", camera].target.processed == 3
        assert contradicting._tracks["mug", camera].target.processed == 1
        assert contradicting._tracks["pan", camera].target.processed == 3
        # With masks at every step nothing wrong is remembered, whatever would have been followed.
        assert at_once._tracks["mug", camera].target.processed == 2
    in_target.step(images(1), 1, {})
    elsewhere = ObjectMask.from_array(~followed["cam01"]["mug"].mask)
    found = in_target.step(images(2), 2, {"cam01": {"mug": elsewhere}})
    assert found["cam01"]["mug"].mask_rle == elsewhere
    assert in_target._tracks["mug", "cam01"].target.numbers == [2]
    assert in_target._tracks["mug", "ego"].target.processed == 3
    # What the user showed is what is remembered.
    encoded = in_target._predictor.encode([images(2)["cam01"]])[0]
    view = in_target._predictor.views(encoded, {"mug": elsewhere.to_array()})
    torch.testing.assert_close(in_target._tracks["mug", "cam01"].target.entries[0], view["mug"].memory)


def test_each_image_is_encoded_once_a_step(model, monkeypatch):
    seen, inner = [], model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda pixels: seen.append(len(pixels)) or inner(pixels))
    engine = LMEECEngine(CAMERAS, model)
    engine.step(images(0), 0, {"ego": {f"o{i}": shown(i) for i in range(4)}})
    assert seen == [1, 1, 1]


def test_where_the_score_says_absent_the_likeliest_mask_is_kept_with_a_low_visibility():
    model = small_model(bank_size=2)
    with torch.no_grad():
        model.sam.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(-5.0)
    engine = LMEECEngine(CAMERAS, model)
    engine.step(images(0), 0, {"ego": {"mug": shown(0)}})
    found = engine.step(images(1), 1, {})
    assert found["ego"]["mug"].visibility < 0.5
    assert found["ego"]["mug"].mask is None
    assert found["ego"]["mug"].mask_rle is not None
    assert found["cam01"]["mug"].source == "followed"
    # The object is still shown as it was given.
    assert engine._objects["mug"].number == 1


def test_half_precision_and_its_state(model):
    engine = LMEECEngine(CAMERAS[:2], model, autocast=torch.bfloat16)
    engine.step(images(0, 2), 0, {"ego": {"mug": shown(0)}})
    again = LMEECEngine(CAMERAS[:2], model, autocast=torch.bfloat16)
    again.restore(engine.state())
    same(engine.step(images(1, 2), 1, {}), again.step(images(1, 2), 1, {}))
    with pytest.raises(InputError, match="autocast"):
        LMEECEngine(CAMERAS[:2], model).restore(engine.state())
    with pytest.raises(InputError, match="autocast is"):
        LMEECEngine(CAMERAS, model, autocast=torch.float64)


def test_bad_input_is_refused_and_changes_nothing(model):
    engine = LMEECEngine(CAMERAS, model)
    engine.step(images(0), 1.0, {"ego": {"mug": shown(0)}})
    state = engine.state()
    for wrong, error, text in (
        (lambda: engine.step(images(1), 1.0, {}), InputError, "times ascend"),
        (lambda: engine.step(images(1), float("nan"), {}), InputError, "times ascend"),
        (lambda: engine.step({"cam9": images(1)["ego"]}, 2, {}), InputError, "unknown camera"),
        (lambda: engine.step(images(1), 2, {"cam9": {"mug": None}}), InputError, "unknown camera"),
        (lambda: engine.step({}, 2, {"ego": {"mug": shown(0)}}), InputError, "has no image"),
        (lambda: engine.step(images(1), 2, {"ego": {"mug": shown(0, 1)}}), MaskError, "does not fit"),
        (lambda: engine.step(images(1), 2, {"ego": {"mug": ObjectMask.empty(SIZES[0])}}), MaskError, "is empty"),
        (lambda: engine.step({"ego": np.zeros((4, 4))}, 2, {}), ImageError, "image of ego"),
        (lambda: LMEECEngine((), model), InputError, "cameras have names"),
        (lambda: LMEECEngine(("a", "a"), model), InputError, "cameras have names"),
    ):
        with pytest.raises(error, match=text):
            wrong()
    assert engine.state()["index"] == state["index"]
    assert engine.state()["tensors"].keys() == state["tensors"].keys()
