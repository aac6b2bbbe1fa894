"""Training of object crops: what a sample shows, the loss by loops, that it learns, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from counterview.config import load_config
from counterview.errors import ConfigError, InputError
from counterview.features.object_crops import centre_crop, crop_objects
from counterview.features.tiny import TinyConfig
from counterview.omama import OMaMaConfig
from counterview.omama.training.image_store import mask_overlaps
from counterview.tiny import TinyMatch, TinyMatchConfig
from counterview.tiny.training.backbone_task import objects_in
from counterview.tiny.training.crops_recipe import ObjectCropTraining
from counterview.tiny.training.crops_task import ABSENT, UNKNOWN, VISIBLE, ObjectCropTask, TakeView, _moved
from counterview.training.fit import fit
from counterview.training.recipe import load_recipe
from counterview.training.task import Task
from tests.omama.tiny_takes import write_takes

TINY = {"widths": [8, 12, 16, 24, 32], "blocks": [0, 1, 1, 0], "channels": 16, "fine": 8, "colours": 8}
OBJECT_CROPS = {"object_crops": 24, "crop_widths": [8, 12, 16, 24], "crop_blocks": [0, 1, 1]}


def recipe_values(place, object_crops=(), **training):
    root, values = place
    model = {
        "backbone": "tiny",
        "channels": 16,
        "object_channels": 24,
        "matching_head": False,
        "context": False,
        "cross_attention": False,
        "visibility": "released",
        "descriptor": {"context_px": 20},
        "proposer": "graph",
        "proposer_settings": values["model"]["proposer_settings"],
    }
    base = {"epochs": 1, "max_steps": 4, "batch_size": 2, "lr": 3e-3, "trackers": [], "device": "cpu", "seed": 0}
    return {
        "method": "tiny-match-crops",
        "training": base | training,
        "data": values["data"] | {"cache": str(root / "cache-crops")},
        "model": {"omama": model, "network": TINY | OBJECT_CROPS},
        "object_crops": {"proposals": 4, "kept_proposals": 8} | dict(object_crops),
    }


def maps_alone():
    """A model whose network has no object crops."""
    omama = OMaMaConfig.knn(16, object_channels=8 + 2 * 24 + 6, backbone="tiny")
    return TinyMatchConfig(omama=omama, network=load_config(TinyConfig, TINY))


@pytest.fixture(scope="module")
def task(place):
    torch.set_num_threads(1)
    return load_recipe(recipe_values(place)).build_task()


def test_is_a_task_and_samples_are_functions_of_their_seed(task):
    assert isinstance(task, Task)
    assert task.train_length(0) == len(task.takes) == 4
    one, two = (task.sample(0, 1, np.random.default_rng(5)) for _ in range(2))
    other = task.sample(0, 1, np.random.default_rng(6))
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
        assert np.array_equal(a.overlap, b.overlap)
    assert not all(a.pixels.shape == b.pixels.shape and np.array_equal(a.pixels, b.pixels)
                   for a, b in zip(one, other, strict=False))  # fmt: skip
    model = task.build_model()
    trained = {id(p) for p in model.network.object_crops.parameters()}
    assert {id(p) for p in model.parameters() if p.requires_grad} == trained
    assert {id(p) for g in task.parameter_groups(model, 1e-3, 0.1) for p in g["params"]} == trained


def test_a_sample_holds_objects_then_proposals(task):
    views = task.sample(0, 0, np.random.default_rng(0))
    assert len(views) >= 2
    proposals = [len(view.pixels) - len(view.objects) for view in views]
    assert max(proposals) <= 4
    assert any(proposals)
    for view in views:
        count = len(view.objects)
        assert view.pixels.shape[1:] == (64, 64, 4)
        assert np.array_equal(view.overlap[np.arange(count), view.objects], np.ones(count))
        assert view.overlap[:count].sum() == count
        assert (view.states[view.objects] == VISIBLE).all()
        assert set(view.states.tolist()) <= {UNKNOWN, ABSENT, VISIBLE}
    # A view before augmentation is read once.
    key = (task.takes[0], views_camera(task), min(task.views[task.takes[0]]))
    assert task._view(*key, True) is task._view(*key, True)


def views_camera(task):
    return task.views[task.takes[0]][min(task.views[task.takes[0]])][0]


def coordinate_crop():
    """A stored crop whose red channel is x, whose green is y, and whose mask is a box off the diagonal."""
    y, x = np.mgrid[:80, :80]
    mask = np.zeros((80, 80), np.uint8)
    mask[30:40, 50:64] = 255
    return np.stack([3 * x, 3 * y, np.zeros_like(x), mask], axis=2).astype(np.uint8)


def still(**changes):
    """Settings under which nothing moves, but for the changes."""
    return ObjectCropTraining(**{"degrees": 0, "zoom": 0, "shift": 0, "downscale_prob": 0, "colour": 0} | changes)


def test_an_object_crop_that_is_not_moved_is_the_centre_of_what_is_stored():
    crop = coordinate_crop()
    assert np.array_equal(_moved(still(), crop, False, np.random.default_rng(0)), centre_crop(crop[None])[0])
    assert np.array_equal(_moved(still(), crop, True, np.random.default_rng(0)), centre_crop(crop[None])[0][:, ::-1])


def test_an_object_crop_moves_with_its_mask():
    """The map is fitted to pixels that are coordinates; the box of the mask is found where it puts it."""
    settings = still(degrees=20, zoom=0.18, shift=0.06)
    angles, zooms, shifts = [], [], []
    for seed in range(40):
        moved = _moved(settings, coordinate_crop(), False, np.random.default_rng(seed)).astype(float)
        y, x = np.mgrid[16:48, 16:48]
        places = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1)
        matrix = np.linalg.lstsq(places, moved[16:48, 16:48, :2].reshape(-1, 2) / 3, rcond=None)[0].T
        angles.append(np.rad2deg(np.arctan2(matrix[0, 1], matrix[1, 1])))
        zooms.append(-np.log(np.linalg.det(matrix[:, :2])) / 2)
        shifts.append(matrix @ [31.5, 31.5, 1] - 39.5)
        weights = moved[..., 3] / moved[..., 3].sum()
        rows, columns = np.mgrid[:64, :64]
        if not weights[[0, -1]].any() and not weights[:, [0, -1]].any():
            found = matrix @ [(weights * columns).sum(), (weights * rows).sum(), 1]
            assert np.allclose(found, [56.5, 34.5], atol=0.3)
    for values, limit in ((angles, 20), (zooms, 0.18), (np.concatenate(shifts), 0.06 * 80)):
        assert -1.02 * limit < min(values) < -0.8 * limit
        assert 0.8 * limit < max(values) < 1.02 * limit


def test_some_object_crops_lose_detail_and_their_masks_do_not():
    crop = coordinate_crop()
    crop[..., :3] = np.random.default_rng(0).integers(0, 256, (80, 80, 3))
    plain = _moved(still(), crop, False, np.random.default_rng(0)).astype(float)
    blurred = [
        _moved(still(downscale_prob=0.5), crop, False, np.random.default_rng(s)).astype(float) for s in range(40)
    ]
    is_blurred = [pixels[..., :3].std() < 0.8 * plain[..., :3].std() for pixels in blurred]
    assert 12 <= sum(is_blurred) <= 28
    for pixels, changed in zip(blurred, is_blurred, strict=True):
        assert np.array_equal(pixels[..., 3], plain[..., 3])
        assert np.allclose(pixels[..., :3].mean((0, 1)), plain[..., :3].mean((0, 1)), atol=4)
        assert changed or np.array_equal(pixels, plain)


def test_all_object_crops_of_a_view_change_colour_alike(task):
    augmenting = object.__new__(ObjectCropTask)
    augmenting.__dict__.update(
        task.__dict__, config=dataclasses.replace(task.config, object_crops=still(colour=1.0, proposals=2))
    )
    pixels = np.full((6, 80, 80, 4), (40, 90, 160, 255), np.uint8)
    view = TakeView(pixels, np.zeros((6, 2), np.float32), np.eye(6, 3, dtype=np.float32), np.arange(3), np.ones(3, int))
    colours = []
    for seed in range(8):
        changed = augmenting._augmented(view, False, seed % 2 == 1, np.random.default_rng(seed))
        assert changed.pixels.shape == (5, 64, 64, 4)  # three objects and two of the three proposals
        assert np.array_equal(changed.overlap[:3], np.eye(3))
        assert (changed.pixels[..., 3] == 255).all()
        assert (changed.pixels == changed.pixels[0, 0, 0]).all()
        colours.append(changed.pixels[0, 0, 0, :3].tolist())
    assert [bool(np.ptp(colour) == 0) for colour in colours] == [False, True] * 4
    assert len({tuple(colour) for colour in colours}) == 8
    assert np.std(colours, axis=0).min() > 4


def view_of(objects, states, overlap):
    rows = len(overlap)
    return TakeView(np.zeros((rows, 64, 64, 4), np.uint8), np.zeros((rows, 2), np.float32),
                np.array(overlap, np.float32), np.array(objects), np.array(states))  # fmt: skip


def test_the_loss_by_loops(task):
    """Two takes; the first has an object that its second view does not show, and one that was not annotated there."""
    first = [
        view_of([0, 1, 2], [1, 1, 1], [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0, 0]]),
        view_of([0], [1, 0, -1], [[1, 0, 0], [0.8, 0, 0], [0.1, 0, 0]]),
    ]
    second = [view_of([0], [1], [[1]]), view_of([0], [1], [[1], [0.5]])]
    batch = task.collate([first, second])
    torch.manual_seed(0)
    described = torch.nn.functional.normalize(torch.randn(10, 5), dim=1)
    loss, parts = task._matching(described, batch)
    config = task.config.object_crops
    rows = [described[0:4], described[4:7], described[7:8], described[8:10]]
    views, takes = [*first, *second], [0, 0, 1, 1]
    sums = {name: [[], []] for name in ("matching", "cross_take", "absent")}
    for a in range(4):
        for b in range(4):
            if a == b or takes[a] != takes[b]:
                continue
            for row, name in enumerate(views[a].objects):
                query = rows[a][row]
                logits = [float(query @ r) / config.temperature for r in rows[b]]
                not_visible = config.absent_similarity / config.temperature
                total = np.log(np.exp([*logits, not_visible]).sum())
                other_takes = [
                    float(query @ r) / config.temperature for v in range(4) if takes[v] != takes[a] for r in rows[v]
                ]
                if views[b].states[name] == VISIBLE:
                    credited = np.log(sum(np.exp(s) * views[b].overlap[i, name] ** 2 for i, s in enumerate(logits)))
                    sums["matching"][takes[a]].append(total - credited)
                    with_others = np.log(np.exp([*logits, not_visible, *other_takes]).sum())
                    sums["cross_take"][takes[a]].append(with_others - credited)
                elif views[b].states[name] == ABSENT:
                    sums["absent"][takes[a]].append(total - not_visible)
    expected = {name: np.mean([np.mean(v) if v else 0.0 for v in values]) for name, values in sums.items()}
    for name, value in expected.items():
        assert float(parts[name]) == pytest.approx(value, rel=1e-4), name
    assert len(sums["absent"][0]) == 1
    assert float(loss) == pytest.approx(
        expected["matching"] + config.cross_take_weight * expected["cross_take"] + config.absent * expected["absent"],
        rel=1e-4,
    )


def test_a_run_learns_and_does_not_change_the_maps(place, tmp_path):
    values = recipe_values(place, {"passes": 12}, max_steps=24)
    recipe = load_recipe(values)
    task = recipe.build_task()
    batch = task.collate([task.sample(0, i, np.random.default_rng([9, i])) for i in range(4)])
    result = fit(task, recipe.training, tmp_path / "run", progress=False)
    model = TinyMatch.from_pretrained(result.model_dir)
    torch.manual_seed(recipe.training.seed)
    fresh = task.build_model().train()
    with torch.no_grad():
        kept = {name: value.clone() for name, value in model.state_dict().items()}
        before, after = (float(task.loss(m, batch)[1]["matching"]) for m in (fresh, model.train()))
    assert after < before - 0.2
    assert 0 <= result.metrics["top1_true_candidates"] <= 1
    # The maps of another model are copied and stay; its object crops too, if it has them.
    values = recipe_values(place, {"init": str(result.model_dir)}, max_steps=1)
    continued = load_recipe(values).build_task().build_model()
    for name, value in continued.state_dict().items():
        assert torch.equal(value, kept[name]), name
    torch.manual_seed(1)
    TinyMatch(maps_alone()).save_pretrained(tmp_path / "plain")
    values = recipe_values(place, {"init": str(tmp_path / "plain")}, max_steps=2)
    recipe = load_recipe(values)
    started = TinyMatch.from_pretrained(
        fit(recipe.build_task(), recipe.training, tmp_path / "on", progress=False).model_dir
    )
    source = TinyMatch.from_pretrained(tmp_path / "plain").state_dict()
    for name, value in source.items():
        assert torch.equal(started.state_dict()[name], value), name


def test_further_data_sets_and_proposals_made_by_two_processes(place, tmp_path):
    write_takes(tmp_path / "more", frames=2, splits={"train": 2}, seed=5, prefix="more")
    values = recipe_values(place)
    values["data"] |= {"cache": str(tmp_path / "cache"), "workers": 2, "more_roots": [str(tmp_path / "more")]}
    task = load_recipe(values).build_task()
    assert task.train_length(0) == 6
    assert task.fingerprint()["takes"] == 6
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "proposals").glob("*/*.json")}
    images = {(uid, c, f) for uid in task.takes for f in task._moments(uid) for c in task.views[uid][f]}
    assert 8 <= len(made) <= len(images)  # equal images have one entry
    assert len(task.sample(0, 5, np.random.default_rng(0))) >= 2
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "proposals").glob("*/*.json")}
    assert after == made


def test_look_alikes_are_what_init_takes_for_an_object(place, tmp_path):
    torch.manual_seed(3)
    TinyMatch(load_recipe(recipe_values(place)).build_task().config.model).save_pretrained(tmp_path / "init")
    object_crops = {"init": str(tmp_path / "init"), "look_alikes": 5, "kept_proposals": 8}
    task = load_recipe(recipe_values(place, object_crops)).build_task()
    uid = task.takes[0]
    frame = min(task.views[uid])
    camera = task.views[uid][frame][0]
    view = task._view(uid, camera, frame, True)
    image, count = task.train_data.take(uid).frame(camera, frame), len(view.objects)
    proposals = task.proposer(image, str(frame)).masks
    assert len(view.pixels) == count + 8
    # The same choice, one proposal at a time.
    net = TinyMatch.from_pretrained(tmp_path / "init").eval().network.object_crops
    visible, _ = objects_in(task.train_data.take(uid), camera, frame, image)
    with torch.autocast("cpu", torch.bfloat16):
        described = net.describe(crop_objects(image, [*visible.values(), *proposals])).float()
    described = torch.nn.functional.normalize(described, dim=1)
    overlap = mask_overlaps(proposals, list(visible.values()))
    largest = [
        max(float(described[count + i] @ described[k]) if overlap[i, k] < 0.5 else -1.0 for k in range(count))
        for i in range(len(proposals))
    ]
    kept = {view.pixels[count + i].tobytes() for i in range(8)}
    crops = crop_objects(image, proposals).pixels
    best = sorted(range(len(proposals)), key=lambda i: -largest[i])[:5]
    assert {crops[i].tobytes() for i in best} <= kept
    assert task._view(uid, camera, frame, True) is view
    # A network without object crops cannot find them.
    TinyMatch(maps_alone()).save_pretrained(tmp_path / "plain")
    with pytest.raises(ConfigError, match="init has no object crops"):
        load_recipe(recipe_values(place, object_crops | {"init": str(tmp_path / "plain")})).build_task()


def test_what_is_refused(place):
    values = recipe_values(place)
    values["model"]["network"] = TINY
    with pytest.raises(ConfigError, match="no object crops to train"):
        load_recipe(values)
    values = recipe_values(place)
    values["model"]["omama"] |= {"matching_head": True, "visibility": "trained"}
    with pytest.raises(ConfigError, match="trained without a head"):
        load_recipe(values)
    with pytest.raises(ConfigError, match=r"views is 1.*proposals is 50, above kept_proposals = 40.*flip is 2"):
        ObjectCropTraining(views=1, proposals=50, flip=2)
    with pytest.raises(ConfigError, match="look_alikes is above 0 without init"):
        ObjectCropTraining(look_alikes=3)
    with pytest.raises(ConfigError, match="look_alikes is 41, above kept_proposals = 40"):
        ObjectCropTraining(look_alikes=41, init="somewhere")
    values = recipe_values(place)
    values["data"]["more_roots"] = ["nowhere"]
    with pytest.raises(InputError, match="nowhere"):
        load_recipe(values).build_task()
    assert ObjectCropTask.config_class.__name__ == "ObjectCropRecipe"
