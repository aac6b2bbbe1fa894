"""Networks built from their published configurations with random weights, loaded as a user's would be."""

import shutil

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file

from counterview.devices import resolve_device, resolve_dtype
from counterview.errors import CheckpointError, ConfigError, ImageError, WeightsError
from counterview.features import backbone as module
from counterview.features.backbone import HUB_IDS, input_size, load_backbone, resize_image
from counterview.features.base import Backbone
from counterview.types import ObjectMask

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def save(folder, model_class, config_class, **values):
    torch.manual_seed(0)
    model_class(config_class(**values)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folders of small networks, by model type."""
    t, root = transformers, tmp_path_factory.mktemp("tiny")
    vision = {**SMALL, "intermediate_size": 64, "patch_size": 16, "image_size": 64}
    text = {**SMALL, "intermediate_size": 32, "vocab_size": 64}
    return {
        "dinov2": save(root / "a", t.Dinov2Model, t.Dinov2Config, **SMALL, patch_size=14, image_size=70),
        "dinov2_with_registers": save(
            root / "b",
            t.Dinov2WithRegistersModel,
            t.Dinov2WithRegistersConfig,
            **SMALL,
            patch_size=14,
            image_size=70,
            num_register_tokens=4,
        ),
        "dinov3_vit": save(
            root / "c", t.DINOv3ViTModel, t.DINOv3ViTConfig, **SMALL, intermediate_size=64, num_register_tokens=4
        ),
        "clip": save(root / "d", t.CLIPModel, t.CLIPConfig, text_config=text, vision_config=vision),
        "clip_vision_model": save(root / "e", t.CLIPVisionModel, t.CLIPVisionConfig, **vision),
    }


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def put_into_hub_cache(folder, repository, cache):
    """Lay a folder out as huggingface_hub keeps what it has fetched."""
    home = cache / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, home / "snapshots" / ("0" * 40))


@pytest.mark.parametrize(
    ("name", "model_class", "config_class", "values", "cells", "prefix"),
    [
        (
            "dinov2-base-reg",
            "Dinov2WithRegistersModel",
            "Dinov2WithRegistersConfig",
            {"patch_size": 14, "image_size": 518, "num_register_tokens": 4},
            (5, 7),
            5,
        ),
        (
            "clip",
            "CLIPVisionModel",
            "CLIPVisionConfig",
            {
                "hidden_size": 768,
                "intermediate_size": 3072,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "patch_size": 16,
                "image_size": 224,
            },
            (4, 6),
            1,
        ),
    ],
)
def test_published_architectures_by_their_hub_id(
    tmp_path, monkeypatch, name, model_class, config_class, values, cells, prefix
):
    folder = save(tmp_path / "m", getattr(transformers, model_class), getattr(transformers, config_class), **values)
    repository = HUB_IDS[module.ALIASES.get(name, name)]
    put_into_hub_cache(folder, repository, tmp_path / "hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    image = random_image(75, 100)
    by_name, by_id, by_folder = (load_backbone(n, "cpu") for n in (name, repository, str(folder)))
    features = by_name.encode(image)
    assert features.tensor.shape == (768, *cells)
    assert features.image_hw == (75, 100)
    assert features.input_hw == (cells[0] * by_name.stride, cells[1] * by_name.stride)
    for other in (by_id, by_folder):
        torch.testing.assert_close(other.encode(image).tensor, features.tensor, rtol=0, atol=0)
    assert by_name.settings()["source"] == repository
    assert by_name.settings()["weights"] == "0" * 40
    # The map is the network's own patch tokens, row by row.
    pixels = resize_image(image, *input_size((75, 100), by_name.stride)) / 255.0
    mean, std = module.CLIP if name == "clip" else module.IMAGENET
    batch = torch.tensor(((pixels - mean) / std).transpose(2, 0, 1)[None], dtype=torch.float32)
    extra = {"interpolate_pos_encoding": True} if name == "clip" else {}
    with torch.no_grad():
        hidden = by_name.model(pixel_values=batch, **extra).last_hidden_state[0, prefix:]
        hidden = by_name.model.post_layernorm(hidden) if name == "clip" else hidden
    assert hidden.shape[0] == cells[0] * cells[1]
    torch.testing.assert_close(features.tensor[:, 1, 2], hidden[cells[1] + 2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["dinov2", "dinov2_with_registers", "dinov3_vit", "clip", "clip_vision_model"])
def test_any_size_in_any_batch_always_the_same(tiny, family):
    backbone = load_backbone(str(tiny[family]), "cpu", batch_size=2)
    assert isinstance(backbone, Backbone)
    assert backbone.channels == 32
    images = [
        random_image(60, 90, 1),
        random_image(90, 60, 2),
        random_image(60, 90, 3),
        random_image(5, 9, 4),
        random_image(60, 90, 5),
    ]
    together = backbone(images)
    for image, features in zip(images, together, strict=True):
        stride = backbone.stride
        assert features.tensor.shape[1:] == (features.input_hw[0] // stride, features.input_hw[1] // stride)
        assert not features.tensor.requires_grad
        assert torch.isfinite(features.tensor).all()
        torch.testing.assert_close(backbone.encode(image).tensor, features.tensor, rtol=0, atol=2e-5)
    again = load_backbone(str(tiny[family]), "cpu", batch_size=2)(images)
    for a, b in zip(together, again, strict=True):
        torch.testing.assert_close(a.tensor, b.tensor, rtol=0, atol=0)


def test_settings_tell_other_weights_apart(tiny, tmp_path):
    before = load_backbone(str(tiny["dinov2"]), "cpu").settings()
    assert before == load_backbone(str(tiny["dinov2"]), "cpu").settings()
    shutil.copytree(tiny["dinov2"], tmp_path / "other")
    tensors = load_file(tmp_path / "other" / "model.safetensors")
    tensors["layernorm.bias"] += 1
    save_file(tensors, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    assert before["weights"] != load_backbone(str(tmp_path / "other"), "cpu").settings()["weights"]


def test_maps_can_be_trained_on(tiny):
    """Frozen, but no inference tensors: a head behind them must be able to keep them for its backward pass."""
    features = load_backbone(str(tiny["dinov2"]), "cpu").encode(random_image(40, 40))
    head = torch.nn.Linear(32, 1)
    head(features.tensor.flatten(1).T).sum().backward()
    assert head.weight.grad is not None


def test_describe_pools_the_map(tiny):
    backbone = load_backbone(str(tiny["dinov2"]), "cpu")
    features = backbone.encode(random_image(60, 90))
    everything = ObjectMask.from_array(np.ones((60, 90), dtype=bool))
    plain = torch.nn.functional.interpolate(features.tensor[None], features.grid.points_hw, mode="bilinear")
    result = backbone.describe(features, [everything], context_px=10)
    assert result.shape == (1, 64)
    torch.testing.assert_close(result[0, :32], plain.mean((2, 3))[0], rtol=0, atol=1e-5)


def test_half_precision_is_close(tiny):
    image = random_image(60, 90)
    full = load_backbone(str(tiny["dinov2"]), "cpu").encode(image).tensor
    half = load_backbone(str(tiny["dinov2"]), "cpu", dtype="bfloat16")
    assert half.settings()["dtype"] == "bfloat16"
    tensor = half.encode(image).tensor
    assert tensor.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(tensor.float(), full, dim=0).min() > 0.99


def test_sizes_are_those_of_omama():
    assert input_size((704, 704), 14)[1] == (700, 700)
    assert input_size((540, 960), 14) == ((540, 960), (532, 952))
    assert input_size((960, 540), 14)[1] == (952, 532)
    assert input_size((2160, 3840), 14) == ((540, 960), (532, 952))
    assert input_size((1408, 1408), 14, 704) == ((704, 704), (700, 700))
    assert input_size((100, 50), 14, 200) == ((100, 50), (98, 42))
    assert input_size((100, 50), 14, 200, upscale=True) == ((200, 100), (196, 98))
    assert input_size((3, 4000), 16) == ((1, 960), (16, 960))
    assert input_size((2160, 3840), 16, None) == ((2160, 3840), (2160, 3840))


def test_images_of_omamas_sizes_are_resized_by_nearest_neighbour():
    image = random_image(540, 960)
    resized = resize_image(image, *input_size((540, 960), 14))
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    expected = torch.nn.functional.interpolate(tensor, (532, 952), mode="nearest")[0].permute(1, 2, 0)
    np.testing.assert_array_equal(resized, expected.numpy().astype(np.uint8))
    flat = resize_image(np.full((1000, 2000, 3), 77, dtype=np.uint8), *input_size((1000, 2000), 14))
    assert (flat == 77).all()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dinov2-bas", "dinov2-base"),
        ("clasical", "classical"),
        ("./no/such/folder", "no such folder"),
        ("a/b/c", "no such folder"),
        ("x" * 400, "unknown features"),
        ("nul\0byte", "unknown features"),
        ("", "unknown features"),
    ],
)
def test_unknown_names(name, words):
    with pytest.raises(ConfigError, match=words):
        load_backbone(name, "cpu")


def test_unknown_settings_and_kinds(tiny, tmp_path):
    with pytest.raises(ConfigError, match="longest_side_px"):
        load_backbone(str(tiny["dinov2"]), "cpu", longest_side=3)
    for wrong in ({"batch_size": 0}, {"longest_side_px": 0}, {"dtype": "int8"}, {"std": (0.0, 1.0, 1.0)}):
        with pytest.raises(ConfigError):
            load_backbone(str(tiny["dinov2"]), "cpu", **wrong)
    transformers.ResNetConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="resnet"):
        load_backbone(str(tmp_path), "cpu")
    with pytest.raises(ImageError):
        load_backbone(str(tiny["dinov2"]), "cpu").encode(np.zeros((4, 4)))


@pytest.mark.parametrize("damage", ["cut", "none", "missing", "shape", "config"])
def test_damaged_folders(tiny, tmp_path, damage):
    folder = tmp_path / "model"
    shutil.copytree(tiny["dinov2"], folder)
    weights = folder / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "none":
        weights.unlink()
    elif damage == "config":
        (folder / "config.json").write_text("{")
    else:
        tensors = load_file(weights)
        key = "encoder.layer.0.mlp.fc1.weight"
        value = tensors.pop(key)
        if damage == "shape":
            tensors[key] = value[:3].contiguous()
        save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        load_backbone(str(folder), "cpu")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def refuse(error):
    def check(self, *args, **kwargs):
        raise error

    return check


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("gated", "https://huggingface.co/facebook/dinov3-vitb16-pretrain-lvd1689m, then run `hf auth login`"),
        ("missing", "no such repository"),
        ("offline", "cannot be reached"),
    ],
)
def test_weights_that_cannot_be_had(tmp_path, monkeypatch, error, words):
    # Made without their response: which HTTP library that comes from depends on huggingface_hub's version.
    errors = {
        "gated": GatedRepoError.__new__(GatedRepoError),
        "missing": RepositoryNotFoundError.__new__(RepositoryNotFoundError),
        "offline": ConnectionError("no route"),
    }
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.auth_check", refuse(errors[error]))
    with pytest.raises(WeightsError) as caught:
        load_backbone("dinov3", "cpu")
    message = str(caught.value)
    assert words in message
    assert "--features classical" in message
    assert "\n" not in message
    assert caught.value.exit_code == 1


def test_without_a_network_the_error_comes_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="not on this machine"):
        load_backbone("dinov2-base-reg", "cpu")


def test_devices_and_dtypes():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    assert resolve_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(ConfigError, match="cpu"):
        resolve_device("cpuu")
    with pytest.raises(ConfigError, match="is not available"):
        resolve_device("cuda:99")
    with pytest.raises(ConfigError, match="float16"):
        resolve_dtype("floot16")
