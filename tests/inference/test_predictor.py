"""Oracle: scenes whose right answers are plain (see fakes.py)."""

import dataclasses

import numpy as np
import pytest

import counterview
from counterview.errors import ConfigError, ImageError, InputError, MaskError, ProposalError
from counterview.inference.matchers import KnnMatcher
from counterview.inference.prompts import Point
from counterview.inference.proposal_matcher import ProposalMatcher, name_masks
from tests.inference.fakes import ColourBackbone, ColourProposer, NoProposer, scene

QUERY, QUERY_MASKS = scene({"red": (5, 5), "green": (40, 30), "blue": (90, 50)})
TARGET, TARGET_MASKS = scene({"green": (2, 60), "yellow": (30, 10), "red": (100, 40), "blue": (60, 20)}, (100, 140), 12)


def predictor(proposer=None):
    return ProposalMatcher(proposer or ColourProposer(), ColourBackbone(), KnnMatcher())


def test_every_object_is_found():
    matches = predictor().match(QUERY, QUERY_MASKS, TARGET)
    assert [m.name for m in matches] == ["red", "green", "blue"]
    for match in matches:
        assert match.mask_rle == TARGET_MASKS[match.name]
        assert match.mask.shape == TARGET.shape[:2]
        assert match.similarity == pytest.approx(1.0, abs=1e-4)
        assert match.visibility > 0.5
        assert match.candidates[0].mask_rle == match.mask_rle
        assert len(match.candidates) == 4
        similarities = [c.similarity for c in match.candidates]
        assert similarities == sorted(similarities, reverse=True)


def test_an_absent_object_is_less_visible_than_a_present_one():
    target, _ = scene({"green": (2, 60), "yellow": (30, 10)}, (100, 140), 12)
    by_name = {m.name: m.visibility for m in predictor().match(QUERY, QUERY_MASKS, target)}
    assert by_name["green"] > 0.5
    assert by_name["blue"] < by_name["green"]


def test_each_image_is_encoded_once_whatever_the_number_of_objects():
    model = predictor()
    query = model.encode(QUERY)
    for _ in range(3):
        target = model.encode(TARGET)
        model.match_encoded(query, list(QUERY_MASKS.values()), target)
    assert model.backbone.calls == 4
    assert model.proposer.calls == 4


def test_all_at_once_equals_one_by_one():
    model = predictor()
    together = model.match(QUERY, QUERY_MASKS, TARGET)
    for match in together:
        alone = model.match(QUERY, QUERY_MASKS[match.name].to_array(), TARGET, names=[match.name], top_k=5)[0]
        assert alone.mask_rle == match.mask_rle
        assert alone.similarity == pytest.approx(match.similarity, abs=1e-6)
        assert alone.visibility == pytest.approx(match.visibility, abs=1e-6)


def test_points_resolve_to_proposals():
    model = predictor()
    encoded = model.encode(QUERY)
    assert model.resolve(encoded, Point(45, 35)) == QUERY_MASKS["green"]
    assert model.resolve(encoded, QUERY_MASKS["red"]) == QUERY_MASKS["red"]


def test_top_k_limits_the_candidates():
    assert len(predictor().match(QUERY, QUERY_MASKS["red"], TARGET, top_k=2)[0].candidates) == 2
    with pytest.raises(InputError):
        predictor().match(QUERY, QUERY_MASKS["red"], TARGET, top_k=0)


def test_candidates_are_ordered_by_what_the_matcher_says_not_by_similarity_alone():
    class Contrary(KnnMatcher):
        def score(self, *arguments):
            found = super().score(*arguments)
            return dataclasses.replace(found, score=-found.similarity)

    match = ProposalMatcher(ColourProposer(), ColourBackbone(), Contrary()).match(QUERY, QUERY_MASKS["red"], TARGET)[0]
    similarities = [c.similarity for c in match.candidates]
    assert similarities == sorted(similarities)
    assert match.similarity == similarities[0] < similarities[-1]


def test_bad_input():
    model = predictor()
    mask = QUERY_MASKS["red"]
    with pytest.raises(MaskError, match="does not fit"):
        model.match(TARGET, mask, QUERY)
    with pytest.raises(MaskError, match="empty"):
        model.match(QUERY, np.zeros(QUERY.shape[:2], bool), TARGET)
    with pytest.raises(ImageError):
        model.match(QUERY, mask, TARGET[..., 0])
    with pytest.raises(ImageError):
        model.match(QUERY / 255, mask, TARGET)
    with pytest.raises(InputError, match="no query object"):
        model.match(QUERY, [], TARGET)
    with pytest.raises(ProposalError, match="no proposals"):
        predictor(NoProposer()).match(QUERY, mask, TARGET)
    with pytest.raises(ProposalError, match="do not fit"):
        model.encode(QUERY, proposals=ColourProposer()(TARGET))


def test_names():
    mask = QUERY_MASKS["red"]
    assert name_masks([mask, mask])[1] == ["object 1", "object 2"]
    assert name_masks({"a": mask, "b": mask.to_array()})[1] == ["a", "b"]
    assert name_masks(mask, ["x"])[1] == ["x"]
    for names in (["x"], ["x", "x"]):
        with pytest.raises(InputError):
            name_masks([mask, mask], names)


def test_loading_by_name():
    model = counterview.load("knn", proposals="graph", features="classical")
    assert model.settings()["matcher"]["name"] == "knn"
    for bad in ({"model": "kn"}, {"proposals": "grap"}, {"features": "clasical"}):
        with pytest.raises(ConfigError, match=r"[Dd]id you mean"):
            counterview.load(**bad)
