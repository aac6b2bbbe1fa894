"""Names of models: the method of a folder is in its ``config.json``; the same names work everywhere."""

import pytest

from counterview import load
from counterview.errors import CheckpointError, ConfigError, WeightsError
from counterview.inference.loading import load_take_predictor
from counterview.inference.takes import FramePredictor
from counterview.inference.zoo import method_of, recipes_root, resolve
from counterview.masks.geometry import iou
from counterview.media.files import write_json
from tests.inference.fakes import scene
from tests.inference.small_models import as_run, small_tiny_match


def test_the_method_of_a_folder(tmp_path):
    write_json(tmp_path / "a" / "config.json", {"method": "omama", "format_version": 1, "model": {}})
    write_json(tmp_path / "b" / "config.json", {"format": "counterview-lmeec", "version": 1, "model": {}})
    new = {"format": "counterview", "format_version": 2, "model": {}}
    for method in ("omama", "tiny-match", "lmeec", "tiny-follow"):
        write_json(tmp_path / method / "config.json", {**new, "method": method})
        assert method_of(tmp_path / method) == method
    write_json(tmp_path / "d" / "config.json", {**new, "method": "knn"})
    with pytest.raises(CheckpointError, match="unknown method; found knn"):
        method_of(tmp_path / "d")
    write_json(tmp_path / "c" / "config.json", {"model_type": "bert"})
    assert method_of(tmp_path / "a") == "omama"
    assert method_of(tmp_path / "b") == "lmeec"
    with pytest.raises(CheckpointError, match="not a checkpoint of Counterview"):
        method_of(tmp_path / "c")
    with pytest.raises(CheckpointError, match="no such file"):
        method_of(tmp_path)


def test_unknown_names_and_options_are_refused(tmp_path):
    assert isinstance(load_take_predictor("knn"), FramePredictor)
    with pytest.raises(ConfigError, match="no model"):
        load_take_predictor("kn")
    write_json(tmp_path / "config.json", {"format": "counterview-lmeec", "version": 1, "model": {}})
    with pytest.raises(ConfigError, match="takes no --features"):
        load_take_predictor(tmp_path, features="classical")


def test_names_mean_the_same_for_images_and_for_takes(with_bundled, tmp_path, monkeypatch):
    run = as_run(small_tiny_match(tmp_path / "m"), tmp_path / "run")
    assert resolve("knn").method == "knn"
    assert resolve("base").options == {"features": "dinov2-base-reg", "proposals": "sam2"}
    assert resolve("tiny").name == resolve("tiny-match").name == "tiny-match"
    assert resolve("tiny-follow").method == "lmeec"
    assert resolve(run).folder == resolve(run / "model").folder == run / "model"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert resolve("tiny").folder == with_bundled / "tiny-match", "the name of a bundled model comes first"
    with pytest.raises(CheckpointError, match="no such file"):
        resolve("./tiny")
    for bad, near in (("tyny", "tiny"), ("knnn", "knn")):
        with pytest.raises(ConfigError, match=f"'{near}'"):
            load(bad)
        with pytest.raises(ConfigError, match=f"'{near}'"):
            load_take_predictor(bad)


def test_a_recipe_means_the_folder_of_its_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("omama/main-ego2exo", "omama/main-ego2exo.yaml"):
        with pytest.raises(CheckpointError, match="has not been trained here") as caught:
            load(name)
        assert "counterview train" in str(caught.value)
    small_tiny_match(tmp_path / "runs" / "main-ego2exo" / "model")
    for name in ("omama/main-ego2exo", str(recipes_root() / "omama" / "main-ego2exo.yaml")):
        assert load(name).settings()["matcher"]["name"] == "tiny-match"
    with pytest.raises(ConfigError, match="no such recipe"):
        load("omama/man-ego2exo.yaml")
    with pytest.raises(ConfigError, match="omama/main-ego2exo"):
        load("omama/main-ego2ex.yaml")


def test_a_recipe_of_nearest_neighbour_needs_no_training(tmp_path):
    recipe = tmp_path / "near.yaml"
    recipe.write_text(
        "method: omama\nmodel: {matching_head: false, context: false, cross_attention: false, visibility: released,\n"
        "  backbone: classical, channels: 282, object_channels: 2929, proposer: graph,\n"
        "  proposer_settings: {max_masks: 20, working_side_px: 160, regions: 100}, descriptor: {pooling: mask}}\n"
    )
    image, masks = scene({"red": (5, 5), "green": (40, 30)})
    model = load(recipe)
    match = model.match(image, masks["red"], image)[0]
    assert match.similarity > 0.98
    assert iou(match.mask_rle, masks["red"]) > 0.7
    assert model.settings()["matcher"]["weights"] == load(recipe).settings()["matcher"]["weights"]


@pytest.mark.parametrize("name", ["somebody/something", "base"])
def test_a_hub_id_without_network_is_an_error_with_what_works_offline(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        load(name)
    text = str(caught.value)
    assert "\n" not in text
    assert "knn" in text or "classical" in text


def test_a_hub_repository_in_the_cache_is_a_folder(tmp_path, monkeypatch):
    folder = small_tiny_match(tmp_path / "m")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    assert resolve("somebody/something").folder == folder
    assert load("somebody/something").matcher.source == "somebody/something"
