import itertools
from importlib.resources import as_file, files

import numpy as np
import pytest
import torch

from benchmarks.proposals import of_folder
from counterview.errors import CheckpointError, ConfigError, ImageError
from counterview.masks.geometry import iou
from counterview.media.files import HASHES, read_json
from counterview.proposals import load_proposer, shipped
from counterview.proposals.boundary import EMBEDDING, EXTENT, PLACE_PX, BoundaryNet, folded, placed
from counterview.proposals.merging import merge_tree
from counterview.proposals.objectness import (
    EDGE,
    EMBEDDED,
    FEATURES,
    INNER,
    JUMP,
    SQUARE,
    gather,
    predict,
    spread,
)
from counterview.proposals.regions import AREA, LENGTH
from counterview.proposals.tiny import COSTS, TinySettings, at_working_size, basins, cut_along, grow, members_at


@pytest.fixture(scope="module")
def tiny():
    return load_proposer("tiny")


@pytest.fixture(scope="module")
def cut_up(shapes):
    """A small image's regions, with boundaries as they would be if the network made no mistake."""
    image, objects = shapes((90, 120))
    edge = np.zeros((90, 120), bool)
    for mask in objects.values():
        edge[1:] |= mask[1:] != mask[:-1]
        edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    embedding = np.zeros((90, 120, EMBEDDING), np.float32)
    for number, mask in enumerate(objects.values(), start=1):
        embedding[mask, number % EMBEDDING] = 4
    embedding += np.random.default_rng(0).normal(0, 0.05, embedding.shape).astype(np.float32)
    extent = np.zeros((90, 120, EXTENT), np.float32)
    for mask in (*objects.values(), ~np.any(list(objects.values()), axis=0)):
        extent[mask] = extent_of(mask)
    seen = shipped.Seen(edge.astype(np.uint8) * 255, embedding, extent)
    return image, seen, cut_along(image, seen, 60)


def extent_of(mask):
    """What a network that makes no mistake says of each of a body's pixels."""
    y, x = np.nonzero(mask)
    deviations = [np.log(np.sqrt(v.var() + 1 / 12)) for v in (x, y)]
    return np.float32([x.mean(), y.mean(), *deviations, np.log(len(x))])


def test_objects_are_among_the_first_masks(shapes, best_iou):
    image, objects = shapes()
    proposals = load_proposer("tiny", max_masks=60)(image)
    assert 0 < len(proposals) <= 60
    found = {name: best_iou(proposals, mask) for name, mask in objects.items()}
    assert min(found.values()) > 0.7, found
    assert np.mean(list(found.values())) > 0.85, found


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
    for given, expected in (((30, 40), (60, 80)), ((60, 80), (60, 80)), ((120, 160), (60, 80)), ((1, 3), (40, 120))):
        assert at_working_size(np.zeros((*given, 3), np.uint8), settings).shape[:2] == expected
    assert at_working_size(np.zeros((1, 90000, 3), np.uint8), settings).shape[0] == 1


def test_caches_notice_other_weights(tiny):
    settings = tiny.settings()
    listed = read_json(shipped.folder() / HASHES)
    assert settings["boundary"] == listed[shipped.BOUNDARY][:16]
    assert settings["ranker"] == listed[shipped.RANKER][:16]


@pytest.mark.parametrize("name", [shipped.BOUNDARY, shipped.RANKER, HASHES])
@pytest.mark.parametrize("harm", ["flip", "cut", "missing"])
def test_damaged_file_is_told(name, harm, tmp_path):
    for path in shipped.folder().iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    if harm == "missing":
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(bytes(data) if harm == "flip" else bytes(data[: len(data) // 2]))
    with pytest.raises(CheckpointError, match=r"shipped file") as caught:
        shipped.load_boundary(tmp_path)
        shipped.load_ranker(tmp_path)
    assert "\n" not in str(caught.value)
    assert "Install the package again" in str(caught.value)


def test_weights_of_another_network_are_refused(tmp_path):
    data = (shipped.folder() / shipped.RANKER).read_bytes()
    with pytest.raises(CheckpointError, match="no boundary network"):
        shipped.boundary_from(data, "0" * 64, tmp_path / "x")


def test_boundary_network_takes_any_size_and_sees_a_square():
    image = np.full((70, 101, 3), 90, np.uint8)
    image[20:50, 30:70] = (220, 210, 60)
    seen = shipped.load_boundary()(image)
    assert seen.edge.shape == (70, 101)
    assert seen.edge.dtype == np.uint8
    assert seen.embedding.shape == (70, 101, EMBEDDING)
    assert seen.extent.shape == (70, 101, EXTENT)
    on = np.zeros((70, 101), bool)
    on[19:51, 29:71] = True
    on[21:49, 31:69] = False
    away = np.zeros((70, 101), bool)
    away[25:45, 35:65] = True
    assert seen.edge[on].mean() > 3 * seen.edge[away].mean() + 50
    # The square's pixels are alike, and unlike those around it.
    outside = np.ones((70, 101), bool)
    outside[15:55, 25:75] = False
    centre = seen.embedding[away].mean(0)
    distance = np.linalg.norm(seen.embedding - centre, axis=2)
    assert np.quantile(distance[away], 0.9) < np.quantile(distance[outside], 0.1)


def test_folded_network_answers_as_the_trained_one():
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


def test_places_are_those_of_the_pixels():
    embedding = torch.randn(2, EMBEDDING, 3, 5)
    given = placed(embedding)
    assert torch.equal(given[:, 2:], embedding[:, 2:])
    for y, x in itertools.product(range(3), range(5)):
        expected = embedding[:, :2, y, x] + torch.tensor([2 * x, 2 * y]) / PLACE_PX
        assert torch.allclose(given[:, :2, y, x], expected)


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


def test_cut_keeps_the_sums_of_the_image(cut_up):
    _, seen, regions = cut_up
    assert len(regions) == 60
    assert np.array_equal(np.bincount(regions.labels.ravel()), regions.sums[:, AREA])
    assert regions.sums[:, INNER].sum() == pytest.approx(seen.edge.sum() / 255)
    for number in range(len(regions)):
        inside = seen.embedding[regions.labels == number].astype(np.float64)
        assert np.allclose(regions.sums[number, EMBEDDED], inside.sum(0), rtol=1e-4, atol=1e-3)
        assert regions.sums[number, SQUARE] == pytest.approx((inside**2).sum(), rel=1e-4)
        around = np.sqrt(((inside - inside.mean(0)) ** 2).sum(1).mean())
        assert spread(regions.sums[[number]])[0] == pytest.approx(around, abs=2e-3)
    # Borders, counted again on the finished labels.
    labels, total = regions.labels, {}
    for near, far in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        jumps = np.linalg.norm(seen.embedding[near] - seen.embedding[far], axis=2)
        for a, b, p, q, d in zip(
            *(part.ravel() for part in (labels[near], labels[far], seen.edge[near], seen.edge[far], jumps)), strict=True
        ):
            if a != b:
                length, edge, jump = total.get((min(a, b), max(a, b)), (0, 0.0, 0.0))
                total[min(a, b), max(a, b)] = (length + 1, edge + (int(p) + int(q)) / 510, jump + float(d))
    assert len(total) == len(regions.pairs)
    for pair, border in zip(regions.pairs.tolist(), regions.borders, strict=True):
        assert border[[LENGTH, EDGE, JUMP]] == pytest.approx(np.array(total[tuple(pair)]), rel=1e-4, abs=1e-3)


def test_what_something_in_front_has_cut_in_two_is_joined_by_its_embedding():
    image = np.full((60, 90, 3), 120, np.uint8)
    image[20:40, 10:80] = (200, 60, 60)
    image[10:50, 40:50] = (60, 60, 200)
    body = np.zeros((60, 90), np.int64)
    body[20:40, 10:80] = 1
    body[10:50, 40:50] = 2
    edge = np.zeros((60, 90), np.uint8)
    edge[1:] |= (body[1:] != body[:-1]).astype(np.uint8)
    edge[:, 1:] |= (body[:, 1:] != body[:, :-1]).astype(np.uint8)
    embedding = np.eye(EMBEDDING, dtype=np.float32)[body] * 4
    embedding += np.random.default_rng(1).normal(0, 0.05, embedding.shape).astype(np.float32)
    extent = np.stack([extent_of(body == number) for number in range(3)])[body]
    regions = cut_along(image, shipped.Seen(edge * 255, embedding, extent), 40)
    nodes = gather(grow(regions), 10, 4000)
    members = members_at(grow(regions), nodes.at)
    inside = np.bincount(regions.labels.ravel(), (body == 1).ravel(), len(regions))
    common = members @ inside
    overlap = common / (nodes.sums[:, AREA] + inside.sum() - common)
    assert overlap.max() > 0.85
    value = dict(zip(FEATURES, nodes.features[overlap.argmax()], strict=True))
    name = "spread of its embeddings"
    assert value[name] < 0.5
    assert nodes.features[:, FEATURES.index(name)].max() > 1
    name = "log distance of its mean embedding from that of what it is joined with"
    assert value[name] > np.log(2)
    # Of the whole the extent is told right, of a part it is too large.
    parts = (nodes.sums[:, AREA] < 0.6 * inside.sum()) & (common > 0.95 * nodes.sums[:, AREA])
    assert parts.any()
    sizes = [FEATURES.index(f"log learned {what} over its own") for what in ("area", "deviation along x")]
    assert np.abs(nodes.features[overlap.argmax(), sizes]).max() < 0.25
    assert nodes.features[parts][:, sizes].mean(0).min() > 0.4


def test_members_are_those_of_the_trees(cut_up):
    trees = grow(cut_up[2])
    every = np.concatenate([tree.members() for tree in trees])
    at = np.random.default_rng(0).permutation(len(every))
    assert np.array_equal(members_at(trees, at) > 0, every[at])
    parts = merge_tree(cut_up[2].sums, cut_up[2].pairs, cut_up[2].borders, COSTS[0], stop_at=5)
    assert np.array_equal(members_at([parts], np.arange(len(parts.sums))) > 0, parts.members())


def test_features_agree_with_what_is_counted_from_the_members(cut_up):
    regions = cut_up[2]
    trees = grow(regions)
    nodes = gather(trees, 10, 4000)
    every = [tree.members() for tree in trees]
    members = np.concatenate(every)[nodes.at]
    sets = [{row.tobytes() for row in part} for part in every]
    assert len({row.tobytes() for row in members}) == len(members)
    assert np.allclose(members @ regions.sums, nodes.sums)
    value = dict(zip(FEATURES, nodes.features.T, strict=True))
    crossing = members[:, regions.pairs[:, 0]] != members[:, regions.pairs[:, 1]]
    length, edge = crossing @ regions.borders[:, LENGTH], crossing @ regions.borders[:, EDGE]
    assert np.allclose(value["mean learned boundary along the outline"], edge / np.maximum(length, 1), atol=1e-5)
    often = [np.mean([row.tobytes() in part for part in sets]) for row in members]
    assert np.allclose(value["share of the trees that have it"], often)
    born = value["learned boundary between its two parts"]
    assert (value["the most that was joined across anywhere within"] >= born - 1e-6).all()
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
        # Of two that do not touch there is no boundary to speak of.
        mean = regions.borders[between, EDGE].sum() / max(regions.borders[between, LENGTH].sum(), 1)
        assert value["learned boundary to what it is joined with"][index] == pytest.approx(mean, abs=1e-4)


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
        quality, promise = last(torch.relu(first(scaled))).unbind(1)
    given = predict(weights, x)
    assert np.allclose(given[0], torch.sigmoid(quality).numpy(), atol=1e-6)
    assert np.allclose(given[1], promise.numpy(), atol=1e-5)
