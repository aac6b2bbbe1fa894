"""Edges of masks move to a boundary that is near, and stay where there is none."""

import cv2
import numpy as np

from counterview.tracking.snap import snap_to


def disc(radius: float) -> np.ndarray:
    y, x = np.mgrid[:80, :80]
    return np.hypot(x - 40, y - 40) <= radius


def ring(radius: float) -> np.ndarray:
    edge = np.zeros((80, 80), np.uint8)
    cv2.circle(edge, (40, 40), round(radius), 230, 1)
    return cv2.GaussianBlur(edge, (3, 3), 0)


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def test_an_edge_moves_to_a_boundary_within_reach():
    for drawn in (18, 22):
        snapped = snap_to(ring(20), disc(drawn), 3)
        assert overlap(snapped, disc(20)) > 0.92 > 0.9 > overlap(disc(drawn), disc(20))


def test_it_stays_without_a_boundary_or_with_one_out_of_reach():
    for edge in (np.zeros((80, 80), np.uint8), ring(30)):
        assert (snap_to(edge, disc(20), 3) == disc(20)).all()


def test_a_mask_on_its_boundary_and_one_too_small_to_move_stay():
    assert overlap(snap_to(ring(20), disc(20), 3), disc(20)) > 0.97
    assert (snap_to(ring(2), disc(2), 3) == disc(2)).all()
