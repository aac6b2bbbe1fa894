"""The mask of a match, drawn again: by a stub whose answer is known, and by what comes with the package."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

import counterview
from counterview.errors import ConfigError
from counterview.inference.matchers import KnnMatcher
from counterview.inference.proposal_matcher import ProposalMatcher
from counterview.inference.refining import VOTERS, refiner_for
from counterview.proposals.cache import CachedProposer
from counterview.refinement.base import Refined
from counterview.refinement.refiner import MaskRefiner
from counterview.refinement.sam2 import Sam2Refiner
from counterview.types import ObjectMask
from tests.inference.fakes import ColourBackbone, ColourProposer, scene

QUERY, QUERY_MASKS = scene({"red": (5, 5), "green": (40, 30), "blue": (90, 50)})
TARGET, TARGET_MASKS = scene({"green": (2, 60), "yellow": (30, 10), "red": (100, 40), "blue": (60, 20)}, (100, 140), 12)


class Halving:
    """Leaves the upper half of each proposed mask, and keeps what it was given."""

    def __init__(self):
        self.given = []

    def settings(self):
        return {"name": "halving"}

    def __call__(self, image, proposed):
        self.given.append((image, list(proposed)))
        return [Refined(halved(item.mask), 0.9, 0.5) for item in proposed]


def halved(mask):
    array = mask.to_array()
    rows = np.flatnonzero(array.any(axis=1))
    array[rows[len(rows) // 2] :] = False
    return ObjectMask.from_array(array)


def test_the_mask_of_the_match_alone_is_drawn_again():
    refiner = Halving()
    plain = ProposalMatcher(ColourProposer(), ColourBackbone(), KnnMatcher())
    model = ProposalMatcher(ColourProposer(), ColourBackbone(), KnnMatcher(), refiner=refiner)
    assert model.settings()["refinement"] == {"name": "halving"}
    assert "refinement" not in plain.settings()
    for before, after in zip(
        plain.match(QUERY, QUERY_MASKS, TARGET), model.match(QUERY, QUERY_MASKS, TARGET), strict=True
    ):
        assert after.mask_rle == after.candidates[0].mask_rle == halved(before.mask_rle)
        assert after.candidates[1:] == before.candidates[1:]
        assert (after.similarity, after.visibility) == (before.similarity, before.visibility)
    ((image, proposed),) = refiner.given
    assert np.array_equal(image, TARGET)
    assert [item.mask for item in proposed] == [TARGET_MASKS[name] for name in QUERY_MASKS]
    for item in proposed:
        assert item.others[0] == item.mask
        assert len(item.others) == len(item.weights) == min(VOTERS, 4)
        assert item.weights[0] == 1


def test_encodings_without_their_image_keep_the_proposals():
    model = ProposalMatcher(ColourProposer(), ColourBackbone(), KnnMatcher(), refiner=Halving())
    query, target = model.encode(QUERY), dataclasses.replace(model.encode(TARGET), image=None)
    (match,) = model.match_encoded(query, [QUERY_MASKS["red"]], target)
    assert match.mask_rle == TARGET_MASKS["red"]


def test_what_draws_again_follows_from_the_model(tmp_path):
    assert refiner_for(counterview.load("knn")) is None
    assert counterview.load("tiny-match").refiner is None
    assert isinstance(counterview.load("tiny-match", refine="auto").refiner, MaskRefiner)
    assert counterview.load("tiny-match", refine="auto", proposals="graph").refiner is None
    config = SimpleNamespace(prompt_encoder_config=SimpleNamespace(image_size=64))
    sam2 = SimpleNamespace(name="sam2", model=SimpleNamespace(config=config), settings=dict)
    for proposer in (sam2, CachedProposer(sam2, tmp_path)):
        assert isinstance(refiner_for(ProposalMatcher(proposer, ColourBackbone(), KnnMatcher())), Sam2Refiner)
    with pytest.raises(ConfigError, match="unknown way to refine"):
        counterview.load("knn", refine="always")
