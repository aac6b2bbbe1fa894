"""Predictions for takes. Oracle: hand-computed pixels and sizes, and the same predictor on single pairs of images."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

import counterview
from counterview.data.pairs import FramePair, pairs_of_take
from counterview.errors import AnnotationError, MaskError
from counterview.inference.examples import load_take
from counterview.inference.matchers import KnnMatcher
from counterview.inference.proposal_matcher import ProposalMatcher
from counterview.inference.takes import FramePredictor, prediction_size, query_mask
from counterview.masks.geometry import resize_mask
from counterview.types import ObjectMask
from tests.inference.fakes import ColourBackbone, ColourProposer, scene

PAIR = FramePair("take", "mug", "ego", "exo", 30, True)


def take_with(mask):
    """A take that has one query mask."""
    return SimpleNamespace(
        mask=lambda name, camera, frame: mask if (name, camera, frame) == ("mug", "ego", 30) else None
    )


def square(size_hw, x, y, side=3):
    """A mask of ``side`` pixels around ``(x, y)``."""
    dense = np.zeros(size_hw, bool)
    dense[y - side // 2 : y + side // 2 + 1, x - side // 2 : x + side // 2 + 1] = True
    return ObjectMask.from_array(dense)


@pytest.mark.parametrize(
    ("native_hw", "xy", "image_hw", "pixel_xy"),
    [
        # Rows 0, 10, 20, … and columns 0, 12, 25, … of the annotation are left in an image of 100 x 160.
        ((1000, 2000), (1505, 337), (100, 160), (120, 33)),  # 1505 * 160 / 2000 = 120.4, 337 / 10 = 33.7
        ((1000, 2000), (305, 815), (100, 160), (24, 81)),
        ((2000, 1000), (337, 1505), (160, 100), (33, 120)),
        ((1000, 2000), (1994, 995), (100, 160), (159, 99)),
        ((1000, 2000), (5, 5), (100, 160), (0, 0)),
    ],
)
def test_a_query_mask_that_vanishes_keeps_the_pixel_of_its_centroid(native_hw, xy, image_hw, pixel_xy):
    mask = square(native_hw, *xy)
    assert resize_mask(mask, image_hw).is_empty, "this test is about masks that vanish"
    small = query_mask(take_with(mask), PAIR, image_hw)
    assert small.size_hw == image_hw
    rows, columns = np.nonzero(small.to_array())
    assert list(zip(columns.tolist(), rows.tolist(), strict=True)) == [pixel_xy]


def test_a_query_mask_is_resized_to_its_image():
    mask = square((100, 200), 150, 33, side=21)
    assert query_mask(take_with(mask), PAIR, (100, 200)) == mask
    assert query_mask(take_with(mask), PAIR, (50, 80)) == resize_mask(mask, (50, 80))


@pytest.mark.parametrize("mask", [None, ObjectMask.empty((100, 200))])
def test_without_a_query_mask_there_is_an_error(mask):
    with pytest.raises(MaskError, match="the query mask has no pixel"):
        query_mask(take_with(mask), PAIR, (50, 80))


@pytest.mark.parametrize(
    ("native_hw", "image_hw", "expected_hw"),
    [
        ((2160, 3840), (54, 96), (270, 480)),
        ((3840, 2160), None, (480, 270)),
        ((1408, 1408), (96, 96), (480, 480)),
        (None, (54, 96), (270, 480)),
        (None, (96, 54), (480, 270)),
        (None, None, (480, 480)),
    ],
)
def test_the_size_of_a_prediction_is_that_of_the_annotation_then_of_the_image(native_hw, image_hw, expected_hw):
    def native_size(camera):
        assert camera == "exo"
        if native_hw is None:
            raise AnnotationError("no mask")
        return native_hw

    assert prediction_size(SimpleNamespace(native_size=native_size), "exo", image_hw) == expected_hw


def test_notes_and_names_stay_with_their_objects():
    class WithNotes(KnnMatcher):
        """Warns about the green object."""

        def score(self, backbone, query, query_masks, target):
            scores = super().score(backbone, query, query_masks, target)
            green = [image[mask.to_array()][0, 1] > 100 for mask in query_masks]
            return dataclasses.replace(scores, notes=tuple(("too small", "cut off") if g else () for g in green))

    image, masks = scene({"red": (5, 5), "green": (40, 30), "blue": (90, 50)})
    take = SimpleNamespace(
        uid="take",
        frame=lambda camera, frame: image,
        mask=lambda name, camera, frame: masks.get(name),
        native_size=lambda camera: image.shape[:2],
        plan_reads=lambda frames: None,
    )
    names = ["blue", "green", "cup", "red"]
    pairs = [("ego2exo", FramePair("take", name, "ego", "exo", 0, True)) for name in names]
    model = ProposalMatcher(ColourProposer(), ColourBackbone(), WithNotes())
    [(frame, predictions)] = FramePredictor(model).predict(take, {0: pairs})
    assert frame == 0
    by_name = {p.pair.object: p for p in predictions}
    assert sorted(by_name) == sorted(names)
    assert {name: p.note for name, p in by_name.items()} == {
        "red": None, "green": "too small; cut off", "blue": None, "cup": "the query mask has no pixel"
    }  # fmt: skip
    for name, mask in masks.items():
        assert by_name[name].mask == resize_mask(mask, (320, 480))
        assert by_name[name].confidence > 0.5
    assert by_name["cup"].mask.is_empty
    assert by_name["cup"].confidence == 0


def check_against_pairs_of_images(model):
    """Predict the first frame of the bundled take, and compare with ``match`` on its images."""
    take = load_take()
    wanted = [
        (direction, pair)
        for direction in ("ego2exo", "exo2ego")
        for pair in pairs_of_take(take, direction, targets="annotated")
        if {pair.query_camera, pair.target_camera} == {take.ego_cameras[0], "cam01"}
    ]
    first = min(pair.frame for _, pair in wanted)
    wanted = [(direction, pair) for direction, pair in wanted if pair.frame == first]
    [(frame, predictions)] = FramePredictor(model).predict(take, {first: wanted})
    assert frame == first
    assert [(p.direction, p.pair) for p in predictions] == wanted
    images = {camera: take.frame(camera, first) for camera in (take.ego_cameras[0], "cam01")}
    for direction in ("ego2exo", "exo2ego"):
        part = [p for p in predictions if p.direction == direction]
        query, target = (images[camera] for camera in (part[0].pair.query_camera, part[0].pair.target_camera))
        masks = {p.pair.object: query_mask(take, p.pair, query.shape[:2]) for p in part}
        matches = {match.name: match for match in model.match(query, masks, target)}
        assert len(part) > 3
        for prediction in part:
            match = matches[prediction.pair.object]
            assert prediction.mask == resize_mask(match.mask_rle, prediction.mask.size_hw)
            assert prediction.confidence == pytest.approx(match.visibility, abs=1e-6)
            assert prediction.note is None


def test_lmeec_predicts_single_frames_of_a_take(with_bundled):
    check_against_pairs_of_images(counterview.load("tiny-follow"))


@pytest.mark.slow
def test_the_bundled_tiny_follow_predicts_a_frame_of_the_bundled_take():
    check_against_pairs_of_images(counterview.load("tiny-follow"))
