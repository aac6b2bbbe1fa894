"""Kinds of errors and ROC areas, on masks and numbers that can be checked by hand."""

import numpy as np
import pytest

from benchmarks.held_out_errors import kind, ranked
from counterview.types import ObjectMask


def box(x, width=10):
    mask = np.zeros((20, 100), dtype=bool)
    mask[5:15, x : x + width] = True
    return ObjectMask.from_array(mask)


TRUTH = {"mug": box(0), "bowl": box(40)}


@pytest.mark.parametrize(
    ("chosen", "possible", "expected"),
    [
        (box(0, 8), 0.8, "right"),
        (box(0, 5), 0.8, "part or surplus"),  # exactly one half is not enough
        (box(0, 30), 0.8, "part or surplus"),
        (box(0, 5), 0.5, "no proposal"),
        (box(40, 9), 0.8, "another object"),
        (box(40, 3), 0.8, "part of another"),
        (box(49, 30), 0.8, "background"),  # a fortieth of it is the bowl
        (box(70), 0.8, "background"),
        (box(70), 0.2, "no proposal"),
    ],
)
def test_the_kind_of_a_chosen_proposal(chosen, possible, expected):
    assert kind(chosen, "mug", TRUTH, possible) == expected


def test_the_roc_area_of_visibility_for_all_and_for_right_matches():
    def row(visible, confidence, iou=None):
        return {"gt_visible": visible, "confidence": confidence} | ({} if iou is None else {"iou": iou})

    rows = [row(True, 0.9, 0.8), row(True, 0.2, 0.1), row(False, 0.5), row(False, 0.1)]
    assert ranked(rows) == {"auc": 0.75, "auc_where_right": 1.0}
    assert ranked(rows[2:]) == {"auc": None, "auc_where_right": None}
    assert ranked(rows[1:]) == {"auc": 0.5, "auc_where_right": None}
