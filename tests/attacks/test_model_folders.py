"""Somebody's model: it names nothing outside its folder, asks for no more memory than its files have, runs nothing."""

import json
import os
import shutil
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from counterview import load
from counterview.cli.main import main
from counterview.config import load_config
from counterview.errors import CheckpointError, ConfigError, CounterviewError, TrustError, WeightsError
from counterview.features import load_backbone
from counterview.features.backbone import HUB_IDS
from counterview.inference.loading import load_take_predictor
from counterview.inference.trust import SAM2_IDS, ModelParts, check_parts
from counterview.masks.png import write_mask_png
from counterview.media.images import write_image
from counterview.nn.network_folder import MAX_LAYERS, MAX_NUMBER, check_network_folder
from counterview.omama import OMaMa, OMaMaConfig
from counterview.proposals import load_proposer
from tests.inference.small_models import small_lmeec, small_tiny_match


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
    return small_tiny_match(tmp_path_factory.mktemp("seed") / "model")


@pytest.fixture
def model(seed, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(seed, folder)
    return folder


def change(folder: Path, **values) -> Path:
    """Change keys of the O-MaMa part of ``config.json``."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["model"]["omama"].update(values)
    path.write_text(json.dumps(content))
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Everything that would ask a hub, fetch a file or ask the user fails the test."""

    def asked(*arguments, **options):
        raise AssertionError(f"the network was asked: {arguments} {options}")

    monkeypatch.setattr("huggingface_hub.HfApi.auth_check", asked)
    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)
    monkeypatch.setattr("builtins.input", asked)


# ---------------------------------------------------------------------------------------------------------- names

OUTSIDE = {
    "an address for FastSAM": ({"proposer": "fastsam:http://127.0.0.1:9/x.pt"}, "fastsam: 'http://127.0.0.1:9/x.pt'"),
    "a pickle elsewhere": ({"proposer": "fastsam:/tmp/x.pt"}, "'/tmp/x.pt'"),
    "weights in settings": (
        {"proposer": "fastsam", "proposer_settings": {"weights": "https://a.b/c.pt"}},
        "'https://a.b/c.pt'",
    ),
    "a folder of masks": ({"proposer": "folder:/etc"}, "'/etc'"),
    "a folder in settings": ({"proposer": "folder", "proposer_settings": {"path": "/etc"}}, "'/etc'"),
    "the way up": ({"proposer": "folder:../.."}, r"'\.\./\.\.'"),
    "a repository of masks": ({"proposer": "sam2:owner/name"}, "'owner/name'"),
    "a model in settings": ({"proposer": "sam2", "proposer_settings": {"model": "owner/name"}}, "'owner/name'"),
    "features of a repository": ({"backbone": "owner/name"}, "features 'owner/name'"),
    "features of a folder": ({"backbone": "/etc"}, "features '/etc'"),
    "home": ({"backbone": "~/x"}, "features '~/x'"),
    "a revision": (
        {"backbone": "dinov2-base-reg", "backbone_settings": {"revision": "refs/pr/7"}},
        "revision 'refs/pr/7'",
    ),
    "two of them": ({"backbone": "a/b", "proposer": "folder:/c"}, "features 'a/b'; proposals folder: '/c'"),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_a_model_names_outside_its_folder_needs_the_users_word(name, model):
    values, words = OUTSIDE[name]
    change(model, **{"backbone_settings": {}, "proposer_settings": {}, **values})
    for open_model in (load, load_take_predictor):
        with pytest.raises(TrustError, match=rf"model: the model names what is not inside.*{words}.*--trust") as caught:
            open_model(model)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2


def test_shipped_names_need_no_word(tmp_path):
    for features in ("classical", "tiny", "dinov2-base-reg", "clip", *HUB_IDS, *HUB_IDS.values()):
        for proposer in (
            "graph",
            "tiny",
            "sam2",
            "fastsam",
            *(f"sam2:{name}" for name in SAM2_IDS),
            "fastsam:FastSAM-s.pt",
        ):
            parts = ModelParts(features, {"longest_side_px": 500}, proposer, {"max_masks": 3})
            assert check_parts(parts, tmp_path) == parts


def test_the_users_own_word(model, tmp_path):
    change(model, proposer=f"folder:{tmp_path}/masks", proposer_settings={})
    image = np.full((60, 80, 3), 90, np.uint8)
    image[10:30, 10:30] = (200, 30, 30)
    write_image(tmp_path / "a.png", image)
    write_mask_png(tmp_path / "red.png", image[..., 0] == 200)
    for name in ("a", "b"):
        write_mask_png(tmp_path / "masks" / name / "0.png", image[..., 0] == 200)
        write_mask_png(tmp_path / "masks" / name / "1.png", image[..., 0] == 90)
    shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
    arguments = ["match", *(str(tmp_path / n) for n in ("a.png", "b.png")), "--mask", str(tmp_path / "red.png")]
    arguments += ["--model", str(model), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(arguments) == 2, "not without a word"
    assert main([*arguments, "--proposals", f"folder:{tmp_path}/masks"]) == 0, "the option names it"
    assert main([*arguments, "--trust"]) == 0
    assert load(model, trust=True, device="cpu").proposer.settings()["path"] == f"{tmp_path}/masks"
    assert load(model, proposals="graph", device="cpu").proposer.name == "graph"


def test_naming_the_same_features_is_the_users_word(model, tmp_path):
    network = dino(tmp_path / "dino")
    content = {"backbone": str(network), "backbone_settings": {}, "channels": 8, "object_channels": None}
    OMaMa(
        load_config(OMaMaConfig, {**content, "hidden": 4, "embedding": 4, "heads": 1, "proposer": "graph"})
    ).save_pretrained(tmp_path / "own")
    with pytest.raises(TrustError, match=r"features .*--trust.*--features NAME"):
        load(tmp_path / "own", device="cpu")
    for options in ({"features": str(network)}, {"trust": True}):
        assert load(tmp_path / "own", device="cpu", **options).backbone.channels == 8


def test_the_same_is_said_by_predict(model, tmp_path, capsys):
    from tests.omama.tiny_takes import write_takes

    data = write_takes(tmp_path / "data", frames=1, splits={"test": 1})
    change(model, proposer="folder:/etc", proposer_settings={})
    arguments = ["predict", str(model), str(data), "--out", str(tmp_path / "p.json")]
    assert main(arguments) == 2
    assert "folder: '/etc'" in capsys.readouterr().err
    assert main([*arguments, "--trust"]) == 2
    assert "nothing to predict" in capsys.readouterr().err, "/etc was opened, and has no masks of these takes"
    assert main([*arguments[:-1], str(tmp_path / "q.json"), "--proposals", "graph"]) == 0


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of this kind")
def test_files_inside_the_folder_are_the_models_own(model, tmp_path):
    (model / "masks" / "a").mkdir(parents=True)
    write_mask_png(model / "masks" / "a" / "0.png", np.ones((4, 6), dtype=bool))
    for name in ("folder:masks", "folder:./masks", f"folder:{model}/masks"):
        change(model, proposer=name, proposer_settings={})
        proposer = load(model, device="cpu").proposer
        assert Path(proposer.settings()["path"]) == model / "masks"
        assert len(proposer(np.zeros((4, 6, 3), np.uint8), "a")) == 1
    (model / "link").symlink_to("/etc")
    change(model, proposer="folder:link")
    with pytest.raises(TrustError, match="'link'"):
        load(model)


def test_a_pickle_inside_the_folder_still_needs_a_word(model, monkeypatch):
    import sys
    import types

    module = types.ModuleType("ultralytics")
    module.FastSAM = lambda weights: pytest.fail("it was read")
    monkeypatch.setitem(sys.modules, "ultralytics", module)
    monkeypatch.setitem(sys.modules, "ultralytics.utils", types.ModuleType("ultralytics.utils"))
    (model / "FastSAM-x.pt").write_bytes(b"pickle")
    import hashlib

    digest = hashlib.sha256(b"pickle").hexdigest()
    for values in ({"weights": "FastSAM-x.pt"}, {"weights": str(model / "FastSAM-x.pt"), "sha256": digest}):
        change(model, proposer="fastsam", proposer_settings=values)
        with pytest.raises(TrustError, match=r"pickle.*--trust"):
            load(model)


def test_settings_that_would_be_arguments_are_refused(model):
    for values in (
        {"proposer_settings": {"trust": True}},
        {"proposer_settings": {"name": "x"}},
        {"backbone_settings": {"device": "x"}},
    ):
        change(model, **{"proposer_settings": {}, "backbone_settings": {}, **values})
        with pytest.raises(ConfigError, match="settings that no part has"):
            load(model)


def test_a_recipe_is_the_users_own_word(tmp_path):
    (tmp_path / "masks").mkdir()
    recipe = tmp_path / "near.yaml"
    recipe.write_text(
        "method: omama\nmodel: {matching_head: false, context: false, cross_attention: false, visibility: released,\n"
        f"  backbone: classical, channels: 282, object_channels: 2929, proposer: 'folder:{tmp_path}/masks'}}\n"
    )
    assert load(recipe).proposer.settings()["path"] == f"{tmp_path}/masks"


# ---------------------------------------------------------------------------------------------------------- sizes

LARGE = [
    {"channels": 50_000_000},
    {"hidden": 10**9},
    {"embedding": 10**9},
    {"object_channels": 10**12},
    {"heads": 10**9},
    {"query_grid_hw": [10**6, 10**6]},
    {"target_grid_hw": [1, 10**9]},
    {"channels": 10**4000},
    {"hidden": 16_000, "channels": 16_000},
    {"query_grid_hw": [1000, 1000]},
]


@pytest.mark.parametrize("values", LARGE, ids=lambda v: str(v)[:40])
def test_sizes_are_compared_before_memory_is_asked_for(values, model):
    change(model, **values)
    tracemalloc.start()
    before = _allocated()
    with pytest.raises(CheckpointError) as caught:
        load(model)
    assert _allocated() - before < 200
    tracemalloc.stop()
    line = str(caught.value)
    assert str(model) in line
    assert "\n" not in line
    assert len(line) < 2500


def _allocated() -> float:
    from tests.attacks.runner import _peak

    return _peak()


def test_sizes_of_lmeec(tmp_path):
    folder = small_lmeec(tmp_path / "m")
    path = folder / "config.json"
    original = json.loads(path.read_text())
    hiera = original["model"]["backbone"]
    for values in (
        {"image_size": 32 * 10**6},
        {"channels": 64 * 10**6},
        {"attention_layers": 10**9},
        {"feed_forward": 10**12},
        {"bank_size": 10**9},
        {"max_pointers": 10**9},
        {"channels": 4096, "feed_forward": 60_000, "attention_layers": 200},
        *(
            {"backbone": {**hiera, **part}}
            for part in ({"hidden": 10**9}, {"blocks": [1, 1, 10**9, 1]}, {"background": [10**6, 10**6]})
        ),
    ):
        path.write_text(json.dumps({**original, "model": {**original["model"], **values}}))
        with pytest.raises(CheckpointError) as caught:
            load(folder)
        assert len(str(caught.value)) < 2500


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("graph", {"working_side_px": 10**6}),
        ("graph", {"regions": 10**9, "candidates": 10**9}),
        ("tiny", {"working_px": 10**12}),
        ("sam2", {"points_per_side": 10**6}),
        ("sam2", {"image_size": 32 * 10**6}),
        ("fastsam", {"image_size": 10**9}),
        ("graph", {"max_masks": 10**4000}),
    ],
)
def test_settings_of_proposers_have_bounds(name, settings):
    with pytest.raises(ConfigError) as caught:
        load_proposer(name, **settings)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("settings", [{"longest_side_px": 10**7, "upscale": True}, {"batch_size": 10**9}])
def test_settings_of_features_have_bounds(settings):
    with pytest.raises(ConfigError, match="out of range"):
        load_backbone("dinov2-base-reg", **settings)
    with pytest.raises(ConfigError, match="out of range"):
        load_backbone("classical", longest_side_px=10**7)


# ---------------------------------------------------------------------------------------------------------- files


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of this kind")
def test_files_that_are_no_files(model):
    config, weights = model / "config.json", model / "model.safetensors"
    data, values = config.read_bytes(), weights.read_bytes()

    def refused(words):
        with pytest.raises(CheckpointError, match=words) as caught:
            load(model)
        assert "\n" not in str(caught.value)

    for path, content in ((config, data), (weights, values)):
        path.unlink()
        os.mkfifo(path)
        refused("not a regular file")
        path.unlink()
        for target in ("/dev/zero", "/etc/passwd", "../elsewhere"):
            path.symlink_to(target)
            refused("link out of the model's folder")
            path.unlink()
        path.symlink_to(path.name)
        refused("cannot be read|link out|missing")  # from Python 3.13 on, a link to itself is nothing that exists
        path.unlink()
        path.mkdir()
        refused("is a folder")
        path.rmdir()
        path.write_bytes(content)
    config.write_bytes(b"[" + b"[]," * 400_000 + b"[]]")
    refused("too large")
    config.write_bytes(b'{"method": "omama"')
    refused("not JSON")
    config.write_bytes(data)
    load(model, device="cpu")


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of this kind")
def test_links_inside_a_folder_and_in_the_hubs_cache_are_followed(model, tmp_path):
    home = tmp_path / "models--owner--name"
    (home / "blobs").mkdir(parents=True)
    snapshot = home / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(model.iterdir())):
        shutil.copy(path, home / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert load(snapshot, device="cpu").matcher.name == "tiny-match"
    (model / "model.safetensors").rename(model / "weights")
    (model / "model.safetensors").symlink_to("weights")
    (tmp_path / "outer").symlink_to(model)
    assert load(tmp_path / "outer", device="cpu").matcher.name == "tiny-match"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_name_their_file(value, model, tmp_path):
    path = model / "model.safetensors"
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<Q", data)
    name, place = next((k, v) for k, v in json.loads(data[8 : 8 + length]).items() if v.get("dtype") == "F32")
    struct.pack_into("<f", data, 8 + length + place["data_offsets"][0], value)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: the weights are not finite: {name}"):
        load(model)
    network = dino(tmp_path / "dino")
    state = transformers.Dinov2Model.from_pretrained(network)
    with torch.no_grad():
        state.layernorm.bias[0] = value
    state.save_pretrained(network)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: the weights are not finite: layernorm\.bias"):
        load_backbone(str(network), "cpu")


def test_first_version_files_with_values_of_any_type(tmp_path):
    for model in ({"learned_backbone": True, "backbone_settings": 7}, {"residual": [1], "scene": 3}, {"own": {}}):
        (tmp_path / "config.json").write_text(json.dumps({"method": "omama", "format_version": 1, "model": model}))
        with pytest.raises(CounterviewError) as caught:
            load(tmp_path)
        assert str(tmp_path) in str(caught.value)
        with pytest.raises(CheckpointError):
            OMaMa.from_pretrained(tmp_path)


# ---------------------------------------------------------------------------------------------------- transformers


def dino(folder: Path, **values) -> Path:
    config = transformers.Dinov2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, mlp_ratio=1, image_size=28, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    if values:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


HOSTILE = {
    "code of its own": (
        {"model_type": "mine", "auto_map": {"AutoConfig": "run.Config", "AutoModel": "run.Model"}},
        "unsupported kind",
    ),
    "unknown kind": ({"model_type": "resnet"}, "unsupported kind"),
    "kind of another type": ({"model_type": {"a": 1}}, "unsupported kind"),
    "a quantiser": ({"quantization_config": {"quant_method": "bitsandbytes"}}, "asks for quantization_config"),
    "kernels": ({"attn_implementation": "owner/kernels"}, "asks for attn_implementation"),
    "wide": ({"hidden_size": 50_000_000}, "'hidden_size' is too large"),
    "wide within bounds": (
        {"hidden_size": 60_000, "num_attention_heads": 10},
        "larger network than the weights|do not fit",
    ),
    "deep": ({"num_hidden_layers": 10**9}, "'num_hidden_layers' is too large"),
    "deep within bounds": ({"num_hidden_layers": 200}, "larger network|do not fit|cannot be read"),
    "large image": ({"image_size": 900_000}, "larger network|do not fit|cannot be built"),
    "text": ({"hidden_size": "many"}, "cannot be"),
    "lists": ({"mlp_ratio": [1, 2]}, "cannot be|do not fit"),
    "many values": ({"x": [0] * 200_000}, "too many values|too large"),
    "not finite": ({"layer_norm_eps": float("nan")}, ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_folders_of_transformers(name, tmp_path, capfd):
    values, words = HOSTILE[name]
    folder = dino(tmp_path / "dino", **values)
    capfd.readouterr()  # the progress of writing
    (folder / "run.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    if words:
        with pytest.raises((CheckpointError, ConfigError), match=words) as caught:
            load_backbone(str(folder), "cpu")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of this kind")
def test_adapters_and_indices_that_lead_elsewhere(tmp_path):
    folder = dino(tmp_path / "a")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/name"}')
    with pytest.raises(CheckpointError, match="adapter"):
        load_backbone(str(folder), "cpu")
    folder = dino(tmp_path / "b")
    for content in ({"weight_map": {"a": "../a/model.safetensors"}}, {"weight_map": 3}, []):
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match="names files that are not in its folder"):
            load_backbone(str(folder), "cpu")
    folder = dino(tmp_path / "c")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="link out"):
        load_backbone(str(folder), "cpu")
    with pytest.raises(CheckpointError, match=r"cannot be read.*link out"):
        load_proposer(f"sam2:{folder}")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(CheckpointError, match="plain tensors"):
        check_network_folder(folder)
    assert check_network_folder(dino(tmp_path / "d"))["model_type"] == "dinov2"
    assert (MAX_LAYERS, MAX_NUMBER) == (256, 1_000_000)


def test_every_automatic_class_of_transformers_runs_no_code():
    """What picks a class by a folder's ``auto_map`` is told not to."""
    import ast

    source = Path(__file__).parents[2] / "src"
    calls = 0
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and "Auto" in ast.unparse(node.func):
                calls += 1
                given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert given.get("trust_remote_code") == "False", f"{path}:{node.lineno}"
    assert calls >= 1


def test_names_that_are_neither_folder_nor_repository():
    for name in ("http://a.b/c", "a\0b", "x" * 500, "../../etc/passwd/x"):
        with pytest.raises((ConfigError, WeightsError)):
            load_backbone(name)
        with pytest.raises((ConfigError, WeightsError, CheckpointError)):
            load_proposer(f"sam2:{name}")
