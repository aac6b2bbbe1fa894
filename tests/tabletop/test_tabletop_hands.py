"""Hands, arms and footprints against closed forms."""

import itertools

import numpy as np
import pytest

from counterview.tabletop.objects.catalogue import KINDS, NOVEL_KINDS, make_thing
from counterview.tabletop.scene.grasp import axis_x, box_distance, grasps, solid_distance
from counterview.tabletop.scene.hands import (
    FINGERS,
    OPEN,
    close_fingers,
    elbow_of,
    finger_chain,
    finger_joints,
    reach_limit,
)
from counterview.tabletop.scene.layout import Footprint, footprints_touch

UPPER_ARM_M, FOREARM_M = 0.30, 0.27
MIRROR = np.array([1.0, -1.0, 1.0])


def test_elbow_is_an_arms_bones_away_and_points_outwards():
    rng = np.random.default_rng(0)
    shoulder = np.array([0.2, -0.5, 0.3])
    for side in (1.0, -1.0):
        for _ in range(50):
            way = rng.normal(size=3) * (1, 0.3, 1) + (0, 1, 0)
            wrist = shoulder + way / np.linalg.norm(way) * rng.uniform(0.1, reach_limit())
            elbow = elbow_of(shoulder, wrist, side)
            assert np.linalg.norm(elbow - shoulder) == pytest.approx(UPPER_ARM_M, abs=1e-6)
            assert np.linalg.norm(elbow - wrist) == pytest.approx(FOREARM_M, abs=1e-6)
        # Straight ahead of the shoulder: to the right of a right arm and below it.
        elbow = elbow_of(shoulder, shoulder + np.array([0.0, 0.4, 0.0]), side)
        assert side * (elbow - shoulder)[0] > 0.1
        assert elbow[2] < shoulder[2]
    assert reach_limit() < UPPER_ARM_M + FOREARM_M


@pytest.mark.parametrize("opposed", [0.0, 0.6, 1.0])
def test_the_left_hand_is_the_mirror_of_the_right(opposed):
    rng = np.random.default_rng(1)
    angles = rng.uniform(0, 1.2, (5, 3))
    right, left = finger_joints(angles, 1.0, opposed), finger_joints(angles, -1.0, opposed)
    for one, other in zip(itertools.chain(*right), itertools.chain(*left), strict=True):
        assert np.allclose(one[1] * MIRROR, other[1])
        assert np.allclose(one[0][:, 0] * MIRROR, other[0][:, 0])  # along the phalanx
    spread = [finger_joints(OPEN, 1.0)[finger][2][1][1] for finger in (1, 2, 3, 4)]
    assert spread == sorted(spread, reverse=True)  # index finger on the thumb's side


def test_phalanges_are_joined_and_curl_towards_the_palm():
    for finger, (base, lengths, _) in enumerate(FINGERS):
        chain = finger_chain(finger, np.array([0.5, 0.4, 0.3]), 1.0)
        assert np.allclose(chain[0][1], base)
        for (frame, at), (_, following), length in zip(chain[:-1], chain[1:], lengths[:-1], strict=True):
            assert np.allclose(frame.T @ frame, np.eye(3))
            assert np.allclose(at + frame[:, 0] * length, following)
        if finger:  # the palm looks along -z
            straight = finger_chain(finger, np.zeros(3), 1.0)
            assert chain[2][1][2] < straight[2][1][2] - 0.01
            bend = chain[2][0][:, 0] @ straight[2][0][:, 0]
            assert bend == pytest.approx(np.cos(1.2), abs=1e-6)


def test_fingers_close_until_they_touch_and_pass_by_what_holds_an_earlier_joint():
    plane = -0.05

    def above_table(points):
        return points[:, 2] - plane

    angles = close_fingers(above_table, 1.0, 0.0)
    for finger, (_, lengths, radius) in enumerate(FINGERS[1:], start=1):
        chain = finger_chain(finger, angles[finger], 1.0)
        points = np.array([at + frame[:, 0] * lengths[k] * s for k, (frame, at) in enumerate(chain) for s in (0.5, 1)])
        clearance = points[:, 2].min() - plane
        assert 0.9 * radius < clearance < radius + 0.004  # curled in 20 steps of up to 4 degrees
    # A small ball holds the first phalanx of the index finger where it is; the other joints curl all the same.
    base, _, radius = FINGERS[1]

    def away_from_ball(points):
        return np.linalg.norm(points - base, axis=1) - 0.006

    angles = close_fingers(away_from_ball, 1.0, 0.0)
    assert angles[1, 0] == OPEN[1, 0]
    assert np.allclose(angles[1, 1:], (1.5, 1.1))
    assert radius * 0.92 > FINGERS[1][1][0] / 4 - 0.006


def test_distance_to_a_box_is_negative_inside():
    half = np.array([0.3, 0.2, 0.1])
    rng = np.random.default_rng(2)
    points = rng.uniform(-0.5, 0.5, (400, 3))
    nearest = np.clip(points, -half, half)
    outside = np.linalg.norm(points - nearest, axis=1)
    inside = (half - np.abs(points)).min(1)
    expected = np.where((np.abs(points) < half).all(1), -inside, outside)
    assert (expected < 0).sum() > 10
    assert np.allclose(box_distance(points, half), expected)


@pytest.mark.parametrize("kind", [*KINDS, *NOVEL_KINDS])
def test_the_solid_of_a_thing_encloses_it_closely(kind):
    for number in range(3):
        thing = make_thing(7, "train", kind, number, number)
        vertices = thing.mesh.vertices.astype(float)
        distance = solid_distance(thing)
        on_body = vertices
        if kind == "bowl":  # the wall alone: fingers may go inside
            radius = np.hypot(vertices[:, 0], vertices[:, 1])
            on_body = vertices[radius > 0.9 * radius.max()]
            assert distance(np.array([[0.0, 0.0, thing.height]]))[0] > 0.03
        if kind in ("mug", "teapot", "spray"):  # handle, spout and trigger stick out
            on_body = vertices[np.hypot(vertices[:, 0] - axis_x(thing), vertices[:, 1]) < thing.half_xy[1] + 1e-4]
        assert distance(on_body).max() < 0.012
        far = vertices + np.array([0.5, 0.0, 0.0])
        assert distance(far).min() == pytest.approx(0.5 - thing.half_xy[0] - max(abs(vertices[:, 0])), abs=0.12)


def test_the_axis_of_a_mug_is_that_of_its_rim():
    for number in range(5):
        mug = make_thing(3, "train", "mug", number, number)
        vertices = mug.mesh.vertices
        rim = vertices[vertices[:, 2] > vertices[:, 2].max() - 1e-4]
        assert axis_x(mug) == pytest.approx((rim[:, 0].min() + rim[:, 0].max()) / 2, abs=2e-3)
        assert axis_x(mug) < -0.01  # the handle is at +x


@pytest.mark.parametrize("hand", [0, 1])
def test_a_hand_comes_from_its_shoulder_and_its_palm_faces_the_thing(hand):
    bottle = make_thing(3, "train", "bottle", 0, 0)
    place = (np.eye(3), np.array([0.0, 0.1, 0.0]))
    shoulder = np.array([0.185 * (1 - 2 * hand), -0.5, 0.3])
    (grasp,) = grasps(bottle, place, hand, shoulder)
    rotation, at = grasp.wrist
    assert grasp.hand == hand
    assert at[1] < 0.1  # nearer to the person than the bottle is
    to_axis = (place[1] - at) * (1, 1, 0)
    assert -rotation[:, 2] @ to_axis > 0.02  # the palm looks along -z
    assert rotation[:, 2] @ grasp.retreat > 0.05  # and opens away from it
    both = grasps(make_thing(3, "train", "plate", 0, 0), place, hand, shoulder)
    assert [grasp.hand for grasp in both] == [0, 1]
    assert both[0].wrist[1][0] > both[1].wrist[1][0]  # the right hand on the right


def test_footprints_keep_their_gap():
    square = Footprint(0.0, 0.0, 0.05, 0.05, 0.0, 0.1)
    for yaw in (0.0, np.pi / 2, np.pi):
        for distance, touch in ((0.111, True), (0.113, False)):
            for x, y in ((distance, 0.0), (0.0, -distance)):
                other = Footprint(x, y, 0.05, 0.05, yaw, 0.1)
                assert footprints_touch(square, other) == touch
                assert footprints_touch(other, square) == touch
    diagonal = Footprint(0.1, 0.1, 0.05, 0.05, np.pi / 4, 0.1)
    # Its corner points along the axes; its side is 0.1 * sqrt(2) - 0.05 from the origin, the square's corner 0.0707.
    assert not footprints_touch(square, diagonal, gap=0.0)
    assert footprints_touch(square, Footprint(0.1, 0.0, 0.05, 0.05, np.pi / 4, 0.1), gap=0.0)
    assert footprints_touch(Footprint(0.2, 0.0, 0.16, 0.01, 0.0, 0.1), square)  # half_x is along x
    assert not footprints_touch(Footprint(0.2, 0.0, 0.16, 0.01, np.pi / 2, 0.1), square)
