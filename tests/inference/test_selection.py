"""Several points, background points, and boxes with points; and what is said where nothing can be taken."""

import pickle

import numpy as np
import pytest

from counterview import Box, Point, Prompt
from counterview.errors import InputError, ProposalError
from counterview.inference.selection import dark_rim, mask_at, select
from counterview.proposals.base import Proposals
from counterview.types import ObjectMask


def rectangle(x1, y1, x2, y2, size=(40, 60)):
    dense = np.zeros(size, bool)
    dense[y1:y2, x1:x2] = True
    return ObjectMask.from_array(dense)


CUP, HANDLE, BOTH, TABLE = (
    rectangle(10, 10, 20, 20), rectangle(22, 12, 26, 18), rectangle(8, 8, 27, 22), rectangle(0, 0, 60, 38),
)  # fmt: skip
PROPOSALS = Proposals((40, 60), (CUP, HANDLE, BOTH, TABLE), np.array([0.9, 0.8, 0.5, 0.95]))
IN_CUP, IN_HANDLE, BETWEEN = (12, 12), (24, 15), (21, 15)


def test_all_points_lie_in_the_proposal_that_is_taken():
    assert mask_at(Prompt(points=[IN_CUP]), PROPOSALS) == mask_at(Point(*IN_CUP), PROPOSALS) == CUP
    assert mask_at(Prompt(points=[IN_CUP, (18, 18)]), PROPOSALS) == CUP
    assert mask_at(Prompt(points=[IN_CUP, IN_HANDLE]), PROPOSALS) == BOTH
    assert mask_at(Prompt(points=IN_HANDLE), PROPOSALS) == HANDLE


def test_no_background_point_lies_in_it():
    assert mask_at(Prompt(points=[IN_HANDLE], background=[BETWEEN]), PROPOSALS) == HANDLE
    with pytest.raises(ProposalError, match="agrees with the background points"):
        mask_at(Prompt(points=[BETWEEN], background=[IN_CUP]), PROPOSALS)


def test_where_no_proposal_holds_all_points_the_best_are_joined_and_it_is_said():
    joined = select(Prompt(points=[IN_CUP, IN_HANDLE, (18, 18)], background=[BETWEEN]), PROPOSALS)
    assert np.array_equal(joined.mask_rle.to_array(), CUP.to_array() | HANDLE.to_array())
    assert joined.notes == ("no proposal holds all 3 points: the union of 2 proposals was taken",)
    assert select(Prompt(points=[IN_CUP, IN_HANDLE]), PROPOSALS).notes == ()


def test_a_box_with_points():
    around = (7, 7, 28, 23)
    assert mask_at(Box(*around), PROPOSALS) == mask_at(Prompt(box=around), PROPOSALS) == BOTH
    assert mask_at(Prompt(points=[IN_HANDLE], box=around), PROPOSALS) == BOTH
    assert mask_at(Prompt(points=[IN_HANDLE], background=[IN_CUP], box=around), PROPOSALS) == HANDLE
    with pytest.raises(ProposalError, match="every proposal in the box contains a background point"):
        mask_at(Prompt(background=[(24, 15)], box=(24, 14, 26, 17)), Proposals((40, 60), (HANDLE,), np.ones(1)))
    with pytest.raises(ProposalError, match="agrees with the background points and the box"):
        mask_at(Prompt(points=[(50, 35)], box=(9, 9, 21, 21), background=[BETWEEN]), PROPOSALS)


def test_a_prompt_is_checked_and_frozen():
    prompt = Prompt(points=[IN_CUP, Point(3, 4)], background=np.array([[1, 2]]), box=(1, 2, 30, 40))
    assert prompt.points == (Point(12, 12), Point(3, 4))
    assert prompt.background == (Point(1, 2),)
    assert prompt.box == Box(1, 2, 30, 40)
    assert pickle.loads(pickle.dumps(prompt)) == prompt
    assert hash(prompt) == hash(Prompt(points=prompt.points, background=prompt.background, box=prompt.box))
    prompt.check((40, 60))
    for wrong in (Prompt(points=[(60, 5)]), Prompt(points=[(5, 5)], background=[(5, 40)]), Prompt(box=(0, 0, 61, 5))):
        with pytest.raises(InputError, match="outside the query image"):
            wrong.check((40, 60))
    for arguments in ({}, {"background": [(1, 2)]}, {"points": 5}, {"points": [(1, 2, 3)]}, {"box": (1, 2)},
                      {"points": "12"}):  # fmt: skip
        with pytest.raises(InputError):
            Prompt(**arguments)


def test_only_background_at_a_point_is_said():
    with pytest.raises(ProposalError, match=r"only background was found at the point 50,30\. Point at an object"):
        mask_at(Point(50, 30), PROPOSALS)
    with pytest.raises(ProposalError, match=r"no object was found at the point 50,39\. Point at"):
        mask_at(Point(50, 39), PROPOSALS)


def fisheye(side=200, noise=4):
    """A round grey image in a dark frame, with a black object that touches the rim."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    image = np.random.default_rng(0).integers(0, noise, (side, side, 3), dtype=np.uint8)
    image[np.hypot(x, y) < side / 2] = 120
    image[90:110, :30] = 3
    return image


def test_the_dark_rim_of_a_fisheye_image():
    image = fisheye()
    rim = dark_rim(image)
    assert 0.15 < rim.mean() < 0.25
    assert rim[0, 0]
    assert rim[5, 190]
    assert not rim[100, 20], "a black object at the edge"
    assert dark_rim(np.full((40, 60, 3), 120, np.uint8)) is None
    assert dark_rim(np.zeros((40, 60, 3), np.uint8)) is None, "a black image has no rim"


def test_a_click_on_the_rim_says_so():
    image = fisheye()
    everything = Proposals(
        (200, 200), (rectangle(0, 0, 90, 90, (200, 200)), rectangle(0, 90, 30, 110, (200, 200))), [1, 0.5]
    )
    with pytest.raises(ProposalError, match="the point 2,3 is on the dark rim"):
        select(Point(2, 3), everything, image)
    assert select(Point(10, 100), everything, image).mask_rle == everything.masks[1]
    assert select(Point(2, 3), everything).mask_rle == everything.masks[0], "without the image nothing is known of it"
