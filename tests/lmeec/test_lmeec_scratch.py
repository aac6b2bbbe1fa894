"""What helps a small model to learn from scratch: first weights, convolutions, appearance prompt, matching."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from counterview.errors import ConfigError
from counterview.lmeec.config import BACKBONES, ConvConfig, LMEECConfig
from counterview.lmeec.model import LMEEC, ImageFeatures
from counterview.lmeec.training import task as training
from counterview.lmeec.training.loss import match_loss, shrink_truth, tell_apart_loss, true_iou
from counterview.lmeec.training.recipe import AugmentConfig, DataConfig, LMEECRecipe, LossConfig, OptimConfig
from counterview.lmeec.training.task import LMEECTask
from counterview.lmeec.training.unroll import ClipBatch, unroll, unused_parameters
from counterview.tiny.appearance import AppearancePrompt, FineMaps, likeness, mean_under
from counterview.tiny.conv_encoder import OPPONENT, PALETTE_WIDTH
from counterview.tiny.initial import initialise
from tests.lmeec.lmeec_fill import disc, fill, random_images, small_config
from tests.lmeec.lmeec_takes import disc_dataset

SIDE = 64


def scratch(seed=0, **settings):
    values = {"backbone": "conv-tiny", "image_size": SIDE, "channels": 64, "attention_layers": 1, "feed_forward": 64}
    torch.manual_seed(seed)
    model = LMEEC(LMEECConfig(**{**values, "dropout": 0.0, "appearance": 16, **settings})).eval()
    initialise(model)
    return model


def coloured(count=3, frames=1):
    """Discs of ``count`` colours on grey, elsewhere in the target, as one clip."""
    rng = np.random.default_rng(0)
    colours = [(220, 40, 40), (40, 200, 60), (50, 60, 220)][:count]
    images = rng.integers(100, 130, (2, 1, frames, SIDE, SIDE, 3), dtype=np.uint8)
    masks = np.zeros((2, count, frames, SIDE, SIDE), bool)
    for view, xs in enumerate(([12, 32, 52], [50, 14, 33])):
        for n, colour in enumerate(colours):
            for t in range(frames):
                masks[view, n, t] = disc((SIDE, SIDE), xs[n], 20 + 20 * view + 3 * t, 6)
                images[view, 0, t][masks[view, n, t]] = colour
    return ClipBatch(*(torch.from_numpy(a) for a in (*images, *masks)), torch.zeros(count, dtype=torch.int64))


# ------------------------------------------------------------------------------------------ first weights


def test_masks_and_gradients_are_alive_at_the_start():
    # What transformers draws is dead: the mask is a product of numbers near 0.
    torch.manual_seed(0)
    dead, alive = LMEEC(small_config(dropout=0.0)).eval(), LMEEC(small_config(dropout=0.0)).eval()
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
    task = LMEECTask.__new__(LMEECTask)
    task.config = LMEECRecipe(DataConfig("x"), loss=LossConfig(dice=3.0, match=0.3))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for step in range(60):
        optimiser.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 10)
        optimiser.zero_grad()
        LMEECTask.loss(task, model, batch)[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    with torch.no_grad():
        [decoded] = unroll(model.eval(), batch)
    full = torch.nn.functional.interpolate(decoded.logits[:, None], size=(SIDE, SIDE), mode="bilinear")[:, 0]
    assert true_iou(full, batch.target_masks[:, 0].float()).min() > 0.7
    assert (decoded.score > 0).all()


# ------------------------------------------------------------------------------------------ convolutions


def test_a_convolutional_encoder_gives_what_the_neck_takes():
    model = scratch()
    encoder = BACKBONES["conv-tiny"]
    maps = model.sam.vision_encoder.backbone(torch.zeros(2, 3, SIDE, SIDE))
    assert [tuple(m.shape) for m in maps.intermediate_hidden_states] == [
        (2, SIDE // 2 ** (i + 2), SIDE // 2 ** (i + 2), c + encoder.palette) for i, c in enumerate(encoder.channels)
    ]
    features = model.encode_images(torch.zeros(2, 3, SIDE, SIDE))
    assert features.top.shape == (2, 64, 4, 4)
    assert features.quarter.shape == (2, 8, 16, 16)
    assert features.fine.maps.shape == (2, 17, 16, 16)
    torch.testing.assert_close(features.fine.maps[:, :-1].norm(dim=1), torch.ones(2, 16, 16))
    # Images do not depend on each other, in training neither.
    both = fill("pixels", (2, 3, SIDE, SIDE), 2)
    for mode in (model.train(), model.eval()):
        torch.testing.assert_close(mode.encode_images(both).fine.maps[1:], mode.encode_images(both[1:]).fine.maps)


def test_the_palette_is_a_histogram_of_colours_far_apart():
    palette = scratch().sam.vision_encoder.backbone.palette
    with torch.no_grad():
        shares = palette(fill("pixels", (1, 3, 8, 8), 2))
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(1, 8, 8))
    # What the convolution and softmax give is a share by squared distance in opponent colours.
    opponent = torch.tensor(OPPONENT)
    centres = (palette.conv.weight[:, :, 0, 0] @ torch.linalg.inv(opponent)) * PALETTE_WIDTH**2
    pixel = fill("pixels", (1, 3, 8, 8), 2)[0, :, 3, 4] @ opponent.T
    near = torch.softmax(-((pixel - centres) ** 2).sum(dim=1) / (2 * PALETTE_WIDTH**2), dim=0)
    torch.testing.assert_close(shares[0, :, 3, 4], near, atol=1e-4, rtol=1e-3)
    gaps = torch.cdist(centres, centres) + 100 * torch.eye(len(centres))
    assert gaps.min() > 0.5


def test_sizes_are_checked():
    for bad in ({"channels": (24, 32, 64, 128)}, {"blocks": (1, 0, 1, 1)}, {"palette": 0}):
        with pytest.raises(ConfigError, match="multiples of 16"):
            ConvConfig(**bad)
    with pytest.raises(ConfigError, match="appearance is -1"):
        LMEECConfig(appearance=-1)


def test_it_is_saved_and_read(tmp_path):
    model = scratch()
    again = LMEEC.from_pretrained(model.save_pretrained(tmp_path))
    assert again.fingerprint() == model.fingerprint()


# ----------------------------------------------------------------------------------- appearance, matching


def unit(name):
    """Unit features of eight channels, and objectness."""
    values = fill(name, (1, 9, 4, 4))
    return torch.cat([torch.nn.functional.normalize(values[:, :-1], dim=1), values[:, -1:]], dim=1)


def test_likeness_is_the_cosine_with_the_mean_under_the_mask_and_objectness():
    query, target = unit("q"), unit("t")
    seen, sought = FineMaps.of(query), FineMaps.of(target)
    mask = torch.zeros(1, 16, 16)
    mask[0, 0:4, 0:8] = 1  # two whole cells
    mask[0, 4, 0:4] = 1  # a quarter of a third, which is too little
    mean = torch.nn.functional.normalize(query[0, :-1, 0, 0] + query[0, :-1, 0, 1], dim=0)
    torch.testing.assert_close(mean_under(seen, mask)[0], mean)
    expected = torch.einsum("c,chw->hw", mean, target[0, :-1]) + target[0, -1] / 10
    torch.testing.assert_close(likeness(seen, mask, sought)[0], expected)
    assert mean_under(seen, torch.zeros_like(mask)).abs().max() == 0
    # The prompt's two channels: five times the cosine alone, and how far below the best cell with objectness.
    cosine = torch.einsum("c,chw->hw", mean, target[0, :-1])
    compared = AppearancePrompt(16, query.shape[1] - 1).compare(seen, mask, sought)[0]
    torch.testing.assert_close(compared, torch.stack([5 * cosine, 10 * (expected - expected.max())]))


def test_tracks_read_maps_as_if_each_had_a_copy():
    maps, rows = fill("m", (3, 5, 4, 4)).requires_grad_(), torch.tensor([2, 0, 2, 2])  # the second image has none
    fine, shares, ways = FineMaps(maps, rows), fill("s", (4, 4, 4)), fill("w", (4, 2, 5))
    under, along = fine.under(shares), fine.along(ways)
    (under.sum() + (along**2).sum()).backward()
    copies = maps.detach()[rows].requires_grad_()
    by_copies = torch.einsum("nchw,nhw->nc", copies, shares), torch.einsum("nkc,nchw->nkhw", ways, copies)
    (by_copies[0].sum() + (by_copies[1] ** 2).sum()).backward()
    torch.testing.assert_close((under, along), by_copies)
    torch.testing.assert_close(maps.grad, torch.zeros_like(maps).index_add(0, rows, copies.grad))
    again = FineMaps.join([fine, FineMaps.of(copies.detach())]).pick([1, 5])
    torch.testing.assert_close(again.along(ways[:2])[1], torch.einsum("kc,chw->khw", ways[1], copies[1]))
    nothing = FineMaps(maps, rows[:0])
    assert nothing.along(ways[:0]).shape == (0, 2, 4, 4)
    assert nothing.under(shares[:0]).shape == (0, 5)


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
    same = tell_apart_loss(here, masks, here, masks)
    assert same[:2].tolist() == pytest.approx([math.log(1 + math.exp(-10))] * 2, rel=1e-3)
    assert same[2] == 0  # it is nowhere, and no rival of the others either
    swapped = tell_apart_loss(here, masks, here.pick([1, 0, 2]), masks)
    assert swapped[:2].tolist() == pytest.approx([10 + math.log(1 + math.exp(-10))] * 2, rel=1e-3)


def test_the_prompt_is_given_where_a_query_mask_is_and_reaches_all_resolutions():
    model = scratch()
    batch = coloured()
    with torch.no_grad():
        query, target = (
            model.encode_images(v[0].permute(0, 3, 1, 2).float() / 255)
            for v in (batch.query_images, batch.target_images)
        )
        target, masks = target.pick([0, 0, 0]), batch.query_masks[:, 0]
        fine = query.fine.pick([0, 0, 0])
        plain = model.decode(target.top, target).all_logits
        assert torch.equal(plain, model.decode(target.top, target, masks).all_logits)
        assert (plain - model.decode(target.top, target, masks, fine).all_logits).abs().max() > 0.1
        # Colours alone find each disc.
        comparison = model.appearance.compare(fine, masks, target.fine)
        best = comparison[:, 0].flatten(1).argmax(dim=1)
        truth = torch.nn.functional.avg_pool2d(batch.target_masks[:, 0].float()[:, None], 4).flatten(1)
        assert (truth[torch.arange(3), best] > 0.5).all()
        assert comparison[:, 1].amax(dim=(1, 2)).abs().max() == 0
    # They are where the mask begins.
    start = model.decode(target.top, target, masks, fine).all_logits[:, 0]
    assert (start[truth.view(3, 16, 16) > 0.5] > start[truth.view(3, 16, 16) == 0].mean()).all()
    prompts = AppearancePrompt(64, 16).prompts(comparison)
    assert [tuple(p.shape) for p in prompts] == [(3, 64, 4, 4), (3, 16, 8, 8), (3, 8, 16, 16)]


def test_features_are_joined_and_picked_with_and_without_fine_ones():
    parts = [
        ImageFeatures(*(fill(f"{n}{i}", (1, 2, 2, 2)) for n in "thq"), FineMaps.of(fill(f"f{i}", (1, 2, 2, 2))))
        for i in range(2)
    ]
    picked = ImageFeatures.join(parts).pick([1]).fine
    assert torch.equal(picked.maps[picked.rows], parts[1].fine.maps)
    bare = [replace(p, fine=None) for p in parts]
    assert ImageFeatures.join(bare).pick([0]).fine is None


def test_a_training_clip_equals_a_session_with_the_prompt():
    model = scratch()
    batch = coloured(count=2, frames=4)
    session = model.session(frames=4)
    with torch.no_grad():
        outs = unroll(model, batch)
    for t in range(3):
        masks = {name: batch.query_masks[n, t].numpy() for n, name in enumerate("ab")}
        results = session.step(batch.query_images[0, t].numpy(), masks, batch.target_images[0, t].numpy())
        for n, name in enumerate("ab"):
            here = outs[t].logits[n].numpy()
            np.testing.assert_allclose(here, results[name].low_res_logits, atol=1e-3)
    # Without a query mask there is no prompt, and the object is still followed.
    result = session.step(random_images(1, (SIDE, SIDE))[0], {"a": None}, random_images(1, (SIDE, SIDE))[0])["a"]
    assert not result.passed_over


def test_gradients_reach_every_parameter_from_scratch():
    reached = set()
    batch = coloured(frames=3)
    batch.target_masks[0, 1:] = False
    for bias in (5.0, -5.0):
        model = scratch().train()
        with torch.no_grad():
            model.sam.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(bias)
        task = LMEECTask.__new__(LMEECTask)
        task.config = LMEECRecipe(DataConfig("x"), loss=LossConfig(match=1.0))
        LMEECTask.loss(task, model, batch)[0].backward()
        reached |= {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    missing = {n for n, _ in model.named_parameters()} - reached - set(unused_parameters(model))
    assert not {n for n in missing if not n.endswith("k_proj.bias")}


# ------------------------------------------------------------------------------------------- first epochs


def task_of(monkeypatch, **data):
    monkeypatch.setattr(training, "open_dataset", lambda root, split=None: disc_dataset(2))
    monkeypatch.setattr(training, "open_datasets", lambda roots, split=None: disc_dataset(2))
    values = {"clip_frames": 3, "directions": ("ego2exo", "exo2ego"), "clips_per_epoch": 4, **data}
    config = LMEECRecipe(
        DataConfig("discs", **values),
        LMEECConfig(
            backbone="conv-tiny", image_size=SIDE, channels=64, attention_layers=1, feed_forward=64, appearance=16
        ),
        augment=AugmentConfig(degrees=5, shear=5),
        loss=LossConfig(match=1.0, stride=2),
        optim=OptimConfig(1.0, 1.0),
    )
    return LMEECTask(config)


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


def test_matching_epochs_need_the_loss():
    with pytest.raises(ConfigError, match=r"needs loss\.match"):
        LMEECRecipe(DataConfig("x", match_epochs=1))
    for bad in (lambda: LossConfig(stride=3), lambda: LossConfig(match=-1), lambda: DataConfig("x", match_times=0)):
        with pytest.raises(ConfigError):
            bad()
