import numpy as np
import pytest

from counterview.errors import MaskError
from counterview.geometry.windows import ImageWindow
from counterview.proposals.bundled import load_boundary
from counterview.refinement.evidence import (
    CHANNELS,
    LEAST_WEIGHT,
    SIZE,
    QueryColours,
    refining_window,
    vote_weights,
    window_maps,
)
from counterview.types import ObjectMask


def maps_of(scene, weights=(1.0, 1.0), window=None):
    image, half, others = scene
    colours = QueryColours.of(image, others[0])
    maps = window_maps(image, half, others, np.array(weights), colours, load_boundary(), window)
    return dict(zip(CHANNELS, maps, strict=True))


def test_maps_say_what_is_known_of_each_pixel(scene):
    _, half, (whole, _) = scene
    window = refining_window(half)
    assert window == ImageWindow((75.0, 50.0), 60.0, SIZE)
    maps = maps_of(scene)
    assert all(values.shape == (SIZE, SIZE) and values.dtype == np.uint8 for values in maps.values())
    x, y = (np.array([75.0, 70.0]) - window.left_top) * SIZE / window.side  # in the lower half, which is not proposed
    below = int(y), int(x)
    above = below[0] - round(20 * SIZE / window.side), below[1]
    aside = below[0], 5
    for at, proposal, votes, red in ((above, 255, 255, 200), (below, 0, 255, 200), (aside, 0, 0, 120)):
        assert abs(int(maps["proposal"][at]) - proposal) <= 1
        assert abs(int(maps["votes"][at]) - votes) <= 1
        assert abs(int(maps["red"][at]) - red) < 3
        assert (maps["query"][at] > 200) == (red == 200)
    assert maps["own"][above] > 200 > maps["own"][aside]
    assert maps["inside"].all()
    edges = maps["edge"].astype(float)
    assert edges[above[0], :].max() > 100
    assert whole.area == 2 * half.area


def test_proposals_vote_by_their_likeness_and_only_near_the_mask(scene):
    image, half, (whole, elsewhere) = scene
    colours = QueryColours.of(image, whole)
    window = refining_window(half)
    weights = vote_weights(np.array([0.9, 0.8, 0.5]), 0.9)
    assert weights == pytest.approx([1, 1 - 0.1 / 0.15, LEAST_WEIGHT])
    assert vote_weights(np.array([0.95]), 0.9) == pytest.approx([1])  # the chosen one need not be the likest
    share = {
        w: window_maps(image, half, [half, whole, elsewhere], np.array([1.0, w, 1.0]), colours, load_boundary())[
            CHANNELS.index("votes")
        ]
        for w in (0.1, 1.0)
    }
    at = int((70 - window.left_top[1]) * SIZE / window.side), SIZE // 2
    assert share[0.1][at] == pytest.approx(255 * 0.05 / 1.05, abs=1)  # IoU of half and whole is 0.5
    assert share[1.0][at] == pytest.approx(255 * 0.5 / 1.5, abs=1)


def test_a_window_may_reach_beyond_the_image(scene):
    window = ImageWindow((0.0, 0.0), 60.0, SIZE)
    image, _, (_, corner) = scene
    maps = window_maps(image, corner, [], np.zeros(0), QueryColours.of(image, corner), load_boundary(), window)
    inside = maps[CHANNELS.index("inside")] > 0
    assert inside[SIZE // 2 :, SIZE // 2 :].all()
    assert not inside[: SIZE // 2].any()
    assert maps[CHANNELS.index("votes")].max() == 0


def test_a_query_without_an_object_is_refused(scene):
    with pytest.raises(MaskError):
        QueryColours.of(scene[0], ObjectMask.empty(scene[0].shape[:2]))
