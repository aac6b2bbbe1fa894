"""The geometric re-ranker: what it weighs, that it learns, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from counterview.config import load_config
from counterview.errors import ConfigError
from counterview.geometry import (
    Homography,
    HomographyConfig,
    PairFeature,
    PairFeatureConfig,
    QueryFeature,
    ScoredBoxes,
    find_homography,
    pair_features,
    view_homographies,
)
from counterview.omama import OMaMaConfig
from counterview.omama.model import ImageInput
from counterview.tiny import GeometricReranker, RerankerConfig, TinyMatch, TinyMatchConfig
from counterview.tiny.training.reranker_task import RerankerRecipe, RerankerTask, collate_reranker_examples, mirror
from counterview.training.fit import fit
from counterview.training.recipe import TrainingConfig
from counterview.training.task import Task
from tests.geometry.two_views import boxes_at, two_views


def image_input(points, descriptors, **kwargs):
    boxes = boxes_at(points, **kwargs)
    return ImageInput(
        torch.from_numpy(descriptors).float(), torch.zeros(4, 3, 3), boxes.xywh, boxes.size_hw, boxes.scores
    )


def small_config(reranker=None, **values):
    omama = OMaMaConfig(channels=4, object_channels=16, hidden=8, embedding=4, heads=2, **values)
    return TinyMatchConfig(omama=omama, descriptor_weight=0.999, reranker=reranker)


def place_model():
    """A model that prefers candidates near the expected point, as training finds first."""
    torch.manual_seed(0)
    model = TinyMatch(small_config(RerankerConfig(proposals=40))).eval()
    ranking = model.reranker.ranking
    with torch.no_grad():
        model.reranker.linear[0] = 10
        for layer in (ranking[0], ranking[2], ranking[4]):
            layer.weight.zero_()
            layer.bias.zero_()
        ranking[0].weight[0, PairFeature.NEARBY] = 5
        ranking[2].weight[0, 0] = 1
        ranking[4].weight[0, 0] = 1
    return model


def twin_scene():
    rng = np.random.default_rng(3)
    query, target, _ = two_views(3, 24, twins=False)
    appearance = rng.normal(size=(24, 16))
    appearance[1] = appearance[0]  # twins in both views
    views = [np.c_[appearance + rng.normal(0, 0.05, appearance.shape), np.zeros((24, 4))] for _ in range(2)]
    views[1][1, :16] = views[1][0, :16] = appearance[0]
    return image_input(query, views[0]), image_input(target, views[1])


def rows_of(image, rows):
    """The same image with some of its masks, without their scores."""
    return ImageInput(image.descriptors[rows], image.map, image.boxes_xywh[rows], image.size_hw)


def test_twins_are_distinguished_by_where_they_stand():
    query, target = twin_scene()
    model = place_model()
    output = model.match(query.descriptors[:2], query.boxes_xywh[:2], query, target)
    assert np.allclose(output.similarity[:, 0], output.similarity[:, 1], atol=1e-3)
    assert output.score.argmax(1).tolist() == [0, 1]
    assert ((output.visibility > 0) & (output.visibility < 1)).all()
    plain = TinyMatch(small_config()).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("reranker.")})
    by_similarity = plain.match(query.descriptors[:2], query.boxes_xywh[:2], query, target).score
    assert set(by_similarity.argmax(1)) != {0, 1}


def test_a_match_depends_neither_on_other_queries_nor_on_the_order_of_candidates():
    query, target = twin_scene()
    model = place_model()
    every = model.match(query.descriptors[:4], query.boxes_xywh[:4], query, target)
    one = model.match(query.descriptors[2:3], query.boxes_xywh[2:3], query, target)
    assert np.allclose(one.score, every.score[2:3], atol=1e-4)
    assert np.allclose(one.visibility, every.visibility[2:3], atol=1e-5)
    # Chosen masks as candidates, in another order; the image's own proposals still give the homographies.
    few = rows_of(target, [3, 0, 2, 1])
    chosen = model.match(query.descriptors[:4], query.boxes_xywh[:4], query, few, target)
    assert chosen.score.argmax(1).tolist() == [1, 3, 2, 0]
    assert len(every.homographies) == 8
    matrices = [[h.query_to_target for h in output.homographies] for output in (chosen, every)]
    assert np.array_equal(*matrices)
    # A query image without proposals, and one candidate alone: no homography, and still a match.
    bare = model.match(query.descriptors[:2], query.boxes_xywh[:2], rows_of(query, []), rows_of(few, [0]))
    assert bare.homographies == (None,) * 8
    assert np.isfinite(bare.score).all()


def test_a_match_is_the_reranker_on_features_of_the_best_proposals():
    """Step by step from the model's similarities, with no constant at its default."""
    torch.manual_seed(5)
    config = RerankerConfig(
        proposals=20, homographies=3, hidden=8,
        homography=HomographyConfig(samples=300, tolerance=0.2, refined=5),
        features=PairFeatureConfig(near_radius=0.2, nearby_radius=0.5, same_object_overlap=0.3, place_weight=0.9),
    )  # fmt: skip
    model = TinyMatch(small_config(config)).eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.reranker.ranking[-1].weight)
        model.reranker.calibration.scale.fill_(2.0)
        model.reranker.calibration.offset.fill_(0.5)
    query, target = twin_scene()
    scores = np.random.default_rng(0).uniform(0.2, 1, (2, 24))
    query, target = (dataclasses.replace(i, scores=s) for i, s in zip((query, target), scores, strict=True))
    output = model.match(query.descriptors[:4], query.boxes_xywh[:4], query, target)
    with torch.no_grad():
        everything = model(query.descriptors[None], target.descriptors[None], query.map[None], target.map[None])
    similarity = everything.similarity[0].clamp(-1, 1).double().numpy()
    rows, columns = (np.argsort(-s, kind="stable")[:20] for s in scores)
    boxes = [ScoredBoxes.make(i.boxes_xywh, i.size_hw, i.scores) for i in (query, target)]
    rivals = boxes[0].at(rows)
    homographies = view_homographies(similarity[np.ix_(rows, columns)], rivals, boxes[1].at(columns), 3,
                                     config.homography)  # fmt: skip
    assert all(h is not None for h in homographies)
    objects = ScoredBoxes.make(query.boxes_xywh[:4], query.size_hw)
    tables = [pair_features(similarity[:4], objects, boxes[1], h, similarity[rows], rivals, config.features)
              for h in homographies]  # fmt: skip
    pairs, queries = (torch.from_numpy(np.stack(part)) for part in zip(*tables, strict=True))
    with torch.no_grad():
        expected, logit = model.reranker.over_homographies(pairs, queries)
    assert np.allclose(output.similarity, similarity[:4], atol=1e-6)
    assert np.allclose(output.score, expected, atol=1e-4)
    assert np.allclose(output.visibility_logit, logit, atol=1e-4)
    assert np.allclose(output.visibility, torch.sigmoid(2 * logit + 0.5), atol=1e-4)
    assert [h.inlier_weight for h in output.homographies] == pytest.approx([h.inlier_weight for h in homographies])


def test_padding_changes_nothing():
    torch.manual_seed(1)
    head = GeometricReranker(RerankerConfig(proposals=5))
    torch.nn.init.normal_(head.ranking[-1].weight)
    pairs, queries = torch.randn(2, 3, 7, 14), torch.randn(2, 3, len(QueryFeature))
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[:, 5:] = False
    padded = head(pairs, queries, mask)
    plain = head(pairs[:, :, :5], queries)
    assert torch.isneginf(padded[0][..., 5:]).all()
    assert torch.allclose(padded[0][..., :5], plain[0], atol=1e-6)
    assert torch.allclose(padded[1], plain[1], atol=1e-5)


def test_visibility_depends_on_candidates_that_were_not_chosen():
    torch.manual_seed(3)
    head = GeometricReranker(RerankerConfig(proposals=5, hidden=16))

    def draw():
        # The chosen candidate is always the same; whether another one stands before the place decides.
        pairs, hidden = torch.rand(64, 1, 6, 14), torch.rand(64, 1) < 0.5
        pairs[..., PairFeature.SIMILARITY] *= 0.5
        pairs[:, :, 0, PairFeature.SIMILARITY] = 0.9
        pairs[:, :, 1:, PairFeature.OFFSET_Y] = -1
        rows = torch.arange(64)
        pairs[rows, 0, 1 + rows % 5, PairFeature.OFFSET_Y] = torch.where(hidden[:, 0], 1.0, -1.0)
        return pairs, torch.zeros(64, 1, len(QueryFeature)), ~hidden

    optimiser = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(150):
        pairs, queries, visible = draw()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(pairs, queries)[1], visible.float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    pairs, queries, visible = draw()
    scores, logit = head(pairs, queries)
    assert (scores.argmax(-1) == 0).all()
    assert ((logit > 0) == visible).float().mean() > 0.95


def test_several_homographies_are_averaged():
    torch.manual_seed(2)
    head = GeometricReranker(RerankerConfig(proposals=5))
    torch.nn.init.normal_(head.ranking[-1].weight)
    pairs, queries = torch.randn(3, 2, 7, 14), torch.randn(3, 2, len(QueryFeature))
    scores, logit = head.over_homographies(pairs, queries)
    alone = [head(pairs[k : k + 1], queries[k : k + 1]) for k in range(3)]
    assert torch.allclose(scores.exp(), torch.stack([r[0].softmax(-1) for r, _ in alone]).mean(0), atol=1e-6)
    assert torch.allclose(logit, torch.stack([v[0] for _, v in alone]).mean(0), atol=1e-6)


def test_every_column_reaches_the_scores_and_the_visibility():
    """A feature that is not read, or read as another one, would leave a derivative at zero."""
    torch.manual_seed(4)
    head = GeometricReranker(RerankerConfig(proposals=5))
    torch.nn.init.normal_(head.ranking[-1].weight)
    pairs = torch.randn(1, 1, 6, len(PairFeature), requires_grad=True)
    queries = torch.randn(1, 1, len(QueryFeature), requires_grad=True)
    scores, logit = head(pairs, queries)
    (of_scores,) = torch.autograd.grad(scores[0, 0, 2], pairs, retain_graph=True)
    assert (of_scores[0, 0, 2] != 0).all()
    assert not of_scores[0, 0, [0, 1, 3, 4, 5]].any(), "a candidate is scored by itself"
    of_pairs, of_queries = torch.autograd.grad(logit.sum(), (pairs, queries))
    assert (of_queries != 0).all()
    assert (of_pairs[0, 0] != 0).all(), "visibility depends on every candidate"


def test_settings_that_contradict_each_other():
    reranker = RerankerConfig(proposals=10)
    for values in ({"proposal_prior": 0.2}, {"omama": OMaMaConfig(visibility="released")}):
        with pytest.raises(ConfigError, match="reranker"):
            TinyMatchConfig(reranker=reranker, **values)
    for name in ("proposals", "homographies", "hidden", "similarity_scale"):
        with pytest.raises(ConfigError, match=name):
            RerankerConfig(**{name: -1})


def test_mirroring_both_images_changes_the_sign_of_the_horizontal_offset_alone():
    query, target, similarity = two_views(twins=False)
    homography = find_homography(query, target, similarity)

    def features(flip):
        sign = np.array([flip, 1])
        across = np.diag([flip, 1, 1])
        mirrored = Homography(across @ homography.query_to_target @ across, homography.inlier_weight,
                              homography.inlier_fraction)  # fmt: skip
        return pair_features(similarity[:5], boxes_at(query[:5] * sign), boxes_at(target * sign), mirrored,
                             similarity, boxes_at(query * sign))  # fmt: skip

    pairs, queries = features(1)
    expected_pairs, expected_queries = features(-1)
    assert np.abs(pairs - expected_pairs).max() > 0.1
    mirror(pairs)
    assert np.allclose(pairs, expected_pairs, atol=1e-4)
    assert np.allclose(queries, expected_queries, atol=1e-4)


@pytest.fixture(scope="module")
def reranker_values(place, task, tmp_path_factory):
    values = json.loads(json.dumps(place[1]))
    values["model"] = {"omama": values["model"], "descriptor_weight": "learned"}
    folder = tmp_path_factory.mktemp("reranker") / "init"
    TinyMatch(load_config(TinyMatchConfig, values["model"])).save_pretrained(folder)
    values["model"]["reranker"] = {"proposals": 12}
    return {**values, "init": str(folder), "loss": {"visibility": 0.5}}


@pytest.fixture(scope="module")
def reranker_task(reranker_values):
    torch.set_num_threads(1)
    return RerankerTask(load_config(RerankerRecipe, reranker_values), progress=False)


def test_a_recipe_needs_a_model_and_a_head(reranker_values):
    with pytest.raises(ConfigError, match="init"):
        load_config(RerankerRecipe, {k: v for k, v in reranker_values.items() if k != "init"})
    without = json.loads(json.dumps(reranker_values))
    del without["model"]["reranker"]
    with pytest.raises(ConfigError, match="reranker"):
        load_config(RerankerRecipe, without)


def test_image_pairs_have_the_objects_of_the_data_set(reranker_task, reranker_values):
    assert isinstance(reranker_task, Task)
    pairs = {(p.take, p.frame, p.query_camera, p.target_camera) for _, p in reranker_task.train_pairs}
    assert len(reranker_task.image_pairs) == reranker_task.train_length(0) == len(pairs)
    queries = sum(len(s.query_rows) for s in reranker_task.image_pairs)
    absent = sum(int((s.target_rows < 0).sum()) for s in reranker_task.image_pairs)
    assert queries == len(reranker_task.train_pairs)
    assert absent == sum(not p.target_visible for _, p in reranker_task.train_pairs)
    for pair in reranker_task.image_pairs:
        assert pair.similarity.shape == (len(pair.query[0]) + len(pair.query[1]),
                                          len(pair.target[0]) + len(pair.target[1]))  # fmt: skip
    # Arrays are stored under a name that depends on the model and not on chance.
    files = {p: p.stat().st_mtime_ns for p in (reranker_task.store.root / "scenes").rglob("*.npy")}
    again = RerankerTask(load_config(RerankerRecipe, reranker_values), progress=False)
    assert {p: p.stat().st_mtime_ns for p in (reranker_task.store.root / "scenes").rglob("*.npy")} == files
    assert np.array_equal(again.image_pairs[0].similarity, reranker_task.image_pairs[0].similarity)


def test_examples_are_pure_functions_of_their_generator(reranker_task):
    for index in range(4):
        one, two = (reranker_task.sample(0, index, np.random.default_rng(index)) for _ in range(2))
        for name in ("pair_features", "query_features", "overlap", "visible"):
            assert np.array_equal(getattr(one, name), getattr(two, name))
        assert (one.overlap[~one.visible] == 0).all()
        assert one.pair_features.shape[:2] == one.overlap.shape
    batch = collate_reranker_examples([reranker_task.sample(0, i, np.random.default_rng(i)) for i in range(4)])
    assert batch["pair_features"].shape[:3] == batch["overlap"].shape
    assert not batch["overlap"][~batch["candidate_mask"][:, None].expand_as(batch["overlap"])].any()


def test_training_learns_and_the_folder_matches(reranker_task, place, tmp_path):
    training = TrainingConfig(epochs=12, batch_size=8, lr=5e-3, trackers=(), device="cpu", validate_first=True)
    result = fit(reranker_task, training, tmp_path / "run", progress=False)
    rows = [float(line.split(",")[2]) for line in (tmp_path / "run" / "train.csv").read_text().splitlines()[1:]]
    assert np.mean(rows[-4:]) < np.mean(rows[:4]) - 0.05
    assert 0 <= result.metrics["iou"] <= 1
    before, after = (
        TinyMatch.from_pretrained(reranker_task.config.init),
        TinyMatch.from_pretrained(tmp_path / "run" / "model"),
    )
    kept = after.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in before.state_dict().items())
    assert float(after.calibration.scale) != 1

    import counterview

    take = reranker_task.val_data.takes[0]
    frame, name = take.frames[0], take.objects[0]
    images = [take.frame(camera, frame) for camera in (take.exo_cameras[0], take.ego_cameras[0])]
    model = counterview.load(str(tmp_path / "run" / "model"), device="cpu", trust=True)  # its features are a folder
    mask = take.mask(name, take.exo_cameras[0], frame) or take.mask(take.objects[1], take.exo_cameras[0], frame)
    match = model.match(images[0], mask, images[1])[0]
    assert match.mask.shape == images[1].shape[:2]
    assert 0 < match.visibility < 1
