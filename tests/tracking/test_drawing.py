"""Masks that are drawn again while objects are followed: what changes, and what must not."""

from dataclasses import replace

import numpy as np
import pytest

from counterview.refinement.evidence import QueryColours
from counterview.tracking.drawing import DRAWN_ABOVE, MaskDrawer
from counterview.tracking.state_file import read_state, write_state
from counterview.tracking.tracker import MemoryTracker
from counterview.types import ObjectMask
from tests.tracking.coloured import draw, mask_of
from tests.tracking.test_tracker import BOXES, MIRRORED, shift, tracker


class Halving:
    """Leaves the upper half of each mask, and keeps what it was given."""

    def __init__(self):
        self.given = []

    def colours(self, view, mask):
        return QueryColours.of(view.handle, mask)

    def redraw(self, view, chosen):
        self.given.append((view, list(chosen)))
        return [halved(view.masks[int(one.order[0])]) for one in chosen]


def halved(mask):
    array = mask.to_array()
    rows = np.flatnonzero(array.any(axis=1))
    array[rows[len(rows) // 2] :] = False
    return ObjectMask.from_array(array)


def drawing_tracker(drawing):
    plain = tracker()
    return MemoryTracker(plain.model, plain.cameras, plain.weighing, plain.config, drawer=MaskDrawer(drawing))


def steps(model, numbers, names=("red", "blue")):
    found = []
    for step in numbers:
        ego, cam = draw(shift(BOXES, step % 5)), draw(shift(MIRRORED, -step))
        prompts = {"ego": {n: mask_of(ego, n) for n in names}} if step == 0 else {}
        found.append(model.step({"ego": ego, "cam": cam}, step / 2, prompts))
    return found


def test_masks_change_and_nothing_else_does():
    drawing = Halving()
    plain, drawn = tracker(), drawing_tracker(drawing)
    before, after = steps(plain, range(8)), steps(drawn, range(8))
    for step, (one, other) in enumerate(zip(before, after, strict=True)):
        for camera in ("ego", "cam"):
            for name in ("red", "blue"):
                raw, seen = one[camera][name], other[camera][name]
                if raw.source == "given":
                    assert (step, camera) == (0, "ego")
                    assert seen == raw
                    continue
                assert seen.mask_rle == halved(raw.mask_rle)
                assert seen.alternatives == ((halved(raw.mask_rle), raw.alternatives[0][1]), *raw.alternatives[1:])
                assert replace(seen, mask_rle=raw.mask_rle, alternatives=raw.alternatives) == raw
    state = drawn.state()
    assert set(state.pop("drawer")) == {"red", "blue"}
    np.testing.assert_equal(state, plain.state())  # what is remembered are the candidates


def test_what_is_drawn_is_told_the_candidates_the_best_first_and_the_colours_that_were_shown():
    drawing = Halving()
    model = drawing_tracker(drawing)
    steps(model, range(3))
    ego = draw(BOXES)
    shown = {name: QueryColours.of(ego, mask_of(ego, name)) for name in ("red", "blue")}
    assert [len(chosen) for _, chosen in drawing.given] == [2] * 5  # not where the user showed them
    for view, chosen in drawing.given:
        for name, one in zip(("red", "blue"), chosen, strict=True):
            assert view.masks[int(one.order[0])] == mask_of(view.handle, name)
            assert sorted(one.order) == list(range(len(view.masks)))
            assert one.similarity.shape == (len(view.masks),)
            assert one.similarity.argmax() == one.order[0]
            np.testing.assert_array_equal(one.colours.object, shown[name].object)
            np.testing.assert_array_equal(one.colours.surroundings, shown[name].surroundings)


def test_what_is_hardly_visible_is_not_drawn():
    drawing = Halving()
    model = drawing_tracker(drawing)
    ego = draw(BOXES)
    model.step({"ego": ego}, 0.0, {"ego": {"red": mask_of(ego, "red")}})
    for layer in model.weighing.visibility:
        if hasattr(layer, "bias"):
            layer.bias.data.mul_(0).sub_(3.0)
    found = model.step({"ego": ego}, 1.0, {})["ego"]["red"]
    assert found.visibility < DRAWN_ABOVE
    assert found.mask_rle == mask_of(ego, "red")
    assert drawing.given == []


def test_an_object_whose_colours_are_not_known_keeps_its_candidate():
    class Nothing(Halving):
        def colours(self, view, mask):
            return None

    drawing = Nothing()
    found = steps(drawing_tracker(drawing), range(2))
    assert drawing.given == []
    assert found[1]["ego"]["red"].mask_rle == mask_of(draw(shift(BOXES, 1)), "red")


def test_a_saved_state_goes_on_to_the_bit(tmp_path):
    expected = steps(drawing_tracker(Halving()), range(8))[4:]
    first, second = drawing_tracker(Halving()), drawing_tracker(Halving())
    steps(first, range(4))
    write_state(tmp_path / "state", first.state())
    second.restore(read_state(tmp_path / "state"))
    assert steps(second, range(4, 8)) == expected


@pytest.mark.parametrize("refine", ["none", "auto"])
def test_a_predictor_that_refines_draws_what_it_follows(refine):
    import counterview
    from counterview.refinement.refiner import MaskRefiner

    predictor = counterview.load("tiny-match", refine=refine)
    engine = predictor.make_engine(["ego", "cam"])
    assert (engine._drawer is not None) == (refine == "auto")
    assert ("refinement" in engine.settings()["model"]) == (refine == "auto")
    assert isinstance(predictor.refiner, MaskRefiner | None)
