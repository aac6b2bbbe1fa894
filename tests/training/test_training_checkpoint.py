import errno
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from counterview.errors import CheckpointError, OutputError
from counterview.training import checkpoint as ckpt
from counterview.training.randomness import preserved_random_state, random_state, seed_everything, set_random_state

CPU = torch.device("cpu")


def write(target, value=1.0, **extra):
    shared = torch.full((3, 2), value)
    weights = {"a": shared, "tied": shared, "turned": torch.arange(6.0).reshape(2, 3).T, "scalar": torch.tensor(value)}
    state = {"optimizer": {"exp_avg/a": shared}}
    ckpt.write_checkpoint(target, weights=weights, config={"n": 1}, card="# é\n", state=state, **extra)
    return weights


def test_round_trip_of_tied_strided_and_scalar_weights(tmp_path):
    target = ckpt.checkpoint_path(tmp_path, 12)
    weights = write(target, values={"format": 1, "step": 12})
    ckpt.verify_checkpoint(target)
    loaded = load_file(target / "model.safetensors")
    assert set(loaded) == set(weights)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())
    assert ckpt.read_values(target) == {"format": 1, "step": 12}
    assert sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()) == [
        "COMPLETE",
        "README.md",
        "config.json",
        "model.safetensors",
        "state/optimizer.safetensors",
        "state/trainer.json",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000012"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md", "state/optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_every_damaged_file_is_found_and_named(tmp_path, name, damage):
    target = ckpt.checkpoint_path(tmp_path, 1)
    write(target, values={"format": 1})
    data = bytearray((target / name).read_bytes())
    if damage == "missing":
        (target / name).unlink()
    else:
        data = data[:-1] if damage == "truncated" else data[:-1] + bytes([data[-1] ^ 1])
        (target / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=name):
        ckpt.verify_checkpoint(target)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"files": {"../../x": {"bytes": 1, "sha256": "0"}}}', '{"files": {}}', '{"files": {"a": 3}}'],
)
def test_a_damaged_or_hostile_record_is_refused(tmp_path, content):
    target = ckpt.checkpoint_path(tmp_path, 1)
    write(target)
    (target / ckpt.COMPLETE).write_text(content)
    with pytest.raises(CheckpointError, match="damaged"):
        ckpt.verify_checkpoint(target)
    (target / ckpt.COMPLETE).unlink()
    with pytest.raises(CheckpointError, match="never finished"):
        ckpt.verify_checkpoint(target)


def test_latest_passes_over_damage_and_other_folders(tmp_path, caplog):
    for step in (5, 10, 15, 100_000_000):
        write(ckpt.checkpoint_path(tmp_path, step))
    (tmp_path / "step_9").mkdir()
    (tmp_path / "step_00000020.damaged").mkdir()
    (tmp_path / "step_100000000" / ckpt.COMPLETE).unlink()
    (tmp_path / "step_00000015" / "config.json").write_text("{}")
    newest, passed_over = ckpt.latest_checkpoint(tmp_path)
    assert newest == tmp_path / "step_00000010"
    assert [Path(str(e.path)).name for e in passed_over] == ["step_100000000", "step_00000015"]
    assert caplog.text.count("passed over") == 2
    assert ckpt.latest_checkpoint(tmp_path / "nowhere") == (None, [])


def test_prune_keeps_the_newest_and_the_best(tmp_path):
    for step in range(1, 8):
        write(ckpt.checkpoint_path(tmp_path, step))
    ckpt.prune(tmp_path, 2, {"step_00000003"})
    assert [ckpt.step_of(p) for p in ckpt.list_checkpoints(tmp_path)] == [7, 6, 3]


def test_replaced_completely_or_not_at_all(tmp_path, monkeypatch):
    target = ckpt.checkpoint_path(tmp_path, 1)
    write(target, 1.0)
    write(target, 2.0)
    assert load_file(target / "model.safetensors")["scalar"] == 2.0

    def no_room(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x")

    for name in ("write_model", "write_tensors", "write_json", "_sync"):
        with monkeypatch.context() as patch:
            patch.setattr(ckpt, name, no_room)
            with pytest.raises(OutputError, match=r"the disk is full; found \d+ MiB free") as caught:
                write(target, 3.0, values={"format": 1})
        assert caught.value.exit_code == 2
        ckpt.verify_checkpoint(target)
        assert load_file(target / "model.safetensors")["scalar"] == 2.0
        assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]


def test_other_os_errors_are_not_called_a_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError), ckpt.disk_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "x", "elsewhere")
    with pytest.raises(PermissionError), ckpt.disk_errors(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "x", "/somewhere/else")
    with pytest.raises(OutputError, match="cannot be written"), ckpt.disk_errors(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "x", str(tmp_path / "out" / "f"))


def test_left_overs_of_killed_processes_are_removed_and_nothing_else(tmp_path):
    for name in (".step_00000004.0a1b2c3d.part", ".model.0a1b2c3d.old", ".git", ".step_notes", "step_00000004"):
        (tmp_path / name).mkdir()
    ckpt.clean_up(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".git", ".step_notes", "step_00000004"]


def test_weights_of_another_architecture_are_listed(tmp_path):
    model = torch.nn.Linear(3, 2)
    ckpt.write_checkpoint(
        tmp_path / "step_00000001", weights={"weight": torch.zeros(2, 4), "gain": torch.ones(1)}, config={}, card=""
    )
    before = model.weight.detach().clone()
    with pytest.raises(CheckpointError) as caught:
        ckpt.load_weights(model, tmp_path / "step_00000001")
    for part in ("bias is missing", "gain is unknown", "weight is (2, 4), expected (2, 3)"):
        assert part in str(caught.value)
    assert torch.equal(model.weight, before)


def test_buffers_may_hold_infinity(tmp_path):
    model = torch.nn.Linear(2, 2)
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    path = tmp_path / "step_00000001"
    ckpt.write_checkpoint(path, weights=model.state_dict(), config={}, card="")
    other = torch.nn.Linear(2, 2)
    other.register_buffer("mask", torch.zeros(2))
    ckpt.load_weights(other, path)
    assert other.mask.tolist() == [0.0, -torch.inf]
    assert torch.equal(other.weight, model.weight)


class Renamed(torch.nn.Module):
    """``weight`` was called ``kernel`` once."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 2, bias=False)

    @classmethod
    def current_names(cls, state):
        return {name.replace("kernel", "weight"): tensor for name, tensor in state.items()}


def test_weights_and_optimizer_state_of_earlier_names_load(tmp_path):
    values = torch.arange(6.0).reshape(2, 3)
    path = tmp_path / "step_00000001"
    ckpt.write_checkpoint(path, weights={"head.kernel": values}, config={}, card="")
    model = Renamed()
    ckpt.load_weights(model, path)
    assert torch.equal(model.head.weight, values)
    optimizer = torch.optim.AdamW(model.parameters())
    saved = {"exp_avg/head.kernel": values, "exp_avg_sq/head.kernel": 2 * values, "step/head.kernel": torch.tensor(7.0)}
    tensors = ckpt.current_optimizer_names(model, saved)
    ckpt.load_optimizer(optimizer, ["head.weight"], tensors)
    state = optimizer.state[model.head.weight]
    assert torch.equal(state["exp_avg"], values)
    assert torch.equal(state["exp_avg_sq"], 2 * values)
    assert state["step"] == 7
    # A model that does not know the earlier name refuses both.
    with pytest.raises(CheckpointError, match=r"weight is missing; head\.kernel is unknown"):
        ckpt.load_weights(torch.nn.Linear(3, 2, bias=False), path)
    with pytest.raises(CheckpointError, match=r"'head\.kernel', which the model does not train"):
        ckpt.load_optimizer(optimizer, ["head.weight"], ckpt.current_optimizer_names(torch.nn.Linear(1, 1), saved))


def test_optimizer_state_survives_to_the_bit():
    def build():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 1))
        groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters(), "lr": 0.01}]
        return model, torch.optim.AdamW(groups), [name for name, _ in model.named_parameters()]

    def step(model, optimizer):
        optimizer.zero_grad()
        model(torch.linspace(0, 1, 8).reshape(2, 4)).square().sum().backward()
        optimizer.step()

    model, optimizer, names = build()
    for _ in range(3):
        step(model, optimizer)
    tensors = {name: t.clone() for name, t in ckpt.optimizer_tensors(optimizer, names).items()}
    assert tensors["step/0.weight"] == 3
    other, fresh, _ = build()
    other.load_state_dict({name: t.clone() for name, t in model.state_dict().items()})
    ckpt.load_optimizer(fresh, names, tensors)
    for pair in ((model, optimizer), (other, fresh)):
        step(*pair)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(CheckpointError, match="does not train"):
        ckpt.load_optimizer(fresh, ["a", "b", "c", "d"], tensors)


def test_random_state_of_all_three_generators():
    seed_everything(7)
    random.gauss(0, 1), np.random.normal(), torch.randn(3)  # noqa: NPY002 - leaves half-used pairs behind
    state = {name: torch.stack([t, t])[1] for name, t in random_state(CPU).items()}  # views, as after a gather

    def draw():
        return [random.random(), random.gauss(0, 1), *np.random.normal(size=3), *torch.randn(5).tolist()]  # noqa: NPY002

    first = draw()
    assert draw() != first
    set_random_state(state, CPU)
    assert draw() == first
    set_random_state(state, CPU)
    with preserved_random_state(CPU):
        draw()
    assert draw() == first


@pytest.mark.parametrize("name", ["python", "numpy", "torch"])
def test_a_truncated_random_state_is_refused(name):
    state = random_state(CPU)
    with pytest.raises(CheckpointError, match="random state"):
        set_random_state({**state, name: state[name][:-8]}, CPU)
    with pytest.raises(CheckpointError, match="random state"):
        set_random_state({k: t for k, t in state.items() if k != name}, CPU)


def test_state_of_another_version_is_refused(tmp_path):
    target = ckpt.checkpoint_path(tmp_path, 1)
    write(target, values={"format": 99})
    with pytest.raises(CheckpointError, match="another version"):
        ckpt.read_values(target)
    (target / "state" / "trainer.json").write_text(json.dumps([1]))
    with pytest.raises(CheckpointError, match="another version"):
        ckpt.read_values(target)
    (target / "state" / "trainer.json").unlink()
    with pytest.raises(CheckpointError, match="no training state"):
        ckpt.read_values(target)
