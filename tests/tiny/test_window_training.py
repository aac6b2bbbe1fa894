"""Training tiny-window: what a sample holds, proposed masks, recipes, losses and scores."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from counterview.errors import ConfigError
from counterview.geometry.windows import cut_mask, paste_logits
from counterview.masks.geometry import iou
from counterview.tiny.training import window_task as training
from counterview.tiny.training.window_prompts import draw_prompt
from counterview.tiny.training.window_recipe import TinyWindowRecipe, WindowDataConfig, WindowDrawConfig
from counterview.tiny.training.window_samples import PRESENT, WindowReader, collate_windows
from counterview.tiny.training.window_task import TinyWindowTask
from counterview.tiny.training.window_validation import TRUE_PLACES, WindowScore, summarise_windows, window_iou
from counterview.tiny.window_config import TinyWindowConfig
from counterview.training.recipe import load_recipe
from counterview.training.task import Task
from tests.lmeec.lmeec_fill import disc
from tests.lmeec.lmeec_takes import COLOURS, EXO, disc_dataset
from tests.tiny.window_sources import sources_of

SIDE = 64
RECIPES = Path(__file__).parent.parent.parent / "recipes" / "tabletop"
PLAIN = replace(TRUE_PLACES, no_prompt_prob=0.0)


def reader(config, takes=3):
    dataset = disc_dataset(takes)
    return WindowReader(dataset, sources_of(dataset), SIDE, config)


def same(a, b):
    arrays = ((a.truths, b.truths), *((x.pixels, y.pixels) for x, y in zip(a.targets, b.targets, strict=True)))
    return all(np.array_equal(x, y) for x, y in arrays)


# -------------------------------------------------------------------------------------------------- samples


def test_a_sample_is_a_function_of_its_generator():
    one, other = reader(WindowDrawConfig()), reader(WindowDrawConfig())
    samples = [one.read(one.sources[2], 2, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert same(samples[0], samples[1])
    assert not same(samples[0], samples[2])
    assert same(samples[0], other.read(other.sources[2], 2, np.random.default_rng(0)))


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_truth_pixels_and_place_are_of_the_same_window(flip):
    """The object's pixels have its colour in both windows, mirrored or not; what is drawn there is pasted back."""
    drawn = reader(replace(PLAIN, flip=flip))
    for source in (s for s in drawn.sources if s.object == "blue disc"):  # painted last: it hides the others
        sample = drawn.read(replace(source, frames=source.frames[:1]), 1, np.random.default_rng(3))
        colour = COLOURS[source.object]
        query, target, truth = sample.queries[0], sample.targets[0], sample.truths[0]
        assert np.abs(query.pixels[query.prompt > 0.9].astype(int) - colour).mean() < 12
        if not truth.any():
            continue
        assert np.abs(target.pixels[truth > 0.99].astype(int) - colour).mean() < 6
        mask = drawn.dataset.take(source.take).mask(source.object, source.target_camera, source.frames[0])
        straight = truth[:, ::-1] if flip else truth
        np.testing.assert_allclose(straight, cut_mask(mask, sample.windows[0]), atol=1e-6)
        assert iou(paste_logits(straight - 0.5, sample.windows[0], mask.size_hw), mask) > 0.9
        assert (target.place[2] < 0) == (((-1) ** int(flip)) * sample.windows[0].place(mask.size_hw)[0] < 0)


def test_windows_hold_the_object_or_nothing_of_it():
    drawn = reader(WindowDrawConfig(wrong_place_prob=0.5, decoy_prob=0.2, flip=0.0))
    shares, present = [], []
    for seed in range(120):
        source = drawn.sources[seed % len(drawn.sources)]
        sample = drawn.read(source, 1, np.random.default_rng(seed))
        window, truth = sample.windows[0], sample.truths[0]
        present.append(bool(truth.any()))
        if truth.any():
            take = drawn.dataset.take(source.take)
            held = [
                truth.sum() * (window.side / SIDE) ** 2 / mask.area
                for frame in source.frames
                if (mask := take.mask(source.object, source.target_camera, frame)) is not None
            ]
            shares.append(max(held))  # discs of one size, whichever the frame was
    assert min(shares) > PRESENT * 0.9
    assert 0.35 < np.mean(present) < 0.85


def test_decoys_are_objects_of_other_takes_and_absent():
    drawn = reader(WindowDrawConfig(decoy_prob=1.0))
    for seed in range(10):
        sample = drawn.read(drawn.sources[seed], 2, np.random.default_rng(seed))
        assert not sample.truths.any()
        assert all(window.prompt.any() for window in sample.queries)
    alone = reader(WindowDrawConfig(decoy_prob=1.0), takes=1)  # there is no other take
    present = [alone.read(s, 1, np.random.default_rng(i)).truths.any() for i, s in enumerate(alone.sources)]
    assert any(present)


def test_a_short_track_repeats_its_last_frame():
    drawn = reader(PLAIN)
    source = replace(drawn.sources[0], frames=drawn.sources[0].frames[:2])
    sample = drawn.read(source, 4, np.random.default_rng(0))
    assert len(sample.queries) == 4
    assert sample.windows[1] == sample.windows[2] == sample.windows[3] != sample.windows[0]
    batch = collate_windows([sample, sample])
    assert batch.target_masks.shape == (2, 4, SIDE, SIDE)
    assert batch.to("cpu").prompts.shape == (2, 4, SIDE, SIDE)


def test_proposed_masks_are_wrong_in_many_ways():
    truth = disc((SIDE, SIDE), 30, 30, 12).astype(np.float32)
    other = disc((SIDE, SIDE), 50, 50, 7).astype(np.float32)
    rng = np.random.default_rng(0)
    right = [window_iou(draw_prompt(truth, [other], False, rng) - 0.5, truth) for _ in range(200)]
    assert 0.6 < np.mean(right) < 0.95
    assert min(right) < 0.6 < max(right)
    assert np.mean([window_iou(draw_prompt(truth, [other], True, rng) - 0.5, truth) for _ in range(50)]) < 0.2
    assert all(draw_prompt(np.zeros_like(truth), [], False, rng).any() for _ in range(20))


# ---------------------------------------------------------------------------------------------- task, scores


def task_of(monkeypatch, **data):
    monkeypatch.setattr(training, "open_datasets", lambda roots, split: disc_dataset(3))
    monkeypatch.setattr(training, "open_dataset", lambda root, split: disc_dataset(1))
    monkeypatch.setattr(training, "annotation_digest", lambda dataset, takes: "")
    model = TinyWindowConfig(image_size=SIDE, attention_layers=1, feed_forward=64)
    directions = ("ego2exo", "exo2ego")
    settings = WindowDataConfig("discs", directions=directions, **{"val_questions": 12, **data})
    return TinyWindowTask(TinyWindowRecipe(settings, model, windows=WindowDrawConfig(camera_prob=0.0)))


def test_it_learns_to_draw_discs(monkeypatch):
    task = task_of(monkeypatch)
    assert isinstance(task, Task)
    torch.manual_seed(0)
    model = task.build_model().train()
    first = task.summarise([task.validate(model.eval(), torch.device("cpu"))])
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    model.train()
    for step in range(40):
        samples = [task.sample(0, 6 * step + i, np.random.default_rng([step, i])) for i in range(6)]
        optimiser.zero_grad()
        loss, parts = task.loss(model, task.collate(samples))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    assert set(parts) == {"focal", "dice", "iou", "score", "match"}
    last = task.summarise([task.validate(model.eval(), torch.device("cpu"))])
    assert last["true_place_iou"] > max(0.5, first["true_place_iou"])
    assert last["questions"] == 12
    assert task.sample_sheet(model, torch.device("cpu")).ndim == 3
    assert task.fingerprint()["train_tracks"] == len(task.sources)


def test_epochs_shorter_than_the_data_go_through_all_of_it(monkeypatch):
    task = task_of(monkeypatch, clips_per_epoch=6)
    seen = []
    monkeypatch.setattr(task.window_reader, "read", lambda source, length, rng: seen.append(source))
    epochs = len(task.sources) // 6
    for epoch in range(epochs):
        for index in range(task.train_length(epoch)):
            task.sample(epoch, index, np.random.default_rng(0))
    assert len({(s.take, s.object, s.query_camera) for s in seen}) == 6 * epochs


def test_scores_are_means_over_what_they_are_about():
    scores = [
        WindowScore(True, True, 3.0, 0.9, 0.8, None),
        WindowScore(False, True, 2.0, 0.7, 0.6, 0.5),
        WindowScore(False, True, -1.0, 0.4, 0.4, None),
        WindowScore(False, False, -2.0, 0.2, None, None),
    ]
    metrics = summarise_windows([WindowScore.from_json(score.to_json()) for score in scores])
    assert metrics == {
        "questions": 3, "iou": 0.5, "true_place_iou": 0.8, "prompted_iou": 0.6, "proposed_iou": 0.5,
        "balanced_accuracy": 0.75,
    }  # fmt: skip


def test_validation_scores_a_perfect_drawer_as_perfect(monkeypatch):
    task = task_of(monkeypatch)
    validator = task.window_validator

    def perfect(model, batch):
        small = torch.nn.functional.avg_pool2d(batch.target_masks[:, 0][:, None], 2)[:, 0] - 0.5
        present = batch.target_masks.flatten(1).any(1)
        return [type("Drawn", (), {"best_logits": small, "score": torch.where(present, 5.0, -5.0)})()]

    monkeypatch.setattr("counterview.tiny.training.window_validation.unroll", perfect)
    metrics = summarise_windows(list(validator.scores(task.build_model().eval())))
    assert metrics["true_place_iou"] > 0.98
    assert metrics["iou"] > 0.85  # part of some objects is outside the window
    assert metrics["balanced_accuracy"] == 1.0


@pytest.mark.parametrize("path", sorted(RECIPES.glob("tiny-window*.yaml")), ids=lambda p: p.stem)
def test_recipes_parse(path):
    loaded = load_recipe(path)
    assert (loaded.method, loaded.config.loss.stride) == ("tiny-window", 2)
    assert loaded.config.optim.encoder_lr_scale == 1.0


def test_problems_are_reported_together():
    with pytest.raises(ConfigError, match=r"decoy_prob.*margin_max"):
        WindowDrawConfig(decoy_prob=2.0, margin_max=1.0)
    with pytest.raises(ConfigError, match="clip_frames"):
        WindowDataConfig("x", clip_frames=0)
    assert EXO in {source.target_camera for source in reader(PLAIN).sources}
