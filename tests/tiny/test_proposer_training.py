"""Training of the ``tiny`` proposer: losses, rooms as takes, and a run that resumes where it was cut off."""

import contextlib
import json
import logging

import cv2
import numpy as np
import pytest
import torch

from counterview.data.open import open_dataset
from counterview.errors import ConfigError, InputError
from counterview.proposals import bundled
from counterview.proposals.boundary import EMBEDDING, EXTENT, PLACE_PX
from counterview.proposals.merging import merge_tree
from counterview.proposals.objectness import FEATURES, predict
from counterview.tiny.training import proposer_boundary, proposer_ranker, rooms_as_takes

ABOUT = {"clutter": 2, "things": 4, "person": 6, "ego": True}


@pytest.fixture
def rooms(tmp_path):
    """Two rooms of four images: instance 0 is the room, 2 clutter, 4 and 5 objects, 6 a hand."""
    folder = tmp_path / "rooms"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for room in (28, 29):
        for view in range(4):
            instances = np.zeros((64, 80), np.uint8)
            instances[5:25, 5:30] = 2
            instances[30:50, 10:40] = 4
            if view != 2:
                instances[10:40, 50:70] = 5
            else:
                instances[10:13, 50:53] = 5
            instances[45:60, 30:60] = 6
            name = folder / f"room_0001_{room:04d}_{view}"
            colours = rng.integers(0, 255, (8, 3), dtype=np.uint8)
            cv2.imwrite(str(name.with_suffix(".jpg")), colours[instances])
            cv2.imwrite(str(name.with_suffix(".png")), instances)
            name.with_suffix(".json").write_text(json.dumps(ABOUT), encoding="utf-8")
    return folder


def run(module, *arguments):
    """Run a program with arguments."""
    module.main([str(argument) for argument in arguments])


def test_rooms_become_takes_in_which_all_on_the_table_has_a_mask(rooms, tmp_path):
    run(rooms_as_takes, rooms, tmp_path / "out")
    run(rooms_as_takes, rooms, tmp_path / "out")
    dataset = open_dataset(tmp_path / "out", "train")
    assert len(dataset) == 2
    take = next(iter(dataset))
    assert take.cameras == ("aria01_214-1", "cam01", "cam02")
    assert [take.is_ego(camera) for camera in take.cameras] == [True, False, False]
    assert set(take.objects) == {"thing_2", "thing_4", "thing_5"}
    instances = cv2.imread(str(rooms / "room_0001_0028_1.png"), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(take.mask("thing_4", "aria01_214-1", 30).to_array(), instances == 4)
    assert take.frame("cam02", 30).shape == (64, 80, 3)
    assert take.mask_frames("thing_5", "aria01_214-1") == (0, 30)
    # With few pixels in the first exo camera it is not annotated there, neither as visible nor as not visible.
    assert "cam01" not in take.cameras_of("thing_5") or 30 not in take.annotated_frames("thing_5", "cam01")


def test_embedding_loss_is_small_where_instances_are_apart_and_counts_small_ones():
    instances = torch.zeros(400, dtype=torch.int64)
    instances[:100], instances[100:110] = 3, 7
    apart = torch.nn.functional.one_hot(instances, EMBEDDING).float() * 5
    assert proposer_boundary.embedding_loss(apart, instances) < 1e-3
    same = torch.zeros(400, EMBEDDING)
    assert proposer_boundary.embedding_loss(same, instances).item() == pytest.approx(np.log(3), abs=1e-3)
    missed = apart.clone()
    missed[100:110] = apart[0]  # the smallest instances looks like the second: 10 of 400 pixels
    assert proposer_boundary.embedding_loss(missed, instances) > 0.1
    wide = apart + torch.randn(400, EMBEDDING, generator=torch.Generator().manual_seed(0)) * 0.5
    assert proposer_boundary.embedding_loss(wide, instances) > proposer_boundary.embedding_loss(apart, instances) + 0.05


def test_extent_loss_is_zero_at_the_truth_and_what_is_truncated_may_be_larger():
    instances = torch.zeros(32, 40, dtype=torch.int64)
    instances[8:20, 10:16] = 2
    instances[24:32, 30:40] = 5
    truth = torch.zeros(16 * 20, EXTENT)
    for number in (0, 2, 5):
        y, x = torch.nonzero(instances == number, as_tuple=True)
        values = [x.float().mean() / PLACE_PX, y.float().mean() / PLACE_PX]
        values += [(v.float().var(correction=0) + 1 / 12).log() / 2 for v in (x, y)]
        values.append(torch.tensor(float(len(x))).log())
        truth[(instances[::2, ::2] == number).flatten()] = torch.stack(values)
    assert proposer_boundary.extent_loss(truth, instances) < 1e-4
    inside, rim = ((instances[::2, ::2] == number).flatten() for number in (2, 5))
    for where, change, free in ((inside, 0.5, False), (inside, -0.5, False), (rim, 0.5, True), (rim, -0.5, False)):
        other = truth.clone()
        other[where, 2:] += change
        assert (proposer_boundary.extent_loss(other, instances) < 1e-4) == free
    other = truth.clone()
    other[rim, :2] += 1  # the centre of a truncated instance is unknown
    assert proposer_boundary.extent_loss(other, instances) < 1e-4


def test_a_resumed_run_equals_an_unbroken_one(rooms, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    options = ("--below", 40, "--batch", 1, "--every", 1)
    run(proposer_boundary, rooms, tmp_path / "whole.safetensors", *options, "--steps", 2)
    state = torch.load(tmp_path / "whole.state", weights_only=True)
    assert state["step"] == 2

    class CutError(Exception):
        """Stands for a kill."""

    original, calls = proposer_boundary.atomic_write, []

    @contextlib.contextmanager
    def write(path):
        with original(path) as handle:
            yield handle
        calls.append(path)
        if path.suffix == ".state":
            raise CutError

    with monkeypatch.context() as patch:
        patch.setattr(proposer_boundary, "atomic_write", write)
        with pytest.raises(CutError):
            run(proposer_boundary, rooms, tmp_path / "cut.safetensors", *options, "--steps", 2)
    assert len(calls) == 2
    run(proposer_boundary, rooms, tmp_path / "cut.safetensors", *options, "--steps", 2)
    assert "resuming after step 1" in caplog.text
    assert (tmp_path / "cut.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_targets_are_where_instances_meet_and_what_is_on_the_table(rooms):
    train, held_out = proposer_boundary.load_examples(rooms, 40)
    assert (len(train), len(held_out)) == (4, 4)  # rooms 28 and 29; every 30th is held out
    instances = cv2.imread(str(rooms / "room_0001_0028_0.png"), cv2.IMREAD_GRAYSCALE)
    image, packed = train[0]
    assert np.abs(image[10, 10].astype(int) - cv2.imread(str(rooms / "room_0001_0028_0.jpg"))[10, 10, ::-1]).max() <= 2
    edge, foreground = proposer_boundary.targets(packed)
    assert np.array_equal(foreground > 0, np.isin(instances, (2, 4, 5)))
    expected = np.zeros_like(instances, bool)
    for y, x in np.ndindex(instances.shape):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < instances.shape[0] and 0 <= u < instances.shape[1]:
                expected[y, x] |= instances[v, u] != instances[y, x]
    assert np.array_equal(edge > 0, expected)


def test_too_few_rooms_and_wrong_settings_are_refused_in_one_line(rooms, tmp_path):
    with pytest.raises(InputError, match="no rendered rooms") as caught:
        run(proposer_boundary, tmp_path, tmp_path / "out.safetensors")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="4 images to train on, 0 held out"):
        run(proposer_boundary, rooms, tmp_path / "out.safetensors", "--below", 29)
    with pytest.raises(ConfigError, match="batch is 0"):
        run(proposer_boundary, rooms, tmp_path / "out.safetensors", "--batch", 0)
    (rooms / "room_0001_0028_0.json").write_text("[]")
    with pytest.raises(InputError, match=r"0028_0\.json: not the JSON file of a room"):
        run(proposer_boundary, rooms, tmp_path / "out.safetensors")


def test_node_ious_are_counted_from_pixels():
    rng = np.random.default_rng(0)
    leaves = rng.integers(0, 6, (20, 30))
    instances = rng.integers(0, 3, (20, 30))
    inside = np.array([[np.sum((leaves == n) & (instances == k)) for k in range(3)] for n in range(6)], float)
    pairs = np.array([[a, b] for a in range(6) for b in range(a)])
    costs = rng.random(len(pairs))[:, None]
    tree = merge_tree(np.bincount(leaves.ravel())[:, None].astype(float), pairs, costs, lambda s, u, v, b: b[:, 0])
    ious = proposer_ranker.node_ious(tree, inside, inside.sum(0))
    for members, row in zip(tree.members(), ious, strict=True):
        node = members[leaves]
        for k in range(3):
            assert row[k] == pytest.approx((node & (instances == k)).sum() / (node | (instances == k)).sum())


def test_ranking_network_learns_iou_and_selects_the_best_node_of_every_instance():
    rng = np.random.default_rng(0)
    examples = []
    for room in range(6):
        features = rng.normal(size=(300, len(FEATURES))).astype(np.float32)
        quality = 1 / (1 + np.exp(-2 * features[:, 0]))
        instance = rng.integers(0, 2, 300)
        # The second instance is small: its best nodes have half the IoU of the first's.
        iou = np.stack([quality * (instance == 0), 0.5 * quality * (instance == 1)], 1).astype(np.float32)
        features[:, 1] = instance
        examples.append(proposer_ranker.RankingExample(room, features, iou, np.float32([1, 0.85])))
    weights = proposer_ranker.fit(examples, 12, 0)
    predicted, selection = predict(weights, examples[0].features)
    assert np.corrcoef(predicted, examples[0].best_iou)[0, 1] > 0.9
    for instance in (0, 1):
        own = np.flatnonzero(examples[0].features[:, 1] == instance)
        chosen = own[selection[own].argmax()]
        assert examples[0].iou[chosen, instance] > 0.9 * examples[0].iou[:, instance].max()
    again = proposer_ranker.fit(examples, 12, 0)
    assert all(np.array_equal(weights[name], again[name]) for name in weights)


def test_trained_networks_load_as_the_bundled_ones_do(rooms, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    boundary = bundled.bundled_folder() / bundled.BOUNDARY
    run(proposer_ranker, rooms, boundary, "--first", 0, "--every", 4, "--epochs", 1, "--out", tmp_path / "out")
    assert "held out: 1 images" in caplog.text
    assert bundled.load_boundary(tmp_path / "out").digest == bundled.load_boundary().digest
    ranker = bundled.load_ranker(tmp_path / "out")
    assert ranker.digest != bundled.load_ranker().digest
    assert ranker(np.zeros((3, len(FEATURES)), np.float32))[0].shape == (3,)
