import contextlib
import csv
import dataclasses
import json
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from training_toy import ToyConfig, ToyDataConfig, ToyTask

from counterview.errors import ConfigError, InputError, MissingExtraError
from counterview.training.dump import flatten, save_batches
from counterview.training.ema import WeightAverage
from counterview.training.identity import differences, identity
from counterview.training.recipe import FREE_TO_CHANGE, TrainingConfig, load_recipe, methods, register_method
from counterview.training.sampler import GlobalBatchSampler, batches, epoch_order, sample_rng, steps_in_epoch
from counterview.training.schedule import check_groups, lr_factor, set_lr
from counterview.training.trackers import CsvTracker, open_trackers, read_csv

register_method("toy", ToyTask)


# ---------------------------------------------------------------------------------------------- schedule


def rates(config, total):
    return [config.lr * lr_factor(config, step, total) for step in range(total)]


def test_cosine_is_torchs():
    config = TrainingConfig(lr=8e-5, min_lr=1e-6)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=8e-5)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=57, eta_min=1e-6)
    for rate in rates(config, 57):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_linear_is_torchs():
    config = TrainingConfig(lr=0.5, min_lr=0.1, schedule="linear")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.2, total_iters=20)
    for rate in rates(config, 20):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_warm_up_rises_to_the_peak_and_constant_stays():
    config = TrainingConfig(lr=1.0, min_lr=0.0, warmup_steps=4)
    assert rates(config, 10)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates(dataclasses.replace(config, schedule="constant"), 10)[4:] == [1.0] * 6
    assert lr_factor(config, 99, 10) == 0.0
    groups = [{"lr": 0.0, "peak_lr": 2.0}, {"lr": 0.0, "peak_lr": 0.5}]
    set_lr(groups, 0.5)
    assert [group["lr"] for group in groups] == [1.0, 0.25]


def test_parameter_groups_are_checked():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).requires_grad_(False))
    weight, bias = model[0].weight, model[0].bias

    def group(*params):
        return {"name": "g", "params": list(params), "lr": 0.1, "weight_decay": 0.0}

    checked = check_groups(model, [group(weight), group(), group(bias)])
    assert [g["param_names"] for g in checked] == [["0.weight"], ["0.bias"]]
    assert [g["peak_lr"] for g in checked] == [0.1, 0.1]
    for groups, problem in (
        ([group(weight)], "1 trainable parameters are in no parameter group; found 0.bias"),
        ([group(weight, bias), group(bias)], "'0.bias' is in two"),
        ([group(weight, bias, model[1].bias)], "frozen parameter '1.bias'"),
        ([group(weight, bias, torch.zeros(1))], "is not a parameter of the model"),
    ):
        with pytest.raises(ConfigError, match=problem):
            check_groups(model, groups)
    with pytest.raises(ConfigError, match="no trainable parameter"):
        check_groups(torch.nn.Identity(), [])


# ---------------------------------------------------------------------------------------------- order


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 40), st.integers(0, 9), st.integers(0, 5)
)
def test_processes_share_every_global_batch(world, accumulate, part, extra, seed, first):
    batch = world * accumulate * part
    length = batch + extra
    order = epoch_order(seed, 3, length)
    assert sorted(order) == list(range(length))
    np.testing.assert_array_equal(order, epoch_order(seed, 3, length))
    samplers = [
        GlobalBatchSampler(
            order, batch_size=batch, accumulate=accumulate, rank=rank, world_size=world, first_step=first
        )
        for rank in range(world)
    ]
    lists = [list(s) for s in samplers]
    steps = max(0, length // batch - first)
    assert [len(s) for s in samplers] == [steps * accumulate] * world == [len(x) for x in lists]
    for step in range(steps):
        # The accumulated batches one after the other, each of them process by process.
        taken = [i for micro in range(accumulate) for x in lists for i in x[step * accumulate + micro]]
        assert taken == order[(first + step) * batch : (first + step + 1) * batch].tolist()


def test_epochs_seeds_and_samples_differ():
    assert not np.array_equal(epoch_order(1, 0, 50), epoch_order(1, 1, 50))
    assert not np.array_equal(epoch_order(1, 0, 50), epoch_order(2, 0, 50))
    draws = {float(sample_rng(s, e, i).random()) for s in range(3) for e in range(3) for i in range(20)}
    assert len(draws) == 180


def test_loading_leaves_the_global_random_state_alone():
    sampler = GlobalBatchSampler(np.arange(40), batch_size=8)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert len(list(batches(ToyTask(ToyConfig()), 0, 0, sampler))) == 5
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_that_cannot_be_split_are_named():
    with pytest.raises(ConfigError, match="batch_size 6 cannot be split among 4 processes"):
        GlobalBatchSampler(np.arange(12), batch_size=6, world_size=4)
    assert steps_in_epoch(ToyTask(ToyConfig(data=ToyDataConfig(samples=17))), 0, 8) == 2


# ---------------------------------------------------------------------------------------------- average


def test_average_is_torchs_after_the_early_steps_and_swaps_to_the_bit():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 1).requires_grad_(False))
    average = WeightAverage(model, 0.6)
    reference = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.6), use_buffers=False
    )
    reference.n_averaged += 1  # so that the first weights count as an average already
    for step in range(20, 30):  # (1 + t) / (10 + t) is above 0.6 from t = 13 on
        with torch.no_grad():
            for parameter in model[0].parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(model, step)
        reference.update_parameters(model)
    for name, parameter in reference.module[0].named_parameters():
        torch.testing.assert_close(average.weights[f"0.{name}"], parameter, rtol=1e-5, atol=1e-6)
    assert set(average.weights) == {"0.weight", "0.bias"}
    trained = {name: t.clone() for name, t in model.state_dict().items()}
    kept = {name: t.clone() for name, t in average.weights.items()}
    pointers = [p.data_ptr() for p in model.parameters()]
    with pytest.raises(KeyError), average.applied_to(model):
        assert torch.equal(model[0].weight, kept["0.weight"])
        assert [p.data_ptr() for p in model.parameters()] == pointers
        raise KeyError
    assert all(torch.equal(t, trained[name]) for name, t in model.state_dict().items())
    assert all(torch.equal(t, kept[name]) for name, t in average.weights.items())
    early = WeightAverage(torch.nn.Linear(1, 1, bias=False), 0.999)
    early.weights["weight"].zero_()
    early.update(torch.nn.Linear(1, 1, bias=False).requires_grad_(True), 1)
    assert early.weights["weight"].abs() > 0


# ---------------------------------------------------------------------------------------------- recipes


def test_recipe_with_overrides(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("method: toy\ntraining: {epochs: 2, lr: 1e-3}\ndata: {samples: 9}\n")
    recipe = load_recipe(path, ["training.lr=2e-3", "data.seed=4", "model.dropout=0"])
    assert recipe.training == TrainingConfig(epochs=2, lr=2e-3)
    assert (recipe.config.data.samples, recipe.config.data.seed, recipe.config.model.dropout) == (9, 4, 0.0)
    again = load_recipe(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe
    assert isinstance(recipe.build_task(), ToyTask)
    assert {"omama", "lmeec", "toy"} <= set(methods())
    source = {"method": "toy", "data": {"samples": 3}}
    load_recipe(source, ["data.samples=5"])
    assert source["data"]["samples"] == 3


def test_all_problems_of_a_recipe_at_once(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "method: toy\ntrainin: {}\ntraining: {epochs: 0, batch_sise: 3, accumulate: two}\nmodel: {widht: 3}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, ["data.sample=1"])
    text = str(caught.value)
    for part in (
        str(path),
        "'trainin' (did you mean 'training'?)",
        "'training.batch_sise' (did you mean 'batch_size'?)",
        "training.accumulate is 'two'",
        "'model.widht' (did you mean 'width'?)",
        "'data.sample' (did you mean 'samples'?)",
    ):
        assert part in text
    assert "\n" not in text
    with pytest.raises(ConfigError) as caught:
        TrainingConfig(epochs=0, lr=-1, min_lr=-2, ema_decay=1.5, batch_size=5, accumulate=2, betas=(0.9, 1.0))
    for part in ("epochs is 0", "lr is -1", "min_lr is -2", "ema_decay is 1.5", "betas are", "accumulate=2"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match=r"min_lr is 1\.0, expected at most lr"):
        TrainingConfig(min_lr=1.0)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({}, "method is missing"),
        ({"method": "omma"}, "did you mean 'omama'"),
        ({"method": ["toy"]}, "method is"),
        ({"method": "toy", "training": 3}, "training is 3"),
        ({"method": "toy", "model": 3}, "model is 3"),
    ],
)
def test_bad_recipes(source, problem):
    with pytest.raises(ConfigError, match=problem):
        load_recipe(source)


def test_names_of_our_methods_cannot_be_taken():
    with pytest.raises(ConfigError, match="is taken"):
        register_method("omama", ToyTask)


def test_identity_ignores_what_changes_no_weight():
    assert {f.name for f in dataclasses.fields(TrainingConfig)} >= FREE_TO_CHANGE
    base = {"training": {"lr": 1.0, "keep_last": 2, "betas": (0.9, 0.99)}, "data": {"roots": ["a"]}}
    first = identity(base, {"pairs": {"train": 3}}, 1)
    assert json.loads(json.dumps(first)) == first
    moved = identity({**base, "data": {"roots": ["b"]}}, {"pairs": {"train": 3}}, 1, free=["data.roots"])
    assert differences(first, moved) == ["recipe: data.roots is gone (was ['a'])"]
    assert differences(identity(base, {"pairs": {"train": 3}}, 1, free=["data.roots"]), moved) == []
    other = identity({**base, "training": {**base["training"], "keep_last": 9}}, {"pairs": {"train": 4}, "new": 1}, 2)
    assert differences(first, other) == [
        "data set: pairs.train was 3, now is 4",
        "world size was 1, now is 2",
        "data set: new is new (1)",
    ]
    assert "data set: new is gone (was 1)" in differences(other, first)


# ---------------------------------------------------------------------------------------------- logs and dumps


def test_csv_survives_kills_and_new_columns(tmp_path):
    log = CsvTracker(tmp_path, 0)
    for step in range(1, 5):
        log.log("train", step, {"loss": step / 3})
    with (tmp_path / "train.csv").open("a") as handle:
        handle.write("5,0.1")  # truncated by a kill: perhaps 0.1234
    log = CsvTracker(tmp_path, 3)
    log.log("train", 4, {"loss": 9.5})
    log.log("train", 5, {"loss": 9.25, "extra": 1})
    log.log("train", 6, {"extra": 2})
    rows = list(csv.DictReader((tmp_path / "train.csv").open()))
    assert [float(r["loss"]) for r in rows[:3]] == [1 / 3, 2 / 3, 1.0]
    assert [(r["step"], r["loss"], r["extra"]) for r in rows[3:]] == [
        ("4", "9.5", ""),
        ("5", "9.25", "1"),
        ("6", "", "2"),
    ]
    assert read_csv(tmp_path / "validation.csv") == []


def test_tensorboard_holds_the_numbers_and_drops_what_a_resume_does_again(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = TrainingConfig()
    for first, last, value in ((1, 6, 1.0), (4, 8, 2.0)):
        for tracker in open_trackers(tmp_path, config, {}, first - 1):
            for step in range(first, last):
                tracker.log("train", step, {"loss": value})
            tracker.image("sheet", first, np.zeros((4, 5, 3), dtype=np.uint8))
            tracker.close()
        time.sleep(1.1)  # event files are read in the order of their names, which tell seconds
    events = accumulators.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    values = {e.step: e.value for e in events.Scalars("train/loss")}
    assert values == {1: 1.0, 2: 1.0, 3: 1.0, 4: 2.0, 5: 2.0, 6: 2.0, 7: 2.0}
    assert len(events.Scalars("train/loss")) == 7
    assert events.Images("sheet")[0].width == 5


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("tensorboard", "torch.utils.tensorboard", "train"),
        ("wandb", "wandb", "wandb"),
        ("trackio", "trackio", "trackio"),
    ],
)
def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch, name, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"counterview\[{extra}\]"):
        open_trackers(tmp_path, TrainingConfig(trackers=(name,)), {}, 0)


def test_a_batch_is_kept_with_all_that_is_in_it(tmp_path):
    @dataclasses.dataclass
    class Part:
        mask: torch.Tensor
        name: str

    base = torch.arange(6.0).reshape(2, 3)
    batch = {
        "a": [base.T, np.arange(3, dtype=np.int32)],
        "b": Part(torch.tensor([float("nan")]), "mug"),
        "c": (None, {1, 2}, float("inf")),
        "flip": np.arange(4.0)[::-1],
    }
    folder = save_batches(tmp_path / "x", [batch], {"loss": float("nan"), "indices": [[1, 2]], "deep": {"v": 1.5}})
    tensors = load_file(folder / "batch.safetensors")
    assert torch.equal(tensors["0/a/0"], base.T)
    assert tensors["0/a/1"].dtype == torch.int32
    assert torch.isnan(tensors["0/b/mask"]).all()
    assert tensors["0/flip"].tolist() == [3.0, 2.0, 1.0, 0.0]
    info = json.loads((folder / "info.json").read_text())
    assert info["loss"] == "nan"
    assert info["indices"] == [[1, 2]]
    assert info["deep"] == {"v": 1.5}
    assert info["values"] == {"0/b/name": "mug", "0/c/0": None, "0/c/1": "{1, 2}", "0/c/2": "inf"}
    assert flatten(3) == ({}, {"": 3})


def test_no_training_data_is_an_input_error():
    with pytest.raises(InputError, match="no training samples"):
        steps_in_epoch(ToyTask(ToyConfig(data=ToyDataConfig(samples=0))), 0, 4)


def test_wandb_goes_on_under_its_id(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for first in (1, 3):
        csv_log, tracker = open_trackers(tmp_path, TrainingConfig(trackers=("wandb",)), {"method": "toy"}, first - 1)
        tracker.log("train", first, {"loss": 0.5})
        tracker.image("sheet", first, np.zeros((4, 5, 3), dtype=np.uint8))
        tracker.close()
        csv_log.close()
    name = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{name}"))
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == len(
        list((tmp_path / "wandb").glob(f"offline-run-*-{name}"))
    )


def test_trackio_goes_on_under_its_name(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    # trackio reads its folder when it is first imported
    code = (
        "import sys; sys.path[:] = eval(sys.argv[2])\n"
        "from pathlib import Path\n"
        "from counterview.training.recipe import TrainingConfig\n"
        "from counterview.training.trackers import open_trackers\n"
        "for step in (1, 2):\n"
        "    log = open_trackers(Path(sys.argv[1]), TrainingConfig(trackers=('trackio',)), {}, step - 1)[1]\n"
        "    log.log('train', step, {'loss': step / 4})\n"
        "    log.close()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run"), repr(sys.path)], check=True, timeout=120)
    with contextlib.closing(sqlite3.connect(tmp_path / "store" / "counterview.db")) as store:
        rows = store.execute("select run_name, step, metrics from metrics order by step").fetchall()
    name = json.loads((tmp_path / "run" / "trackers.json").read_text())["trackio"]
    assert [(run, step, json.loads(values)) for run, step, values in rows] == [
        (f"run-{name}", 1, {"train/loss": 0.25}),
        (f"run-{name}", 2, {"train/loss": 0.5}),
    ]
