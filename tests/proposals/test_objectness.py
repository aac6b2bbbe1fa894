"""Features and cues of candidates, counted again from the pixels."""

import cv2
import numpy as np
import pytest

from counterview.proposals.graph import _contact, _contact_and_shape, texture_and_shape
from counterview.proposals.objectness import EDGE, EMBEDDED, EXTENTS, FEATURES, JUMP, collect_nodes
from counterview.proposals.ranking import closedness, ellipse_fill, frame_fraction, surround_contrast
from counterview.proposals.regions import (
    AREA,
    HISTOGRAMS,
    LENGTH,
    MOMENTS,
    STRENGTH,
    STRONG,
    gradient_strength,
    oversegment,
)
from counterview.proposals.tiny import _edge_and_embedding, _extent, build_trees


def pixel_pairs(array):
    """Left and right, then upper and lower pixel of all neighbouring pairs, flat: ``(p, ...)`` each."""
    tail = array.shape[2:]
    near = [array[:, :-1].reshape(-1, *tail), array[:-1].reshape(-1, *tail)]
    far = [array[:, 1:].reshape(-1, *tail), array[1:].reshape(-1, *tail)]
    return np.concatenate(near), np.concatenate(far)


def smooth_gradient(image):
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return gradient_strength(cv2.GaussianBlur(lab, (0, 0), 0.8))


class Pixels:
    """All that features are about, by pixel and by pair of neighbours."""

    def __init__(self, image, prediction):
        self.prediction = prediction
        self.gradient = np.maximum(*pixel_pairs(smooth_gradient(image)))
        edges = pixel_pairs(prediction.edge.astype(float))
        self.edge = (edges[0] + edges[1]) / 510
        embeddings = pixel_pairs(prediction.embedding.astype(float))
        self.jump = np.linalg.norm(embeddings[0] - embeddings[1], axis=1)

    def between(self, one, other):
        """Mean boundary probability between two sets of pixels; 0 if they do not touch."""
        (a, b), (c, d) = pixel_pairs(one), pixel_pairs(other)
        touching = (a & d) | (b & c)
        return self.edge[touching].mean() if touching.any() else 0.0

    def embedding(self, mask):
        return self.prediction.embedding[mask].astype(float)

    def spread(self, mask):
        values = self.embedding(mask)
        return np.sqrt(((values - values.mean(0)) ** 2).sum(1).mean())

    def distance(self, one, other):
        return np.linalg.norm(self.embedding(one).mean(0) - self.embedding(other).mean(0))

    def extent(self, mask):
        return self.prediction.extent[mask].astype(float)


def fill(mask):
    y, x = np.nonzero(mask)
    covariance = np.cov(np.stack([x, y]), bias=True) + np.eye(2) / 12
    return min(1.0, len(x) / (4 * np.pi * np.sqrt(np.linalg.det(covariance))))


def on_image_border(mask):
    return mask[0].sum() + mask[-1].sum() + mask[1:-1, 0].sum() + mask[1:-1, -1].sum()


def node_features(pixels, tree, node, mask_of):
    """The features of a node that one tree alone has, from masks of it, its children, parent and sibling."""
    mask, parent = mask_of(node), tree.parents()[node]
    left, right = tree.children[node - tree.leaves]
    siblings = tree.children[parent - tree.leaves]
    sibling, whole = mask_of(siblings[siblings != node][0]), mask_of(parent)
    inner, stack = [], [node]
    while stack:
        current = stack.pop()
        if current >= tree.leaves:
            a, b = tree.children[current - tree.leaves]
            inner.append(pixels.between(mask_of(a), mask_of(b)))
            stack += [a, b]
    one, other = pixel_pairs(mask)
    outline = one != other
    length, area = outline.sum(), mask.sum()
    y, x = np.nonzero(mask)
    major, minor = np.linalg.eigvalsh(np.cov(np.stack([x, y]), bias=True) + np.eye(2) / 12)[::-1]
    extent, centres = pixels.extent(mask).mean(0), pixels.extent(mask)[:, :2]
    log_distance = lambda value: np.log(value + 0.05)  # noqa: E731
    scatter = np.sqrt(((centres - centres.mean(0)) ** 2).sum(1).mean())
    return {
        "ellipse fill": fill(mask),
        "fraction of the outline with a visible edge": (pixels.gradient[outline] > 3).mean(),
        "mean boundary probability along the outline": pixels.edge[outline].mean(),
        "fraction of the outline without a predicted boundary": (pixels.edge[outline] < 64 / 255).mean(),
        "log mean gradient along the outline": np.log(pixels.gradient[outline].mean() + 0.1),
        "log squared outline length over area": np.log((length + on_image_border(mask)) ** 2 / area),
        "fraction of the outline on the image border": on_image_border(mask) / (on_image_border(mask) + length),
        "mean boundary probability of all pixels": pixels.prediction.edge[mask].mean() / 255,
        "boundary probability between its children": pixels.between(mask_of(left), mask_of(right)),
        "highest boundary probability between any merged regions inside": max(inner),
        "boundary probability towards its sibling": pixels.between(mask, sibling),
        "log area of the parent over its own": np.log(whole.sum() / area),
        "ellipse fill of the parent": fill(whole),
        "fraction of the trees that contain it": 1 / 5,
        "log elongation": np.log(major / max(minor, 1 / 12)),
        "spread of its embeddings": pixels.spread(mask),
        "log embedding distance along the outline": log_distance(pixels.jump[outline].mean()),
        "log embedding distance of its children": log_distance(pixels.distance(mask_of(left), mask_of(right))),
        "log embedding distance to its sibling": log_distance(pixels.distance(mask, sibling)),
        "spread of the parent's embeddings": pixels.spread(whole),
        "log predicted deviation along x over its own": extent[2] - np.log(x.var() + 1 / 12) / 2,
        "log predicted deviation along y over its own": extent[3] - np.log(y.var() + 1 / 12) / 2,
        "log predicted area over its own": extent[4] - np.log(area),
        "log predicted area of the parent over the parent's own": pixels.extent(whole)[:, 4].mean()
        - np.log(whole.sum()),
        "distance to the predicted centre over the square root of its area": min(
            10, np.hypot(extent[0] - x.mean(), extent[1] - y.mean()) / np.sqrt(area)
        ),
        "log spread of the predicted centres over the square root of its area": log_distance(
            min(10, scatter / np.sqrt(area))
        ),
    }


def test_every_feature_is_the_one_of_its_name(segmented):
    image, prediction, regions = segmented
    pixels, trees = Pixels(image, prediction), build_trees(regions)
    nodes = collect_nodes(trees, 10, 4000)
    members = [tree.members() for tree in trees]
    sets = [{row.tobytes(): index for index, row in enumerate(part)} for part in members]
    every = np.concatenate(members)
    checked = 0
    for row, at in enumerate(nodes.at):
        owners = [number for number, part in enumerate(sets) if every[at].tobytes() in part]
        if len(owners) > 1:
            continue  # features of children and parent are means over the trees
        tree, own = trees[owners[0]], members[owners[0]]
        node = sets[owners[0]][every[at].tobytes()]
        if node < tree.leaves or tree.parents()[node] < 0:
            continue
        expected = node_features(pixels, tree, node, lambda index, own=own: own[index][regions.labels])
        assert list(expected) == list(FEATURES)
        for column, (name, value) in enumerate(expected.items()):
            # Differences of large float32 sums leave a little where the spread is 0.
            tolerance = 0.03 if name.startswith("log spread") else 2e-3
            assert nodes.features[row, column] == pytest.approx(value, rel=2e-3, abs=tolerance), name
        boundary = expected["mean boundary probability along the outline"]
        assert nodes.heuristic[row] == pytest.approx((boundary + 0.05) * expected["ellipse fill"] ** 2, rel=1e-3)
        checked += 1
    assert checked > 15


def test_features_of_a_node_that_several_trees_contain_are_means_over_them(segmented):
    regions = segmented[2]
    trees = build_trees(regions)
    together = collect_nodes(trees, 10, 4000)
    one, other = collect_nodes(trees[:1], 10, 4000), collect_nodes(trees[1:2], 10, 4000)
    both = collect_nodes(trees[:2], 10, 4000)
    growth = FEATURES.index("log area of the parent over its own")
    often = FEATURES.index("fraction of the trees that contain it")
    key = lambda nodes, row: nodes.sums[row].tobytes()  # noqa: E731
    first = {key(one, row): row for row in range(len(one.at))}
    second = {key(other, row): row for row in range(len(other.at))}
    shared = [row for row in range(len(both.at)) if key(both, row) in first and key(both, row) in second]
    assert len(shared) > 20  # the leaves at least
    for row in shared:
        parts = one.features[first[key(both, row)], growth], other.features[second[key(both, row)], growth]
        assert both.features[row, growth] == pytest.approx(np.mean(parts), abs=1e-5)
        assert both.features[row, often] == 1
    assert together.features[:, often].min() == pytest.approx(1 / len(trees))


@pytest.fixture(scope="module")
def coloured(shapes):
    image, _ = shapes((60, 80))
    return image, oversegment(image, 40)


def some_members(count, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random((12, count)) < 0.3).astype(np.float32)


def test_borders_are_sums_of_the_stronger_gradient_of_each_pixel_pair(coloured):
    image, regions = coloured
    strength = np.maximum(*pixel_pairs(smooth_gradient(image)))
    near, far = pixel_pairs(regions.labels)
    for (u, v), border in zip(regions.pairs, regions.borders, strict=True):
        at = ((near == u) & (far == v)) | ((near == v) & (far == u))
        assert border[LENGTH] == at.sum()
        assert border[STRENGTH] == pytest.approx(strength[at].sum(), rel=1e-5)
        assert border[STRONG] == (strength[at] > 3).sum()


def test_contrast_is_one_minus_the_histogram_intersection_with_the_surroundings(coloured):
    _, regions = coloured
    members = some_members(len(regions))
    sums = members @ regions.sums
    values = surround_contrast(members, sums, regions)
    histograms = regions.sums[:, HISTOGRAMS] / regions.sums[:, [AREA]]
    for row, value in zip(members > 0, values, strict=True):
        weights = np.zeros(len(regions))
        for (u, v), border in zip(regions.pairs, regions.borders, strict=True):
            if row[u] != row[v]:
                weights[v if row[u] else u] += border[LENGTH]
        inside = regions.sums[row][:, HISTOGRAMS].sum(0) / regions.sums[row, AREA].sum()
        outside = weights @ histograms / weights.sum()
        assert inside.sum() == pytest.approx(4)  # L, a, b and gradient strength
        assert value == pytest.approx(1 - np.minimum(inside, outside).sum() / 4, abs=1e-5)
    assert values.min() >= 0
    assert values.max() > 0.2


def test_closedness_and_frame_fraction_are_counted_along_the_outline(coloured):
    image, regions = coloured
    strength = np.maximum(*pixel_pairs(smooth_gradient(image)))
    members = some_members(len(regions), 1)
    sums = members @ regions.sums
    crossing = members[:, regions.pairs[:, 0]] != members[:, regions.pairs[:, 1]]
    outlines = crossing @ regions.borders
    closed, frame = closedness(sums, outlines), frame_fraction(sums, outlines)
    for row, mask in enumerate(members[:, regions.labels] > 0):
        one, other = pixel_pairs(mask)
        outline = one != other
        assert closed[row] == pytest.approx((strength[outline] > 3).mean())
        assert frame[row] == pytest.approx(on_image_border(mask) / (on_image_border(mask) + outline.sum()))


def two_squares(distance):
    """Sums of two 10 x 10 squares side by side, ``distance`` apart, and of a 2 x 2 square; and their masks."""
    masks = np.zeros((3, 40, 60), bool)
    masks[0, 10:20, 5:15] = masks[1, 10:20, 15 + distance : 25 + distance] = masks[2, 30:32, 50:52] = True
    sums = np.zeros((3, EXTENTS.stop + 1))
    for row, mask in enumerate(masks):
        y, x = np.nonzero(mask)
        sums[row, AREA] = len(x)
        sums[row, MOMENTS] = [v.sum() for v in (x, y, x * x, y * y, x * y)]
    return sums, masks


def test_contact_is_the_fraction_of_the_shorter_outline():
    u, v = np.array([0, 0, 1]), np.array([1, 2, 2])
    borders = np.array([[10.0], [5.0], [25.0]])
    # Outlines without the image border: region 0 has 15, 1 has 35, 2 has 30.
    assert _contact(u, v, borders) == pytest.approx([10 / 15, 5 / 15, 25 / 30])


def test_merge_costs_by_hand():
    sums, masks = two_squares(0)
    u, v = np.array([0]), np.array([1])
    borders = np.zeros((1, JUMP + 1))
    borders[0, [LENGTH, EDGE]] = 10, 4
    union = fill(masks[0] | masks[1])
    assert _contact_and_shape(sums, u, v, borders) == pytest.approx(200**0.25 / 1 / union**2)
    sums[0, HISTOGRAMS] = np.repeat([100.0, 0], 26) / 26 * 4
    sums[1, HISTOGRAMS] = np.repeat([50.0, 50], 26) / 26 * 4
    distance = 0.5  # half of the mass is in common
    assert texture_and_shape(sums, u, v, borders) == pytest.approx(distance * 10 / union**2)
    far, far_masks = two_squares(10)
    assert fill(far_masks[0] | far_masks[1]) < union
    assert ellipse_fill(far[:1] + far[1:2])[0] == pytest.approx(fill(far_masks[0] | far_masks[1]))
    # Instances with centres 12 apart, believed to have areas of 400 and 100: their mean side is 200 ** 0.5.
    sums[0, EXTENTS] = np.array([9.5, 14.5, 1, 1, np.log(400)]) * 100
    sums[1, EXTENTS] = np.array([21.5, 14.5, 1, 1, np.log(100)]) * 100
    expected = (0.1 + 12 / 200**0.5 + np.log(4) / 2) * 100**0.2
    assert _extent(sums, u, v, borders) == pytest.approx(expected)
    sums[1, EMBEDDED] = np.eye(8)[0] * 300  # a mean of 3
    assert _edge_and_embedding(sums, u, v, borders) == pytest.approx((0.4 + 0.02) * (0.1 + 3) * 100**0.2)
