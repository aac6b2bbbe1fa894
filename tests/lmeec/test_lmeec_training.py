"""Training: losses, augmentation, unrolled clips, gradients, and the task on the engine."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from counterview.errors import ConfigError, InputError
from counterview.lmeec import training
from counterview.lmeec.augment import Geometry, change_colour, draw_geometry
from counterview.lmeec.calibration import fit_visibility
from counterview.lmeec.loss import dice_loss, focal_loss, frame_loss, mean_over_clips, true_iou
from counterview.lmeec.model import LMEEC, Decoded
from counterview.lmeec.recipe import AugmentConfig, DataConfig, LMEECRecipe, LossConfig, OptimConfig
from counterview.lmeec.samples import ClipReader, collate
from counterview.lmeec.takes import predict_take
from counterview.lmeec.training import LMEECTask
from counterview.lmeec.unroll import ClipBatch, unroll, unused_parameters
from counterview.training.fit import fit
from counterview.training.recipe import TrainingConfig, load_recipe
from counterview.training.task import Task
from tests.lmeec.lmeec_fill import disc, fill, pictures, small_config, small_model
from tests.lmeec.lmeec_takes import COLOURS, EGO, EXO, disc_dataset

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


def test_a_training_clip_equals_a_session():
    model = small_model(dropout=0.0)
    images = [pictures(5, (SIDE, SIDE), seed=s) for s in (0, 1)]
    masks = [[disc((SIDE, SIDE), 20 + 12 * n + t, 30, 9) for t in range(5)] for n in range(2)]
    session = model.session(frames=5)
    expected = [
        session.step(images[0][t], {"a": masks[0][t], "b": masks[1][t]}, images[1][t]) for t in range(5)
    ]
    batch = ClipBatch(
        *(torch.from_numpy(np.stack(v))[None] for v in images),
        torch.from_numpy(np.array(masks)), torch.zeros(2, 5, SIDE, SIDE, dtype=torch.bool), torch.zeros(2, dtype=torch.int64),
    )  # fmt: skip
    with torch.no_grad():
        for out, wanted in zip(unroll(model, batch), expected, strict=True):
            for n, name in enumerate("ab"):
                np.testing.assert_allclose(out.logits[n], wanted[name].low_res_logits, atol=5e-5)
                assert abs(float(out.score[n]) - wanted[name].object_score) < 5e-5


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
    task.config = LMEECRecipe(DataConfig("x"), optim=OptimConfig(**optim))
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
    for optim in ({}, {"recompute": True, "recompute_pictures": 2}):
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


# ------------------------------------------------------------------------------------------ augmentation


def test_a_flip_moves_pictures_and_masks_alike():
    config = AugmentConfig(flip=1.0, degrees=0, shear=0)
    geometry = draw_geometry(config, 32, (32, 32), np.random.default_rng(0))
    image = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    assert np.array_equal(geometry.pictures(image)[0], image[0, :, ::-1])
    mask = disc((32, 32), 8, 10, 5)
    assert np.array_equal(geometry.masks(mask[None].astype(np.float32))[0], mask[:, ::-1])


def test_a_rotation_is_one_of_the_native_picture():
    # A quarter turn of a wide picture: in the square, x and y swap roles with the proportions kept.
    config = AugmentConfig(flip=0.0, degrees=90, shear=0)

    class Fixed:
        def random(self, n):
            return np.array([1.0, 1.0, 0.5, 0.5])[:n]

    geometry = draw_geometry(config, 100, (50, 200), Fixed())
    a = geometry.matrix
    # A native step of 10 px to the right is 5 px in the square (200 to 100); turned by 90 degrees it is a native
    # step of 10 px down, which is 20 px in the square (50 to 100).
    np.testing.assert_allclose(a[:, :2] @ [5, 0], [0, 20], atol=1e-9)
    np.testing.assert_allclose(a @ [49.5, 49.5, 1], [49.5, 49.5], atol=1e-9)


def test_thin_masks_survive_and_empty_ones_stay_empty():
    soft = np.zeros((2, 16, 16), np.float32)
    soft[0, 5, 5] = 0.1
    cut = Geometry(None).masks(soft)
    assert cut[0].sum() == 1
    assert not cut[1].any()


def test_colours():
    frames = np.random.default_rng(0).integers(30, 200, (2, 4, 4, 3), dtype=np.uint8)
    assert change_colour(frames, (1.0, 1.0, 1.0, False)) is frames
    grey = change_colour(frames, (1.0, 1.0, 1.0, True))
    assert (np.ptp(grey, axis=3) == 0).all()
    bright = change_colour(frames, (1.1, 1.0, 1.0, False))
    np.testing.assert_allclose(bright, frames * 1.1, atol=1)


def test_clips_are_the_same_for_the_same_draw_and_consistent_over_frames():
    from counterview.data.clips import clip_sources, enumerate_clips

    data = disc_dataset(1)
    clip = next(enumerate_clips(clip_sources(data, "ego2exo", length=4, targets="annotated"), length=4))
    plain = ClipReader(data, SIDE).read(clip, np.random.default_rng(0))
    assert plain.query_images.shape == (4, SIDE, SIDE, 3)
    assert plain.query_masks.shape == (1, 4, SIDE, SIDE)
    reader = ClipReader(data, SIDE, AugmentConfig(), cache_mb=1)
    one, two = (reader.read(clip, np.random.default_rng(7)) for _ in range(2))
    other = reader.read(clip, np.random.default_rng(8))
    for name in vars(one):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert not np.array_equal(one.query_images, other.query_images)
    # The still disc colour at the mask: the same geometry for pictures and masks, and for every frame.
    for t in range(4):
        inside = one.query_images[t][one.query_masks[0, t]].astype(int)
        assert np.median(np.abs(inside - np.array(COLOURS["red disc"])).max(axis=1)) < 45


def test_the_cache_keeps_to_its_size():
    from counterview.data.clips import clip_sources, enumerate_clips

    data = disc_dataset(1)
    clips = list(enumerate_clips(clip_sources(data, "ego2exo", length=4, targets="annotated"), length=4))
    reader = ClipReader(data, SIDE, cache_mb=1)
    reader._room = 60_000
    for clip in clips:
        reader.read(clip, np.random.default_rng(0))
        assert reader._held <= 60_000
        assert reader._held == sum(v.nbytes for v in reader._cache.values())


# -------------------------------------------------------------------------------------- validation, task


def recipe(**settings):
    values = {
        "data": DataConfig("discs", clip_frames=3, directions=("ego2exo", "exo2ego"), clips_per_epoch=4, cache_mb=20),
        "model": small_config(dropout=0.0),
        "augment": AugmentConfig(degrees=5, shear=5),
        "optim": OptimConfig(encoder_lr_scale=0.6, layer_decay=0.9),
    }
    return LMEECRecipe(**{**values, **settings})


@pytest.fixture
def discs(monkeypatch):
    monkeypatch.setattr(training, "open_dataset", lambda root, split=None: disc_dataset(2))


def test_whole_takes_are_answered_with_every_picture_read_and_encoded_once(monkeypatch, discs):
    task = LMEECTask(recipe())
    model = small_model()
    take = task.val_data.take("take0")
    wanted = task.validator.wanted(take)
    take.reads.clear()
    encoded = []
    inner = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda p: encoded.append(len(p)) or inner(p))
    frames = dict(predict_take(model, take, wanted))
    assert sorted(take.reads) == sorted((c, f) for c in (EGO, EXO) for f in take.frames)
    assert sum(encoded) == 2 * len(take.frames)
    answers = [a for of_frame in frames.values() for a in of_frame]
    assert [(a.direction, a.pair) for a in answers] == [q for qs in wanted.values() for q in qs]
    absent = [a for a in answers if a.pair.target_visible is False]
    assert absent
    assert all(a.result is not None for a in absent)  # absent targets are predicted too
    # A camera that fails in one frame leaves notes there, and the rest answered.
    broken = take.frame

    def fails(camera, frame):
        if (camera, frame) == (EXO, 60):
            from counterview.errors import ImageError

            raise ImageError("does not decode")
        return broken(camera, frame)

    monkeypatch.setattr(take, "frame", fails)
    for frame, of_frame in predict_take(model, take, wanted):
        assert all((a.result is None) == (frame == 60) for a in of_frame)


def test_the_task_trains_validates_calibrates_and_exports(discs, tmp_path):
    task = LMEECTask(recipe())
    assert isinstance(task, Task)
    config = TrainingConfig(
        epochs=1, batch_size=2, lr=1e-3, clip_norm=0.1, weight_decay=0.1, trackers=(), device="cpu", precision="bf16"
    )
    fit(task, config, tmp_path / "run", progress=False)
    model = LMEEC.from_pretrained(tmp_path / "run" / "model")
    assert model.config == task.config.model
    metrics = task.summarise([task.validate(model, model.device)])
    assert {"iou", "location_error", "contour_accuracy", "balanced_accuracy", "iou_ego2exo", "iou_exo2ego"} <= set(
        metrics
    )
    assert 0 <= metrics["iou"] <= 1
    shares = [task.validate(model, model.device, rank, 2) for rank in range(2)]
    assert task.summarise(shares) == pytest.approx(metrics)
    assert "session.step" in (tmp_path / "run" / "model" / "README.md").read_text()
    assert (tmp_path / "run" / "validation.csv").is_file()


def test_parameter_groups_decay_by_layer(discs):
    task = LMEECTask(recipe())
    model = task.build_model()
    groups = task.parameter_groups(model, 5e-6, 0.1)
    found = {}
    for group in groups:
        for parameter in group["params"]:
            found[id(parameter)] = (group["lr"], group["weight_decay"])
    names = dict(model.named_parameters())
    assert len(found) == sum(p.requires_grad for p in names.values())
    blocks = 5
    backbone = "sam.vision_encoder.backbone."
    expected = {
        "fusion.mlp1.0.weight": (5e-6, 0.1),
        "fusion.mlp1.0.bias": (5e-6, 0.0),
        "sam.vision_encoder.neck.convs.0.weight": (3e-6, 0.1),
        f"{backbone}blocks.4.attn.qkv.weight": (3e-6 * 0.9, 0.1),
        f"{backbone}blocks.0.attn.qkv.weight": (3e-6 * 0.9**5, 0.1),
        f"{backbone}blocks.0.layer_norm1.weight": (3e-6 * 0.9**5, 0.0),
        f"{backbone}pos_embed": (3e-6 * 0.9 ** (blocks + 1), 0.1),
    }
    for name, values in expected.items():
        assert found[id(names[name])] == pytest.approx(values), name


def test_tasks_are_checked(monkeypatch, discs):
    with pytest.raises(InputError, match="no clips of 11 frames"):
        LMEECTask(recipe(data=DataConfig("discs", clip_frames=11)))
    for bad in (
        lambda: DataConfig("x", directions=()),
        lambda: DataConfig("x", clip_frames=0),
        lambda: AugmentConfig(degrees=200),
        lambda: LossConfig(focal=-1),
        lambda: OptimConfig(layer_decay=0),
    ):
        with pytest.raises(ConfigError):
            bad()


def test_fingerprints_tell_data_and_settings_apart(monkeypatch, discs):
    one, same = LMEECTask(recipe()).fingerprint(), LMEECTask(recipe()).fingerprint()
    assert one == same
    other = LMEECTask(recipe(data=DataConfig("discs", clip_frames=4))).fingerprint()
    assert other != one
    monkeypatch.setattr(training, "open_dataset", lambda root, split=None: disc_dataset(2, absent=(1,)))
    assert LMEECTask(recipe()).fingerprint()["train_hash"] != one["train_hash"]


def test_visibility_is_fitted_to_scores():
    model = small_model()
    rng = np.random.default_rng(0)
    visible = rng.random(2000) < 0.8
    scores = np.where(visible, 3.0, -0.5) + rng.normal(0, 1, 2000)
    values = fit_visibility(model, scores, visible)
    assert values["visibility_scale"] == pytest.approx(3.5, rel=0.2)  # d' of the two normals
    probability = model.visibility(torch.tensor(scores)).numpy()
    right = [((probability > 0.5) == v)[visible == v].mean() for v in (False, True)]
    assert np.mean(right) > 0.94
    assert abs(right[0] - right[1]) < 0.05  # balanced
    fit_visibility(model, scores, visible, balanced=False)
    probability = model.visibility(torch.tensor(scores)).numpy()
    assert abs(probability.mean() - visible.mean()) < 0.01  # calibrated to the data
    before = float(model.visibility_scale)
    assert fit_visibility(model, scores, np.ones(2000, bool)) == {}
    assert fit_visibility(model, -scores, visible) == {}
    assert float(model.visibility_scale) == before


@pytest.mark.parametrize(
    "path", [*sorted((RECIPES / "lmeec").glob("*.yaml")), *sorted((RECIPES / "tabletop").glob("lmeec*.yaml"))],
    ids=lambda p: p.stem,
)  # fmt: skip
def test_recipes_parse(path):
    loaded = load_recipe(path)
    assert loaded.method == "lmeec"
    assert isinstance(loaded.config, LMEECRecipe)


def test_published_recipe_has_the_published_numbers():
    loaded = load_recipe(RECIPES / "lmeec" / "paper-ego2exo.yaml")
    t, c = loaded.training, loaded.config
    assert (t.epochs, t.batch_size, t.lr, t.min_lr, t.weight_decay, t.clip_norm, t.precision, t.seed) == (
        60, 64, 5e-6, 5e-7, 0.1, 0.1, "bf16", 123,
    )  # fmt: skip
    assert t.lr * c.optim.encoder_lr_scale == pytest.approx(3e-6)
    assert (c.model.backbone, c.model.image_size, c.data.clip_frames, c.data.max_objects) == ("hiera-b+", 480, 8, 3)
    assert (c.augment.degrees, c.augment.shear, c.augment.brightness, c.augment.grey) == (25, 20, 0.1, 0.05)
    assert (c.loss.focal, c.loss.dice, c.loss.iou, c.loss.score) == (20, 1, 1, 1)
