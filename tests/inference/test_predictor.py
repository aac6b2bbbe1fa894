"""Oracle: scenes whose right matches are known (see fakes.py)."""

import dataclasses

import numpy as np
import pytest

import counterview
from counterview import View
from counterview.errors import ConfigError, ImageError, InputError, MaskError, ProposalError
from counterview.inference.drawing import draw_match
from counterview.inference.matchers import KnnMatcher
from counterview.inference.predictor import Predictor, name_masks
from counterview.inference.prompts import Point
from counterview.inference.proposal_matcher import ProposalMatcher
from counterview.proposals.base import Proposals
from counterview.types import Match, ObjectMask
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


def test_an_image_is_encoded_once_for_all_its_objects():
    model = predictor()
    query = model.encode(QUERY)
    for _ in range(3):
        target = model.encode(TARGET)
        model.match_encoded(query, list(QUERY_MASKS.values()), target)
    assert model.backbone.calls == 4
    assert model.proposer.calls == 4


def test_matching_several_objects_equals_matching_each():
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


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 9])
def test_top_k_keeps_the_best_candidates(top_k):
    every = predictor().match(QUERY, QUERY_MASKS["red"], TARGET, top_k=4)[0]
    match = predictor().match(QUERY, QUERY_MASKS["red"], TARGET, top_k=top_k)[0]
    assert [c.proposal for c in match.candidates] == [c.proposal for c in every.candidates[:top_k]]
    assert (match.mask_rle, match.similarity) == (every.mask_rle, every.similarity)


def test_top_k_is_at_least_1():
    with pytest.raises(InputError, match="top_k is at least 1; found 0"):
        predictor().match(QUERY, QUERY_MASKS["red"], TARGET, top_k=0)


def test_candidates_are_ordered_by_the_score_of_the_matcher():
    class Contrary(KnnMatcher):
        def score(self, *arguments):
            scores = super().score(*arguments)
            return dataclasses.replace(scores, score=-scores.similarity)

    match = ProposalMatcher(ColourProposer(), ColourBackbone(), Contrary()).match(QUERY, QUERY_MASKS["red"], TARGET)[0]
    similarities = [c.similarity for c in match.candidates]
    assert similarities == sorted(similarities)
    assert match.similarity == similarities[0] < similarities[-1]


def test_candidates_of_equal_score_keep_the_order_of_the_proposals():
    class Undecided(KnnMatcher):
        """Gives proposals 10, 20 and 30 the score 1, and 0 to all others."""

        def score(self, *arguments):
            scores = super().score(*arguments)
            return dataclasses.replace(scores, score=(np.arange(60) % 10 == 0)[None] * (np.arange(60) % 60 > 0) * 1.0)

    rows, columns = np.divmod(np.arange(60), 10)
    masks = []
    for row, column in zip(rows, columns, strict=True):
        dense = np.zeros(TARGET.shape[:2], bool)
        dense[10 * row : 10 * row + 8, 14 * column : 14 * column + 9] = True
        masks.append(ObjectMask.from_array(dense))
    model = ProposalMatcher(ColourProposer(), ColourBackbone(), Undecided())
    target = model.encode(TARGET, Proposals(TARGET.shape[:2], tuple(masks), np.ones(60)))
    [match] = model.match_encoded(model.encode(QUERY), [QUERY_MASKS["red"]], target, top_k=60)
    first = [10, 20, 30, 40, 50]
    assert [c.proposal for c in match.candidates] == [*first, *(i for i in range(60) if i not in first)]
    assert [c.mask_rle for c in match.candidates] == [masks[c.proposal] for c in match.candidates]


def test_notes_of_the_matcher_go_to_their_match():
    class WithNotes(KnnMatcher):
        def score(self, *arguments):
            return dataclasses.replace(super().score(*arguments), notes=((), ("too small", "cut off"), ()))

    matches = ProposalMatcher(ColourProposer(), ColourBackbone(), WithNotes()).match(QUERY, QUERY_MASKS, TARGET)
    assert [match.notes for match in matches] == [(), ("too small", "cut off"), ()]


def facts(matches):
    return [(m.name, m.mask_rle, m.similarity, m.visibility, m.candidates, m.notes) for m in matches]


def test_views_match_as_their_images():
    model = predictor()
    query, target = View(QUERY, camera="ego", frame=30), View(TARGET, path="exo.jpg")
    expected = facts(model.match(QUERY, QUERY_MASKS, TARGET))
    for images in ((query, target), (QUERY, target), (query, TARGET)):
        assert facts(model.match(images[0], QUERY_MASKS, images[1])) == expected
    encoded = model.encode(query), model.encode(target)
    masks = list(QUERY_MASKS.values())
    assert facts(model.match_encoded(encoded[0], masks, encoded[1], names=list(QUERY_MASKS))) == expected
    with pytest.raises(MaskError, match="does not fit the query image"):
        model.match(target, QUERY_MASKS["red"], query)


def test_lmeec_takes_views_in_match_and_in_sessions(with_bundled):
    model = counterview.load("tiny-follow")
    query, target = View(QUERY, camera="ego"), View(TARGET, camera="exo")
    assert facts(model.match(query, QUERY_MASKS, target)) == facts(model.match(QUERY, QUERY_MASKS, TARGET))
    arrays = {name: mask.to_array() for name, mask in QUERY_MASKS.items()}
    expected = model.session(frames=2), model.session(frames=2)
    for _ in range(2):
        of_arrays = expected[0].step(QUERY, arrays, TARGET)
        of_views = expected[1].step(query, arrays, target)
        assert list(of_views) == list(QUERY_MASKS)
        for name, result in of_views.items():
            assert result.mask_rle == of_arrays[name].mask_rle
            assert result.visibility == of_arrays[name].visibility


def test_matches_are_drawn_on_views():
    matches = predictor().match(QUERY, QUERY_MASKS, TARGET)
    masks = list(QUERY_MASKS.values())
    drawn = draw_match(QUERY, masks, TARGET, matches)
    assert drawn.dtype == np.uint8
    assert drawn.shape[0] > TARGET.shape[0], "the larger height, and a legend"
    assert np.array_equal(draw_match(View(QUERY), masks, View(TARGET), matches), drawn)


def test_large_images_are_drawn_at_the_size_of_the_drawing():
    """Oracle: the same pair reduced beforehand. A speck between the pixels that are kept does not vanish."""
    image = np.random.default_rng(0).integers(0, 256, (960, 400, 3), dtype=np.uint8)
    rows, columns = np.mgrid[:960, :400]
    discs = [np.hypot(rows - y, columns - x) < 60 for y, x in ((200, 100), (500, 300))]

    def drawn(scale, masks):
        size = np.ones((scale, scale), np.uint8)
        runs = [ObjectMask.from_array(np.kron(mask, size.astype(bool))) for mask in masks]
        matches = [Match(str(i), mask, 0.5, 0.9) for i, mask in enumerate(runs)]
        large = np.kron(image, size[..., None])
        return draw_match(large, runs, large, matches)

    assert np.array_equal(drawn(3, discs), drawn(1, discs))
    speck = np.zeros((960 * 3, 400 * 3), bool)
    speck[1501, 601] = True
    runs = [ObjectMask.from_array(speck)]
    large = np.kron(image, np.ones((3, 3, 1), np.uint8))
    plain = draw_match(large, [], large, [])
    marked = draw_match(large, runs, large, [Match("", runs[0], 0.5, 0.9)])
    assert not np.array_equal(marked[500, 200], plain[500, 200])
    with pytest.raises(MaskError):
        draw_match(image, runs, large, [Match("", runs[0], 0.5, 0.9)])


def test_both_predictors_follow_the_protocol(with_bundled):
    for model in (predictor(), counterview.load("tiny-follow")):
        assert isinstance(model, Predictor)
        assert model.encode(View(QUERY)).size_hw == QUERY.shape[:2]


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


def test_names_of_query_objects():
    mask = QUERY_MASKS["red"]
    assert name_masks([mask, mask])[1] == ["object 1", "object 2"]
    assert name_masks({"a": mask, "b": mask.to_array()})[1] == ["a", "b"]
    assert name_masks(mask, ["x"])[1] == ["x"]
    for names in (["x"], ["x", "x"]):
        with pytest.raises(InputError, match="names of query objects are not unique"):
            name_masks([mask, mask], names)


def test_loading_by_name():
    model = counterview.load("knn", proposals="graph", features="classical")
    assert model.settings()["matcher"]["name"] == "knn"
    for bad in ({"model": "kn"}, {"proposals": "grap"}, {"features": "clasical"}):
        with pytest.raises(ConfigError, match=r"[Dd]id you mean"):
            counterview.load(**bad)
