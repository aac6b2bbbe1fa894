"""LM-EEC in windows: the same as in whole images where the window is the image, and pasted back where it is not."""

import hashlib
import json

import numpy as np
import pytest
import torch

from counterview.config import to_dict
from counterview.errors import InputError, MaskError
from counterview.geometry.windows import ImageWindow, paste_logits, query_window
from counterview.lmeec.session import Session
from counterview.lmeec.window_inputs import WindowInputs
from counterview.nn.weights import weights_fingerprint
from counterview.tiny.window_session import WindowSession, WindowView, window_place
from counterview.types import ObjectMask
from tests.lmeec.lmeec_fill import disc, random_images, small_model

SIDE = 64
WHOLE = ImageWindow((SIDE / 2, SIDE / 2), SIDE, SIDE)


def masks_of(frame):
    return {"mug": disc((SIDE, SIDE), 20 + frame, 24, 7), "jar": disc((SIDE, SIDE), 44, 40 - frame, 5)}


def view(images, frame, name, **changes):
    values = {
        "query_image": images[0][frame], "query_mask": masks_of(frame)[name], "query_window": WHOLE,
        "target_image": images[1][frame], "target_window": WHOLE,
    }  # fmt: skip
    return WindowView(**{**values, **changes})


@pytest.fixture(scope="module")
def small():
    return small_model()


@pytest.fixture(scope="module")
def images():
    return [random_images(4, (SIDE, SIDE), seed) for seed in (1, 2)]


def test_a_window_that_is_the_image_gives_what_a_session_gives(small, images):
    """Over more frames than the banks hold, with a frame in which an object is not shown."""
    whole, windows = Session(small), WindowSession(small)
    for frame in range(4):
        shown = dict(masks_of(frame))
        if frame == 2:
            shown["jar"] = None
        expected = whole.step(images[0][frame], shown, images[1][frame])
        views = {name: view(images, frame, name, query_mask=shown[name]) for name in shown}
        results = windows.step(views)
        for name in shown:
            np.testing.assert_allclose(results[name].logits, expected[name].low_res_logits, atol=2e-4)
            assert results[name].object_score == pytest.approx(expected[name].object_score, abs=1e-4)
            assert results[name].visibility == pytest.approx(expected[name].visibility, abs=1e-5)
            assert np.mean(results[name].mask != expected[name].mask) < 1e-3
    assert windows.frame == whole.frame == 3


def test_windows_move_and_change_scale_and_are_pasted_back(small, images):
    session = WindowSession(small)
    for frame, (centre, side) in enumerate([((20.37, 30.5), 31.3), ((25.11, 28.0), 55.0)]):
        target = ImageWindow(centre, side, 17)  # the size is the model's, whatever the window says
        query = query_window(ObjectMask.from_array(masks_of(frame)["mug"]), 8)
        result = session.step({"mug": view(images, frame, "mug", query_window=query, target_window=target)})["mug"]
        assert result.logits.shape == (SIDE // 4, SIDE // 4)
        assert (result.window.centre_xy, result.window.side) == (centre, side)
        assert result.mask_rle == paste_logits(result.logits, result.window, (SIDE, SIDE))
        inside = 1 / (1 + np.exp(-result.logits[result.logits > 0]))
        assert result.certainty == pytest.approx(inside.mean() if inside.size else 0, abs=1e-5)
        assert result.visibility == pytest.approx(1 / (1 + np.exp(-result.visibility_logit)))


def test_all_windows_of_a_frame_are_encoded_at_once_and_do_not_depend_on_each_other(small, images, monkeypatch):
    seen = []
    inner = small.encode_images
    monkeypatch.setattr(
        small, "encode_images", lambda pixels, windows: seen.append(len(pixels)) or inner(pixels, windows)
    )
    here = ImageWindow((22.2, 25.0), 30.0, SIDE)
    both = WindowSession(small).step({
        ("mug", "cam01"): view(images, 0, "mug", target_window=here),
        ("mug", "cam02"): view(images, 0, "mug"),
        ("jar", "cam01"): view(images, 0, "jar"),
    })  # fmt: skip
    assert seen == [6]
    alone = WindowSession(small).step({"mug": view(images, 0, "mug", target_window=here)})["mug"]
    np.testing.assert_allclose(both["mug", "cam01"].logits, alone.logits, atol=2e-4)


def test_a_proposed_mask_is_the_mask_prompt_of_sam_2(small, images):
    prompt = disc((SIDE, SIDE), 30, 30, 9)
    asked = {"mug": view(images, 0, "mug", prompt=ObjectMask.from_array(prompt)), "jar": view(images, 0, "jar")}
    plain = {name: view(images, 0, name) for name in asked}
    with_prompt, without = WindowSession(small).step(asked), WindowSession(small).step(plain)
    assert np.abs(with_prompt["mug"].logits - without["mug"].logits).max() > 1e-3
    np.testing.assert_allclose(with_prompt["jar"].logits, without["jar"].logits, atol=2e-4)
    windows = WindowInputs(
        torch.zeros(1, 4), torch.from_numpy(prompt)[None].float(), torch.tensor([True]), torch.ones(1, SIDE, SIDE) > 0
    )
    with torch.no_grad():
        small_prompt = torch.nn.functional.avg_pool2d(windows.prompts[:, None], 4) * 20 - 10
        _, expected = small.sam.prompt_encoder(None, None, None, small_prompt)
        torch.testing.assert_close(small.dense_prompts(torch.zeros(1), windows), expected)


def test_the_place_of_a_window_is_added_to_its_features_and_nothing_at_first():
    told, plain = small_model(window_position=True), small_model()
    state = plain.state_dict()
    told.load_state_dict({**told.state_dict(), **state})
    places = torch.tensor([[0.5, -1.0, 0.2, -0.9]])
    windows = WindowInputs(places, torch.zeros(1, SIDE, SIDE), torch.tensor([False]), torch.ones(1, SIDE, SIDE) > 0)
    pixels = torch.randn(1, 3, SIDE, SIDE)
    assert plain.window_embedding is None
    with torch.no_grad():
        told.window_embedding.weight.zero_()
        told.window_embedding.bias.zero_()
        expected = plain.encode_images(pixels)
        torch.testing.assert_close(told.encode_images(pixels, windows).top, expected.top)
        told.window_embedding.weight[3, 1] = 2.0
        added = told.encode_images(pixels, windows).top - expected.top
    assert added[0, 3].mean() == pytest.approx(-2.0, abs=1e-5)
    assert added.abs().sum() == pytest.approx(2.0 * added[0, 3].numel(), rel=1e-4)
    assert window_place(ImageWindow((12.0, 9.0), 32.0, 64), ImageWindow((0.0, 0.0), 128.0, 64), (36, 48)) == (
        1,
        -1,
        -0.5,
        -0.5,
    )


def test_sessions_of_earlier_versions_are_still_of_the_same_model(small):
    """Their fingerprint knew nothing of windows."""
    values = {k: v for k, v in to_dict(small.config).items() if k != "window_position"}
    text = f"{json.dumps(values, sort_keys=True)} {weights_fingerprint(small)}"
    assert small.fingerprint() == hashlib.sha256(text.encode()).hexdigest()


def test_what_does_not_fit_is_said_and_the_session_is_as_before(small, images):
    session = WindowSession(small, frames=2)
    assert session.step({"mug": view(images, 0, "mug", query_mask=None)}) == {}  # never shown yet
    for changes, message in (
        ({"query_window": None}, "no query window"),
        ({"query_window": ImageWindow((500.0, 500.0), 20.0, SIDE)}, "does not show its object"),
        ({"prompt": np.zeros((3, 3), bool)}, "another size than its image"),
        ({"query_mask": np.zeros((3, 3), bool)}, "another size than its image"),
        ({"query_mask": ObjectMask.from_array(np.ones((3, 3), bool))}, "another size than its image"),
    ):
        with pytest.raises((InputError, MaskError), match=message):
            session.step({"mug": view(images, 1, "mug", **changes)})
    with pytest.raises(InputError, match="names of objects"):
        session.step({("mug", 3): view(images, 1, "mug")})
    with pytest.raises(InputError, match="two windows"):
        session.step({"mug": view(images, 1, "mug"), ("mug", ""): view(images, 1, "mug")})
    assert session.frame == 0
    assert list(session.step({"mug": view(images, 1, "mug")})) == ["mug"]
    with pytest.raises(InputError, match="only 2 frames"):
        session.step({"mug": view(images, 1, "mug")})
    session.forget("mug")
    assert session.tracks == {}
