"""The loop as a whole, on the toy task: learns, stops, resumes to the bit, and reports what is wrong."""

import csv
import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_toy import ToyConfig, ToyDataConfig, ToyModel, ToyModelConfig, ToyTask

from counterview.errors import CheckpointError, ConfigError, InputError, OutputError
from counterview.training import checkpoint as ckpt
from counterview.training.fit import fit
from counterview.training.processes import process_errors
from counterview.training.recipe import TrainingConfig
from counterview.training.task import Task, TrainingError, TrainingInterrupted

SCRIPT = Path(__file__).with_name("run_toy.py")
TRAINING = {
    "epochs": 3,
    "batch_size": 8,
    "lr": 0.02,
    "min_lr": 0.001,
    "checkpoint_every": 2,
    "ema_decay": 0.9,
    "clip_norm": 1.0,
    "trackers": [],
}
CONFIG = TrainingConfig(**{**TRAINING, "trackers": ()})
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("unbroken") / "run"
    fit(ToyTask(ToyConfig()), CONFIG, out, progress=False)
    return out


def run_script(out, *, launcher=(), check=None, **options):
    command = [sys.executable, *launcher, str(SCRIPT), str(out), json.dumps({"training": TRAINING, **options})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENV)
    if check is not None:
        assert done.returncode == check, done.stderr
    return done


def weights_of(out):
    """The bytes of every file of weights and state at the end of a run."""
    last = ckpt.list_checkpoints(out / "checkpoints")[0]
    names = (
        "model.safetensors",
        "state/optimizer.safetensors",
        "state/random.safetensors",
        "state/weights.safetensors",
    )
    assert last.name == "step_00000015"
    return {name: (last / name).read_bytes() for name in names} | {
        "export": (out / "model" / "model.safetensors").read_bytes()
    }


def log_of(path):
    with path.open(encoding="utf-8") as handle:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)]


def assert_same_run(out, unbroken):
    assert weights_of(out) == weights_of(unbroken)
    for name in ("train.csv", "validation.csv"):
        assert log_of(out / name) == log_of(unbroken / name)
    for name in ("result.json", "best.json"):
        assert (out / name).read_bytes() == (unbroken / name).read_bytes()


def test_toy_is_a_task_and_learns(tmp_path):
    task = ToyTask(ToyConfig(data=ToyDataConfig(samples=256), model=ToyModelConfig(width=64, dropout=0.0)))
    assert isinstance(task, Task)
    config = dataclasses.replace(CONFIG, epochs=10, batch_size=16, validate_first=True, checkpoint_every=None)
    result = fit(task, config, tmp_path, progress=False)
    validation = log_of(tmp_path / "validation.csv")
    assert float(validation[0]["iou"]) < 0.5
    assert result.metrics["iou"] > 0.85
    best = max(validation, key=lambda row: float(row["iou"]))
    assert result.best_step == int(best["step"])
    assert result.metrics["iou"] == float(best["iou"])
    # What comes out is a folder with the finished weights.
    ckpt.verify_checkpoint(result.model_dir)
    exported = load_file(result.model_dir / "model.safetensors")
    assert exported["temperature"] == 2.0
    assert set(exported) == set(task.build_model().state_dict())
    assert json.loads((result.model_dir / "config.json").read_text()) == {"width": 64, "dropout": 0.0}
    assert "iou" in (result.model_dir / "README.md").read_text()
    assert (tmp_path / "sheets" / "epoch_0010.png").is_file()
    assert json.loads((tmp_path / "result.json").read_text())["finish"] == {"temperature": 2.0}
    kept = {p.name for p in ckpt.list_checkpoints(tmp_path / "checkpoints")}
    assert kept == {"step_00000160", "step_00000144", f"step_{result.best_step:08d}"}


class GetsWorse(ToyTask):
    """Its first validation is its best."""

    def summarise(self, parts):
        self.validations = getattr(self, "validations", 0) + 1
        return {"iou": 1 / self.validations}


def test_the_weights_of_the_end_are_exported_on_demand(tmp_path):
    config = dataclasses.replace(CONFIG, keep_last=1)
    best = fit(GetsWorse(ToyConfig()), config, tmp_path, progress=False)
    assert best.best_step < best.steps
    last = fit(
        GetsWorse(ToyConfig()), dataclasses.replace(config, export="last"), tmp_path, resume=True, progress=False
    )
    assert last.best_step == last.steps == best.steps
    newest = tmp_path / "checkpoints" / f"step_{best.steps:08d}"
    exported, of_the_end = (load_file(folder / "model.safetensors") for folder in (last.model_dir, newest))
    assert set(exported) == set(of_the_end)
    # ``finish`` sets the temperature.
    assert all(torch.equal(exported[name], value) for name, value in of_the_end.items() if name != "temperature")


def test_loop_equals_one_written_by_hand(tmp_path):
    """Data order, schedule, groups, clipping and accumulation against a plain torch loop."""
    config = dataclasses.replace(
        CONFIG, epochs=2, ema_decay=None, accumulate=2, warmup_steps=3, checkpoint_every=None, keep_last=1
    )
    task = ToyTask(ToyConfig(model=ToyModelConfig(dropout=0.0)))
    fit(task, config, tmp_path, progress=False)

    torch.manual_seed(config.seed)
    model = task.build_model()
    groups = task.parameter_groups(model, config.lr, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.lr)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / 4 if step < 3 else 1.0)
    drawn = [tuple(pair) for pair in task.drawn]
    assert sorted(drawn) == [(epoch, index) for epoch in range(2) for index in range(40)]
    cosine = 0
    for step in range(10):
        if step >= 3:
            for group in optimizer.param_groups:
                low = group["initial_lr"] * config.min_lr / config.lr
                group["lr"] = low + (group["initial_lr"] - low) * (1 + np.cos(np.pi * cosine / 7)) / 2
            cosine += 1
        samples = [
            task.sample(epoch, index, np.random.default_rng([config.seed, 1, epoch, index]))
            for epoch, index in drawn[step * 8 : step * 8 + 8]
        ]
        optimizer.zero_grad()
        loss, _ = task.loss(model, task.collate(samples))  # one batch of 8 is the mean of two of 4
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step < 3:
            warmup.step()
        assert float(log_of(tmp_path / "train.csv")[step]["loss"]) == pytest.approx(loss.item(), abs=1e-5)
    saved = load_file(tmp_path / "checkpoints" / "step_00000010" / "model.safetensors")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(saved[name], value, rtol=1e-5, atol=1e-6)


def test_killed_at_a_random_step_and_resumed_equals_unbroken(tmp_path, unbroken):
    kill_after = random.SystemRandom().randrange(1, 15)
    out = tmp_path / "run"
    done = run_script(out, kill_after=kill_after)
    assert done.returncode == -signal.SIGKILL
    assert not (out / "model").exists()
    fit(ToyTask(ToyConfig()), CONFIG, out, resume=True, progress=False)
    assert_same_run(out, unbroken)


def test_killed_while_saving_leaves_the_checkpoint_before(tmp_path, unbroken):
    out = tmp_path / "run"
    assert run_script(out, kill_in_save=random.SystemRandom().randrange(8, 40)).returncode == -signal.SIGKILL
    assert any(p.name.endswith(".part") for p in (out / "checkpoints").iterdir())
    for path in ckpt.list_checkpoints(out / "checkpoints"):
        ckpt.verify_checkpoint(path)
    fit(ToyTask(ToyConfig()), CONFIG, out, resume=True, progress=False)
    assert_same_run(out, unbroken)
    assert not any(p.name.startswith(".") for p in (out / "checkpoints").iterdir())


def test_killed_between_the_checkpoint_and_best_json_names_the_right_checkpoint(tmp_path, unbroken):
    out = shutil.copytree(unbroken, tmp_path / "run")
    (out / "best.json").write_text('{"checkpoint": "checkpoints/step_00000001", "step": 1}')
    shutil.copytree(ckpt.list_checkpoints(out / "checkpoints")[0], out / "checkpoints" / "step_00000003")
    fit(ToyTask(ToyConfig()), CONFIG, out, resume=True, progress=False)
    assert_same_run(out, unbroken)
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == sorted(
        p.name for p in (unbroken / "checkpoints").iterdir()
    )


def test_a_folder_with_other_files_is_not_filled(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "sheets").mkdir()
    for resume in (False, True):
        with pytest.raises(OutputError, match=r"not an output of counterview train; found notes.txt, sheets"):
            fit(ToyTask(ToyConfig()), CONFIG, tmp_path, resume=resume, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "sheets"]
    config = dataclasses.replace(CONFIG, epochs=1)
    fit(ToyTask(ToyConfig()), config, tmp_path, overwrite=True, progress=False)
    fit(ToyTask(ToyConfig()), config, tmp_path, resume=True, progress=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_run_is_removed_only_when_told_and_leaves_nothing_of_it(tmp_path, unbroken):
    out = shutil.copytree(unbroken, tmp_path / "run")
    (out / "notes.txt").write_text("mine")
    (out / ".counterview.json").unlink()  # as an earlier version left it
    with pytest.raises(OutputError, match=r"holds a run already.*--overwrite to remove it"):
        fit(ToyTask(ToyConfig()), CONFIG, out, progress=False)
    assert_same_run(out, unbroken)
    other = ToyTask(ToyConfig(model=ToyModelConfig(width=4)))
    fit(other, dataclasses.replace(CONFIG, epochs=1), out, overwrite=True, progress=False)
    assert {row["epoch"] for row in log_of(out / "train.csv")} == {"1"}
    assert json.loads((out / "model" / "config.json").read_text())["width"] == 4
    assert ckpt.step_of(ckpt.list_checkpoints(out / "checkpoints")[0]) == 5
    assert (out / "notes.txt").read_text() == "mine"


def test_two_runs_do_not_write_one_folder(tmp_path):
    class Twice(ToyTask):
        def sample_sheet(self, model, device):
            with pytest.raises(OutputError, match=f"another run is writing here.*process {os.getpid()} on"):
                fit(ToyTask(ToyConfig()), CONFIG, tmp_path / "run", resume=True, progress=False)
            Twice.refused = True
            return super().sample_sheet(model, device)

    fit(Twice(ToyConfig()), dataclasses.replace(CONFIG, epochs=1), tmp_path / "run", progress=False)
    assert Twice.refused
    assert not (tmp_path / "run" / ".counterview.lock").exists()


def test_killed_in_export_and_resumed(tmp_path, unbroken):
    out = shutil.copytree(unbroken, tmp_path / "run")
    before = (out / "model" / "model.safetensors").read_bytes()
    (out / "model" / ckpt.COMPLETE).unlink()
    (out / "model" / "model.safetensors").write_bytes(before[:-7])
    fit(ToyTask(ToyConfig()), CONFIG, out, resume=True, progress=False)
    assert_same_run(out, unbroken)
    ckpt.verify_checkpoint(out / "model")


def test_a_stopped_run_saves_and_reports_it(tmp_path, unbroken):
    out = tmp_path / "run"
    task = ToyTask(ToyConfig())
    real = task.loss

    def loss(model, batch):
        if task.loss_calls == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(model, batch)

    task.loss = loss
    handler = signal.getsignal(signal.SIGTERM)  # a library that another test used may have set one
    with pytest.raises(TrainingInterrupted, match=r"after step 7 of 15.*--resume") as caught:
        fit(task, CONFIG, out, progress=False)
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGTERM) == handler
    assert ckpt.list_checkpoints(out / "checkpoints")[0].name == "step_00000007"
    fit(ToyTask(ToyConfig()), CONFIG, out, resume=True, progress=False)
    assert weights_of(out) == weights_of(unbroken)


@dataclasses.dataclass(frozen=True)
class RenamedDataConfig:
    count: int = dataclasses.field(default=40, metadata={"formerly": ("samples",)})
    seed: int = 0
    poisoned_sample: int | None = None
    noise: float = 0.05  # a key that the earlier version did not have

    @property
    def samples(self):
        return self.count


@dataclasses.dataclass(frozen=True)
class RenamedConfig:
    model: ToyModelConfig = dataclasses.field(default_factory=ToyModelConfig)
    data: RenamedDataConfig = dataclasses.field(default_factory=RenamedDataConfig)


class RenamedModel(ToyModel):
    """The toy of a later version: ``inner`` is called ``hidden``."""

    def __init__(self, config):
        super().__init__(config)
        self._modules = {"hidden" if name == "inner" else name: module for name, module in self._modules.items()}

    @property
    def inner(self):
        return self.hidden

    @classmethod
    def current_names(cls, state):
        return {name.replace("inner.", "hidden."): tensor for name, tensor in state.items()}


class RenamedTask(ToyTask):
    config_class = RenamedConfig

    def build_model(self):
        return RenamedModel(self.config.model)


def test_a_run_of_an_earlier_version_is_resumed_under_new_names(tmp_path, unbroken):
    out = tmp_path / "run"
    task = ToyTask(ToyConfig())
    real = task.loss

    def loss(model, batch):
        if task.loss_calls == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(model, batch)

    task.loss = loss
    with pytest.raises(TrainingInterrupted):
        fit(task, CONFIG, out, progress=False)
    changed = RenamedTask(RenamedConfig(data=RenamedDataConfig(count=48)))
    with pytest.raises(CheckpointError) as caught:
        fit(changed, CONFIG, out, resume=True, progress=False)
    assert "recipe: data.count was 40, now is 48" in str(caught.value)
    assert "noise" not in str(caught.value)
    fit(RenamedTask(RenamedConfig()), CONFIG, out, resume=True, progress=False)
    for name in ("model", "state/optimizer", "state/random", "state/weights"):
        path = Path("checkpoints") / "step_00000015" / f"{name}.safetensors"
        before, after = load_file(unbroken / path), load_file(out / path)
        before = {key.replace("inner.", "hidden."): tensor for key, tensor in before.items()}
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_damaged_checkpoints_are_passed_over_with_a_warning(tmp_path, unbroken, caplog):
    out = shutil.copytree(unbroken, tmp_path / "run")
    newest, before = ckpt.list_checkpoints(out / "checkpoints")[:2]
    data = bytearray((newest / "model.safetensors").read_bytes())
    data[-3] ^= 4
    (newest / "model.safetensors").write_bytes(data)
    caplog.clear()
    fit(ToyTask(ToyConfig()), CONFIG, out, resume=True, progress=False)
    assert f"{newest}" in caplog.text
    assert "model.safetensors has other content" in caplog.text
    assert newest.with_name(newest.name + ".damaged").is_dir()
    assert ckpt.step_of(before) < ckpt.step_of(newest)
    assert_same_run(out, unbroken)


def test_nothing_to_resume_starts_from_the_beginning_and_a_run_is_not_overwritten(tmp_path, unbroken, caplog):
    out = tmp_path / "run"
    config = dataclasses.replace(CONFIG, epochs=1)
    fit(ToyTask(ToyConfig()), config, out, resume=True, progress=False)
    assert "nothing to resume" in caplog.text
    with pytest.raises(InputError, match=r"holds a run already.*--resume"):
        fit(ToyTask(ToyConfig()), config, out, progress=False)


def test_changes_at_resume_are_all_named(tmp_path, caplog):
    out = tmp_path / "run"
    config = dataclasses.replace(CONFIG, max_steps=4)
    fit(ToyTask(ToyConfig()), config, out, progress=False)
    other = ToyTask(ToyConfig(data=ToyDataConfig(samples=48), model=ToyModelConfig(dropout=0.2)))
    changed = dataclasses.replace(CONFIG, max_steps=6, lr=0.03, keep_last=5, num_workers=0, log_every=3)
    with pytest.raises(CheckpointError) as caught:
        fit(other, changed, out, resume=True, progress=False)
    text = str(caught.value)
    for part in (
        "recipe: training.max_steps was 4, now is 6",
        "recipe: training.lr was 0.02, now is 0.03",
        "recipe: model.dropout was 0.1, now is 0.2",
        "recipe: data.samples was 40, now is 48",
        "data set: samples was 40, now is 48",
        "--allow-changes",
    ):
        assert part in text
    assert "keep_last" not in text
    assert "log_every" not in text
    result = fit(other, changed, out, resume=True, allow_changes=True, progress=False)
    assert result.steps == 6
    assert "resumed with a change: recipe: training.lr" in caplog.text


def test_checkpoint_of_another_architecture_is_refused(tmp_path):
    config = dataclasses.replace(CONFIG, max_steps=2)
    fit(ToyTask(ToyConfig()), config, tmp_path, progress=False)
    wider = ToyTask(ToyConfig(model=ToyModelConfig(width=24)))
    with pytest.raises(CheckpointError, match=r"another architecture.*inner.weight is \(16, 8\), expected \(24, 8\)"):
        fit(wider, config, tmp_path, resume=True, allow_changes=True, progress=False)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(tmp_path):
    task = ToyTask(ToyConfig(data=ToyDataConfig(poisoned_sample=17)))
    with pytest.raises(TrainingError, match=r"loss of step .* is not a finite number") as caught:
        fit(task, CONFIG, tmp_path, progress=False)
    folder = Path(caught.value.path)
    info = json.loads((folder / "info.json").read_text())
    batch = load_file(folder / "batch.safetensors")
    row = info["indices"][0].index(17)
    assert torch.isnan(batch["0/candidates"][row]).all()
    assert torch.isfinite(batch["0/candidates"][torch.arange(8) != row]).all()
    assert info["values"][f"0/note/{row}"] == "17"
    assert info["numbers"]["loss"] == "nan"
    assert info["not_finite"]["weights"] == []
    for path in ckpt.list_checkpoints(tmp_path / "checkpoints"):
        assert all(torch.isfinite(t).all() for t in load_file(path / "model.safetensors").values())


def test_full_disk_is_one_line_and_the_last_checkpoint_stays(tmp_path, monkeypatch, unbroken):
    out = tmp_path / "run"
    real = ckpt.write_tensors

    def write_tensors(path, tensors):
        if "step_00000006" in str(path) and path.name == "optimizer.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, tensors)

    monkeypatch.setattr(ckpt, "write_tensors", write_tensors)
    with pytest.raises(OutputError, match=r"disk is full.*MiB free.*--resume") as caught:
        fit(ToyTask(ToyConfig()), CONFIG, out, progress=False)
    assert "\n" not in str(caught.value)
    assert [p.name for p in sorted((out / "checkpoints").iterdir())] == ["step_00000004", "step_00000005"]
    monkeypatch.undo()
    fit(ToyTask(ToyConfig()), CONFIG, out, resume=True, progress=False)
    assert_same_run(out, unbroken)


def test_data_that_do_not_fill_a_batch(tmp_path):
    with pytest.raises(InputError, match="no training samples"):
        fit(ToyTask(ToyConfig(data=ToyDataConfig(samples=0))), CONFIG, tmp_path, progress=False)
    with pytest.raises(ConfigError, match=r"fewer training samples.*found 5; expected at least 8"):
        fit(ToyTask(ToyConfig(data=ToyDataConfig(samples=5))), CONFIG, tmp_path, progress=False)


def test_mixed_precision_on_the_cpu(tmp_path):
    config = dataclasses.replace(CONFIG, precision="bf16", epochs=1)
    fit(ToyTask(ToyConfig(model=ToyModelConfig(dropout=0.0))), config, tmp_path / "bf16", progress=False)
    full = dataclasses.replace(config, precision="no")
    fit(ToyTask(ToyConfig(model=ToyModelConfig(dropout=0.0))), full, tmp_path / "full", progress=False)
    rounded, exact = (
        [float(row["loss"]) for row in log_of(tmp_path / name / "train.csv")] for name in ("bf16", "full")
    )
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.05)
    saved = load_file(tmp_path / "bf16" / "model" / "model.safetensors")
    assert all(t.dtype == torch.float32 for t in saved.values())
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="fp16"):
            fit(ToyTask(ToyConfig()), dataclasses.replace(config, precision="fp16"), tmp_path / "x", progress=False)


def test_workers_change_nothing(tmp_path, unbroken):
    if sys.platform != "linux":
        pytest.skip("worker processes of a test module cannot be spawned here")
    fit(ToyTask(ToyConfig()), dataclasses.replace(CONFIG, num_workers=1), tmp_path / "run", progress=False)
    assert_same_run(tmp_path / "run", unbroken)


class _Mortal(ToyTask):
    """Its loader is killed, as by a system without memory."""

    def sample(self, epoch, index, rng):
        if torch.utils.data.get_worker_info() is not None and index == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(epoch, index, rng)


def test_a_killed_loader_is_named(tmp_path):
    if sys.platform != "linux":
        pytest.skip("worker processes of a test module cannot be spawned here")
    with pytest.raises(
        TrainingError, match=r"a process that loads data was killed; found DataLoader worker \(pid.*num_workers"
    ):
        fit(_Mortal(ToyConfig()), dataclasses.replace(CONFIG, num_workers=1), tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    "text", ["[gloo/pair.cc:1] Connection closed by peer [127.0.0.1]:1", "Connection reset by peer"]
)
def test_a_lost_process_of_torchrun_is_named(text, monkeypatch):
    def fail():
        with process_errors():
            raise RuntimeError(text)

    with pytest.raises(RuntimeError, match="by peer"):  # one process alone has no peer
        fail()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="another process of this run has ended; found Connection"):
        fail()


TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0", "--standalone")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Options and outcome of a run by two processes, each with 2 accumulated batches of 2."""
    out = tmp_path_factory.mktemp("two") / "run"
    training = {**TRAINING, "accumulate": 2, "epochs": 2, "ema_decay": None}
    options = {"task": {"model": {"dropout": 0.0}}, "training": training}
    return out, options, run_script(out, launcher=TORCHRUN, check=0, **options)


def test_two_processes_equal_one_with_twice_the_batch(tmp_path, two_processes):
    two, _, done = two_processes
    task = ToyTask(ToyConfig(model=ToyModelConfig(dropout=0.0)))
    config = dataclasses.replace(CONFIG, epochs=2, ema_decay=None)
    one = tmp_path / "one"
    result = fit(task, config, one, progress=False)
    curves = [log_of(path / "train.csv") for path in (one, two)]
    assert len(curves[0]) == len(curves[1]) == 10
    for left, right in zip(*curves, strict=True):
        for key in ("loss", "matching", "size", "lr"):
            assert float(right[key]) == pytest.approx(float(left[key]), abs=1e-5)
        assert float(right["gradient_norm"]) == pytest.approx(float(left["gradient_norm"]), abs=1e-4)
    assert log_of(one / "validation.csv") == log_of(two / "validation.csv")
    # Both processes print; their lines may run together.
    assert json.JSONDecoder().raw_decode(done.stdout.strip().splitlines()[-1])[0] == result.metrics
    weights = [load_file(path / "model" / "model.safetensors") for path in (one, two)]
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], rtol=0, atol=1e-5)
    # The other number of processes is named at resume.
    with pytest.raises(CheckpointError, match="world size was 2, now is 1"):
        fit(task, dataclasses.replace(config, accumulate=2), two, resume=True, progress=False)


def test_weights_that_a_step_leaves_out_are_named_in_words(tmp_path):
    options = {"idle": True, "training": {**TRAINING, "epochs": 1}}
    done = run_script(tmp_path / "told", launcher=TORCHRUN, **options)
    assert done.returncode != 0
    assert "error: some weights got no gradient" in done.stderr
    assert "Set training.find_unused_parameters to true." in done.stderr
    options["training"]["find_unused_parameters"] = True
    run_script(tmp_path / "allowed", launcher=TORCHRUN, check=0, **options)
    assert (tmp_path / "allowed" / "model").is_dir()


@pytest.mark.slow
def test_two_processes_killed_and_resumed_equal_unbroken(tmp_path, two_processes):
    two, options, _ = two_processes
    broken = tmp_path / "broken"
    assert run_script(broken, launcher=TORCHRUN, kill_after=15, **options).returncode != 0
    assert not (broken / "model").exists()
    run_script(broken, launcher=TORCHRUN, check=0, fit={"resume": True}, **options)
    for name in ("model.safetensors", "state/optimizer.safetensors", "state/random.safetensors"):
        path = Path("checkpoints") / "step_00000010" / name
        assert (two / path).read_bytes() == (broken / path).read_bytes()


def test_killed_from_outside_at_any_moment(tmp_path, unbroken):
    """SIGKILL not at a chosen place but at a random time, twice, and then to the end."""
    out = tmp_path / "run"
    options = json.dumps({"training": TRAINING, "fit": {"resume": True}})
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(out), options], env=ENV, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        deadline = time.monotonic() + 30
        while not (out / "train.csv").is_file() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        time.sleep(random.SystemRandom().uniform(0, 0.25))
        process.kill()
        process.wait()
    fit(ToyTask(ToyConfig()), CONFIG, out, resume=True, progress=False)
    assert_same_run(out, unbroken)
