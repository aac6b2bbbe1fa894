import numpy as np
import pytest

from counterview.errors import InputError, MaskError, ProposalError
from counterview.inference.prompts import Box, Point, check_query_mask, mask_at
from counterview.proposals.base import Proposals
from counterview.types import ObjectMask


def rectangle(x1, y1, x2, y2, size=(40, 60)):
    dense = np.zeros(size, bool)
    dense[y1:y2, x1:x2] = True
    return ObjectMask.from_array(dense)


CUP, HANDLE, TABLE = rectangle(10, 10, 20, 20), rectangle(18, 12, 24, 18), rectangle(0, 0, 60, 38)
PROPOSALS = Proposals((40, 60), (CUP, HANDLE, TABLE), np.array([0.9, 0.8, 0.95]))


def test_a_point_selects_the_best_proposal_that_is_not_background():
    assert mask_at(Point(12, 12), PROPOSALS) == CUP
    assert mask_at(Point(19, 15), PROPOSALS) == CUP
    assert mask_at(Point(22.7, 13.2), PROPOSALS) == HANDLE


def test_a_point_outside_every_proposal_or_outside_the_image():
    with pytest.raises(ProposalError, match="no proposal contains"):
        mask_at(Point(40, 30), PROPOSALS)
    for point in (Point(60, 5), Point(5, 40), Point(-1, 5)):
        with pytest.raises(InputError, match="outside the query image"):
            mask_at(point, PROPOSALS)


def test_a_box_selects_the_proposal_that_fills_it():
    assert mask_at(Box(9, 9, 21, 21), PROPOSALS) == CUP
    assert mask_at(Box(18, 11, 25, 19), PROPOSALS) == HANDLE
    assert mask_at(Box(0, 0, 60, 40), PROPOSALS) == TABLE


@pytest.mark.parametrize("box", [Box(5, 5, 5, 9), Box(9, 5, 5, 9), Box(-1, 0, 5, 5), Box(0, 0, 61, 5)])
def test_bad_boxes(box):
    with pytest.raises(InputError):
        mask_at(box, PROPOSALS)


def test_a_box_without_a_proposal():
    with pytest.raises(ProposalError, match="no proposal is in the box"):
        mask_at(Box(30, 38.5, 40, 40), PROPOSALS)
    with pytest.raises(ProposalError, match="no proposals"):
        mask_at(Box(0, 0, 5, 5), Proposals.none((40, 60)))


def test_query_masks_have_the_size_of_the_image_and_a_pixel():
    check_query_mask(CUP, (40, 60), "cup")
    with pytest.raises(MaskError, match="60 x 40; expected 40 x 60"):
        check_query_mask(CUP, (60, 40), "cup")
    with pytest.raises(MaskError, match="empty"):
        check_query_mask(ObjectMask.empty((40, 60)), (40, 60), "cup")
