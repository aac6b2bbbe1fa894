"""The released and the paper's training, value by value: recipes, clips, images and their augmentation."""

import dataclasses
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from counterview.config import to_dict
from counterview.data.clips import clip_sources, enumerate_clips
from counterview.errors import ConfigError
from counterview.lmeec.preprocess import normalise, to_pixels
from counterview.lmeec.training import task as training
from counterview.lmeec.training.augment import (
    ColourChange,
    change_colour,
    draw_colour,
    draw_frame_colours,
    draw_geometry,
)
from counterview.lmeec.training.recipe import AugmentConfig, ClipDataConfig, LMEECRecipe, OptimConfig
from counterview.lmeec.training.samples import ClipReader
from counterview.lmeec.training.task import LATER_KEYS, LMEECTask
from counterview.training.identity import current_recipe, differences, flat, identity, with_recipe
from counterview.training.recipe import TrainingConfig, load_recipe
from tests.lmeec.lmeec_fill import small_config
from tests.lmeec.lmeec_takes import disc_dataset

RECIPES = Path(__file__).parent.parent.parent / "recipes" / "lmeec"
RELEASED = load_recipe(RECIPES / "released-ego2exo.yaml")
PAPERS = sorted(path for path in RECIPES.glob("*.yaml") if not path.stem.startswith("released"))
AUGMENT = RELEASED.config.augment
SIDE = 64


class Fixed:
    """A generator that draws given numbers."""

    def __init__(self, *numbers):
        self.numbers = np.array(numbers)

    def random(self, n):
        return self.numbers[:n]


@pytest.fixture
def discs(monkeypatch):
    monkeypatch.setattr(training, "open_dataset", lambda root, split=None: disc_dataset(2))
    monkeypatch.setattr(training, "open_datasets", lambda roots, split=None: disc_dataset(2))


def recipe(**data):
    values = {"clip_frames": 3, "max_objects": 1, "absent": False, "clips_per_track": 2, "resize": "bilinear", **data}
    return LMEECRecipe(
        ClipDataConfig("discs", **values),
        small_config(dropout=0.0),
        augment=AUGMENT,
    )


# ------------------------------------------------------------------------------------------------- recipes


def test_the_released_recipe_holds_what_the_released_code_does():
    t, c = RELEASED.training, RELEASED.config
    assert (t.seed, t.epochs, t.batch_size, t.lr, t.min_lr, t.schedule, t.warmup_steps) == (
        123, 60, 64, 5e-6, 5e-7, "cosine", 0,
    )  # fmt: skip
    assert (t.weight_decay, t.betas, t.eps, t.clip_norm, t.precision, t.ema_decay) == (
        0.1, (0.9, 0.999), 1e-8, 0.1, "bf16", None,
    )  # fmt: skip
    assert (c.data.clip_frames, c.data.max_objects, c.data.clips_per_track, c.data.absent, c.data.resize) == (
        8, 1, 2, False, "bilinear",
    )  # fmt: skip
    assert c.data.directions == ("ego2exo",)
    assert c.augment == AugmentConfig(
        flip=0.5, degrees=25, shear=20, shear_y=0, brightness=0.1, contrast=0.03, saturation=0.03, grey=0.05,
        frame_brightness=0.1, frame_contrast=0.05, frame_saturation=0.05, colour_order="random", per_view=False,
    )  # fmt: skip
    assert (c.optim.encoder_lr_scale, c.optim.layer_decay, c.optim.position_lr_decay) == (0.6, 0.9, False)
    assert (c.optim.drop_path, c.optim.no_decay) == (0.1, "sam2")
    assert (c.loss.focal, c.loss.dice, c.loss.iou, c.loss.score) == (20, 1, 1, 1)
    assert (c.model.behaviour, c.model.backbone, c.model.image_size, c.model.dropout) == (
        "released", "hiera-b+", 480, 0.1,
    )  # fmt: skip


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_the_papers_recipes_differ_in_what_the_paper_says(path):
    # Of the model only behaviour and what the row is about; of the rest only the batch, the objects, the direction.
    paper, released = (flat({**to_dict(r.training), **to_dict(r.config)}) for r in (load_recipe(path), RELEASED))
    changed = {key: paper[key] for key in paper if paper[key] != released[key] and not key.startswith("model.")}
    directions = changed.pop("data.directions", ["ego2exo"])
    assert changed == {"batch_size": 32, "data.max_objects": 3}
    assert directions == {"paper-exo2ego": ["exo2ego"], "both-directions": ["ego2exo", "exo2ego"]}.get(
        path.stem, ["ego2exo"]
    )
    assert paper["model.behaviour"] == "paper"


def test_keys_that_are_not_given_mean_what_they_meant():
    data, augment, optim = ClipDataConfig("x"), AugmentConfig(), OptimConfig()
    assert (data.clips_per_track, data.resize) == (1, "bicubic")
    assert (augment.shear_y, augment.colour_order) == (0.5, "fixed")
    assert (augment.frame_brightness, augment.frame_contrast, augment.frame_saturation) == (0, 0, 0)
    assert (optim.position_lr_decay, optim.drop_path, optim.no_decay) == (True, 0, "vectors")


@pytest.mark.parametrize(
    "bad",
    [
        lambda: ClipDataConfig("x", clips_per_track=0),
        lambda: AugmentConfig(shear_y=1.5),
        lambda: AugmentConfig(frame_contrast=-0.1),
        lambda: OptimConfig(drop_path=1.0),
    ],
)
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(ConfigError, match=r"clips_per_track|shear_y|frame_contrast|drop_path"):
        bad()


# ---------------------------------------------------------------------------------------------- identity

FIRST_KEYS = [
    "data.root", "data.split", "data.val_root", "data.val_split", "data.directions", "data.absent", "data.val_takes",
    "data.val_frames", "data.clip_frames", "data.max_objects", "data.clips_per_epoch", "init_from", "augment.flip",
    "augment.degrees", "augment.shear", "augment.brightness", "augment.contrast", "augment.saturation", "augment.grey",
    "augment.per_view", "loss.focal", "loss.dice", "loss.iou", "loss.score", "loss.stride", "loss.calibration",
    "optim.encoder_lr_scale", "optim.layer_decay", "optim.recompute", "optim.recompute_images", "train_tracks",
    "train_hash", "validation_questions", "validation_hash",
]  # fmt: skip


def test_a_run_of_the_version_before_is_resumed(discs):
    task = LMEECTask(LMEECRecipe(ClipDataConfig("discs", clip_frames=3), small_config()))
    fingerprint = task.fingerprint()
    later = {"train_annotation", "validation_annotation"}  # not compared where a run does not record it
    assert {key for key in fingerprint if not key.startswith("model.")} - later == set(FIRST_KEYS)
    now = {"training": to_dict(TrainingConfig()), **to_dict(task.config)}
    for key in LATER_KEYS:  # what that version wrote did not have them
        group, _, name = key.partition(".")
        assert name in now[group]
    before = {
        group: {name: v for name, v in part.items() if f"{group}.{name}" not in LATER_KEYS}
        if isinstance(part, dict)
        else part
        for group, part in now.items()
    }
    saved = identity(before, {k: v for k, v in fingerprint.items() if k not in later}, 1)
    assert not any(key.removeprefix("recipe: ") in LATER_KEYS for key in saved)
    renewed = with_recipe(saved, current_recipe(before, LMEECRecipe))
    assert differences(renewed, identity(now, fingerprint, 1)) == []
    # A value other than the default is a change, and is named.
    changed = dataclasses.replace(task.config, optim=OptimConfig(drop_path=0.1))
    other = identity({"training": to_dict(TrainingConfig()), **to_dict(changed)}, fingerprint, 1)
    assert differences(renewed, other) == ["recipe: optim.drop_path was 0.0, now is 0.1"]


# ---------------------------------------------------------------------------------------------- geometry


def linear_of(config, numbers, size=100, native_hw=(50, 200)):
    """The linear part of a drawn map, in the image's own proportions."""
    matrix = draw_geometry(config, size, native_hw, Fixed(*numbers)).matrix
    middle = np.array([(size - 1) / 2] * 2)
    np.testing.assert_allclose(matrix @ [*middle, 1], middle, atol=1e-9)
    square_to_native = np.diag([native_hw[1] / size, native_hw[0] / size])
    return square_to_native @ matrix[:, :2] @ np.linalg.inv(square_to_native)


def test_a_shear_is_along_x_alone():
    config = dataclasses.replace(AUGMENT, flip=0.0, degrees=0.0)
    for number, degrees in ((0.0, -20), (0.25, -10), (0.5, 0), (1.0, 20)):
        expected = [[1, math.tan(math.radians(degrees))], [0, 1]]
        np.testing.assert_allclose(linear_of(config, (0.9, 0.5, number, 0.1)), expected, atol=1e-12)
    # Recipes without the key shear along y as well, by half as much.
    both = linear_of(dataclasses.replace(config, shear_y=0.5), (0.9, 0.5, 0.5, 1.0))
    np.testing.assert_allclose(both, [[1, 0], [math.tan(math.radians(20)) / 2, 1]], atol=1e-12)


def test_rotation_and_shear_are_those_of_torchvision():
    """Rotation by ``r`` and shear by ``(s, 0)`` as torchvision's documentation of ``affine`` composes them.

    Its shear has the other sign, which makes no difference to a draw from -20 to 20 degrees.
    """
    config = dataclasses.replace(AUGMENT, flip=0.0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        numbers = rng.random(4)
        r, s = math.radians(25 * (2 * numbers[1] - 1)), -math.radians(20 * (2 * numbers[2] - 1))
        expected = [
            [math.cos(r), -math.cos(r) * math.tan(s) - math.sin(r)],
            [math.sin(r), -math.sin(r) * math.tan(s) + math.cos(r)],
        ]
        np.testing.assert_allclose(linear_of(config, numbers), expected, atol=1e-12)
    flipped = linear_of(dataclasses.replace(config, flip=1.0), (0.2, 0.7, 0.6, 0.0))
    np.testing.assert_allclose(flipped, linear_of(config, (0.9, 0.7, 0.6, 0.0)) @ np.diag([-1, 1]), atol=1e-12)


# ------------------------------------------------------------------------------------------------ colour


def test_colours_are_drawn_from_the_released_ranges():
    rng = np.random.default_rng(0)
    clips = [draw_colour(AUGMENT, rng) for _ in range(4000)]
    frames = [one for _ in range(500) for one in draw_frame_colours(AUGMENT, 8, rng)]
    for changes, spreads in ((clips, (0.1, 0.03, 0.03)), (frames, (0.1, 0.05, 0.05))):
        factors = np.array([change.factors for change in changes])
        for values, spread in zip(factors.T, spreads, strict=True):
            assert 1 - spread <= values.min() < 1 - 0.99 * spread
            assert 1 + 0.99 * spread < values.max() <= 1 + spread
            assert abs(values.mean() - 1) < 5 * spread / math.sqrt(3 * len(values))
        orders = Counter(change.order for change in changes)
        assert len(orders) == 6
        assert all(550 < n < 790 for n in orders.values()), orders  # 667 expected, standard deviation 24
    assert 140 < sum(change.grey for change in clips) < 260  # 200 expected, standard deviation 14
    assert not any(change.grey for change in frames)
    assert draw_frame_colours(AugmentConfig(), 8, rng) == []


def in_turn(image, change):
    """ColorJitter by its definition in float: each step clipped to 0..255."""
    luma = np.array([0.299, 0.587, 0.114])
    values = image.astype(float)
    for part in change.order:
        factor = change.factors[part]
        grey = (values @ luma)[..., None]
        around = (0.0, grey.mean(), grey)[part]
        values = np.clip(around + factor * (values - around), 0, 255)
    return np.repeat((values @ luma)[..., None], 3, axis=-1) if change.grey else values


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize("grey", [False, True])
def test_colours_change_in_the_drawn_order(order, grey):
    image = np.random.default_rng(1).integers(60, 256, (16, 16, 3), dtype=np.uint8)
    change = ColourChange((1.4, 0.6, 1.5), order, grey)  # so much that values are cut off, and the order matters
    [changed] = change_colour(image[None], change)
    np.testing.assert_allclose(changed, in_turn(image, change), atol=4)  # Pillow rounds each step down
    turned = change_colour(image[None], ColourChange(change.factors, order[::-1], grey))[0]
    assert np.abs(changed.astype(int) - turned).max() > 10


def clip_of(data):
    return next(enumerate_clips(clip_sources(data, "ego2exo", length=4), length=4))


def test_the_first_change_is_the_clips_and_the_second_each_frames():
    data = disc_dataset(1)
    still = {"flip": 0.0, "degrees": 0.0, "shear": 0.0, "grey": 0.0}
    both = dataclasses.replace(AUGMENT, **still)
    first = dataclasses.replace(both, frame_brightness=0, frame_contrast=0, frame_saturation=0)
    for seed in range(5):
        corners = {}
        for name, config in (("first", first), ("both", both)):
            sample = ClipReader(data, SIDE, config).read(clip_of(data), np.random.default_rng(seed))
            for view in ("query_images", "target_images"):  # a corner is background: 110 in one view, 130 in the other
                corners[name, view] = [int(frame[0, 0, 0]) for frame in getattr(sample, view)]
        assert all(len(set(corners["first", view])) == 1 for view in ("query_images", "target_images"))
        # The same factor for both views, within the rounding of three steps.
        a, b = (corners["first", view][0] for view in ("query_images", "target_images"))
        assert abs(a / 110 - b / 130) < 0.03
        eight = [
            corners["both", view][t] / corners["first", view][t]
            for view in ("query_images", "target_images")
            for t in range(4)
        ]
        assert len({round(value, 2) for value in eight}) > 4  # every frame of either view has its own
        assert all(0.87 < value < 1.13 for value in eight)


# ------------------------------------------------------------------------------------------------- clips


def test_an_epoch_has_two_clips_of_every_track_and_one_object_in_each(discs):
    task = LMEECTask(recipe())
    tracks = [(s.take, s.query_camera, s.target_camera, s.object) for s in task.sampler.sources]
    assert task.train_length(0) == 2 * len(tracks) == 2 * len(set(tracks))
    for epoch in range(3):
        clips = [task.sampler.clip(epoch, index) for index in range(task.train_length(epoch))]
        assert all(len(clip.objects) == 1 for clip in clips)
        assert all(all(map(all, clip.target_visible)) for clip in clips)
        found = Counter((c.take, c.query_camera, c.target_camera, c.objects[0]) for c in clips)
        assert found == dict.fromkeys(tracks, 2)


# ------------------------------------------------------------------------------------------------ images


@pytest.mark.parametrize(("resize", "resample"), [("bilinear", 2), ("bicubic", 3)])
def test_training_images_are_resized_by_the_recipes_filter(resize, resample):
    data = disc_dataset(1)
    clip = clip_of(data)
    sample = ClipReader(data, SIDE, resize=resize).read(clip, np.random.default_rng(0))
    for view, camera in ((sample.query_images, clip.query_camera), (sample.target_images, clip.target_camera)):
        for image, frame in zip(view, clip.frames, strict=True):
            native = Image.fromarray(data.take(clip.take).frame(camera, frame))
            assert np.array_equal(image, np.asarray(native.resize((SIDE, SIDE), resample)))


def test_the_task_reads_by_the_recipes_filter(discs):
    for name in ("bilinear", "bicubic"):
        task = LMEECTask(dataclasses.replace(recipe(resize=name), augment=AugmentConfig(0, 0, 0, 0, 0, 0, 0)))
        found = task.sample(0, 0, np.random.default_rng(0))
        expected = ClipReader(task.train_data, SIDE, resize=name).read(
            task.sampler.clip(0, 0), np.random.default_rng(0)
        )
        assert np.array_equal(found.target_images, expected.target_images)


def test_inference_stays_bicubic():
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    square = np.array(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    expected = normalise(torch.from_numpy(square).permute(2, 0, 1).float() / 255)
    assert torch.equal(to_pixels(image, SIDE), expected)
