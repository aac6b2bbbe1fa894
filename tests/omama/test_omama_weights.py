"""Released weights and checkpoints: all of them or an error that names what is wrong."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from counterview.errors import CheckpointError, WeightsError
from counterview.nn.weights import read_released
from counterview.omama import OMaMa, OMaMaConfig
from counterview.omama.released import released_names

TINY = OMaMaConfig(channels=8, hidden=6, embedding=4, heads=2, query_grid_hw=(2, 3), target_grid_hw=(3, 2))


def test_every_released_tensor_is_used_and_named(head, released):
    names = released_names(OMaMa)
    for direction, key in (("exo2ego", "reverse_true"), ("ego2exo", "reverse_false")):
        listed = {p["name"] for p in head["parameters"][key]}
        assert set(names) == listed
        model = OMaMa.from_released(released[direction], direction)
        state = model.state_dict()
        for old, new in names.items():
            assert torch.equal(state[new].flatten(), released[direction][old].flatten())
        left = {n for n in state if n not in names.values()}
        assert all(n.startswith(("visibility_head.statistics", "visibility_head.calibration")) for n in left)
        assert not model.training
    assert len(set(names.values())) == len(names) == 32


def test_directions_are_told_apart(released):
    assert OMaMa.from_released(released["ego2exo"]).config.query_grid_hw == (50, 50)
    assert OMaMa.from_released(released["exo2ego"]).config.query_grid_hw == (38, 68)
    with pytest.raises(CheckpointError, match=r"other direction; found ego2exo; expected exo2ego"):
        OMaMa.from_released(released["ego2exo"], "exo2ego")
    with pytest.raises(CheckpointError, match="no such direction"):
        OMaMa.from_released(released["ego2exo"], "egoexo")


def test_files_of_every_kind_load_equal(released, tmp_path):
    state = released["ego2exo"]
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"epoch": 1, "model_state_dict": state}, tmp_path / "wrapped.pt")
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "parallel.pth")
    save_file(state, tmp_path / "weights.safetensors")
    expected = OMaMa.from_released(state).state_dict()
    for name in ("plain.pt", "wrapped.pt", "parallel.pth", "weights.safetensors"):
        found = OMaMa.from_released(tmp_path / name, "ego2exo").state_dict()
        assert all(torch.equal(found[k], v) for k, v in expected.items())
        (tmp_path / name).unlink()


def test_what_is_wrong_is_named(released, tmp_path):
    state = dict(released["ego2exo"])
    weight = state.pop("mlp.mlp.2.bias")
    state["mlp.mlp.2.bais"] = weight
    with pytest.raises(CheckpointError, match=r"mlp\.mlp\.2\.bias is missing; mlp\.mlp\.2\.bais is unknown"):
        OMaMa.from_released(state)
    state = dict(released["ego2exo"]) | {"mlp.mlp.0.weight": torch.zeros(768, 1536)}
    with pytest.raises(CheckpointError, match=r"mlp\.mlp\.0\.weight is \(768, 1536\), expected \(768, 2304\)"):
        OMaMa.from_released(state)
    state = dict(released["ego2exo"]) | {"mlp.mlp.0.bias": torch.full((768,), torch.nan)}
    with pytest.raises(CheckpointError, match="finite"):
        OMaMa.from_released(state)
    state = dict(released["ego2exo"]) | {"pos_embed_T": torch.zeros(1, 100, 768)}
    with pytest.raises(CheckpointError, match="100 cells"):
        OMaMa.from_released(state)
    with pytest.raises(CheckpointError, match="missing"):
        OMaMa.from_released({})


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_files_that_are_no_weights(tmp_path, capsys):
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("text.pt", "text.safetensors", "evil.pt", "list.pt", "none.pt"):
        with pytest.raises(CheckpointError, match=name):
            read_released(tmp_path / name)
    assert capsys.readouterr().out == ""


def test_saved_and_loaded_again(tmp_path):
    torch.manual_seed(0)
    model = OMaMa(TINY)
    folder = model.save_pretrained(tmp_path / "m")
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = OMaMa.from_pretrained(folder)
    assert again.config == model.config
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    first = (folder / "model.safetensors").read_bytes()
    again.save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == first
    knn = OMaMa(OMaMaConfig.knn(8)).save_pretrained(tmp_path / "knn")
    assert not OMaMa.from_pretrained(knn).config.matching_head


def test_checkpoints_of_another_kind(tmp_path):
    folder = OMaMa(TINY).save_pretrained(tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())

    def broken(match, *, tensors=None, values=None):
        save_file(tensors or state, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(values or config))
        with pytest.raises(CheckpointError, match=match):
            OMaMa.from_pretrained(folder)

    broken(r"head\.0\.bias is missing", tensors={k: v for k, v in state.items() if k != "head.0.bias"})
    broken(r"more\.weight is unknown", tensors={**state, "more.weight": torch.zeros(1)})
    broken(r"head\.0\.bias is \(9,\), expected \(6,\)", tensors={**state, "head.0.bias": torch.zeros(9)})
    broken("another method", values={**config, "method": "lmeec"})
    broken("another version of Counterview; found format 7", values={**config, "format_version": 7})
    broken("hiden", values={**config, "model": {**config["model"], "hiden": 3}})
    broken(
        r"query_position\.weight is \(2, 3, 8\), expected \(5, 5, 8\)",
        values={**config, "model": {**config["model"], "query_grid_hw": [5, 5]}},
    )
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        OMaMa.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"123")
    with pytest.raises(CheckpointError, match="readable"):
        OMaMa.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        OMaMa.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="no such folder"):
        OMaMa.from_pretrained(tmp_path / "nowhere")


def test_hub_without_network(monkeypatch):
    with pytest.raises(WeightsError, match=r"are not available|cannot be reached"):
        OMaMa.from_pretrained("someone/omama")


def test_push_uploads_the_folder(monkeypatch):
    import huggingface_hub

    uploads = []

    class Api:
        def __init__(self, token=None):
            uploads.append(token)

        def create_repo(self, repo_id, private, exist_ok):
            uploads.append((repo_id, private, exist_ok))

        def upload_folder(self, repo_id, folder_path, commit_message):
            uploads.append((repo_id, OMaMa.from_pretrained(folder_path).config))
            return type("Commit", (), {"repo_url": f"https://huggingface.co/{repo_id}"})()

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    address = OMaMa(TINY).push_to_hub("me/omama", private=True, token="t")
    assert address == "https://huggingface.co/me/omama"
    assert uploads == ["t", ("me/omama", True, True), ("me/omama", TINY)]
