"""The data path and the task: invariants, equality with what is computed directly, and learning that must beat k-NN."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from counterview.config import load_config
from counterview.data.open import open_dataset
from counterview.errors import ConfigError, CounterviewError, InputError
from counterview.jobs.engine import JobEngine
from counterview.masks.geometry import fit_mask, iou
from counterview.omama import OMaMa, OMaMaConfig
from counterview.omama.training.fill_store import fill_store
from counterview.omama.training.image_store import ImageStore, mask_overlaps
from counterview.omama.training.mining import TRUTH
from counterview.omama.training.recipe import OMaMaRecipe
from counterview.omama.training.samples import collate, make_example
from counterview.omama.training.task import OMaMaTask
from counterview.omama.training.validation import OMaMaValidator, summarise
from counterview.training.fit import fit
from counterview.training.recipe import TrainingConfig
from counterview.training.task import Task
from counterview.types import ObjectMask
from tests.omama.tiny_takes import write_takes


def test_is_a_task(task):
    assert isinstance(task, Task)
    model = task.build_model()
    groups = task.parameter_groups(model, 1e-3, 0.1)
    listed = [id(p) for g in groups for p in g["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert {g["weight_decay"] for g in groups} == {0.1, 0.0}
    assert task.train_length(0) == len(task.train_pairs)
    assert 0 < task.visible_fraction < 1


def test_store_holds_what_is_computed_directly(task):
    take = task.train_data.takes[0]
    camera, frame = take.exo_cameras[0], take.frames[0]
    record, objects = task.store.record(take, camera, frame), task.store.objects(take, camera, frame)
    image = take.frame(camera, frame)
    backbone = task.store.backbone.backbone
    features = backbone.encode(image)
    assert np.abs(record.map - features.tensor.numpy()).max() < 2e-3 * np.abs(record.map).max()
    masks = task.store.proposer.proposer(image).masks
    described = backbone.describe(features, masks, context_px=100).numpy()
    assert np.abs(record.descriptors - described).max() < 5e-3
    for row, name in enumerate(objects.names):
        truth = fit_mask(take.mask(name, camera, frame), image.shape[:2])
        assert np.allclose(objects.overlap[row], [iou(truth, m) for m in masks], atol=1e-6)
        assert not objects.empty[row]
    assert record.neighbours.shape == (len(masks), len(masks))
    again = ImageStore(task.config.model, task.store.root)
    kept = again.record(take, camera, frame)
    assert again.backbone.passes == 0
    for field in dataclasses.fields(record):
        assert np.array_equal(getattr(record, field.name), getattr(kept, field.name))


def test_training_equals_with_and_without_a_filled_cache(task, place, tmp_path):
    values = json.loads(json.dumps(place[1]))
    values["data"]["cache"] = str(tmp_path / "fresh")
    store = ImageStore(load_config(OMaMaConfig, values["model"]), tmp_path / "fresh")
    for index in (0, 7, 20):
        pair = task.train_pairs[index][1]
        take = task.train_data.take(pair.take)
        cached = make_example(task.store, take, pair, task.config.sampling, np.random.default_rng(index))
        fresh = make_example(store, take, pair, task.config.sampling, np.random.default_rng(index))
        for field in dataclasses.fields(cached):
            assert np.array_equal(getattr(cached, field.name), getattr(fresh, field.name)), field.name


def test_examples(task):
    for index, (_, pair) in enumerate(task.train_pairs):
        example = task.sample(0, index, np.random.default_rng(index))
        again = task.sample(0, index, np.random.default_rng(index))
        assert np.array_equal(example.candidates, again.candidates)
        assert example.visible == bool(pair.target_visible)
        assert example.weight == 1
        take = task.train_data.take(pair.take)
        if example.visible:
            objects = task.store.objects(take, pair.target_camera, pair.frame)
            truth = objects.descriptors[objects.row(pair.object)]
            assert np.array_equal(example.candidates[example.positive], truth)
        queries = task.store.objects(take, pair.query_camera, pair.frame)
        assert np.array_equal(example.query, queries.descriptors[queries.row(pair.object)])


@pytest.mark.parametrize("positive", ["proposal", "both"])
def test_positives_of_the_kind_asked_for(task, positive):
    sampling = dataclasses.replace(task.config.sampling, positive=positive)
    for _, pair in task.train_pairs:
        take = task.train_data.take(pair.take)
        target = task.store.record(take, pair.target_camera, pair.frame)
        objects = task.store.objects(take, pair.target_camera, pair.frame)
        row = objects.row(pair.object)
        if row is None or objects.overlap[row].max() == 0:
            continue
        if not np.array_equal(target.descriptors[objects.overlap[row].argmax()], objects.descriptors[row]):
            break
    best = target.descriptors[objects.overlap[row].argmax()]
    kinds = set()
    for seed in range(12):
        example = make_example(task.store, take, pair, sampling, np.random.default_rng(seed))
        right = example.candidates[example.positive]
        kinds.add("proposal" if np.array_equal(right, best) else "gt")
        assert np.array_equal(right, best) or np.array_equal(right, objects.descriptors[row])
    assert kinds == ({"proposal"} if positive == "proposal" else {"proposal", "gt"})


def test_batches_of_mixed_grids_equal_one_by_one(task):
    model = task.build_model().double().eval()
    numbers = [0, 1, len(task.train_pairs) - 1, len(task.train_pairs) - 2, 3]
    examples = [task.sample(0, i, np.random.default_rng(i)) for i in numbers]
    batch = collate(examples)
    assert len(batch) == 2, "two directions have two pairs of grids"

    def loss(examples):
        groups = [{k: v.double() if v.is_floating_point() else v for k, v in g.items()} for g in collate(examples)]
        return task.loss(model, groups)

    together, parts = loss(examples)
    alone = [loss([e])[0] for e in examples]
    assert torch.allclose(together, torch.stack(alone).mean(), atol=1e-10)
    assert set(parts) == {"matching", "visibility", "right"}


def test_batch_negatives_make_it_harder(task):
    config = dataclasses.replace(task.config.loss, batch_negatives=True)
    harder = object.__new__(OMaMaTask)
    harder.__dict__.update(task.__dict__, config=dataclasses.replace(task.config, loss=config))
    model = task.build_model()
    batch = task.collate([task.sample(0, i, np.random.default_rng(i)) for i in range(0, 36, 6)])
    assert harder.loss(model, batch)[1]["matching"] > task.loss(model, batch)[1]["matching"]


def run_epochs(task, epochs, seed=0, lr=3e-3):
    torch.manual_seed(seed)
    model = task.build_model()
    optimizer = torch.optim.AdamW(task.parameter_groups(model, lr, 0.01))
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(task.train_length(epoch))
        for start in range(0, len(order) - 11, 12):
            numbers = order[start : start + 12]
            batch = task.collate([task.sample(epoch, int(i), np.random.default_rng([epoch, int(i)])) for i in numbers])
            loss, _ = task.loss(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def test_learning_passes_knn_where_the_cameras_see_other_colours(task):
    device = torch.device("cpu")
    knn = OMaMa(OMaMaConfig.knn(24))
    before = summarise(list(task.validator.rows(knn)))
    model = run_epochs(task, 8)
    after = task.summarise([task.validate(model, device)])
    shares = [task.validate(model, device, rank, 2) for rank in range(2)]
    assert task.summarise(shares) == after
    assert after["iou"] > before["iou"] + 0.15
    assert after["possible_iou"] > after["iou"]
    task.finish(model, device)
    sheet = task.sample_sheet(model, device)
    assert sheet.dtype == np.uint8
    assert sheet.ndim == 3
    assert np.array_equal(sheet, task.sample_sheet(model, device))


def test_validation_equals_the_scorer(task):
    from counterview.evaluation.scorer import Scorer

    model = task.build_model().eval()
    scorer = Scorer("official")
    rows = list(task.validator.rows(model))
    for row in rows:
        pair = task.validator.pairs[row.number][1]
        take = task.val_data.take(pair.take)
        truth = take.mask(pair.object, pair.target_camera, pair.frame)
        answer = task.store.proposals(take, pair.target_camera, pair.frame).masks[row.proposal]
        scorer.add(
            pair.take, pair.object, pair.query_camera, pair.target_camera, pair.frame,
            gt=truth, pred=answer, confidence=row.confidence, resize=True,
        )  # fmt: skip
    totals, ours = scorer.totals(), summarise(rows)
    for name in ("iou", "location_error", "contour_accuracy", "balanced_accuracy"):
        assert abs(getattr(totals, name) - ours[name]) < 1e-12


def test_without_proposals_the_answer_is_not_visible(task):
    class Nothing:
        name = "nothing"

        def settings(self):
            return {}

        def __call__(self, image, name=None):
            from counterview.proposals import Proposals

            return Proposals.none(image.shape[:2])

    store = ImageStore(task.config.model, task.store.root / "nothing", proposer=Nothing())
    rows = list(OMaMaValidator(store, task.val_data, task.val_pairs[:4]).rows(task.build_model().eval()))
    assert [r.confidence for r in rows] == [0.0] * 4
    assert all(r.proposal == -1 and (r.scores is None or r.scores[0] == 0) for r in rows)
    take = task.train_data.takes[0]
    pair = next(p for _, p in task.train_pairs if p.target_visible)
    example = make_example(store, take, pair, task.config.sampling, np.random.default_rng(0))
    assert len(example.candidates) == 1


def test_unusable_masks_are_not_called_absent(place, tmp_path):
    shutil.copytree(place[0] / "data", tmp_path / "data")
    path = next((tmp_path / "data").glob("take0/annotation.json"))
    content = json.loads(path.read_text())
    name = next(iter(content["masks"]))
    content["masks"][name]["cam01"] = {
        "0": {"size": [84, 140], "counts": "zzz"},
        "30": {"size": [84, 140], "counts": "\\PV1"},  # not a pixel inside
    }
    path.write_text(json.dumps(content))
    values = json.loads(json.dumps(place[1]))
    values["data"]["root"] = str(tmp_path / "data")
    task = OMaMaTask(load_config(OMaMaRecipe, values))
    found = [
        task.sample(0, i, np.random.default_rng(0)).weight
        for i, (d, p) in enumerate(task.train_pairs)
        if p.take == "take0" and p.object == name and d == "ego2exo"
    ]
    assert found == [0.0, 0.0]


def test_overlaps_equal_the_geometry_module():
    rng = np.random.default_rng(0)
    masks = [ObjectMask.from_array(rng.random((9, 14)) < p) for p in (0.2, 0.5, 0.9, 0.0)]
    expected = [[iou(a, b) if a.area + b.area else 0.0 for b in masks] for a in masks]
    assert np.allclose(mask_overlaps(masks, masks), expected)
    assert mask_overlaps(masks, []).shape == (4, 0)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": {"channels": 16}}, "another number of channels"),
        ({"data": {"split": "trian"}}, "no split 'trian'"),
        ({"data": {"root": "nowhere"}}, "no such folder"),
        (
            {"model": {"matching_head": False, "context": False, "cross_attention": False, "visibility": "released"}},
            "nothing to train",
        ),
    ],
)
def test_bad_recipes(place, changes, problem):
    values = json.loads(json.dumps(place[1]))
    for group, part in changes.items():
        values[group] |= part
    with pytest.raises((ConfigError, InputError), match=problem):
        OMaMaTask(load_config(OMaMaRecipe, values))


def test_no_training_pairs(place, tmp_path):
    shutil.copytree(place[0] / "data", tmp_path / "data")
    for path in (tmp_path / "data").glob("*/annotation.json"):
        content = json.loads(path.read_text())
        for cameras in content["masks"].values():
            cameras["cam01"] = {}
        path.write_text(json.dumps(content))
    values = json.loads(json.dumps(place[1]))
    values["data"]["root"] = str(tmp_path / "data")
    with pytest.raises(InputError, match="no training pairs"):
        OMaMaTask(load_config(OMaMaRecipe, values))


def test_a_recipe_with_many_faults_names_all():
    bad = {
        "data": {"root": "x", "fraction": 2, "directions": []},
        "sampling": {"mining": "released", "positive": "both", "order": 4},
        "loss": {"temperature": 0},
        "model": {"heads": 5, "hidde": 3},
    }
    with pytest.raises(ConfigError) as caught:
        load_config(OMaMaRecipe, bad)
    for part in ("fraction", "directions", "order", "set positive to gt", "temperature", "'model.hidde'"):
        assert part in str(caught.value)


def test_identity_says_nothing_of_where_data_lie(task, place):
    text = json.dumps(task.fingerprint())
    assert str(place[0]) not in text
    assert json.loads(text)["train_pairs"] == len(task.train_pairs)


def test_masks_that_were_replaced_under_their_names_are_noticed(place, task, tmp_path):
    data = shutil.copytree(place[0] / "data", tmp_path / "data")
    values = json.loads(json.dumps(place[1]))
    values["data"]["root"] = str(data)
    assert OMaMaTask(load_config(OMaMaRecipe, values)).fingerprint() == task.fingerprint()
    uid = task.train_pairs[0][1].take
    content = json.loads((data / uid / "annotation.json").read_text())
    cameras = next(iter(content["masks"].values()))
    frames = next(iter(cameras.values()))
    first, second = list(frames)[:2]
    frames[first], frames[second] = frames[second], frames[first]
    (data / uid / "annotation.json").write_text(json.dumps(content))
    changed = OMaMaTask(load_config(OMaMaRecipe, values)).fingerprint()
    different = {key for key, value in task.fingerprint().items() if changed[key] != value}
    assert different == {"train_annotation"}


def test_preparing_in_processes_gives_the_same(place, task, tmp_path):
    values = json.loads(json.dumps(place[1]))
    values["data"] |= {"cache": str(tmp_path / "cache"), "workers": 2, "split": "val"}
    code = (
        "import json, sys\n"
        "from counterview.config import load_config\n"
        "from counterview.omama.training.recipe import OMaMaRecipe\n"
        "from counterview.omama.training.task import OMaMaTask\n"
        "if __name__ == '__main__':\n"
        "    OMaMaTask(load_config(OMaMaRecipe, json.loads(sys.argv[1]))).prepare(progress=False)\n"
    )
    script = tmp_path / "make.py"
    script.write_text(code)
    subprocess.run(
        [sys.executable, str(script), json.dumps(values)],
        check=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    store = ImageStore(task.config.model, tmp_path / "cache")
    take = open_dataset(place[0] / "data", "val").takes[0]
    for camera in take.cameras:
        mine, theirs = (s.record(take, camera, 0) for s in (store, task.store))
        for field in dataclasses.fields(mine):
            assert np.array_equal(getattr(mine, field.name), getattr(theirs, field.name))
    assert store.backbone.passes == 0
    assert TRUTH == -1
    assert Path(store.root).is_dir()


def test_a_few_images_are_prepared_by_the_store_at_hand_whatever_the_workers(task, tmp_path):
    """Its backbone may be one that no name leads to: a new process would have to load it by name."""
    config = dataclasses.replace(task.config.model, backbone=str(tmp_path / "nowhere"))
    store = ImageStore(config, tmp_path / "cache", backbone=task.store.backbone.backbone)
    take = next(iter(task.val_data))
    camera, frame = next((c, f) for f in take.frames for c in take.cameras if take.has_frame(c, f))
    root = task.config.data.root
    images = {((root,), take.uid): {(camera, frame): True}}
    assert fill_store(store, [((root,), take)], images, engine=JobEngine(workers=2), progress=False) == 1
    assert store.has(take, camera, frame)
    assert store.backbone.passes == 1


def test_what_features_will_cost_is_said_and_checked_before_they_are_made(place, tmp_path, capsys):
    values = json.loads(json.dumps(place[1]))
    values["data"]["cache"] = str(tmp_path / "cache")
    write_takes(tmp_path / "data", frames=6, splits={"train": 2, "val": 1})
    values["data"]["root"] = str(tmp_path / "data")
    values["data"]["cache_gb"] = 1e-7
    task = OMaMaTask(load_config(OMaMaRecipe, values))
    with pytest.raises(CounterviewError, match=r"larger than allowed.*data\.cache_gb"):
        task.prepare()
    first = len(list((tmp_path / "cache" / "features").glob("*/*/*.npy")))
    said = capsys.readouterr().err
    assert re.search(r"\d+ images to encode .* s an image; .*B of cache in ", said)
    values["data"]["cache_gb"] = 1
    OMaMaTask(load_config(OMaMaRecipe, values)).prepare(progress=False)
    whole = len(list((tmp_path / "cache" / "features").glob("*/*/*.npy")))
    assert first * 36 == whole * 4  # four of 36 images were measured
    assert not capsys.readouterr().err


def test_a_batch_larger_than_the_data_is_refused_before_features_are_made(place, tmp_path):
    values = json.loads(json.dumps(place[1]))
    values["data"]["cache"] = str(tmp_path / "cache")
    task = OMaMaTask(load_config(OMaMaRecipe, values))
    with pytest.raises(ConfigError, match="fewer training samples than one batch"):
        fit(task, TrainingConfig(epochs=1, batch_size=10_000), tmp_path / "run", progress=False)
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_no_map_is_kept_where_none_is_read(place, task, tmp_path):
    """Without cross-attention the descriptors are all that training reads; they are the same, the cache small."""
    values = json.loads(json.dumps(place[1]))
    values["data"]["cache"] = str(tmp_path / "cache")
    values["model"]["cross_attention"] = False
    without = OMaMaTask(load_config(OMaMaRecipe, values))
    without.prepare(progress=False)
    assert not list((tmp_path / "cache" / "features").rglob("*.npy"))
    take = without.train_data.takes[0]
    camera, frame = take.exo_cameras[0], take.frames[0]
    mine, theirs = without.store.record(take, camera, frame), task.store.record(take, camera, frame)
    assert mine.map.shape == (24, 1, 1)
    assert mine.size_hw == theirs.size_hw
    assert np.array_equal(mine.descriptors, theirs.descriptors)
    assert np.array_equal(mine.neighbours, theirs.neighbours)
    both = (s.objects(take, camera, frame) for s in (without.store, task.store))
    assert np.array_equal(*(objects.descriptors for objects in both))
    again = OMaMaTask(load_config(OMaMaRecipe, values))
    again.prepare(progress=False)
    assert again.store._last is None  # nothing was encoded
    batch = without.collate([without.sample(0, i, np.random.default_rng(i)) for i in range(4)])
    assert torch.isfinite(without.loss(without.build_model(), batch)[0])
