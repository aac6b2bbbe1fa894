"""Masks sampled as the released code samples them: from their own size to the input's by nearest neighbour, then every
fourth pixel; and what else the released recipes set."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from counterview.config import load_config
from counterview.features.base import FeatureMap
from counterview.masks.geometry import fit_mask
from counterview.masks.lattice import lattice_runs
from counterview.omama import OMaMa, OMaMaConfig
from counterview.omama.config import DescriptorConfig
from counterview.omama.descriptors import describe_each, describe_masks
from counterview.omama.training.image_store import ImageStore
from counterview.omama.training.recipe import OMaMaRecipe
from counterview.omama.training.task import OMaMaTask
from counterview.training.recipe import load_recipe
from counterview.types import ObjectMask
from tests.omama.tiny_takes import write_takes

RECIPES = Path(__file__).parents[2] / "recipes" / "omama"
RELEASED = DescriptorConfig(fallback="zeros", mask_size="input")
INPUT_HW = {(2160, 3840): (532, 952), (1408, 1408): (700, 700)}


def ellipse(size_hw, centre_yx, radii_yx):
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    return ((y - centre_yx[0]) / radii_yx[0]) ** 2 + ((x - centre_yx[1]) / radii_yx[1]) ** 2 <= 1


def released_points(mask, input_hw):
    """Row i of the pooling grid is row ``4i * H // h`` of the mask, and columns likewise."""
    rows = 4 * np.arange(input_hw[0] // 4) * mask.shape[0] // input_hw[0]
    columns = 4 * np.arange(input_hw[1] // 4) * mask.shape[1] // input_hw[1]
    return mask[np.ix_(rows, columns)]


def sampled(mask, image_hw, input_hw, mask_size):
    """The points of the pooling grid inside a mask, as our descriptors sample it."""
    points_hw = (input_hw[0] // 4, input_hw[1] // 4)
    size_hw = input_hw if mask_size == "input" else image_hw
    runs = lattice_runs([fit_mask(ObjectMask.from_array(mask), size_hw)], size_hw, points_hw)
    grid = np.zeros(points_hw, bool)
    for column, top, bottom in zip(runs.column, runs.top, runs.bottom, strict=True):
        grid[top:bottom, column] = True
    return grid


@pytest.fixture(scope="module")
def cases(fixture_data):
    return fixture_data("omama/sampling.json")["cases"]


def test_points_are_those_of_the_released_code(cases):
    for case in cases:
        native, input_hw = tuple(case["native_hw"]), tuple(case["input_hw"])
        mask = ellipse(native, case["centre_yx"], case["radii_yx"])
        expected = released_points(mask, input_hw)
        assert (int(expected.sum()), int((expected @ np.arange(expected.shape[1])).sum())) == (
            case["points"],
            case["column_sum"],
        )
        ours = sampled(mask, tuple(case["image_hw"]), input_hw, "input")
        assert np.array_equal(ours, expected)


def test_the_way_through_the_prepared_image_shifts_the_points_of_small_masks(cases):
    """Why the setting exists: sampled at the prepared image's size, small masks have other points."""
    agreement = []
    for case in cases:
        mask = ellipse(tuple(case["native_hw"]), case["centre_yx"], case["radii_yx"])
        expected = released_points(mask, tuple(case["input_hw"]))
        ours = sampled(mask, tuple(case["image_hw"]), tuple(case["input_hw"]), "image")
        agreement.append((ours & expected).sum() / max(1, (ours | expected).sum()))
    assert np.mean(agreement) < 0.97


@pytest.mark.parametrize("native_hw", INPUT_HW)
def test_descriptors_are_means_over_those_points(native_hw):
    """Against a bilinear upsampling to a quarter of the input and a mean over the points, all dense."""
    input_hw = INPUT_HW[native_hw]
    image_hw = (540, 960) if native_hw[0] == 2160 else (704, 704)
    torch.manual_seed(0)
    tensor = torch.randn(5, input_hw[0] // 14, input_hw[1] // 14)
    features = FeatureMap(tensor, image_hw, input_hw)
    rng = np.random.default_rng(1)
    masks = [ellipse(native_hw, rng.uniform(0.1, 0.9, 2) * native_hw, rng.uniform(6, 90, 2)) for _ in range(12)]
    masks.append(ellipse(native_hw, (1001.0, 1001.0), (0.5, 0.5)))
    found = describe_masks(RELEASED, None, features, [ObjectMask.from_array(mask) for mask in masks]).numpy()
    points_hw = (input_hw[0] // 4, input_hw[1] // 4)
    dense = functional.interpolate(tensor[None].double(), points_hw, mode="bilinear", align_corners=False)[0].numpy()
    for row, mask in zip(found, masks, strict=True):
        points = released_points(mask, input_hw)
        expected = dense[:, points].mean(axis=1) if points.any() else np.zeros(5)
        assert np.allclose(row[:5], expected, atol=1e-5)
        at_input = mask[np.ix_(*(np.arange(n) * m // n for n, m in zip(input_hw, native_hw, strict=True)))]
        if not at_input.any():
            continue
        ys, xs = np.nonzero(at_input)
        low = np.maximum(np.array([ys.min(), xs.min()]) - 100, 0) // 4
        high = np.minimum(np.array([ys.max(), xs.max()]) + 100, input_hw) // 4
        context = dense[:, low[0] : high[0], low[1] : high[1]].mean(axis=(1, 2))
        assert np.allclose(row[5:], context, atol=1e-5)
    assert not found[-1, :5].any()  # the one-pixel mask misses the grid


def test_stored_boxes_are_used_for_the_context_as_they_are():
    features = FeatureMap(torch.randn(3, 38, 68), (540, 960), (532, 952))
    mask = ObjectMask.from_array(ellipse((532, 952), (200, 300), (20, 30)))
    own = describe_masks(RELEASED, None, features, [mask])
    boxes = np.array([[270.0, 180.0, 60.0, 40.0]])
    stored = describe_masks(RELEASED, None, features, [mask], boxes)
    larger = describe_masks(RELEASED, None, features, [mask], np.array([[100.0, 100.0, 400.0, 300.0]]))
    assert torch.equal(own[:, :3], larger[:, :3])
    assert torch.equal(own[:, 3:], stored[:, 3:])
    assert not torch.allclose(own[:, 3:], larger[:, 3:])
    at_native = ObjectMask.from_array(ellipse((2128, 3808), (800, 1200), (80, 120)))
    scaled = describe_masks(RELEASED, None, features, [at_native], boxes * 4)
    assert torch.allclose(scaled[:, 3:], stored[:, 3:])


@pytest.mark.parametrize("direction", ["ego2exo", "exo2ego"])
def test_released_recipes_and_weights_say_so(direction):
    recipe = load_recipe(RECIPES / f"released-{direction}.yaml")
    assert recipe.config.model == OMaMaConfig.released(direction)
    assert recipe.config.model.descriptor == RELEASED
    assert recipe.config.data.targets == "official"
    assert recipe.config.decay == "all"
    assert recipe.training.weight_decay == 0.01
    assert load_recipe(RECIPES / f"main-{direction}.yaml").config.data.targets == "annotated"


def test_weight_decay_acts_on_every_parameter(place, tmp_path):
    task = OMaMaTask(_recipe(place, tmp_path, decay="all"))
    model = task.build_model()
    groups = task.parameter_groups(model, 8e-5, 0.01)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert decay.get(id(parameter)) == (0.01 if parameter.requires_grad else None), name


def test_pairs_without_a_target_mask_count_in_the_mean_and_have_no_loss(place, tmp_path):
    """Frames of which the target was not annotated are among them, as in the lists of the released code."""
    with_all = OMaMaTask(_recipe(place, tmp_path, unannotated=True))
    annotated = OMaMaTask(_recipe(place, tmp_path))
    assert len(with_all.train_pairs) >= len(annotated.train_pairs)
    index = next(i for i, (_, pair) in enumerate(with_all.train_pairs) if not pair.target_visible)
    shown = next(i for i, (_, pair) in enumerate(with_all.train_pairs) if pair.target_visible)
    model = with_all.build_model()
    rng = np.random.default_rng(0)
    absent, visible = (with_all.sample(0, i, rng) for i in (index, shown))
    assert not absent.visible
    alone = with_all.loss(model, with_all.collate([visible]))[0]
    both = with_all.loss(model, with_all.collate([visible, absent]))[0]
    assert with_all.loss(model, with_all.collate([absent]))[0] == 0
    assert torch.allclose(both, alone / 2, rtol=1e-5)


def test_unannotated_targets_are_not_taken_for_absent_ones(place, tmp_path):
    values = _values(place, tmp_path)
    values["data"]["unannotated"] = True
    values["model"]["visibility"] = "trained"
    with pytest.raises(Exception, match="nobody annotated"):
        load_config(OMaMaRecipe, values)


def test_portrait_images_are_stretched_in_training_alone(place, tmp_path):
    write_takes(tmp_path / "data", frames=1, splits={"train": 1, "val": 1}, sizes=((112, 112), (140, 84)))
    values = _values(place, tmp_path)
    values["data"] |= {"root": str(tmp_path / "data"), "stretch_portrait": True}
    task = OMaMaTask(load_config(OMaMaRecipe, values))
    take, validated = task.train_data.takes[0], task.val_data.takes[0]
    camera = take.exo_cameras[0]
    stretched = task.store.record(take, camera, 0)
    assert stretched.size_hw == (84, 140)
    assert task.store.map(take, camera, 0).shape[1:] == (12, 20)
    assert task.validator.store.record(validated, camera, 0).size_hw == (140, 84)
    kept = ImageStore(task.store.config, tmp_path / "kept", backbone=task.store.backbone.backbone)
    assert kept.record(take, camera, 0).size_hw == (140, 84)
    overlap = task.store.objects(take, camera, 0).overlap.max(axis=1)
    assert np.median(overlap) > 0.5  # truth and proposals were stretched alike


def test_annotated_masks_of_any_size_are_described(place):
    features = FeatureMap(torch.randn(3, 4, 6), (32, 48), (28, 42))
    squashed = [ObjectMask.from_array(ellipse(size, (20, 20), (9, 9))) for size in ((64, 48), (32, 96))]
    assert describe_each(RELEASED, None, features, squashed).shape == (2, 6)


def _values(place, tmp_path):
    values = json.loads(json.dumps(place[1]))
    values["data"]["cache"] = str(tmp_path / "cache")
    values["model"] |= {"visibility": "released", "descriptor": {"fallback": "zeros", "mask_size": "input"}}
    values["sampling"] = {"mining": "released", "candidates": 8}
    return values


def _recipe(place, tmp_path, *, decay="weights", unannotated=False):
    values = {**_values(place, tmp_path), "decay": decay}
    values["data"]["unannotated"] = unannotated
    return load_config(OMaMaRecipe, values)


def test_released_configuration_is_used_by_converted_weights(released):
    for direction, state in released.items():
        model = OMaMa.from_released(state)
        assert model.config == OMaMaConfig.released(direction)
        assert dataclasses.asdict(model.config.descriptor)["mask_size"] == "input"
