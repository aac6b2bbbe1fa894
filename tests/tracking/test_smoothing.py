"""Smoothing: the best path against all paths, what is kept, and that it comes late but alike."""

import itertools

import numpy as np
import pytest

from counterview.errors import ConfigError
from counterview.geometry.homography import Homography
from counterview.tracking.base import UNKNOWN, Observation
from counterview.tracking.smoothing import LAG, Smoother, SmoothingConfig, TrackedMoment, smooth
from counterview.types import ObjectMask

STILL = Homography(np.eye(3), 100.0, 1.0)
SIZE = (60, 90)


def box(x, y=20, side=10):
    dense = np.zeros(SIZE, dtype=bool)
    dense[y : y + side, x : x + side] = True
    return ObjectMask.from_array(dense)


def seen(choices, visibility=0.9):
    """An observation of masks with probabilities, the best first."""
    ranked = sorted(choices, key=lambda c: -c[1])
    alternatives = tuple((mask, float(np.log(p))) for mask, p in ranked)
    return Observation(ranked[0][0], visibility, "matched", alternatives)


def test_one_wrong_choice_among_steady_ones_is_mended():
    here, elsewhere = box(10), box(60)
    track = [seen([(here, 0.8), (elsewhere, 0.2)]) for _ in range(7)]
    track[3] = seen([(elsewhere, 0.55), (here, 0.45)])
    result = smooth(track, [None, *[STILL] * 6])
    assert [o.mask_rle for o in result] == [here] * 7
    assert [o.visibility for o in result] == [o.visibility for o in track]


def test_an_object_that_moves_for_good_is_not_held_back():
    here, there = box(10), box(60)
    track = [seen([(here, 0.95), (there, 0.05)])] * 4 + [seen([(there, 0.95), (here, 0.05)])] * 4
    assert [o.mask_rle for o in smooth(track, [None, *[STILL] * 7])] == [here] * 4 + [there] * 4


def test_what_was_given_and_what_is_unknown_stay():
    given = Observation(box(40), 1.0, "given")
    track = [seen([(box(10), 1.0)]), given, UNKNOWN, seen([(box(10), 1.0)])]
    result = smooth(track, [None, STILL, STILL, STILL])
    assert result[1] is given
    assert result[2] is UNKNOWN


def test_the_path_is_the_best_of_all_paths():
    """Against every path, scored one by one with the model's own numbers."""
    from counterview.tracking.smoothing import _link, _states

    rng, config = np.random.default_rng(3), SmoothingConfig()
    masks = [box(int(x), int(y)) for x, y in rng.integers(0, 48, (4, 2))]
    track = []
    for _ in range(5):
        p = rng.dirichlet(np.ones(3))
        chosen = rng.permutation(4)[:3]
        track.append(seen([(masks[i], v) for i, v in zip(chosen, p, strict=True)], float(rng.uniform(0.2, 0.95))))
    motions = [None, *[STILL] * 4]
    states = [_states(o, config) for o in track]
    links = [_link(track[i], track[i + 1], STILL, 4, 4, config) for i in range(4)]
    best = max(
        itertools.product(range(4), repeat=5),
        key=lambda path: (
            sum(s[k] for s, k in zip(states, path, strict=True)) + sum(links[i][path[i], path[i + 1]] for i in range(4))
        ),
    )
    result = smooth(track, motions, config)
    for state, before, after in zip(best, track, result, strict=True):
        expected = before.mask_rle if state == 3 else before.alternatives[state][0]
        assert after.mask_rle == expected
    for link in links:
        np.testing.assert_allclose(np.exp(link).sum(1), 1)


def test_smoothing_late_equals_smoothing_at_once():
    rng = np.random.default_rng(0)
    here, elsewhere = box(10), box(60)
    track = [seen([(here, p), (elsewhere, 1 - p)]) for p in rng.uniform(0.2, 0.95, 250)]
    at_once = smooth(track, [None, *[STILL] * 249])
    smoother, late = Smoother(), []
    for index, observation in enumerate(track):
        moment = TrackedMoment(index, {"cam": {"mug": observation}}, {"cam": STILL if index else None})
        late += list(smoother.push(moment))
        assert len(smoother._moments) <= LAG + 60
    late += list(smoother.finish())
    assert [m.key for m in late] == list(range(250))
    assert [m.observations["cam"]["mug"].mask_rle for m in late] == [o.mask_rle for o in at_once]


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="trust"):
        SmoothingConfig(trust=0)
    with pytest.raises(ConfigError, match="vanish"):
        SmoothingConfig(vanish=1.0)
