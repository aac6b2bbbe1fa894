import itertools
from importlib.resources import as_file, files

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.proposals import of_folder
from counterview.errors import CheckpointError, ConfigError, ImageError
from counterview.masks.geometry import iou
from counterview.media.files import HASHES, read_json, sha256_file, write_json
from counterview.nn.weights import write_tensors
from counterview.proposals import bundled, load_proposer
from counterview.proposals.boundary import EMBEDDING, EXTENT, PLACE_PX, BoundaryNet, folded, placed
from counterview.proposals.merging import merge_tree
from counterview.proposals.objectness import (
    EDGE,
    EMBEDDED,
    FEATURES,
    INNER,
    JUMP,
    SQUARE,
    collect_nodes,
    predict,
    spread,
)
from counterview.proposals.regions import AREA, LENGTH
from counterview.proposals.tiny import (
    COSTS,
    TinySettings,
    at_working_size,
    basins,
    build_trees,
    node_members,
    oversegment_along,
)


@pytest.fixture(scope="module")
def tiny():
    return load_proposer("tiny")


def test_objects_are_among_the_first_masks(shapes, best_iou):
    image, objects = shapes()
    proposals = load_proposer("tiny", max_masks=60)(image)
    assert 0 < len(proposals) <= 60
    best = {name: best_iou(proposals, mask) for name, mask in objects.items()}
    assert min(best.values()) > 0.7, best
    assert np.mean(list(best.values())) > 0.85, best


def test_bundled_pair_is_covered_as_measured_and_better_than_without_learning():
    means = {}
    for name in ("graph", "tiny"):
        proposer = load_proposer(name, max_masks=200)
        with as_file(files("counterview") / "assets" / "pair") as folder:
            values = [
                max(iou(proposal, mask) for proposal in proposer(example.image))
                for example in of_folder(folder, "pair")
                for mask in example.objects.values()
            ]
        means[name] = np.mean(values)
    assert len(values) == 12
    assert means["tiny"] > 0.87, means
    assert means["tiny"] > means["graph"] + 0.03, means


def test_limits_hold(shapes):
    image, _ = shapes()
    proposals = load_proposer("tiny", max_masks=25, duplicate_iou=0.6, max_area=0.2, working_px=10_000)(image)
    assert 0 < len(proposals) <= 25
    dense = [mask.to_array() for mask in proposals]
    assert all(mask.sum() <= 0.2 * image[..., 0].size for mask in dense)
    overlaps = [(a & b).sum() / (a | b).sum() for a, b in itertools.combinations(dense, 2)]
    assert max(overlaps) <= 0.6


def test_result_is_the_same_every_time_and_fewer_masks_are_the_first_of_more(shapes, tiny):
    image, _ = shapes(seed=4)
    before = image.copy()
    first = tiny(image)
    assert first == load_proposer("tiny")(np.asfortranarray(image))
    assert np.array_equal(image, before)
    assert load_proposer("tiny", max_masks=20)(image).masks == first.masks[:20]


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 3), (64, 64)])
def test_image_without_anything_in_it_gives_masks_of_its_size_or_none(shape, tiny):
    proposals = tiny(np.full((*shape, 3), 90, np.uint8))
    assert proposals.size_hw == shape
    assert len(proposals) <= 200


def test_noise_and_large_images_do_not_break_it(tiny):
    image = np.random.default_rng(0).integers(0, 256, (97, 61, 3), dtype=np.uint8)
    assert np.isfinite(tiny(image).scores).all()
    proposals = load_proposer("tiny", working_px=60_000)(np.tile(image, (8, 12, 1)))
    assert proposals.size_hw == (776, 732)


def test_not_an_image_and_settings_out_of_range_are_refused(tiny):
    with pytest.raises(ImageError):
        tiny(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(ConfigError, match="working_px"):
        load_proposer("tiny", working_px=0)
    with pytest.raises(ConfigError, match="takes no argument"):
        load_proposer("tiny:large")


def test_images_are_brought_to_one_size_and_keep_their_shape():
    settings = TinySettings(working_px=4800)
    for size, expected in (((30, 40), (60, 80)), ((60, 80), (60, 80)), ((120, 160), (60, 80)), ((1, 3), (40, 120))):
        assert at_working_size(np.zeros((*size, 3), np.uint8), settings).shape[:2] == expected
    assert at_working_size(np.zeros((1, 90000, 3), np.uint8), settings).shape[0] == 1


def test_caches_notice_other_weights(tiny):
    settings = tiny.settings()
    listed = read_json(bundled.bundled_folder() / HASHES)
    assert settings["boundary"] == listed[bundled.BOUNDARY][:16]
    assert settings["ranker"] == listed[bundled.RANKER][:16]


@pytest.mark.parametrize("name", [bundled.BOUNDARY, bundled.RANKER, HASHES])
@pytest.mark.parametrize("harm", ["flip", "cut", "missing"])
def test_damaged_files_are_refused(name, harm, tmp_path):
    for path in bundled.bundled_folder().iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    if harm == "missing":
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(bytes(data) if harm == "flip" else bytes(data[: len(data) // 2]))
    with pytest.raises(CheckpointError, match=r"bundled file") as caught:
        bundled.load_boundary(tmp_path)
        bundled.load_ranker(tmp_path)
    assert "\n" not in str(caught.value)
    assert "Install the package again" in str(caught.value)


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"another architecture: .*is missing"):
        bundled.read_boundary(bundled.bundled_folder() / bundled.RANKER)
    bundle(tmp_path, bundled.RANKER, {"mean": torch.zeros(5), "w0": torch.zeros(26, 2), "b0": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"scale is missing.*mean is \(5,\), expected \(26,\)"):
        bundled.load_ranker(tmp_path)
    bundle(tmp_path, bundled.RANKER, {"mean": torch.zeros(26), "scale": torch.ones(26)})
    with pytest.raises(CheckpointError, match="26 outputs, expected 2"):
        bundled.load_ranker(tmp_path)


def bundle(folder, name, tensors):
    """A file of weights with its hash, as it would come with the package."""
    write_tensors(folder / name, tensors)
    write_json(folder / HASHES, {name: sha256_file(folder / name)})


def test_bundled_networks_are_those_of_their_files():
    path = bundled.bundled_folder() / bundled.BOUNDARY
    bare, loaded = bundled.read_boundary(path), bundled.load_boundary()
    assert bare.digest == loaded.digest == sha256_file(path)
    stored = load_file(path)
    state = loaded.net.state_dict()
    assert set(stored) == set(state)
    assert all(torch.equal(state[name], value.float()) for name, value in stored.items())
    ranker, stored = bundled.load_ranker(), load_file(bundled.bundled_folder() / bundled.RANKER)
    assert set(ranker.weights) == set(stored)
    assert all(np.array_equal(ranker.weights[name], value.numpy()) for name, value in stored.items())


def test_boundary_network_takes_any_size_and_finds_a_square():
    image = np.full((70, 101, 3), 90, np.uint8)
    image[20:50, 30:70] = (220, 210, 60)
    prediction = bundled.load_boundary()(image)
    assert prediction.edge.shape == (70, 101)
    assert prediction.edge.dtype == np.uint8
    assert prediction.embedding.shape == (70, 101, EMBEDDING)
    assert prediction.extent.shape == (70, 101, EXTENT)
    on = np.zeros((70, 101), bool)
    on[19:51, 29:71] = True
    on[21:49, 31:69] = False
    away = np.zeros((70, 101), bool)
    away[25:45, 35:65] = True
    assert prediction.edge[on].mean() > 3 * prediction.edge[away].mean() + 50
    # The square's pixels are alike, and unlike those around it.
    outside = np.ones((70, 101), bool)
    outside[15:55, 25:75] = False
    centre = prediction.embedding[away].mean(0)
    distance = np.linalg.norm(prediction.embedding - centre, axis=2)
    assert np.quantile(distance[away], 0.9) < np.quantile(distance[outside], 0.1)


def test_folded_network_equals_the_trained_one():
    torch.manual_seed(0)
    trained = BoundaryNet(train=True, widths=(4, 6, 8, 10))
    for _ in range(3):  # running means and variances other than those of a new norm
        trained(torch.randn(2, 3, 32, 48) * 2 + 1)
    trained.eval()
    plain = BoundaryNet(widths=(4, 6, 8, 10)).eval()
    plain.load_state_dict(folded(trained))
    x = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        for one, other in zip(plain(x), trained(x), strict=True):
            assert torch.allclose(one, other, atol=1e-4)


def test_positions_are_those_of_the_pixels():
    embedding = torch.randn(2, EMBEDDING, 3, 5)
    positioned = placed(embedding)
    assert torch.equal(positioned[:, 2:], embedding[:, 2:])
    for y, x in itertools.product(range(3), range(5)):
        expected = embedding[:, :2, y, x] + torch.tensor([2 * x, 2 * y]) / PLACE_PX
        assert torch.allclose(positioned[:, :2, y, x], expected)


@pytest.mark.parametrize("seed", range(4))
def test_basins_are_where_every_pixel_flows(seed):
    rng = np.random.default_rng(seed)
    strength = rng.random((13, 17)).astype(np.float32)
    strength[4:8, 5:9] = 0  # a level stretch is one basin
    labels = basins(strength)
    height, width = strength.shape

    def flow(y, x):
        """Oracle: walk to the lowest neighbour until none is lower."""
        while True:
            around = [
                (strength[v, u], v, u)
                for v in range(max(0, y - 1), min(height, y + 2))
                for u in range(max(0, x - 1), min(width, x + 2))
            ]
            low = min(around)
            if low[0] >= strength[y, x]:
                return (4, 5) if 4 <= y < 8 and 5 <= x < 9 else (y, x)
            _, y, x = low

    ends = {}
    for y in range(height):
        for x in range(width):
            ends.setdefault(flow(y, x), set()).add(int(labels[y, x]))
    assert all(len(found) == 1 for found in ends.values())
    assert len({found.pop() for found in ends.values()}) == len(ends) == labels.max() + 1


def test_over_segmentation_keeps_the_sums_of_the_image(segmented):
    _, prediction, regions = segmented
    assert len(regions) == 60
    assert np.array_equal(np.bincount(regions.labels.ravel()), regions.sums[:, AREA])
    assert regions.sums[:, INNER].sum() == pytest.approx(prediction.edge.sum() / 255)
    for number in range(len(regions)):
        inside = prediction.embedding[regions.labels == number].astype(np.float64)
        assert np.allclose(regions.sums[number, EMBEDDED], inside.sum(0), rtol=1e-4, atol=1e-3)
        assert regions.sums[number, SQUARE] == pytest.approx((inside**2).sum(), rel=1e-4)
        around = np.sqrt(((inside - inside.mean(0)) ** 2).sum(1).mean())
        assert spread(regions.sums[[number]])[0] == pytest.approx(around, abs=2e-3)
    # Borders, counted again on the finished labels.
    labels, total = regions.labels, {}
    for near, far in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        jumps = np.linalg.norm(prediction.embedding[near] - prediction.embedding[far], axis=2)
        for a, b, p, q, d in zip(
            *(part.ravel() for part in (labels[near], labels[far], prediction.edge[near], prediction.edge[far], jumps)),
            strict=True,
        ):
            if a != b:
                length, edge, jump = total.get((min(a, b), max(a, b)), (0, 0.0, 0.0))
                total[min(a, b), max(a, b)] = (length + 1, edge + (int(p) + int(q)) / 510, jump + float(d))
    assert len(total) == len(regions.pairs)
    for pair, border in zip(regions.pairs.tolist(), regions.borders, strict=True):
        assert border[[LENGTH, EDGE, JUMP]] == pytest.approx(np.array(total[tuple(pair)]), rel=1e-4, abs=1e-3)


def test_the_two_parts_of_an_occluded_object_are_merged_by_their_embedding(extent_of):
    image = np.full((60, 90, 3), 120, np.uint8)
    image[20:40, 10:80] = (200, 60, 60)
    image[10:50, 40:50] = (60, 60, 200)
    instance = np.zeros((60, 90), np.int64)
    instance[20:40, 10:80] = 1
    instance[10:50, 40:50] = 2
    edge = np.zeros((60, 90), np.uint8)
    edge[1:] |= (instance[1:] != instance[:-1]).astype(np.uint8)
    edge[:, 1:] |= (instance[:, 1:] != instance[:, :-1]).astype(np.uint8)
    embedding = np.eye(EMBEDDING, dtype=np.float32)[instance] * 4
    embedding += np.random.default_rng(1).normal(0, 0.05, embedding.shape).astype(np.float32)
    extent = np.stack([extent_of(instance == number) for number in range(3)])[instance]
    regions = oversegment_along(image, bundled.DensePrediction(edge * 255, embedding, extent), 40)
    nodes = collect_nodes(build_trees(regions), 10, 4000)
    members = node_members(build_trees(regions), nodes.at)
    inside = np.bincount(regions.labels.ravel(), (instance == 1).ravel(), len(regions))
    common = members @ inside
    overlap = common / (nodes.sums[:, AREA] + inside.sum() - common)
    assert overlap.max() > 0.85
    value = dict(zip(FEATURES, nodes.features[overlap.argmax()], strict=True))
    name = "spread of its embeddings"
    assert value[name] < 0.5
    assert nodes.features[:, FEATURES.index(name)].max() > 1
    name = "log embedding distance to its sibling"
    assert value[name] > np.log(2)
    # The predicted extent is that of the object, and too large for a part of it.
    parts = (nodes.sums[:, AREA] < 0.6 * inside.sum()) & (common > 0.95 * nodes.sums[:, AREA])
    assert parts.any()
    sizes = [FEATURES.index(f"log predicted {what} over its own") for what in ("area", "deviation along x")]
    assert np.abs(nodes.features[overlap.argmax(), sizes]).max() < 0.25
    assert nodes.features[parts][:, sizes].mean(0).min() > 0.4


def test_members_are_those_of_the_trees(segmented):
    trees = build_trees(segmented[2])
    every = np.concatenate([tree.members() for tree in trees])
    at = np.random.default_rng(0).permutation(len(every))
    assert np.array_equal(node_members(trees, at) > 0, every[at])
    parts = merge_tree(segmented[2].sums, segmented[2].pairs, segmented[2].borders, COSTS[0], stop_at=5)
    assert np.array_equal(node_members([parts], np.arange(len(parts.sums))) > 0, parts.members())


def test_features_agree_with_what_is_counted_from_the_members(segmented):
    regions = segmented[2]
    trees = build_trees(regions)
    nodes = collect_nodes(trees, 10, 4000)
    every = [tree.members() for tree in trees]
    members = np.concatenate(every)[nodes.at]
    sets = [{row.tobytes() for row in part} for part in every]
    assert len({row.tobytes() for row in members}) == len(members)
    assert np.allclose(members @ regions.sums, nodes.sums)
    value = dict(zip(FEATURES, nodes.features.T, strict=True))
    crossing = members[:, regions.pairs[:, 0]] != members[:, regions.pairs[:, 1]]
    length, edge = crossing @ regions.borders[:, LENGTH], crossing @ regions.borders[:, EDGE]
    assert np.allclose(value["mean boundary probability along the outline"], edge / np.maximum(length, 1), atol=1e-5)
    often = [np.mean([row.tobytes() in part for part in sets]) for row in members]
    assert np.allclose(value["fraction of the trees that contain it"], often)
    born = value["boundary probability between its children"]
    assert (value["highest boundary probability between any merged regions inside"] >= born - 1e-6).all()
    only = np.flatnonzero(np.isclose(often, 1 / len(trees)))
    assert len(only)
    for index in only[:40]:
        tree = next(t for t, part in zip(trees, sets, strict=True) if members[index].tobytes() in part)
        own = tree.members()
        node = next(i for i, row in enumerate(own) if np.array_equal(row, members[index]))
        parent = tree.parents()[node]
        sibling = own[parent] & ~own[node]
        u, v = regions.pairs.T
        between = (own[node][u] & sibling[v]) | (own[node][v] & sibling[u])
        # Nodes that do not touch have no boundary between them.
        mean = regions.borders[between, EDGE].sum() / max(regions.borders[between, LENGTH].sum(), 1)
        assert value["boundary probability towards its sibling"][index] == pytest.approx(mean, abs=1e-4)


def test_prediction_is_that_of_the_layers():
    rng = np.random.default_rng(0)
    shapes = {"w0": (3, 4), "b0": (4,), "w1": (4, 2), "b1": (2,)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    weights |= {"mean": np.float32([1, 0, -1]), "scale": np.float32([2, 1, 0.5])}
    x = rng.normal(size=(6, 3)).astype(np.float32) * 4
    scaled = torch.from_numpy((x - weights["mean"]) / weights["scale"]).clamp(-5, 5)
    first, last = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
    with torch.no_grad():
        for layer, number in ((first, 0), (last, 1)):
            layer.weight.copy_(torch.from_numpy(weights[f"w{number}"].T))
            layer.bias.copy_(torch.from_numpy(weights[f"b{number}"]))
        logit, selection = last(torch.relu(first(scaled))).unbind(1)
    output = predict(weights, x)
    assert np.allclose(output[0], torch.sigmoid(logit).numpy(), atol=1e-6)
    assert np.allclose(output[1], selection.numpy(), atol=1e-5)


def test_proposals_are_the_same_amid_training_in_half_precision():
    random_image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    proposer = load_proposer("tiny", max_masks=20)
    with torch.autocast("cpu", torch.bfloat16):
        amid = proposer(random_image, None)
    assert amid.masks == proposer(random_image, None).masks
