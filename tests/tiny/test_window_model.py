"""tiny-window: sizes, weights in and out, sessions, and that it learns."""

import numpy as np
import pytest
import torch

from counterview.errors import CheckpointError, ConfigError, InputError
from counterview.geometry.windows import query_window
from counterview.lmeec.training.unroll import unroll, unused_parameters
from counterview.nn.checkpoint import read_header
from counterview.tiny.follow import TinyFollow
from counterview.tiny.training.window_recipe import WindowDrawConfig
from counterview.tiny.training.window_samples import WindowReader, collate_windows
from counterview.tiny.window import TinyWindow
from counterview.tiny.window_config import TinyWindowConfig
from counterview.tiny.window_initial import initialise_window
from counterview.tiny.window_session import WindowView
from counterview.types import ObjectMask
from tests.lmeec.lmeec_takes import DiscTake, disc_dataset
from tests.tiny.window_sources import sources_of

SIDE = 64


def small_window(seed=0, **settings):
    torch.manual_seed(seed)
    model = TinyWindow(TinyWindowConfig(image_size=SIDE, attention_layers=1, feed_forward=64, **settings)).eval()
    initialise_window(model)
    return model


@pytest.fixture(scope="module")
def small():
    return small_window()


def views(take, frame, names, prompt=False):
    result = {}
    for name in names:
        query, target = (take.mask(name, camera, frame) for camera in ("aria01_214-1", "cam01"))
        result[name] = WindowView(
            take.frame("aria01_214-1", frame), query, query_window(query, SIDE), take.frame("cam01", frame),
            query_window(target, SIDE).moved(1.3, -0.7), target if prompt else None,
        )  # fmt: skip
    return result


@pytest.mark.parametrize("channels", [64, 128])
def test_it_has_at_most_three_million_weights(channels):
    model = TinyWindow(TinyWindowConfig(channels=channels))
    assert sum(p.numel() for p in model.parameters()) < 3_000_000
    assert model.config.grid == 16  # cells of 8 px
    assert model.sam.prompt_encoder.image_embedding_size == (16, 16)


def test_masks_are_drawn_at_half_the_windows_size_and_depend_on_the_proposed_mask(small):
    take = DiscTake("take0")
    names = ["red disc", "green disc"]
    plain, prompted = (small.window_session().step(views(take, 0, names, prompt)) for prompt in (False, True))
    assert plain["red disc"].logits.shape == (SIDE // 2, SIDE // 2)
    assert plain["red disc"].mask.shape == (36, 64)
    for name in names:
        assert np.abs(plain[name].logits - prompted[name].logits).max() > 1e-3
        assert np.isfinite(plain[name].logits).all()


def test_clips_use_both_memories_and_go_on_without_a_query(small):
    take = DiscTake("take1")
    session, fresh = small.window_session(), small.window_session()
    for frame in (0, 30, 60):
        remembered = session.step(views(take, frame, ["red disc"]))["red disc"]
    assert np.abs(remembered.logits - fresh.step(views(take, 60, ["red disc"]))["red disc"].logits).max() > 1e-4
    view = views(take, 90, ["red disc"])["red disc"]
    unseen = WindowView(view.query_image, None, None, view.target_image, view.target_window)
    assert np.isfinite(session.step({"red disc": unseen})["red disc"].logits).all()


def test_weights_go_out_and_in(small, tmp_path):
    again = TinyWindow.from_pretrained(small.save_pretrained(tmp_path)).eval()
    assert again.fingerprint() == small.fingerprint()
    assert (read_header(tmp_path).method, again.config.drawing) == ("tiny-window", 32)
    view = views(DiscTake("take0"), 0, ["red disc"])
    first, second = (m.window_session().step(view)["red disc"] for m in (small, again))
    np.testing.assert_array_equal(first.logits, second.logits)
    with pytest.raises(CheckpointError, match="another method; found tiny-window"):
        TinyFollow.from_pretrained(tmp_path)


def test_what_it_cannot_do_is_said(small):
    with pytest.raises(InputError, match="draws in windows"):
        small.session().step(np.zeros((8, 8, 3), np.uint8), {"a": np.ones((8, 8), bool)}, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ConfigError, match="appearance is 0"):
        TinyWindowConfig(appearance=0)
    with pytest.raises(ConfigError, match="expected a convolutional one"):
        TinyWindowConfig(backbone="hiera-t", image_size=256)


def test_the_presence_head_begins_by_saying_nothing_and_hears_of_the_mask(small):
    feature, drawn = torch.randn(2, 64, 8, 8), torch.rand(2, 1, 32, 32)
    unit = torch.nn.functional.normalize(torch.randn(2, 64), dim=1)
    with torch.no_grad():
        assert not small.presence(feature, unit, unit, drawn).any()
        head = small_window(1).presence
        head.layers[-1].weight.fill_(1.0)
        assert (head(feature, unit, unit, drawn) != head(feature, unit, -unit, drawn)).all()
        assert (head(feature, unit, unit, drawn) != head(feature, unit, unit, drawn**2)).all()


def test_gradients_reach_every_part_that_a_clip_uses():
    model, dataset = small_window().train(), disc_dataset()
    torch.nn.init.normal_(model.presence.layers[-1].weight, std=0.01)
    torch.nn.init.constant_(model.presence.layers[-1].bias, 20.0)  # visible, so that pointers are of the object
    reader = WindowReader(dataset, sources_of(dataset), SIDE, WindowDrawConfig(no_prompt_prob=0.5))
    samples = [reader.read(source, 3, np.random.default_rng(i)) for i, source in enumerate(reader.sources[:4])]
    frozen = unused_parameters(model)
    decoded = unroll(model, collate_windows(samples))
    sum(d.all_logits.square().mean() + d.ious.mean() + d.score.mean() + d.pointer.mean() for d in decoded).backward()
    silent = [n for n, p in model.named_parameters() if n not in frozen and (p.grad is None or not p.grad.any())]
    absent = ("sam.no_object_pointer", "sam.occlusion_spatial_embedding_parameter")
    assert set(silent) - {*absent} == set()
    assert ObjectMask.from_array(samples[0].truths[0] > 0.5).size_hw == (SIDE, SIDE)
