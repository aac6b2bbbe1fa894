"""Looking away from the table; and settings without it give the takes and fingerprints that they always gave."""

from dataclasses import replace

import numpy as np
import pytest

from counterview.errors import ConfigError
from counterview.tabletop.camera.rig import EGO_HALF_ANGLE_RAD, draw_rig, ego_camera
from counterview.tabletop.config import PRESETS, TabletopConfig, preset
from counterview.tabletop.objects.catalogue import seeded
from counterview.tabletop.scene.action import Story, plan
from counterview.tabletop.scene.away import Away, draw_away
from counterview.tabletop.scene.layout import build_scene
from counterview.tabletop.take import digest

SECONDS, AWAY = 26, 10


def story_of(config: TabletopConfig, seed: int) -> Story:
    return plan(seeded(seed, "train", 0, "action"), build_scene(config, seed, "train", 0), config)


@pytest.fixture(scope="module")
def stories() -> dict[tuple[str, int], Story]:
    """Takes of two presets, with a time away and without."""
    keys = [("easy", 1, 0), ("easy", 1, AWAY), ("hard", 2, AWAY)]
    return {(name, away): story_of(preset(name, seconds=SECONDS, away_s=away), seed) for name, seed, away in keys}


def test_fingerprints_of_the_presets_are_those_of_before_the_field_was_added():
    """Golden strings, written by the version before; data sets on people's disks hold them."""
    before = ("easy", "standard", "hard")
    assert {name: digest(PRESETS[name]) for name in before} == {
        "easy": "00ce4490fafa4746",
        "standard": "996a92efd6f5f79e",
        "hard": "1421f6d99b8c2a5a",
    }
    assert digest(preset("standard", size=96, seconds=3, cameras=2)) == "a575150422e680ad"
    assert "away_s" not in PRESETS["standard"].settings()
    away = replace(PRESETS["standard"], away_s=6)
    assert digest(away) != digest(PRESETS["standard"])
    assert TabletopConfig(**away.settings()) == away


@pytest.mark.parametrize(
    ("name", "actions", "forward", "at", "total"),
    [
        (
            "easy",
            [(9, 0.524315), (7, 7.761885)],
            [0.7259434, -0.5173749, -0.4531329],
            [-0.1365405, -0.4142703, 0.5759811],
            185.393118,
        ),
        (
            "standard",
            [(10, 1.524315)],
            [0.4575526, -0.4178445, -0.7848896],
            [-0.1379243, -0.4105137, 0.5789997],
            188.468911,
        ),
        (
            "hard",
            [(14, 3.524315)],
            [0.4098632, -0.8926334, -0.1876637],
            [-0.139654, -0.4058181, 0.582773],
            231.188305,
        ),
    ],
)
def test_takes_without_it_move_as_they_did_before_the_field_was_added(name, actions, forward, at, total):
    """Golden numbers, printed by the version before: the script, and poses of head and things all through a take."""
    story = story_of(preset(name, seconds=12), 1)
    rows = []
    for t in np.arange(0, 12, 0.7):
        rotation, head = story.person(float(t)).head
        rows.append(np.concatenate([rotation.ravel(), head, *(pose[1] for pose in story.things(float(t)))]))
    poses = np.array(rows)
    assert [(a.thing, round(a.start_s, 6)) for a in story.actions] == actions
    assert poses[5, :3] == pytest.approx(forward, abs=1e-6)
    assert poses[-1, 9:12] == pytest.approx(at, abs=1e-6)
    assert np.abs(poses).sum() == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("name", ["easy", "hard"])
def test_between_the_turns_no_object_is_in_the_ego_image_and_before_and_after_some_are(stories, name):
    story = stories[name, AWAY]
    rig = draw_rig(np.random.default_rng(0), story.scene.table.half_x, preset(name))
    away = story.away
    assert away is not None
    assert (away.start_s, away.end_s) == ((SECONDS - AWAY) / 2, (SECONDS + AWAY) / 2)
    assert 2 * away.turn_s < 5

    def share_inside(t: float) -> float:
        camera = ego_camera(rig, story.person(t).head)
        things = zip(story.scene.things, story.things(t), strict=True)
        return float(np.mean([camera.project(k.mesh.vertices @ p[0].T + p[1])[1].any() for k, p in things]))

    hidden = np.arange(away.start_s + away.turn_s, away.end_s - away.turn_s + 1e-9, 0.2)
    assert len(hidden) > 20
    assert [share_inside(float(t)) for t in hidden] == [0.0] * len(hidden)
    shown = [share_inside(float(t)) for t in np.concatenate([np.arange(0, 8, 0.5), np.arange(18, 26, 0.5)])]
    assert np.mean(shown) > 0.5
    assert all(action.end_s <= away.start_s or action.start_s >= away.end_s for action in story.actions)


def test_the_head_turns_smoothly_and_goes_on_swaying(stories):
    story = stories["hard", AWAY]
    away = story.away
    times = np.arange(away.start_s - 0.5, away.end_s + 0.5, 0.02)
    heads = [story.person(float(t)).head for t in times]
    forward = np.array([rotation[:, 1] for rotation, _ in heads])
    steps = np.degrees(np.arccos(np.clip((forward[1:] * forward[:-1]).sum(1), -1, 1))) / 0.02
    assert 60 < steps.max() < 320  # degrees a second: a head's quick turn, not a jump
    assert np.abs(np.diff(steps)).max() < 40
    middle = (times > away.start_s + away.turn_s) & (times < away.end_s - away.turn_s)
    assert np.ptp(np.array([at for _, at in heads])[middle], axis=0).max() > 0.004
    for rotation, _ in heads:
        assert np.allclose(rotation @ rotation.T, np.eye(3))


def test_what_happens_before_is_that_of_the_take_without(stories):
    plain, away = stories["easy", 0], stories["easy", AWAY]
    assert plain.away is None
    early = [a.start_s for a in plain.actions if a.end_s < (SECONDS - AWAY) / 2]
    assert early
    assert [a.start_s for a in away.actions][: len(early)] == early


def test_it_leads_by_the_side_and_starts_and_ends_where_the_gaze_is():
    away = Away(10.0, 20.0, 2.0, np.radians(130), 0.2)
    ahead = np.array([0.0, np.cos(0.6), -np.sin(0.6)])
    for t in (0.0, 10.0, 20.0, 30.0):
        assert away.turned(ahead, t) == pytest.approx(ahead)
    left = away.turned(ahead, 15.0)
    assert np.arctan2(-left[0], left[1]) == pytest.approx(np.radians(130))
    assert np.arcsin(left[2]) == pytest.approx(0.2)
    way = np.array([away.turned(ahead, t) for t in np.linspace(10, 12, 50)])
    assert (way[1:-1, 0] < 0).all()  # by the person's left
    assert np.abs(way[:, 2]).max() < 0.6  # never over the crown, nor by the feet


def test_points_all_around_cannot_be_hidden():
    turns = np.linspace(0, 2 * np.pi, 30)
    ring = np.stack([3 * np.sin(turns), 3 * np.cos(turns), np.zeros(30)], 1)
    heads = np.zeros((1, 3))
    assert not draw_away(np.random.default_rng(0), 0.0, 10.0, heads, ring)[1]
    front = ring[ring[:, 1] > 0]
    away, hidden = draw_away(np.random.default_rng(0), 0.0, 10.0, heads, front)
    assert hidden
    assert abs(away.azimuth_rad) > np.pi / 2
    assert np.degrees(EGO_HALF_ANGLE_RAD) == pytest.approx(59.6, abs=0.1)


@pytest.mark.parametrize("away", [1, 4, 17, -3])
def test_too_short_and_too_long_are_refused(away):
    with pytest.raises(ConfigError, match=rf"away_s={away} \(0, or 5 to 16"):
        preset("standard", seconds=20, away_s=away)
