"""Checkpoints: one format for every model, strict in both directions, and nothing run from a file."""

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from counterview.errors import CheckpointError, WeightsError
from counterview.nn.checkpoint import Pretrained, find_folder, is_checkpoint, read_header
from counterview.nn.weights import (
    decode_tensors,
    load_strictly,
    read_released,
    renamed,
    shortened,
    weights_fingerprint,
    write_tensors,
)


@dataclass(frozen=True)
class LineConfig:
    width: int = 3


class Line(Pretrained, nn.Module):
    method: ClassVar[str] = "line"
    config_class: ClassVar[type] = LineConfig
    about: ClassVar[tuple[str, str, str]] = ("Line", "a test's", "Fits a line.")
    usage: ClassVar[str] = 'model = Line.from_pretrained("{name}")'
    renamed_weights: ClassVar[dict[str, str]] = {"old.": "layer."}

    def __init__(self, config: LineConfig) -> None:
        super().__init__()
        self.config = config
        self.layer = nn.Linear(config.width, 1)


class Runs:
    """What a pickle would run."""

    def __reduce__(self):
        return print, ("code ran",)


def test_a_folder_holds_all_that_the_model_needs(tmp_path):
    model = Line(LineConfig(width=5))
    folder = model.save_pretrained(tmp_path / "line")
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = Line.from_pretrained(folder)
    assert again.config == LineConfig(5)
    assert not again.training
    assert again.fingerprint() == model.fingerprint() == weights_fingerprint(model)
    header = read_header(folder)
    assert (header.method, header.version, header.model) == ("line", 2, {"width": 5})
    card = (folder / "README.md").read_text()
    for part in ("# Line", "| method | a test's |", "| parameters | 6 |", 'Line.from_pretrained("line")'):
        assert part in card
    assert "| validation: iou | 0.5 |" in model.card(metrics={"iou": 0.5})


def test_earlier_names_of_weights_load(tmp_path):
    model = Line(LineConfig())
    folder = model.save_pretrained(tmp_path / "line")
    state = {name.replace("layer.", "old."): value for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    assert Line.from_pretrained(folder).fingerprint() == model.fingerprint()
    assert renamed({"old.a": torch.ones(1), "b": torch.ones(1)}, {"old.": "new."}).keys() == {"new.a", "b"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer.bias": None}, r"layer\.bias is missing"),
        ({"more": torch.ones(1)}, "more is unknown"),
        ({"layer.bias": torch.ones(2)}, r"layer\.bias is \(2,\), expected \(1,\)"),
        ({"layer.bias": torch.ones(1, dtype=torch.int64)}, r"layer\.bias is of dtype torch.int64"),
        ({"layer.bias": torch.tensor([float("nan")])}, r"not finite: layer\.bias"),
        ({"layer.bias": [1.0]}, r"layer\.bias is not a tensor"),
    ],
)
def test_weights_that_do_not_fit_are_named(change, message):
    model = Line(LineConfig())
    state = {k: v for k, v in {**model.state_dict(), **change}.items() if v is not None}
    with pytest.raises(CheckpointError, match=message):
        load_strictly(model, state)


def test_headers_of_every_format_and_of_none(tmp_path):
    def header(values):
        (tmp_path / "config.json").write_text(json.dumps(values))
        return read_header(tmp_path)

    assert header({"method": "omama", "format_version": 1, "model": {}}).version == 1
    assert header({"format": "counterview-lmeec", "version": 1, "model": {"a": 1}}).method == "lmeec"
    for later in ({"format": "counterview", "format_version": 3, "method": "x", "model": {}},
                  {"method": "omama", "format_version": 9, "model": {}}):  # fmt: skip
        with pytest.raises(CheckpointError, match=r"another version of Counterview.*Upgrade"):
            header(later)
    for other in ([], {"model_type": "bert"}, {"method": 3, "model": {}}, {"method": "omama", "model": []}):
        with pytest.raises(CheckpointError, match="not a checkpoint of Counterview"):
            header(other)
    assert not is_checkpoint(tmp_path / "nowhere")


def test_sources_that_are_no_models(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        find_folder(tmp_path / "nowhere")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("a file that exists is not a name on the Hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        with pytest.raises(CheckpointError, match="is a file"):
            find_folder("a/b")
    with pytest.raises(WeightsError):
        find_folder("nobody/nothing")


def test_nothing_in_a_file_is_run(tmp_path, capsys):
    torch.save({"model": {"a": Runs()}}, tmp_path / "runs.pt")
    with pytest.raises(CheckpointError, match="plain tensors"):
        read_released(tmp_path / "runs.pt")
    for wrapper in ("model", "state_dict", "model_state_dict"):
        torch.save({wrapper: {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "wrapped.pt")
        assert read_released(tmp_path / "wrapped.pt")["a"].tolist() == [1, 1]
    with pytest.raises(CheckpointError, match="not a readable file of weights"):
        decode_tensors(b"nothing", "x.safetensors")
    assert capsys.readouterr().out == ""


def test_tied_weights_are_written_once_for_each_name(tmp_path):
    shared = torch.arange(3.0)
    write_tensors(tmp_path / "t.safetensors", {"a": shared, "b": shared})
    found = read_released(tmp_path / "t.safetensors")
    assert found["a"].tolist() == found["b"].tolist() == [0, 1, 2]


def test_long_lists_are_shortened():
    assert shortened(["a", "b", "c"], limit=2) == "a; b; and 1 more"
    assert shortened(["a"]) == "a"
