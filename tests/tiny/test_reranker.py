"""Homographies between views, what follows from them for a choice, and the head that learns to weigh it."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from counterview.config import load_config
from counterview.errors import ConfigError
from counterview.geometry.homography import find_homography, places
from counterview.omama import OMaMa, OMaMaConfig
from counterview.omama.inference import Side, answer
from counterview.omama.scene import STANDINGS, Boxes, SceneConfig, SceneHead, relate, view_homographies
from counterview.tiny.training.reranker import SceneRecipe, SceneTask, collate_scenes
from counterview.training.fit import fit
from counterview.training.recipe import TrainingConfig
from counterview.training.task import Task

VIEW = np.array([[0.7, -0.25, 0.1], [0.3, 0.9, -0.2], [0.15, -0.2, 1.0]])


def seen(points, matrix=VIEW):
    to = np.c_[points, np.ones(len(points))] @ matrix.T
    return to[:, :2] / to[:, 2:]


def two_views(seed=0, count=30, twins=True):
    """Points of two views, how alike they are, and where the last ones, which nothing is like, should be.

    Half of the things have a twin elsewhere that is exactly as alike; a third of the points show something else.
    """
    rng = np.random.default_rng(seed)
    query = rng.uniform(-0.9, 0.9, (count, 2))
    target = seen(query) + rng.normal(0, 0.01, (count, 2))
    similarity = rng.uniform(0.1, 0.4, (count, count))
    similarity[np.arange(count), np.arange(count)] = 0.75
    if twins:
        for a in range(0, count // 2, 2):
            similarity[a, a + 1] = similarity[a + 1, a] = 0.75
    target[-count // 3 :] = rng.uniform(-0.9, 0.9, (count // 3, 2))
    return query, target, similarity


@pytest.mark.parametrize("seed", range(4))
def test_the_homography_is_found_among_twins_and_strangers(seed):
    query, target, similarity = two_views(seed)
    found = find_homography(query, target, similarity)
    fresh = np.random.default_rng(99).uniform(-0.8, 0.8, (50, 2))
    to, growth, ahead = found.map(fresh)
    assert ahead.all()
    assert np.abs(to - seen(fresh)).max() < 0.1
    step = 1e-5
    across, down = seen(fresh + np.array([step, 0])) - seen(fresh), seen(fresh + np.array([0, step])) - seen(fresh)
    area = (across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]) / step**2
    assert np.abs(growth - np.log(area) / 2).max() < 0.15
    assert 0.4 < found.share <= 1
    again = find_homography(query, target, similarity)
    assert np.array_equal(found.matrix, again.matrix)
    order = np.random.default_rng(1).permutation(len(query))
    other = find_homography(query[order], target, similarity[order])
    assert np.abs(other.map(fresh)[0] - to).max() < 0.05


def test_what_is_no_thing_hardly_counts():
    query, target, similarity = two_views(twins=False)
    count = len(query)
    # More pieces of walls than things, whose feet agree on another homography.
    pieces = np.random.default_rng(8).uniform(-0.9, 0.9, (2 * count, 2))
    query, target = np.concatenate([query, pieces]), np.concatenate([target, seen(pieces) + np.array([0.5, -0.4])])
    whole = np.full((3 * count, 3 * count), 0.2)
    whole[:count, :count] = similarity
    whole[np.arange(count, 3 * count), np.arange(count, 3 * count)] = 0.75
    scores = np.where(np.arange(3 * count) < count, 1.0, 0.1)
    fresh = np.random.default_rng(99).uniform(-0.6, 0.6, (50, 2))

    def off(scores):
        return np.median(
            np.linalg.norm(find_homography(query, target, whole, scores).map(fresh)[0] - seen(fresh), axis=1)
        )

    assert off((scores, scores)) < 0.1
    assert off(None) > 0.4
    assert off((np.full(3 * count, 0.5),) * 2) > 0.4
    boxes = [boxes_at(p, scores=scores) for p in (query, target)]
    for homography in view_homographies(whole, *boxes, 3):
        assert np.median(np.linalg.norm(homography.map(fresh)[0] - seen(fresh), axis=1)) < 0.1


def test_no_homography_that_no_two_cameras_could_see():
    query, target, similarity = two_views(twins=False)
    mirrored = find_homography(query, target * (-1, 1), similarity)
    straight = find_homography(query, target, similarity)
    assert mirrored is None or mirrored.support < straight.support / 2
    assert find_homography(query[:3], target, similarity[:3]) is None
    assert find_homography(query, target, np.full_like(similarity, 0.2)) is None
    assert find_homography(query[:0], target, similarity[:0]) is None


def test_what_lies_beyond_the_horizon_has_no_place():
    query, target, similarity = two_views(twins=False)
    found = find_homography(query, target, similarity)
    _, growth, ahead = found.map(np.array([[0.0, 0.0], [-20.0, 20.0]]))
    assert ahead.tolist() == [True, False]
    assert np.isfinite(growth).all()


def boxes_at(points, size_hw=(300, 400), side=20, scores=None):
    """Boxes that stand where :func:`places` finds these points."""
    width = size_hw[1]
    foot = points * (width / 2) + (width / 2, size_hw[0] / 2)
    xywh = np.c_[foot - (side / 2, side), np.full((len(points), 2), side)]
    return Boxes.make(xywh, size_hw, scores)


def test_places_and_relations():
    query, target, similarity = two_views(twins=False)
    assert np.allclose(places(boxes_at(query).xywh, (300, 400)), query)
    homography = find_homography(query, target, similarity)
    asked, there = boxes_at(query[:5]), boxes_at(target, side=30, scores=np.linspace(0.1, 5, len(target)))
    everything = boxes_at(query)
    pairs, standings = relate(similarity[:5], asked, there, homography, similarity, everything)
    assert pairs.shape == (5, len(target), 14)
    assert standings.shape == (5, STANDINGS)
    assert np.allclose(pairs[..., 0], similarity[:5], atol=1e-6)
    assert pairs[0, :, 1].max() == 1
    assert (pairs[..., 3].argmax(1) == np.arange(5)).all()
    assert (pairs[np.arange(5), np.arange(5), 2] > 0.8).all()
    assert np.allclose(pairs[..., 6:8], np.log(1.5), atol=1e-5)
    assert (standings[:, 0] == 1).all()
    # Its own proposal is no rival of an object; every other one is.
    for row in range(5):
        rivals = [i for i in range(len(query)) if np.abs(query[i] - query[row]).max() > 0.1]
        wanted = similarity[row] - similarity[rivals].max(0)
        assert pairs[row, row, 12] == pytest.approx(wanted[row], abs=1e-5)
    assert (pairs[np.arange(5), np.arange(5), 13] > pairs[np.arange(5), np.arange(5), 12]).all()
    # An object that belongs left of the target image's edge, by the homography, is not inside.
    inverse = np.linalg.inv(VIEW)
    outside = seen(np.array([[-1.2, 0.0]]), inverse)
    assert relate(similarity[:1], boxes_at(outside), there, homography, similarity, everything)[1][0, 1] < 0
    alone, nothing = relate(similarity[:5], asked, there, None, similarity[:0], boxes_at(query[:0]))
    assert not alone[..., 2:6].any()
    assert not alone[..., 8:].any()
    assert not nothing[:, [0, 1, 3, 4, 5]].any()


def described(points, looks, **kwargs):
    return Side(torch.from_numpy(looks).float(), torch.zeros(4, 3, 3), boxes_at(points, **kwargs))


def scene_model(**values):
    torch.manual_seed(0)
    config = OMaMaConfig(
        channels=4, object_channels=16, hidden=8, embedding=4, heads=2, residual=True, residual_share=0.999,
        scene=SceneConfig(proposals=40), **values,
    )  # fmt: skip
    model = OMaMa(config).eval()
    with torch.no_grad():  # what training finds first: a candidate should stand where it is expected
        model.scene_head.straight[0] = 10
        for layer in (model.scene_head.pair[0], model.scene_head.pair[2], model.scene_head.pair[4]):
            layer.weight.zero_()
            layer.bias.zero_()
        model.scene_head.pair[0].weight[0, 3] = 5
        model.scene_head.pair[2].weight[0, 0] = 1
        model.scene_head.pair[4].weight[0, 0] = 1
    return model


def twin_scene():
    rng = np.random.default_rng(3)
    query, target, _ = two_views(3, 24, twins=False)
    looks = rng.normal(size=(24, 16))
    looks[1] = looks[0]  # twins in both views
    far = [np.c_[looks + rng.normal(0, 0.05, looks.shape), np.zeros((24, 4))] for _ in range(2)]
    far[1][1, :16] = far[1][0, :16] = looks[0]
    return described(query, far[0]), described(target, far[1])


def test_twins_are_told_apart_by_where_they_stand():
    query, target = twin_scene()
    model = scene_model()
    asked = Boxes(query.boxes.xywh[:2], query.boxes.size_hw, np.ones(2))
    out = answer(model, query.descriptors[:2], asked, query, target)
    assert np.allclose(out.similarity[:, 0], out.similarity[:, 1], atol=1e-3)
    assert out.rank.argmax(1).tolist() == [0, 1]
    assert ((out.visibility > 0) & (out.visibility < 1)).all()
    without = dataclasses.replace(model.config, scene=SceneConfig())
    plain = OMaMa(without).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("scene_head.")})
    assert set(answer(plain, query.descriptors[:2], asked, query, target).rank.argmax(1)) != {0, 1}


def test_an_answer_does_not_hang_on_what_else_is_asked_nor_on_the_order_of_candidates():
    query, target = twin_scene()
    model = scene_model()
    asked = Boxes(query.boxes.xywh[:4], query.boxes.size_hw, np.ones(4))
    whole = answer(model, query.descriptors[:4], asked, query, target)
    one = answer(model, query.descriptors[2:3], Boxes(asked.xywh[2:3], asked.size_hw, np.ones(1)), query, target)
    assert np.allclose(one.rank, whole.rank[2:3], atol=1e-4)
    assert np.allclose(one.visibility, whole.visibility[2:3], atol=1e-5)
    # Chosen masks as candidates, in another order; the image's own proposals still say how the views lie.
    order = [3, 0, 2, 1]
    few = Side(target.descriptors[order], target.map,
               Boxes(target.boxes.xywh[order], target.boxes.size_hw, np.ones(4)))  # fmt: skip
    chosen = answer(model, query.descriptors[:4], asked, query, few, target)
    assert chosen.rank.argmax(1).tolist() == [1, 3, 2, 0]
    assert len(whole.homographies) == 8
    assert all(np.array_equal(a.matrix, b.matrix) for a, b in zip(chosen.homographies, whole.homographies, strict=True))
    # A query image without proposals, and one candidate alone: no homography, and still an answer.
    nobody = Side(query.descriptors[:0], query.map, Boxes(query.boxes.xywh[:0], query.boxes.size_hw, np.zeros(0)))
    alone = Side(few.descriptors[:1], few.map, Boxes(few.boxes.xywh[:1], few.boxes.size_hw, np.ones(1)))
    two = Boxes(asked.xywh[:2], asked.size_hw, np.ones(2))
    bare = answer(model, query.descriptors[:2], two, nobody, alone)
    assert bare.homographies == (None,) * 8
    assert np.isfinite(bare.rank).all()


def test_padding_changes_nothing():
    torch.manual_seed(1)
    head = SceneHead(SceneConfig(proposals=5))
    torch.nn.init.normal_(head.pair[-1].weight)
    pairs, standings = torch.randn(2, 3, 7, 14), torch.randn(2, 3, STANDINGS)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[:, 5:] = False
    padded = head(pairs, standings, mask)
    plain = head(pairs[:, :, :5], standings)
    assert torch.isneginf(padded[0][..., 5:]).all()
    assert torch.allclose(padded[0][..., :5], plain[0], atol=1e-6)
    assert torch.allclose(padded[1], plain[1], atol=1e-5)


def test_visibility_sees_what_was_not_chosen():
    torch.manual_seed(3)
    head = SceneHead(SceneConfig(proposals=5, hidden=16))

    def draw():
        # What was chosen says nothing; that another candidate stands before the place (number 5) says all.
        pairs, hidden = torch.rand(64, 1, 6, 14), torch.rand(64, 1) < 0.5
        pairs[..., 0] *= 0.5
        pairs[:, :, 0, 0] = 0.9
        pairs[:, :, 1:, 5] = -1
        rows = torch.arange(64)
        pairs[rows, 0, 1 + rows % 5, 5] = torch.where(hidden[:, 0], 1.0, -1.0)
        return pairs, torch.zeros(64, 1, STANDINGS), ~hidden

    optimiser = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(150):
        pairs, standings, visible = draw()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(pairs, standings)[1], visible.float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    pairs, standings, visible = draw()
    rank, logit = head(pairs, standings)
    assert (rank.argmax(-1) == 0).all()
    assert ((logit > 0) == visible).float().mean() > 0.95


def test_several_homographies_are_averaged():
    torch.manual_seed(2)
    head = SceneHead(SceneConfig(proposals=5))
    torch.nn.init.normal_(head.pair[-1].weight)
    pairs, standings = torch.randn(3, 2, 7, 14), torch.randn(3, 2, STANDINGS)
    rank, logit = head.over_homographies(pairs, standings)
    alone = [head(pairs[k : k + 1], standings[k : k + 1]) for k in range(3)]
    assert torch.allclose(rank.exp(), torch.stack([r[0].softmax(-1) for r, _ in alone]).mean(0), atol=1e-6)
    assert torch.allclose(logit, torch.stack([v[0] for _, v in alone]).mean(0), atol=1e-6)


def test_settings_that_do_not_go_together():
    for values in ({"proposal_prior": 0.2}, {"visibility": "released"}):
        with pytest.raises(ConfigError, match="scene"):
            OMaMaConfig(scene=SceneConfig(proposals=10), **values)
    with pytest.raises(ConfigError, match="proposals"):
        SceneConfig(proposals=-1)


@pytest.fixture(scope="module")
def scene_values(place, task, tmp_path_factory):
    model = task.build_model()
    folder = tmp_path_factory.mktemp("scene") / "init"
    model.save_pretrained(folder)
    values = json.loads(json.dumps(place[1]))
    values["model"]["scene"] = {"proposals": 12}
    return {**values, "init": str(folder), "loss": {"visibility": 0.5}}


@pytest.fixture(scope="module")
def scene_task(scene_values):
    torch.set_num_threads(1)
    return SceneTask(load_config(SceneRecipe, scene_values), progress=False)


def test_a_recipe_needs_a_model_and_a_head(scene_values):
    with pytest.raises(ConfigError, match="init"):
        load_config(SceneRecipe, {k: v for k, v in scene_values.items() if k != "init"})
    without = json.loads(json.dumps(scene_values))
    del without["model"]["scene"]
    with pytest.raises(ConfigError, match="scene"):
        load_config(SceneRecipe, without)


def test_scenes_hold_what_the_data_set_says(scene_task, scene_values):
    assert isinstance(scene_task, Task)
    pairs = {(p.take, p.frame, p.query_camera, p.target_camera) for _, p in scene_task.train_pairs}
    assert len(scene_task.scenes) == scene_task.train_length(0) == len(pairs)
    asked = sum(len(s.asked) for s in scene_task.scenes)
    absent = sum(int((s.truth < 0).sum()) for s in scene_task.scenes)
    assert asked == len(scene_task.train_pairs)
    assert absent == sum(not p.target_visible for _, p in scene_task.train_pairs)
    for scene in scene_task.scenes:
        assert scene.similarity.shape == (len(scene.query[0]) + len(scene.query[1]),
                                          len(scene.target[0]) + len(scene.target[1]))  # fmt: skip
    # What was made is kept, under a name that hangs on the model and not on chance.
    files = {p: p.stat().st_mtime_ns for p in (scene_task.store.root / "scenes").rglob("*.npy")}
    again = SceneTask(load_config(SceneRecipe, scene_values), progress=False)
    assert {p: p.stat().st_mtime_ns for p in (scene_task.store.root / "scenes").rglob("*.npy")} == files
    assert np.array_equal(again.scenes[0].similarity, scene_task.scenes[0].similarity)


def test_examples_are_pure_functions_of_their_chance(scene_task):
    for index in range(4):
        one, two = (scene_task.sample(0, index, np.random.default_rng(index)) for _ in range(2))
        for name in ("pairs", "standings", "credit", "visible"):
            assert np.array_equal(getattr(one, name), getattr(two, name))
        assert (one.credit[~one.visible] == 0).all()
        assert one.pairs.shape[:2] == one.credit.shape
    batch = collate_scenes([scene_task.sample(0, i, np.random.default_rng(i)) for i in range(4)])
    assert batch["pairs"].shape[:3] == batch["credit"].shape
    assert not batch["credit"][~batch["mask"][:, None].expand_as(batch["credit"])].any()


def test_training_learns_and_the_folder_answers(scene_task, place, tmp_path):
    training = TrainingConfig(epochs=12, batch_size=8, lr=5e-3, trackers=(), device="cpu", validate_first=True)
    result = fit(scene_task, training, tmp_path / "run", progress=False)
    rows = [float(line.split(",")[2]) for line in (tmp_path / "run" / "train.csv").read_text().splitlines()[1:]]
    assert np.mean(rows[-4:]) < np.mean(rows[:4]) - 0.05
    assert 0 <= result.metrics["iou"] <= 1
    before, after = OMaMa.from_pretrained(scene_task.config.init), OMaMa.from_pretrained(tmp_path / "run" / "model")
    kept = after.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in before.state_dict().items())
    assert float(after.calibration.scale) != 1

    import counterview as cv

    take = scene_task.val_data.takes[0]
    frame, name = take.frames[0], take.objects[0]
    images = [take.frame(camera, frame) for camera in (take.exo_cameras[0], take.ego_cameras[0])]
    model = cv.load(str(tmp_path / "run" / "model"), device="cpu")
    mask = take.mask(name, take.exo_cameras[0], frame) or take.mask(take.objects[1], take.exo_cameras[0], frame)
    match = model.match(images[0], mask, images[1])[0]
    assert match.mask.shape == images[1].shape[:2]
    assert 0 < match.visibility < 1
