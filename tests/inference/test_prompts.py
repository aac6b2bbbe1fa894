import numpy as np
import pytest

import counterview
from counterview.errors import ImageError, InputError, MaskError, ProposalError
from counterview.inference.prompts import (
    DOUBTFUL_VISIBILITY,
    Box,
    Point,
    check_prompt,
    check_query_mask,
    check_shape,
    doubts_on,
)
from counterview.inference.selection import mask_at
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
    assert mask_at(Point(15, 15), PROPOSALS) == CUP
    assert mask_at(Point(19, 15), PROPOSALS) == HANDLE  # at the cup's edge, and deep in the smaller one
    assert mask_at(Point(22.7, 13.2), PROPOSALS) == HANDLE


def test_a_point_outside_every_proposal_or_outside_the_image():
    with pytest.raises(ProposalError, match="only background was found at the point 40,30"):
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


def test_masks_that_hardly_show_an_object_are_doubted():
    assert doubts_on(CUP) == ()
    assert doubts_on(rectangle(0, 0, 60, 30)) == ()
    for pixels, words in ((1, "has 1 pixel:"), (3, "has 3 pixels:")):
        assert words in doubts_on(rectangle(5, 5, 5 + pixels, 6))[0]
    assert "covers all of its image" in doubts_on(rectangle(0, 0, 60, 40))[0]
    inverted = ObjectMask.from_array(~CUP.to_array())
    assert "may be inverted" in doubts_on(inverted)[0]


@pytest.mark.parametrize("model", ["knn", "tiny-match", "tiny-follow", "geometric:sift", "geometric:sift+hull"])
def test_a_nonsense_question_is_not_answered_with_confidence(model, bundled_models):
    """The same image twice: every answer would be certain."""
    rng = np.random.default_rng(0)
    image = np.full((96, 128, 3), 90, np.uint8)
    image[20:60, 30:70] = (200, 60, 40)
    image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    mask = np.zeros((96, 128), bool)
    mask[20:60, 30:70] = True
    one = np.zeros_like(mask)
    one[30, 40] = True
    masks = {"object": mask, "one pixel": one, "inverted": ~mask, "whole": np.ones_like(mask)}
    matches = {match.name: match for match in counterview.load(model).match(image, masks, image)}
    for name in ("one pixel", "inverted", "whole"):
        assert matches[name].visibility <= DOUBTFUL_VISIBILITY
        assert matches[name].notes
    assert not any("mask" in note for note in matches["object"].notes)


@pytest.mark.parametrize("model", ["knn", "tiny-match", "tiny-follow", "geometric:sift"])
def test_every_predictor_checks_the_call_in_the_same_way(model, bundled_models):
    predictor = counterview.load(model)
    image = np.full((96, 128, 3), 90, np.uint8)
    image[20:60, 30:70] = (200, 60, 40)
    encoded, mask = predictor.encode(image), rectangle(30, 20, 70, 60, (96, 128))
    for top_k in (0, -1):
        with pytest.raises(InputError, match=f"top_k is at least 1; found {top_k}"):
            predictor.match_encoded(encoded, [mask], encoded, top_k=top_k)
    with pytest.raises(MaskError, match="does not fit the query image"):
        predictor.match_encoded(encoded, [rectangle(3, 3, 9, 9, (90, 128))], encoded)
    with pytest.raises(MaskError, match="the mask 'a' is empty"):
        predictor.match_encoded(encoded, [ObjectMask.empty((96, 128))], encoded, names=["a"])
    with pytest.raises(InputError):
        predictor.match_encoded(encoded, [mask, mask], encoded, names=["a", "a"])


def test_the_number_that_orders_candidates_is_theirs(bundled_models):
    image = np.full((96, 128, 3), 90, np.uint8)
    for k, colour in enumerate(((200, 60, 40), (40, 160, 60), (60, 80, 210), (190, 50, 60))):
        image[20:50, 6 + 30 * k : 26 + 30 * k] = colour
    mask = np.zeros((96, 128), bool)
    mask[20:50, 6:26] = True
    for model in ("knn", "tiny-match"):
        (match,) = counterview.load(model).match(image, mask, np.ascontiguousarray(image[:, ::-1]))
        scores = [candidate.score for candidate in match.candidates]
        assert len(scores) > 1
        assert scores == sorted(scores, reverse=True)


def test_what_can_be_checked_before_anything_is_encoded():
    check_prompt(CUP, (40, 60), "cup")
    check_prompt(Point(3, 4), (40, 60), "point")
    with pytest.raises(MaskError, match="does not fit"):
        check_prompt(CUP, (60, 40), "cup")
    with pytest.raises(InputError, match="outside"):
        check_prompt(Point(60, 4), (40, 60), "point")
    check_shape((480, 9000), "target image")
    with pytest.raises(ImageError, match="the target image is a strip; found 4000 x 5"):
        check_shape((5, 4000), "target image")
