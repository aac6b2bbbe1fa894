"""Training: augmentation, samples, validation, and the task on the engine."""

from pathlib import Path

import numpy as np
import pytest
import torch

from counterview.errors import ConfigError, InputError
from counterview.lmeec.inference import predict_take
from counterview.lmeec.model import LMEEC
from counterview.lmeec.training import task as training
from counterview.lmeec.training.augment import ColourChange, Geometry, change_colour, draw_geometry
from counterview.lmeec.training.calibration import fit_visibility
from counterview.lmeec.training.recipe import AugmentConfig, ClipDataConfig, LMEECLossConfig, LMEECRecipe, OptimConfig
from counterview.lmeec.training.samples import ClipReader
from counterview.lmeec.training.task import LMEECTask
from counterview.lmeec.training.unroll import unused_parameters
from counterview.training.fit import fit
from counterview.training.recipe import TrainingConfig, load_recipe
from counterview.training.task import Task
from tests.lmeec.lmeec_fill import disc, small_config, small_model
from tests.lmeec.lmeec_takes import COLOURS, EGO, EXO, disc_dataset

RECIPES = Path(__file__).parent.parent.parent / "recipes"
SIDE = 64


# ------------------------------------------------------------------------------------------ augmentation


def test_a_flip_moves_images_and_masks_alike():
    config = AugmentConfig(flip=1.0, degrees=0, shear=0)
    geometry = draw_geometry(config, 32, (32, 32), np.random.default_rng(0))
    image = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    assert np.array_equal(geometry.images(image)[0], image[0, :, ::-1])
    mask = disc((32, 32), 8, 10, 5)
    assert np.array_equal(geometry.masks(mask[None].astype(np.float32))[0], mask[:, ::-1])


def test_a_rotation_is_one_of_the_native_image():
    # A quarter turn of a wide image: in the square, x and y swap roles with the proportions kept.
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
    assert change_colour(frames, ColourChange()) is frames
    grey = change_colour(frames, ColourChange(grey=True))
    assert (np.ptp(grey, axis=3) == 0).all()
    bright = change_colour(frames, ColourChange((1.1, 1.0, 1.0)))
    np.testing.assert_allclose(bright, frames * 1.1, atol=1)
    # At once and rounded once, in float64: older recipes' runs depend on every bit.
    change = ColourChange((1.0731, 0.9747, 1.0213))
    frames = np.random.default_rng(1).integers(0, 256, (2, 200, 200, 3), dtype=np.uint8)
    luma = np.array([0.299, 0.587, 0.114], dtype=np.float32).astype(np.float64)
    values = frames * change.factors[0]
    mean = (values @ luma).mean(axis=(1, 2))[:, None, None, None]
    values = mean + change.factors[1] * (values - mean)
    grey = (values @ luma)[..., None]
    expected = np.clip(np.rint(grey + change.factors[2] * (values - grey)), 0, 255)
    assert np.array_equal(change_colour(frames, change), expected)


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
    # The still disc colour at the mask: the same geometry for images and masks, and for every frame.
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
        "data": ClipDataConfig(
            "discs", clip_frames=3, directions=("ego2exo", "exo2ego"), clips_per_epoch=4, cache_mb=20
        ),
        "model": small_config(dropout=0.0),
        "augment": AugmentConfig(degrees=5, shear=5),
        "optim": OptimConfig(encoder_lr_scale=0.6, layer_decay=0.9),
    }
    return LMEECRecipe(**{**values, **settings})


@pytest.fixture
def discs(monkeypatch):
    monkeypatch.setattr(training, "open_dataset", lambda root, split=None: disc_dataset(2))
    monkeypatch.setattr(training, "open_datasets", lambda roots, split=None: disc_dataset(2))


def test_training_goes_on_from_a_trained_model_also_with_another_fusion_or_larger_images(discs, tmp_path):
    first = small_model()
    first.save_pretrained(tmp_path / "first")
    start = first.state_dict()
    same = LMEECTask(recipe(init_from=str(tmp_path / "first"))).build_model().state_dict()
    assert all(torch.equal(same[name], value) for name, value in start.items())
    other = recipe(model=small_config(dropout=0.0, fusion="concat", image_size=96), init_from=str(tmp_path / "first"))
    changed = LMEECTask(other).build_model().state_dict()
    assert {name for name in changed if name not in start or not torch.equal(changed[name], start[name])} == {
        "fusion.projection.weight",
        "fusion.projection.bias",
    }
    wider = recipe(model=small_config(dropout=0.0, feed_forward=64), init_from=str(tmp_path / "first"))
    with pytest.raises(ConfigError, match="another architecture"):
        LMEECTask(wider).build_model()


def test_training_begins_with_sam2_or_says_what_it_needs(discs, tmp_path):
    with pytest.raises(ConfigError, match=r"no init_from.*tiny-follow"):
        LMEECTask(recipe()).build_model()
    sam = small_model(seed=4).sam
    sam.save_pretrained(tmp_path / "sam2")
    model = LMEECTask(recipe(init_from=str(tmp_path / "sam2"))).build_model()
    for name, value in sam.state_dict().items():
        assert torch.equal(model.sam.state_dict()[name], value), name
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == set(unused_parameters(model))


def test_whole_takes_are_predicted_with_every_image_read_and_encoded_once(monkeypatch, discs):
    task = LMEECTask(recipe())
    model = small_model()
    take = task.val_data.take("take0")
    pairs = task.validator.pairs_by_frame(take)
    take.reads.clear()
    encoded = []
    inner = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda p: encoded.append(len(p)) or inner(p))
    frames = dict(predict_take(model, take, pairs))
    assert sorted(take.reads) == sorted((c, f) for c in (EGO, EXO) for f in take.frames)
    assert sum(encoded) == 2 * len(take.frames)
    predictions = [p for of_frame in frames.values() for p in of_frame]
    assert [(p.direction, p.pair) for p in predictions] == [pair for of_frame in pairs.values() for pair in of_frame]
    absent = [p for p in predictions if p.pair.target_visible is False]
    assert absent
    assert all(p.result is not None for p in absent)  # absent targets are predicted too
    # A camera that fails in one frame leaves notes there, and the rest is predicted.
    broken = take.frame

    def fails(camera, frame):
        if (camera, frame) == (EXO, 60):
            from counterview.errors import ImageError

            raise ImageError("does not decode")
        return broken(camera, frame)

    monkeypatch.setattr(take, "frame", fails)
    for frame, of_frame in predict_take(model, take, pairs):
        assert all((a.result is None) == (frame == 60) for a in of_frame)


def test_the_task_trains_validates_calibrates_and_exports(discs, tmp_path):
    start = small_model(dropout=0.0).save_pretrained(tmp_path / "start")
    task = LMEECTask(recipe(init_from=str(start)))
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
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "session.step" in card
    assert "| trained for | ego2exo, exo2ego |" in card
    assert "| validation: iou |" in card
    assert (tmp_path / "run" / "validation.csv").is_file()


def test_parameter_groups_decay_by_layer(discs, tmp_path):
    task = LMEECTask(recipe(init_from=str(small_model().save_pretrained(tmp_path))))
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
        LMEECTask(recipe(data=ClipDataConfig("discs", clip_frames=11)))
    for bad in (
        lambda: ClipDataConfig("x", directions=()),
        lambda: ClipDataConfig("x", clip_frames=0),
        lambda: AugmentConfig(degrees=200),
        lambda: LMEECLossConfig(focal=-1),
        lambda: OptimConfig(layer_decay=0),
    ):
        with pytest.raises(ConfigError):
            bad()


def test_fingerprints_tell_data_and_settings_apart(monkeypatch, discs):
    one, same = LMEECTask(recipe()).fingerprint(), LMEECTask(recipe()).fingerprint()
    assert one == same
    other = LMEECTask(recipe(data=ClipDataConfig("discs", clip_frames=4))).fingerprint()
    assert other != one
    monkeypatch.setattr(training, "open_datasets", lambda roots, split=None: disc_dataset(2, absent=(1,)))
    assert LMEECTask(recipe()).fingerprint()["train_hash"] != one["train_hash"]


def test_visibility_of_two_scores_has_a_closed_form():
    # Two values of the score and two numbers to fit: the curve goes through the mean target of either value.
    scores = np.array([-1.0] * 5 + [2.0] * 9)
    visible = np.array([True] + [False] * 4 + [True] * 8 + [False])
    target = np.where(visible, 10 / 11, 1 / 7)  # Platt's, of 9 visible and 5 absent: (9 + 1) / (9 + 2), 1 / (5 + 2)
    for balanced, weight in ((False, np.ones(14)), (True, np.where(visible, 1 / 9, 1 / 5))):
        low, high = (np.average(target[scores == value], weights=weight[scores == value]) for value in (-1.0, 2.0))
        low, high = np.log(low / (1 - low)), np.log(high / (1 - high))
        model = small_model()
        values = fit_visibility(model, scores, visible, balanced=balanced)
        assert values["visibility_scale"] == pytest.approx((high - low) / 3, rel=1e-4)
        assert values["visibility_bias"] == pytest.approx(low + (high - low) / 3, rel=1e-4)
        assert float(model.visibility_scale) == pytest.approx(values["visibility_scale"])
        assert float(model.visibility_bias) == pytest.approx(values["visibility_bias"])


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


@pytest.mark.parametrize("path", sorted((RECIPES / "lmeec").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipes_parse(path):
    loaded = load_recipe(path)
    assert loaded.method == "lmeec"
    assert isinstance(loaded.config, LMEECRecipe)


def test_published_recipe_has_the_published_numbers():
    loaded = load_recipe(RECIPES / "lmeec" / "paper-ego2exo.yaml")
    t, c = loaded.training, loaded.config
    assert (t.epochs, t.batch_size, t.lr, t.min_lr, t.weight_decay, t.clip_norm, t.precision, t.seed) == (
        60, 32, 5e-6, 5e-7, 0.1, 0.1, "bf16", 123,
    )  # fmt: skip
    assert t.lr * c.optim.encoder_lr_scale == pytest.approx(3e-6)
    assert (c.model.backbone, c.model.image_size, c.data.clip_frames, c.data.max_objects) == ("hiera-b+", 480, 8, 3)
    assert (c.augment.degrees, c.augment.shear, c.augment.brightness, c.augment.grey) == (25, 20, 0.1, 0.05)
    assert (c.loss.focal, c.loss.dice, c.loss.iou, c.loss.score) == (20, 1, 1, 1)
