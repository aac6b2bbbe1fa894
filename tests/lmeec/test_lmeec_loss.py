"""Losses, clips unrolled with gradients, and which weights learn."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from counterview.lmeec.sam2_parts import Decoded
from counterview.lmeec.training.loss import dice_loss, focal_loss, frame_loss, mean_over_clips, true_iou
from counterview.lmeec.training.recipe import ClipDataConfig, LMEECRecipe, OptimConfig
from counterview.lmeec.training.task import LMEECTask
from counterview.lmeec.training.unroll import ClipBatch, unroll, unused_parameters
from tests.lmeec.lmeec_fill import disc, fill, random_images, small_model

RECIPES = Path(__file__).parent.parent.parent / "recipes"
SIDE = 64


def random_batch(clips=2, frames=3, objects=(2, 1), seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, clips, frames, SIDE, SIDE, 3), dtype=np.uint8)
    count = sum(objects)
    masks = np.stack(
        [[[disc((SIDE, SIDE), 15 + 9 * n + 2 * t, 30 + 3 * v, 8) for t in range(frames)] for n in range(count)]
         for v in range(2)]
    )  # fmt: skip
    masks[1, 0, 1:] = False  # the first track leaves the target
    clip_of = torch.arange(clips).repeat_interleave(torch.tensor(objects))
    return ClipBatch(*(torch.from_numpy(a) for a in (*images, *masks)), clip_of)


# ---------------------------------------------------------------------------------------------- losses


def test_losses_follow_their_formulas():
    logits, truth = fill("l", (3, 5, 7), 4).double(), (fill("t", (3, 5, 7)) > 0.2).double()
    x, y = logits.numpy(), truth.numpy()
    p = 1 / (1 + np.exp(-x))
    p_true, alpha = np.where(y == 1, p, 1 - p), np.where(y == 1, 0.25, 0.75)
    np.testing.assert_allclose(focal_loss(logits, truth), (-alpha * (1 - p_true) ** 2 * np.log(p_true)).mean((1, 2)))
    np.testing.assert_allclose(
        dice_loss(logits, truth), 1 - (2 * (p * y).sum((1, 2)) + 1) / (p.sum((1, 2)) + y.sum((1, 2)) + 1)
    )
    np.testing.assert_allclose(
        true_iou(logits, truth), ((x > 0) & (y == 1)).sum((1, 2)) / ((x > 0) | (y == 1)).sum((1, 2))
    )


def decoded(masks=1, score=0.0):
    logits = fill("d", (2, masks, 4, 4), 3).requires_grad_()
    return Decoded(
        logits[:, 0], logits, fill("i", (2, masks), 0.5, 0.5), torch.full((2,), score), torch.zeros(2, 8),
        torch.zeros(2, dtype=torch.int64),
    )  # fmt: skip


def test_absent_objects_teach_the_score_alone():
    truth = torch.zeros(2, 16, 16)
    truth[1, 4:9, 3:8] = 1
    out = decoded(score=2.0)
    loss = frame_loss(out, truth)
    for part in (loss.focal, loss.dice, loss.iou):
        assert part[0] == 0
        assert part[1] > 0
    torch.testing.assert_close(loss.score, torch.tensor([2.0 + np.log1p(np.exp(-2)), np.log1p(np.exp(-2))]).float())
    (20 * loss.focal + loss.dice).sum().backward()
    assert not out.all_logits.grad[0].any()
    assert out.all_logits.grad[1].any()


def test_of_several_masks_the_best_learns_and_all_predicted_ious_do():
    truth = torch.zeros(2, 4, 4)
    truth[:, 1:3, 1:3] = 1
    out = decoded(masks=3)
    out.ious.requires_grad_()
    loss = frame_loss(out, truth)
    (20 * loss.focal + loss.dice + loss.iou).sum().backward()
    per_mask = [frame_loss(Decoded(*[v[:, i : i + 1] if n in ("all_logits", "ious") else v
                                     for n, v in vars(out).items()]), truth) for i in range(3)]  # fmt: skip
    totals = torch.stack([20 * one.focal + one.dice for one in per_mask])
    touched = out.all_logits.grad.abs().amax((2, 3)) > 0
    assert torch.equal(touched.int().argmax(1), totals.argmin(0))
    assert (touched.sum(1) == 1).all()
    assert (out.ious.grad != 0).all()
    torch.testing.assert_close(loss.iou, torch.stack([one.iou for one in per_mask]).mean(0))


def test_mean_over_clips_weighs_each_clip_alike():
    values = torch.tensor([[1.0, 3.0, 10.0], [3.0, 5.0, 20.0]])
    assert mean_over_clips(values, torch.tensor([0, 0, 1]), 2) == (3 + 15) / 2


# ---------------------------------------------------------------------------------------- unrolled clips


@pytest.mark.parametrize(
    ("settings", "score_bias"),
    [
        ({}, 5.0),
        ({}, -5.0),  # every object is absent
        ({"cross_view_prompt": False}, 5.0),
        ({"max_pointers": 3}, 5.0),
    ],
)
def test_a_training_clip_equals_a_session(settings, score_bias):
    model = small_model(dropout=0.0, **settings)
    with torch.no_grad():
        model.sam.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(score_bias)
    images = [random_images(5, (SIDE, SIDE), seed=s) for s in (0, 1)]
    masks = [[disc((SIDE, SIDE), 20 + 12 * n + t, 30, 9) for t in range(5)] for n in range(2)]
    session = model.session(frames=5)
    expected = [session.step(images[0][t], {"a": masks[0][t], "b": masks[1][t]}, images[1][t]) for t in range(5)]
    batch = ClipBatch(
        *(torch.from_numpy(np.stack(v))[None] for v in images),
        torch.from_numpy(np.array(masks)),
        torch.zeros(2, 5, SIDE, SIDE, dtype=torch.bool),
        torch.zeros(2, dtype=torch.int64),
    )
    with torch.no_grad():
        for out, of_frame in zip(unroll(model, batch), expected, strict=True):
            assert ((out.score > 0) == (score_bias > 0)).all()
            for n, name in enumerate("ab"):
                np.testing.assert_allclose(out.logits[n], of_frame[name].low_res_logits, atol=5e-5)
                assert abs(float(out.score[n]) - of_frame[name].object_score) < 5e-5


def test_the_bank_of_a_clip_is_the_last_frames():
    # Longer than the bank: the session would compress, and compression is not trained.
    model = small_model(dropout=0.0, bank_size=2, compression="fifo")
    batch = random_batch(1, 5, (1,))
    session = model.session(frames=5)
    with torch.no_grad():
        outs = unroll(model, batch)
    for t in range(5):
        result = session.step(
            batch.query_images[0, t].numpy(), {"a": batch.query_masks[0, t].numpy()}, batch.target_images[0, t].numpy()
        )["a"]
        np.testing.assert_allclose(outs[t].logits[0], result.low_res_logits, atol=5e-5)


def loss_of(model, batch, **optim):
    task = copy.copy(LMEECTask.__new__(LMEECTask))
    task.config = LMEECRecipe(ClipDataConfig("x"), optim=OptimConfig(**optim))
    return LMEECTask.loss(task, model, batch)


def test_loss_of_a_batch_is_the_mean_over_its_clips():
    model = small_model(dropout=0.0)
    batch = random_batch()
    together, parts = loss_of(model, batch)
    alone = []
    for clip in range(2):
        rows = batch.clip_of == clip
        one = ClipBatch(
            batch.query_images[clip : clip + 1], batch.target_images[clip : clip + 1], batch.query_masks[rows],
            batch.target_masks[rows], torch.zeros(int(rows.sum()), dtype=torch.int64),
        )  # fmt: skip
        alone.append(loss_of(model, one)[0])
    torch.testing.assert_close(together, torch.stack(alone).mean(), atol=1e-5, rtol=1e-5)
    assert set(parts) == {"focal", "dice", "iou", "score"}
    torch.testing.assert_close(together, 20 * parts["focal"] + parts["dice"] + parts["iou"] + parts["score"])


def test_recomputed_activations_give_the_same_gradients():
    model, batch = small_model(dropout=0.0), random_batch()
    gradients = []
    for optim in ({}, {"recompute": True, "recompute_images": 2}):
        model.zero_grad()
        loss_of(model, batch, **optim)[0].backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"behaviour": "released"},
        {"multimask": True},
        {"dense_prompt": "mask"},
        {"cross_view_prompt": False},
        {"query_memory": False},
        {"target_memory": False},
        {"query_memory": False, "target_memory": False},
        {"pointers": False},
        {"fusion": "concat"},
    ],
)
def test_gradients_reach_every_parameter_but_those_named(settings):
    reached = set()
    batch = random_batch()
    for bias in (5.0, -5.0):  # the embeddings of absent objects learn only where the score says absent
        model = small_model(dropout=0.0, **settings)
        with torch.no_grad():
            model.sam.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(bias)
        loss_of(model, batch)[0].backward()
        reached |= {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    unused = unused_parameters(model)
    everything = {n for n, _ in model.named_parameters()}
    # Constants added to every key cancel in the softmax; their gradient is nothing but rounding.
    cancel = {n for n in everything if n.startswith("sam.mask_decoder.transformer") and n.endswith("k_proj.bias")}
    if settings.get("multimask"):  # of the three masks only the best one learns, so a few clips need not reach all
        some = {n for n in everything if "output_hypernetworks_mlps" in n} - set(unused)
        assert some & reached
        cancel |= some
    assert everything - reached - cancel == set(unused) - cancel
    assert all(unused.values())


def test_learning_a_clip_by_heart_lowers_the_loss():
    model = small_model(dropout=0.0).train()
    batch = random_batch(1, 2, (2,))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        total, parts = loss_of(model, batch)
        total.backward()
        optimiser.step()
        losses.append({**{k: float(v) for k, v in parts.items()}, "total": float(total.detach())})
    assert losses[-1]["total"] < 0.7 * losses[0]["total"]
    assert losses[-1]["score"] < losses[0]["score"]
