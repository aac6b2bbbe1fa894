"""Training of maps and head end to end: what crops show, which pairs a batch has, that both learn together."""

import json

import numpy as np
import pytest
import torch

from counterview.config import load_config
from counterview.errors import ConfigError
from counterview.features.tiny_pooling import TinyMaps
from counterview.proposals import Proposals
from counterview.tiny import TinyMatch, TinyMatchConfig
from counterview.tiny.training.crop_batches import collate_crops, describe_crops
from counterview.tiny.training.head_task import TinyMatchHeadRecipe, TinyMatchHeadTask
from counterview.tiny.training.image_crops import Crop, CropConfig, draw_crop
from counterview.tiny.training.maps_task import MapsRecipe, MapsTask, moments
from counterview.training.fit import fit
from counterview.training.recipe import load_recipe
from counterview.training.task import Task
from counterview.types import ObjectMask

PLAIN = CropConfig(size_px=96, zoom_min=1, zoom_max=1, degrees=0, flip=0, colour=0, blur=0, distractors=4)


def recipe_values(place, **training) -> dict:
    root, values = place
    backbone = {"widths": [8, 12, 16, 24, 32], "blocks": [1, 1, 1, 1], "channels": 16, "fine": 8, "colours": 8}
    model = {
        "backbone": "tiny",
        "channels": 16,
        "object_channels": 8 + 2 * 24 + 6,
        "hidden": 32,
        "embedding": 16,
        "heads": 2,
        "query_grid_hw": [6, 6],
        "target_grid_hw": [6, 6],
        "descriptor": {"context_px": 20},
        "proposer": "graph",
        "proposer_settings": values["model"]["proposer_settings"],
    }
    base = {"epochs": 1, "max_steps": 4, "batch_size": 2, "lr": 3e-3, "trackers": [], "device": "cpu", "seed": 0}
    return {
        "method": "tiny-match-maps",
        "training": base | training,
        "data": values["data"] | {"cache": str(root / "cache-e2e")},
        "model": {"omama": model, "network": backbone, "attention_downscale": 2},
        "end_to_end": {"views": 2},
        "crops": {"size_px": 96, "zoom_min": 0.7, "zoom_max": 1.2, "distractors": 4},
        "loss": {"visibility": 0.5},
    }


@pytest.fixture(scope="module")
def task(place):
    torch.set_num_threads(1)
    return load_recipe(recipe_values(place)).build_task()


def scene():
    image = np.full((120, 150, 3), 90, dtype=np.uint8)
    masks = {}
    for name, (y, x, colour) in {"red": (60, 75, (220, 30, 30)), "blue": (62, 110, (30, 40, 220))}.items():
        mask = np.zeros((120, 150), dtype=bool)
        mask[y - 8 : y + 8, x - 8 : x + 8] = True
        image[mask] = colour
        masks[name] = mask
    return image, masks


@pytest.mark.parametrize("zoom", [0.5, 1.0, 1.6])
@pytest.mark.parametrize("mirrored", [False, True])
def test_masks_move_with_their_image(zoom, mirrored):
    """The oracle is colour: inside the mask of the red object the crop is red, whatever was done to both."""
    image, masks = scene()
    config = CropConfig(size_px=96, zoom_min=zoom, zoom_max=zoom, degrees=20, colour=0, blur=0, distractors=0)
    for seed in range(6):
        crop = draw_crop(config, image, masks, frozenset(), [], mirrored, np.random.default_rng(seed))
        half = crop.pixels.reshape(3, 48, 2, 48, 2).astype(float).mean((2, 4))
        for name, mask in zip(crop.names, crop.masks, strict=True):
            strong, weak = (0, 2) if name == "red" else (2, 0)
            inside = mask & np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1)
            inside &= np.roll(mask, -1, 1)
            assert inside.any()
            assert (half[strong] > half[weak] + 60)[inside].mean() > 0.9


def test_an_object_outside_the_crop_is_absent_and_one_at_its_edge_is_unknown():
    image, masks = scene()
    config = CropConfig(size_px=64, zoom_min=2, zoom_max=2, degrees=0, colour=0, blur=0, distractors=0, keep=0.9)
    states = set()
    for seed in range(60):
        crop = draw_crop(config, image, masks, frozenset({"never"}), [], False, np.random.default_rng(seed))
        assert "never" in crop.absent
        for name in masks:
            state = "visible" if name in crop.names else "absent" if name in crop.absent else "unknown"
            states.add(state)
            assert (state == "visible") + (name in crop.absent) <= 1
    assert states == {"visible", "absent", "unknown"}


def test_distractors_are_proposals_where_there_are_any():
    image, masks = scene()
    corner = np.zeros((120, 150), dtype=bool)
    corner[40:80, 60:90] = True
    crop = draw_crop(PLAIN, image, masks, frozenset(), [corner], False, np.random.default_rng(0))
    assert len(crop.masks) == len(crop.names) + PLAIN.distractors
    made_up = draw_crop(PLAIN, image, {"corner": corner} | masks, frozenset(), [], False, np.random.default_rng(0))
    assert made_up.masks.any((1, 2)).all()


def test_real_proposals_become_distractors_where_the_recipe_says_so(place, monkeypatch):
    values = recipe_values(place)
    values["crops"] |= {"zoom_min": 1, "zoom_max": 1, "degrees": 0}
    keys = []
    for proposals in (False, True):
        values["end_to_end"] = {"views": 2, "proposals": proposals}
        task = load_recipe(values).build_task()

        def whole_image(image, key):
            keys.append(key)
            mask = ObjectMask.from_array(np.ones(image.shape[:2], dtype=bool))
            return Proposals(image.shape[:2], (mask,), np.ones(1, dtype=np.float32))

        monkeypatch.setattr(task, "proposer", whole_image)
        _, crops = task.sample(0, 0, np.random.default_rng(3))
        # A distractor that covers most of the crop is the only proposal; made-up ones are pieces near objects.
        covered = [crop.masks[len(crop.names) :].mean((1, 2)).max() > 0.6 for crop in crops]
        assert all(len(crop.masks) == len(crop.names) + 4 for crop in crops)
        assert covered == [proposals] * 2
    take, frame = task.moments[0].take, task.moments[0].frame
    assert sorted(keys) == [f"{take}/{camera}/{frame}" for camera in ("aria01", "cam01")]


def crop_of(names, absent=(), count=5):
    masks = np.zeros((count, 32, 32), dtype=bool)
    for i in range(count):
        masks[i, 4 * i : 4 * i + 6, 3:12] = True
    return Crop(np.zeros((3, 64, 64), np.uint8), tuple(names), masks, frozenset(absent))


def test_pairs_of_a_batch():
    first = [crop_of(["a", "b"]), crop_of(["b"], absent=["a"])]
    second = [crop_of(["x"]), crop_of(["y"], count=3)]  # unknown in the other view: nothing to learn from
    batch = collate_crops([(7, first), (9, second)])
    assert batch["pairs"].tolist() == [[0, 1], [1, 0]]
    assert batch["group"].tolist() == [7, 7]
    assert batch["visible"].tolist() == [[False, True], [True, False]]
    assert batch["weight"].tolist() == [[1, 1], [1, 0]]
    assert batch["positive"][0, 1] == 0
    assert batch["positive"][1, 0] == 1
    assert batch["query"].tolist() == [[0, 1], [0, 0]]
    assert batch["candidates"].sum(1).tolist() == [5, 5, 5, 3]
    assert torch.allclose(batch["mean_weight"], torch.tensor([[1 / 6, 1 / 6], [1 / 6, 0]]))
    # Rows 0 and 1 overlap by 2 of 6 lines.
    assert batch["overlap"][0, 1].tolist() == pytest.approx([1, 2 / 10, 0, 0, 0])


def test_crops_are_described_as_images_are(task):
    """Training pools half-size masks of a crop; inference goes through run lengths of an image of the same size."""
    from counterview.omama.descriptors import describe_masks

    torch.manual_seed(0)
    model = task.build_model().eval()
    image, masks = scene()
    image, masks = image[:96, :128], {n: m[:96, :128] for n, m in masks.items()}
    backbone = model.own_backbone()
    features = backbone.encode(image)
    used = describe_masks(
        model.config.omama.descriptor, backbone, features, [ObjectMask.from_array(m) for m in masks.values()]
    )
    # Sampling at half size takes the lower right pixel of each four.
    sampled = np.stack([m[1::2, 1::2] for m in masks.values()])
    maps = TinyMaps(
        *(m[None] for m in (features.extra.maps.colours, features.extra.maps.fine, features.extra.maps.map))
    )
    with torch.no_grad():
        trained = describe_crops(model.network, maps, [sampled], model.config.omama.descriptor.context_px)[0]
    close = (used - trained).abs() / trained.abs().clamp(min=0.05)
    assert close.quantile(0.95) < 0.05


def test_is_a_task_and_samples_are_functions_of_their_seed(task):
    assert isinstance(task, Task)
    assert task.train_length(0) == len(task.moments) == len(list(moments(task.train_data)))
    one, two = (task.sample(0, 1, np.random.default_rng(5)) for _ in range(2))
    for a, b in zip(one[1], two[1], strict=True):
        assert np.array_equal(a.pixels, b.pixels)
        assert np.array_equal(a.masks, b.masks)
        assert a.names == b.names
    model = task.build_model()
    groups = task.parameter_groups(model, 1e-3, 0.1)
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in model.parameters())


def test_a_run_learns_exports_and_continues(task, place, tmp_path):
    values = recipe_values(place, max_steps=24)
    values["end_to_end"]["passes"] = 8  # one validation, at the end
    recipe = load_recipe(values)
    trained = recipe.build_task()
    first = trained.collate([trained.sample(0, i, np.random.default_rng([9, i])) for i in range(6)])
    result = fit(trained, recipe.training, tmp_path / "run", progress=False)
    model = TinyMatch.from_pretrained(result.model_dir)
    assert model.config.network is not None
    assert not next(iter(model.parameters())).isnan().any()
    fresh = trained.build_model().train()
    with torch.no_grad():
        kept = {name: value.clone() for name, value in model.state_dict().items()}  # running means move in training
        before, after = (float(trained.loss(m, first)[1]["matching"]) for m in (fresh, model.train()))
    assert after < before - 0.15
    assert 0 <= result.metrics["top1_true_candidates"] <= 1
    assert "balanced_accuracy" in result.metrics
    values = recipe_values(place, max_steps=1)
    values["end_to_end"]["init"] = str(result.model_dir)
    continued = load_recipe(values).build_task().build_model()
    for name, value in continued.state_dict().items():
        assert torch.equal(value, kept[name]), name


def test_configuration_errors(place, tmp_path):
    values = recipe_values(place)
    values["model"]["network"] = None
    with pytest.raises(ConfigError, match="network is not given"):
        load_recipe(values)
    with pytest.raises(ConfigError, match="beside network, which is 'tiny'"):
        load_config(MapsRecipe, json.loads(json.dumps(recipe_values(place) | {
            "model": recipe_values(place)["model"] | {"omama": {"backbone": "classical"}}})) | {})  # fmt: skip
    with pytest.raises(ConfigError, match=r"loss.graded and loss.batch_negatives changes nothing"):
        load_recipe(recipe_values(place) | {"loss": {"graded": True, "batch_negatives": True}})
    with pytest.raises(ConfigError, match=r"size_px is 100.*zoom_min"):
        CropConfig(size_px=100, zoom_min=2, zoom_max=1)
    assert MapsTask.config_class is MapsRecipe


def test_the_head_is_trained_beside_the_frozen_network_of_another_run(place, tmp_path):
    """A second run begins with the model of a first, reads its maps from a cache, and does not change its network."""
    torch.manual_seed(0)
    values = recipe_values(place)
    first = TinyMatch(load_config(TinyMatchConfig, values["model"])).eval()
    first.save_pretrained(tmp_path / "first")
    data = values["data"] | {"cache": str(tmp_path / "cache"), "fraction": 0.2, "val_fraction": 0.2}
    recipe = {"data": data, "model": values["model"]}
    with pytest.raises(ConfigError, match="given without its weights"):
        load_config(TinyMatchHeadRecipe, recipe)
    task = TinyMatchHeadTask(load_config(TinyMatchHeadRecipe, recipe | {"init": str(tmp_path / "first")}))
    model = task.build_model()
    for name, value in model.state_dict().items():
        kept = first.state_dict()[name]
        assert torch.equal(value, kept.half().to(kept.dtype) if kept.is_floating_point() else kept), name
    assert task.store.backbone.settings()["weights"] == model.own_backbone().settings()["weights"]
    assert not any(p.requires_grad for p in model.network.parameters())
    batch = task.collate([task.sample(0, i, np.random.default_rng(i)) for i in range(4)])
    task.loss(model.train(), batch)[0].backward()
    assert model.omama.head[0].weight.grad is not None
    random_head = TinyMatchHeadTask(
        load_config(TinyMatchHeadRecipe, recipe | {"init": str(tmp_path / "first"), "init_head": False})
    ).build_model()
    assert torch.equal(random_head.network.stem[0].weight, first.network.stem[0].weight.half().float())
    assert not torch.equal(random_head.omama.head[0].weight, first.omama.head[0].weight)
    other = values["model"] | {"omama": values["model"]["omama"] | {"hidden": 16}}
    wrong = {"data": data, "model": other, "init": str(tmp_path / "first")}
    with pytest.raises(ConfigError, match="another architecture"):
        TinyMatchHeadTask(load_config(TinyMatchHeadRecipe, wrong)).build_model()


def test_the_descriptor_loss_by_loops(task):
    """Negatives are the target crop's candidates that do not overlap the truth, and all candidates of other takes."""
    samples = [task.sample(0, i, np.random.default_rng([3, i])) for i in range(3)]
    samples = [(number, views) for number, (_, views) in enumerate(samples)]  # each as if of another take
    batch = collate_crops(samples)
    torch.manual_seed(1)
    crops, count = batch["candidates"].shape
    table = torch.randn(crops, count, task.config.model.omama.object_width + 16)
    losses = task._descriptor_loss(table, batch).view(batch["query"].shape)
    objects = torch.nn.functional.normalize(table[..., : task.config.model.omama.object_width], dim=-1)
    checked = 0
    for p, (query_crop, target_crop) in enumerate(batch["pairs"].tolist()):
        for q in range(batch["query"].shape[1]):
            if not batch["weight"][p, q] or not batch["visible"][p, q]:
                assert losses[p, q] == 0
                continue
            row, right = int(batch["query"][p, q]), int(batch["positive"][p, q])
            rivals = []
            for crop in range(crops):
                for n in range(int(batch["candidates"][crop].sum())):
                    other_take = batch["crop_group"][crop] != batch["group"][p]
                    clear = crop == target_crop and (n == right or batch["overlap"][p, q, n] < 0.3)
                    if other_take or clear:
                        rivals.append((crop == target_crop and n == right, objects[query_crop, row] @ objects[crop, n]))
            logits = torch.stack([value for _, value in rivals]) / task.config.end_to_end.descriptor_temperature
            index = [is_right for is_right, _ in rivals].index(True)
            assert losses[p, q] == pytest.approx(float(torch.logsumexp(logits, 0) - logits[index]), rel=1e-4)
            checked += 1
    assert checked > 5
