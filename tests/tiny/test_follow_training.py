"""Training tiny-follow: first weights, matching, first epochs, and recipes of earlier versions."""

import copy
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from counterview.errors import ConfigError
from counterview.lmeec.training import task as training
from counterview.lmeec.training.loss import shrink_truth, true_iou
from counterview.lmeec.training.recipe import AugmentConfig, LMEECRecipe, OptimConfig
from counterview.lmeec.training.unroll import unroll, unused_parameters
from counterview.tiny.appearance import FineMaps
from counterview.tiny.follow import TinyFollow
from counterview.tiny.initial import initialise
from counterview.tiny.training.follow import TinyFollowTask
from counterview.tiny.training.follow_legacy import upgrade_recipe
from counterview.tiny.training.follow_loss import distinction_loss, match_loss
from counterview.tiny.training.follow_recipe import FollowDataConfig, FollowLossConfig, TinyFollowRecipe
from counterview.training.recipe import load_recipe
from counterview.training.task import Task
from tests.lmeec.lmeec_fill import SMALL, small_model
from tests.lmeec.lmeec_takes import disc_dataset
from tests.tiny.follow_scratch import SIDE, coloured, scratch, scratch_config

RECIPES = Path(__file__).parent.parent.parent / "recipes"

# ------------------------------------------------------------------------------------------ first weights


def test_masks_and_gradients_are_alive_at_the_start():
    # What transformers draws is dead: the mask is a product of numbers near 0.
    torch.manual_seed(0)
    config = scratch_config(backbone=SMALL, feed_forward=32, appearance=0)
    dead, alive = TinyFollow(config).eval(), TinyFollow(config).eval()
    initialise(alive)
    spread, share = [], []
    for model in (dead, alive):
        batch = coloured()
        [decoded] = unroll(model, batch)
        spread.append(float(decoded.all_logits.detach().std()))
        torch.nn.functional.softplus(decoded.all_logits).mean().backward()
        norms = {
            part: math.sqrt(
                sum(float(p.grad.norm()) ** 2 for p in getattr(model.sam, part).parameters() if p.grad is not None)
            )
            for part in ("vision_encoder", "mask_decoder")
        }
        share.append(norms["vision_encoder"] / norms["mask_decoder"])
    assert spread[0] < 1e-2 < 0.2 < spread[1]
    assert share[1] > 5 * share[0]


def test_the_same_seed_gives_the_same_weights():
    assert scratch(3).fingerprint() == scratch(3).fingerprint() != scratch(4).fingerprint()


def test_memory_attention_begins_as_a_comparison_of_appearances():
    model = scratch(attention_layers=2)
    shrink = model.sam.memory_encoder.projection.weight[:, :, 0, 0]
    torch.testing.assert_close(shrink @ shrink.T, torch.eye(64), atol=1e-5, rtol=0)
    for layer in model.sam.memory_attention.layers:
        attention = layer.cross_attn_image
        torch.testing.assert_close(attention.q_proj.weight, attention.k_proj.weight @ shrink)


def test_a_tiny_batch_is_learned_by_heart():
    model = scratch().train()
    batch = coloured()
    task = TinyFollowTask.__new__(TinyFollowTask)
    task.config = TinyFollowRecipe(FollowDataConfig("x"), loss=FollowLossConfig(dice=3.0, match=0.3))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for step in range(60):
        optimiser.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 10)
        optimiser.zero_grad()
        task.loss(model, batch)[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    with torch.no_grad():
        [decoded] = unroll(model.eval(), batch)
    full = torch.nn.functional.interpolate(decoded.logits[:, None], size=(SIDE, SIDE), mode="bilinear")[:, 0]
    assert true_iou(full, batch.target_masks[:, 0].float()).min() > 0.7
    assert (decoded.score > 0).all()


# ------------------------------------------------------------------------------------------------ matching


def test_matching_is_free_for_a_perfect_answer_and_for_what_is_not_there():
    query = torch.zeros(2, 3, 2, 2)  # the last channel is objectness
    query[:, 0], query[:, 1, 0, 0], query[:, 0, 0, 0] = 1.0, 1.0, 0.0  # one cell unlike the others
    masks = torch.zeros(2, 4, 4)
    masks[0, :2, :2] = 1
    here = FineMaps.of(query)
    assert match_loss(here, masks, here, masks, temperature=0.01)[0] < 1e-6
    wrong = match_loss(here, masks, FineMaps.of(query.flip(2)), masks)
    assert wrong[0] == pytest.approx(10 + math.log(1 + 3 * math.exp(-10)), rel=1e-4)
    assert wrong[1] == 0
    assert shrink_truth(masks, 2)[0].tolist() == [[1, 0], [0, 0]]
    assert shrink_truth(masks, 1) is masks


def test_objects_are_told_apart_from_those_of_the_batch():
    features = torch.zeros(3, 4, 2, 2)
    masks = torch.zeros(3, 4, 4)
    for n in range(2):
        features[n, n] = 1.0
        masks[n, :2, :2] = 1
    here = FineMaps.of(features)
    same = distinction_loss(here, masks, here, masks)
    assert same[:2].tolist() == pytest.approx([math.log(1 + math.exp(-10))] * 2, rel=1e-3)
    assert same[2] == 0  # it is nowhere, and no rival of the others either
    swapped = distinction_loss(here, masks, here.pick([1, 0, 2]), masks)
    assert swapped[:2].tolist() == pytest.approx([10 + math.log(1 + math.exp(-10))] * 2, rel=1e-3)


def test_gradients_reach_every_parameter_from_scratch():
    reached = set()
    batch = coloured(frames=3)
    batch.target_masks[0, 1:] = False
    for bias in (5.0, -5.0):
        model = scratch().train()
        with torch.no_grad():
            model.sam.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(bias)
        task = TinyFollowTask.__new__(TinyFollowTask)
        task.config = TinyFollowRecipe(FollowDataConfig("x"), loss=FollowLossConfig(match=1.0))
        task.loss(model, batch)[0].backward()
        reached |= {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    missing = {n for n, _ in model.named_parameters()} - reached - set(unused_parameters(model))
    assert not {n for n in missing if not n.endswith("k_proj.bias")}


# ------------------------------------------------------------------------------------------- first epochs


def task_of(monkeypatch, init_from=None, **data):
    monkeypatch.setattr(training, "open_dataset", lambda root, split=None: disc_dataset(2))
    monkeypatch.setattr(training, "open_datasets", lambda roots, split=None: disc_dataset(2))
    values = {"clip_frames": 3, "directions": ("ego2exo", "exo2ego"), "clips_per_epoch": 4, **data}
    config = TinyFollowRecipe(
        FollowDataConfig("discs", **values),
        scratch_config(dropout=0.1),
        init_from=init_from,
        augment=AugmentConfig(degrees=5, shear=5),
        loss=FollowLossConfig(match=1.0, stride=2),
        optim=OptimConfig(1.0, 1.0),
    )
    return TinyFollowTask(config)


def test_first_epochs_match_then_show_single_frames_then_clips(monkeypatch):
    task = task_of(monkeypatch, match_epochs=1, match_times=3, short_epochs=2)
    assert [task.train_length(epoch) for epoch in range(3)] == [12, 4, 4]
    samples = [task.sample(epoch, 0, np.random.default_rng(0)) for epoch in range(3)]
    assert [s.decode for s in samples] == [False, True, True]
    assert [s.query_images.shape[0] for s in samples] == [1, 1, 3]
    torch.manual_seed(0)
    model = task.build_model().train()
    total, parts = task.loss(model, task.collate(samples[:1]))
    total.backward()
    assert set(parts) == {"focal", "dice", "iou", "score", "match"}
    assert total == parts["match"] > 0 == parts["dice"]
    learn = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert learn == {"sam", "appearance"}
    assert all(p.grad is None for p in model.sam.mask_decoder.parameters())
    assert task.loss(model, task.collate(samples[1:2]))[1]["dice"] > 0


def test_single_frames_too_come_so_often_from_every_track(monkeypatch):
    task = task_of(monkeypatch, match_epochs=1, clips_per_epoch=None, clips_per_track=2)
    assert task.train_length(0) == 2 * len(task.sampler.sources) == 2 * len(task.frame_sampler.sources)
    leads = [task.frame_sampler.clip(0, i) for i in range(task.train_length(0))]
    found = Counter((c.take, c.query_camera, c.target_camera, c.objects[0]) for c in leads)
    assert set(found.values()) == {2}


def test_matching_epochs_need_the_loss():
    with pytest.raises(ConfigError, match=r"needs loss\.match"):
        TinyFollowRecipe(FollowDataConfig("x", match_epochs=1))
    for bad in (
        lambda: FollowLossConfig(stride=3),
        lambda: FollowLossConfig(match=-1),
        lambda: FollowDataConfig("x", match_times=0),
    ):
        with pytest.raises(ConfigError):
            bad()


def test_it_goes_on_from_a_trained_one_and_from_sam2(monkeypatch, tmp_path):
    trained = scratch(seed=5)
    trained.save_pretrained(tmp_path / "trained")
    task = task_of(monkeypatch, init_from=str(tmp_path / "trained"))
    assert isinstance(task, Task)
    for name, value in task.build_model().state_dict().items():
        assert torch.equal(value, trained.state_dict()[name]), name
    # A folder of LM-EEC has no prompt, and another encoder.
    small_model().save_pretrained(tmp_path / "lmeec")
    with pytest.raises(ConfigError, match="another architecture"):
        task_of(monkeypatch, init_from=str(tmp_path / "lmeec")).build_model()
    torch.manual_seed(0)
    one = task_of(monkeypatch).build_model().fingerprint()
    torch.manual_seed(0)
    other = TinyFollow(scratch_config(dropout=0.1))
    initialise(other)
    assert one == other.fingerprint()


# ------------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("path", sorted((RECIPES / "tabletop").glob("tiny-follow*.yaml")), ids=lambda p: p.stem)
def test_recipes_parse(path):
    loaded = load_recipe(path)
    assert loaded.method == "tiny-follow"
    assert (loaded.config.model.backbone, loaded.config.model.appearance) == ("conv-tiny", 64)
    assert loaded.config.loss.match == 0.3


EARLIER = {"method": "lmeec", "init_from": "sam2", "data": {"root": "x"}}


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("model", "appearance", 8), ("model", "backbone", "conv-tiny"), ("model", "backbone", "hiera-nano"),
        ("data", "short_epochs", 1), ("data", "match_epochs", 1), ("data", "match_times", 2), ("loss", "match", 0.1),
    ],
)  # fmt: skip
def test_a_recipe_of_lmeec_that_uses_what_is_ours_becomes_one_of_tiny_follow(group, key, value):
    values = copy.deepcopy(EARLIER)
    values.setdefault(group, {})[key] = value
    before = copy.deepcopy(values)
    assert upgrade_recipe(values) == {**before, "method": "tiny-follow"}
    assert values == before


def test_a_recipe_of_lmeec_that_does_not_stays_one():
    neutral = {"model": {"appearance": 0, "fusion": "add"}, "loss": {"match": 0, "dice": 2.0},
               "data": {"root": "x", "short_epochs": 0, "match_epochs": 0, "match_times": 1}}  # fmt: skip
    upgraded = upgrade_recipe({**EARLIER, **neutral})
    assert upgraded == {**EARLIER, "model": {"fusion": "add"}, "loss": {"dice": 2.0}}
    loaded = load_recipe({**EARLIER, **neutral})
    assert loaded.method == "lmeec"
    assert type(loaded.config) is LMEECRecipe
    assert upgrade_recipe({"method": "omama", "data": {"short_epochs": 1}})["method"] == "omama"


def test_a_recipe_of_lmeec_without_first_weights_was_trained_from_scratch(caplog):
    """Which is tiny-follow's; it is said, and not so where the weights are given on the command line."""
    values = {"method": "lmeec", "data": {"root": "x"}}
    assert load_recipe(values).method == "tiny-follow"
    assert "method lmeec of an earlier version, read as tiny-follow" in caplog.text
    caplog.clear()
    loaded = load_recipe(values, ["init_from=sam2"])
    assert (loaded.method, loaded.config.init_from) == ("lmeec", "sam2")
    assert not caplog.records
