import itertools
import tracemalloc

import numpy as np
import pytest

from counterview.errors import ImageError
from counterview.proposals import load_proposer
from counterview.proposals.ranking import ellipse_fill, pairwise_iou, select_diverse
from counterview.proposals.regions import oversegment


def test_objects_are_among_the_first_masks(shapes, best_iou):
    image, objects = shapes()
    proposals = load_proposer("graph", max_masks=60)(image)
    assert 0 < len(proposals) <= 60
    best = {name: best_iou(proposals, mask) for name, mask in objects.items()}
    assert min(best.values()) > 0.7, best
    assert np.mean(list(best.values())) > 0.8, best


def test_large_image_gives_masks_of_its_own_size_and_the_same_objects(shapes, best_iou):
    image, objects = shapes((900, 1200))
    proposals = load_proposer("graph", working_side_px=400, max_masks=60)(image)
    assert proposals.size_hw == (900, 1200)
    assert all(mask.size_hw == (900, 1200) for mask in proposals)
    assert min(best_iou(proposals, mask) for mask in objects.values()) > 0.7


def test_result_is_the_same_every_time_and_does_not_touch_the_image(shapes):
    image, _ = shapes(seed=4)
    before = image.copy()
    proposer = load_proposer("graph")
    assert proposer(image) == proposer(np.asfortranarray(image))
    assert np.array_equal(image, before)


def test_limits_hold(shapes):
    image, _ = shapes()
    proposals = load_proposer("graph", max_masks=25, duplicate_iou=0.6, min_area_px=50, max_area=0.2)(image)
    assert len(proposals) <= 25
    dense = [mask.to_array() for mask in proposals]
    assert all(50 <= mask.sum() <= 0.2 * image[..., 0].size for mask in dense)
    overlaps = [(a & b).sum() / (a | b).sum() for a, b in itertools.combinations(dense, 2)]
    assert max(overlaps) <= 0.6
    assert len({mask.runs.tobytes() for mask in proposals}) == len(proposals)


def test_fewer_masks_are_the_first_of_more(shapes):
    image, _ = shapes()
    many, few = (load_proposer("graph", max_masks=count)(image) for count in (80, 20))
    assert many.masks[:20] == few.masks


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 3), (64, 64)])
def test_image_without_anything_in_it_has_no_proposals(shape):
    assert len(load_proposer("graph")(np.full((*shape, 3), 90, np.uint8))) == 0


def test_noise_does_not_break_it():
    image = np.random.default_rng(0).integers(0, 256, (97, 61, 3), dtype=np.uint8)
    proposals = load_proposer("graph")(image)
    assert len(proposals) <= 300
    assert np.isfinite(proposals.scores).all()


def test_not_an_image_is_refused():
    with pytest.raises(ImageError):
        load_proposer("graph")(np.zeros((8, 8), np.uint8))
    with pytest.raises(ImageError):
        load_proposer("graph")(np.zeros((8, 8, 3), np.float32))


def test_memory_stays_far_below_a_stack_of_masks(shapes):
    image, _ = shapes((1200, 1500))
    tracemalloc.start()
    load_proposer("graph", working_side_px=400, regions=400)(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # 300 dense masks would be 540 MB


def test_ellipse_fill_knows_ellipses_rectangles_and_rings():
    y, x = np.mgrid[:200, :200]
    ellipse = ((x - 100) / 80) ** 2 + ((y - 90) / 30) ** 2 < 1
    rectangle = (x > 20) & (x < 180) & (y > 80) & (y < 100)
    ring = (np.hypot(x - 100, y - 100) < 80) & (np.hypot(x - 100, y - 100) > 70)
    for mask, expected in ((ellipse, 1.0), (rectangle, np.pi / 3), (ring, 0.133)):
        px, py = x[mask], y[mask]
        sums = np.zeros((1, 9))
        sums[0, 0] = mask.sum()
        sums[0, 4:9] = [v.sum() for v in (px, py, px * px, py * py, px * py)]
        assert ellipse_fill(sums)[0] == pytest.approx(1 / expected if expected > 1 else expected, rel=0.02)


def test_selection_is_the_greedy_optimum_of_coverage():
    rng = np.random.default_rng(5)
    members = (rng.random((40, 25)) < 0.3).astype(np.float32)
    area = rng.integers(1, 30, 25).astype(float)
    iou = pairwise_iou(members, area)
    for a, b in ((0, 1), (3, 30)):
        both = (members[a] > 0) & (members[b] > 0)
        either = (members[a] > 0) | (members[b] > 0)
        assert iou[a, b] == pytest.approx(area[both].sum() / area[either].sum(), abs=1e-6)
    weight = rng.random(40)
    chosen = select_diverse(iou, weight, 10, duplicate_iou=1.0)
    # Oracle: every gain computed again at every step.
    covered, plain = np.zeros(40), []
    for _ in range(10):
        gains = [(np.maximum(iou[i], covered) - covered) @ weight if i not in plain else -1 for i in range(40)]
        plain.append(int(np.argmax(gains)))
        covered = np.maximum(covered, iou[plain[-1]])
    assert chosen.tolist() == plain
    kept = select_diverse(iou, weight, 40, duplicate_iou=0.4)
    assert all(iou[a, b] <= 0.4 for a, b in itertools.combinations(kept.tolist(), 2))


def test_regions_follow_the_objects(shapes):
    image, objects = shapes()
    regions = oversegment(image, 300)
    for name, mask in objects.items():
        inside = np.bincount(regions.labels.ravel(), mask.ravel(), len(regions))
        own = inside > regions.sums[:, 0] / 2
        union = own[regions.labels]
        assert (union & mask).sum() / (union | mask).sum() > 0.8, name
