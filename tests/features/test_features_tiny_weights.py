"""``tiny`` features out of a model's folder, and out of the package."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from counterview.config import load_config
from counterview.errors import CheckpointError, ConfigError, WeightsError
from counterview.features import load_backbone, tiny_weights
from counterview.features.tiny import TinyConfig
from counterview.media.files import sha256_file
from counterview.omama import OMaMaConfig
from counterview.tiny import TinyMatch, TinyMatchConfig

BACKBONE = {"widths": [8, 8, 8, 8, 8], "blocks": [0, 0, 0, 0], "channels": 8, "fine": 4, "colours": 4}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    omama = OMaMaConfig(
        backbone="tiny",
        channels=8,
        object_channels=4 + 2 * 12 + 6,
        hidden=8,
        embedding=8,
        heads=2,
        query_grid_hw=(2, 2),
        target_grid_hw=(2, 2),
    )
    TinyMatch(TinyMatchConfig(omama=omama, network=load_config(TinyConfig, BACKBONE))).save_pretrained(
        tmp_path / "model"
    )
    return tmp_path / "model"


def test_a_models_network_is_a_backbone(folder):
    model = TinyMatch.from_pretrained(folder)
    loaded = load_backbone(str(folder))
    assert loaded.settings() == model.own_backbone().settings()
    assert loaded.channels == 8
    with pytest.raises(ConfigError, match="no settings"):
        load_backbone(str(folder), dtype="float16")


def test_half_precision_keeps_counters_whole(folder):
    path = folder / "model.safetensors"
    save_file({k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}, path)
    assert load_backbone(str(folder)).net.norm.weight.dtype == torch.float32


def test_damage_is_named(folder):
    path = folder / "model.safetensors"
    state = {k: v for k, v in load_file(path).items() if k != "network.norm.bias"}
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"norm\.bias is missing"):
        load_backbone(str(folder))
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="not a readable file of weights"):
        load_backbone(str(folder))
    values = json.loads((folder / "config.json").read_text())
    values["model"]["network"] = {"widths": 3}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="a network that cannot be built"):
        load_backbone(str(folder))


def test_the_bundled_network_is_checked(folder, tmp_path, monkeypatch):
    root = tmp_path / "package"
    place = root / "assets" / "models" / "tiny-match"
    monkeypatch.setattr(tiny_weights, "files", lambda _: root)
    with pytest.raises(WeightsError, match="not part of this installation"):
        load_backbone("tiny")
    place.parent.mkdir(parents=True)
    folder.rename(place)
    listed = {f"tiny-match/{part}": sha256_file(place / part) for part in ("model.safetensors", "config.json")}
    (place.parent / "hashes.json").write_text(json.dumps(listed))
    assert load_backbone("tiny").name == "tiny"
    with (place / "model.safetensors").open("ab") as handle:
        handle.write(b" ")
    with pytest.raises(CheckpointError, match="damaged"):
        load_backbone("tiny")
