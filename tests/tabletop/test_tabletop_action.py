"""What moves: nothing starts inside another thing, flies through one, jumps, or leaves its hand."""

import numpy as np
import pytest

from counterview.tabletop.config import preset
from counterview.tabletop.objects.catalogue import seeded
from counterview.tabletop.scene.action import Story, plan
from counterview.tabletop.scene.grasp import solid_distance
from counterview.tabletop.scene.hands import person_poses
from counterview.tabletop.scene.layout import TabletopScene, build_scene

CONFIG = preset("standard", seconds=20)


@pytest.fixture(scope="module")
def stories() -> list[tuple[TabletopScene, Story]]:
    out = []
    for seed in (1, 2):
        scene = build_scene(CONFIG, seed, "train", 0)
        out.append((scene, plan(seeded(seed, "train", 0, "action"), scene, CONFIG)))
    return out


def depth_inside(scene: TabletopScene, poses, moving: int, other: int) -> float:
    """How deep vertices of one thing reach into the solid of another, metres."""
    rotation, at = poses[moving]
    points = scene.things[moving].mesh.vertices @ rotation.T + at
    base_turn, base = poses[other]
    return float(-solid_distance(scene.things[other])((points - base) @ base_turn).min())


def test_things_start_apart_and_on_the_table(stories):
    for scene, story in stories:
        assert len(scene.things) >= 8
        assert len(set(scene.names)) == len(scene.names)
        poses = story.things(0.0)
        for i, (rotation, at) in enumerate(poses):
            points = scene.things[i].mesh.vertices @ rotation.T + at
            assert abs(points[:, 2].min()) < 0.005
            assert np.abs(points[:, 0]).max() < scene.table.half_x
            assert np.abs(points[:, 1]).max() < scene.table.half_y
            for j in range(len(poses)):
                if i != j:
                    assert depth_inside(scene, poses, i, j) <= 0.001, (scene.names[i], scene.names[j])


def test_a_carried_thing_touches_no_other_on_its_way(stories):
    acted = 0
    for scene, story in stories:
        for action in story.actions:
            acted += 1
            for s in np.linspace(0, action.times_s[4] - 0.6, 25):
                poses = story.things(action.start_s + s)
                for other in range(len(poses)):
                    near = np.hypot(*(poses[other][1] - poses[action.thing][1])[:2])
                    into_vessel = (
                        abs(poses[other][1][0] - action.goal.x) + abs(poses[other][1][1] - action.goal.y) < 1e-6
                    )
                    if other != action.thing and near < 0.4 and not into_vessel:
                        assert depth_inside(scene, poses, action.thing, other) < 0.004, (
                            scene.names[action.thing],
                            scene.names[other],
                            s,
                        )
    assert acted >= 3


def test_things_end_where_they_were_put_and_stay(stories):
    for scene, story in stories:
        end = story.things(CONFIG.seconds + 30.0)
        for i in range(len(scene.things)):
            last = [a for a in story.actions if a.thing == i]
            goal = last[-1].goal if last else scene.placements[i]
            assert np.allclose(end[i][1], (goal.x, goal.y, goal.z), atol=1e-6)


def test_nothing_jumps(stories):
    """No body moves more than 5 cm in 20 ms."""
    for _, story in stories:
        times = np.arange(0, 8, 0.02)
        last = None
        for t in times:
            now = np.array([p[1] for p in story.things(t)] + [p[1] for p in person_poses(story.person(t))])
            if last is not None:
                assert np.abs(now - last).max() < 0.05, t
            last = now


def test_a_held_thing_stays_in_its_hand(stories):
    for _, story in stories:
        for action in story.actions:
            grip = []
            for s in np.linspace(action.times_s[1] + 1e-3, action.times_s[4] - 1e-3, 8):
                rotation, at = story.things(action.start_s + s)[action.thing]
                pose = story.person(action.start_s + s)
                for grasp in action.hands:
                    wrist = pose.wrists[grasp.hand][1]
                    grip.append((grasp.hand, rotation.T @ (wrist - at)))
            for hand in {h for h, _ in grip}:
                local = np.array([v for h, v in grip if h == hand])
                assert np.abs(local - local[0]).max() < 1e-6


def test_fingers_do_not_sink_into_what_they_hold(stories):
    worst = []
    for scene, story in stories:
        for action in story.actions:
            t = action.start_s + (action.times_s[2] + action.times_s[3]) / 2
            rotation, at = story.things(t)[action.thing]
            bodies = person_poses(story.person(t))
            solid = solid_distance(scene.things[action.thing])
            for grasp in action.hands:
                joints = np.array([p[1] for p in bodies[18 * grasp.hand + 1 : 18 * grasp.hand + 16]])
                worst.append(float(solid((joints - at) @ rotation).min()))
    assert np.median(worst) > 0.002  # joints are the middle of fingers 7 to 12 mm thick
    assert min(worst) > -0.012
