"""Matched points as a predictor. Oracle: images with a known motion, hand-made matches, and dense masks."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

import counterview
from counterview.baselines.geometric.base import PointMatches
from counterview.baselines.geometric.config import GeometricConfig
from counterview.cli.main import main
from counterview.data.pairs import pairs_of_take
from counterview.errors import CheckpointError, ConfigError, ImageError, InputError, MaskError, ProposalError
from counterview.inference.examples import load_take
from counterview.inference.geometric_matcher import GeometricMatcher
from counterview.inference.loading import load_take_predictor
from counterview.inference.predictor import Predictor
from counterview.inference.prompts import Box, Point
from counterview.inference.takes import FramePredictor, prediction_size, query_mask
from counterview.inference.zoo import method_of, resolve
from counterview.masks.geometry import iou, resize_mask
from counterview.masks.png import write_mask_png
from counterview.masks.rle import from_coco
from counterview.media.files import write_json
from counterview.media.images import write_image
from counterview.proposals.base import Proposals
from counterview.types import ObjectMask
from tests.inference.fakes import ColourProposer, NoProposer, scene
from tests.omama.tiny_takes import write_takes

QUERY, QUERY_MASKS = scene({"red": (10, 10), "green": (60, 30), "blue": (90, 60)})
TARGET, TARGET_MASKS = scene({"red": (80, 20), "green": (20, 50), "yellow": (50, 4)}, size_hw=(90, 110))


class KnownMatches:
    """In the place of a matcher: matches that a test writes down. An image is encoded to itself."""

    name = "known"

    def __init__(self, query_xy, target_xy, confidence=1.0):
        self.matches = PointMatches(query_xy, target_xy, np.full(len(query_xy), confidence))
        self.encoded, self.matched = 0, 0

    def settings(self):
        return {"number": len(self.matches)}

    def encode(self, image):
        self.encoded += 1
        return image

    def match(self, query, target):
        self.matched += 1
        return self.matches


def grid(x, y, side=16, step=5):
    """Points on a square of `scene`, 16 of them."""
    at = np.arange(0, side, step)
    return np.stack(np.meshgrid(x + at, y + at), -1).reshape(-1, 2).astype(float)


@pytest.fixture
def known():
    """Red and green move as in the images; six points of red, and all of blue, are elsewhere."""
    query = np.concatenate([grid(10, 10), grid(60, 30), grid(90, 60)[:3], [[50, 5]] * 4])
    target = np.concatenate([grid(80, 20), grid(20, 50), [[5, 5]] * 3, [[81, 21]] * 4]).astype(float)
    target[:6] = (52, 8)  # on yellow
    return KnownMatches(query, target, 0.75)


def predictor(matcher, proposer=None, **settings):
    return GeometricMatcher(matcher, proposer or ColourProposer(), GeometricConfig(**settings))


def test_the_answer_is_the_proposal_with_the_matches(known):
    proposer = ColourProposer()
    matcher = predictor(known, proposer)
    red, green, blue = matcher.match(QUERY, QUERY_MASKS, TARGET, top_k=2)
    assert (known.encoded, known.matched) == (2, 1)
    assert proposer.calls == 1, "only the target's proposals are needed, once"
    assert red.mask_rle == TARGET_MASKS["red"]
    # 10 of 16 of its matches fall on red, beside four from elsewhere; six fall on yellow, and nothing else does.
    assert [c.mask_rle for c in red.candidates] == [TARGET_MASKS["red"], TARGET_MASKS["yellow"]]
    assert [c.similarity for c in red.candidates] == pytest.approx([10 / 20, 6 / 16])
    assert red.visibility == pytest.approx(11 / 15)
    assert green.mask_rle == TARGET_MASKS["green"]
    assert green.similarity == 1
    assert green.visibility == pytest.approx(17 / 21)
    assert len(green.candidates) == 1, "the others have no match of it"
    assert blue.mask_rle.is_empty
    assert blue.mask_rle.size_hw == TARGET.shape[:2]
    assert (blue.visibility, blue.similarity, blue.candidates) == (0, 0, ())
    assert blue.notes == ("fewer than 4 matches of the object",)
    assert red.notes == green.notes == ()


def test_votes_may_be_counted(known):
    red = predictor(known, vote="count").match(QUERY, QUERY_MASKS["red"], TARGET)[0]
    assert [c.similarity for c in red.candidates] == pytest.approx([10 / 16, 6 / 16])


def test_the_hull_needs_no_proposals(known):
    matcher = predictor(known, NoProposer(), select="hull")
    red, green, blue = matcher.match(QUERY, QUERY_MASKS, TARGET)
    assert green.mask_rle.box_xywh == (20, 50, 16, 16)
    assert green.mask_rle.area == 16 * 16
    assert (green.similarity, green.visibility) == (0.75, pytest.approx(17 / 21))
    assert [c.proposal for c in green.candidates] == [-1]
    assert red.mask_rle.to_array()[8, 52], "six matches elsewhere draw the hull there"
    assert blue.mask_rle.is_empty
    with pytest.raises(ProposalError, match=r"the target image has no proposals.*geometric:sift\+hull"):
        predictor(known, NoProposer()).match(QUERY, QUERY_MASKS, TARGET)
    few = predictor(known, NoProposer(), min_matches=40).match(QUERY, QUERY_MASKS, TARGET)
    assert all(match.mask_rle.is_empty for match in few), "proposals are not asked for without matches"


def test_matches_on_no_proposal_and_outside_the_image_are_no_answer():
    outside = KnownMatches(grid(10, 10), grid(200, 10))
    for select, note in (("hull", "fewer than 4 matches"), ("proposal", "no proposal contains a match")):
        match = predictor(outside, select=select).match(QUERY, QUERY_MASKS["red"], TARGET)[0]
        assert match.mask_rle.is_empty
        assert match.visibility == 0
        assert note in match.notes[0]
    scattered = KnownMatches(grid(10, 10)[:4], [[81, 21], [3, 3], [3, 3], [3, 3]])
    match = predictor(scattered).match(QUERY, QUERY_MASKS["red"], TARGET)[0]
    assert match.mask_rle == TARGET_MASKS["red"]
    assert match.visibility == pytest.approx(2 / 6), "one match of four inside: probably not visible"


def test_malformed_input_is_refused(known):
    matcher = predictor(known)
    assert isinstance(matcher, Predictor)
    with pytest.raises(MaskError, match="does not fit the query image"):
        matcher.match(QUERY, np.ones((5, 5), bool), TARGET)
    with pytest.raises(ImageError):
        matcher.encode(QUERY.astype(float))
    one, other = matcher.encode(QUERY), matcher.encode(TARGET)
    with pytest.raises(InputError, match="top_k"):
        matcher.match_encoded(one, [QUERY_MASKS["red"]], other, top_k=0)
    with pytest.raises(MaskError, match="is empty"):
        matcher.match_encoded(one, [ObjectMask.empty(QUERY.shape[:2])], other)
    with pytest.raises(ProposalError, match="do not fit the image"):
        matcher.encode(QUERY, Proposals.none((5, 5)))


def test_given_proposals_replace_the_proposers(known):
    own = Proposals(TARGET.shape[:2], (TARGET_MASKS["yellow"],), [1.0])
    matcher = predictor(known)
    target = matcher.encode(TARGET, own)
    match = matcher.match_encoded(matcher.encode(QUERY), [QUERY_MASKS["red"]], target)[0]
    assert match.mask_rle == TARGET_MASKS["yellow"]
    assert matcher.proposer.calls == 0


def test_points_and_boxes_choose_a_proposal_of_the_query(known):
    matcher = predictor(known, select="hull")
    query = matcher.encode(QUERY)
    assert matcher.proposer.calls == 0
    assert matcher.resolve(query, Point(12, 12)) == QUERY_MASKS["red"]
    assert matcher.resolve(query, Box(55, 25, 80, 50)) == QUERY_MASKS["green"]
    assert matcher.proposer.calls == 1
    assert matcher.resolve(query, QUERY_MASKS["blue"]) == QUERY_MASKS["blue"]
    with pytest.raises(InputError, match="outside the query image"):
        matcher.resolve(query, Point(500, 1))
    with pytest.raises(MaskError, match="is empty"):
        matcher.resolve(query, ObjectMask.empty(QUERY.shape[:2]))


def test_settings_hold_all_that_an_answer_depends_on(known):
    settings = json.loads(json.dumps(predictor(known, vote="count", min_matches=7).settings()))
    assert settings == {
        "matcher": {
            "name": "geometric", "select": "proposal", "min_matches": 7, "vote": "count",
            "matches": {"name": "known", "number": len(known.matches)},
        },
        "proposals": {"name": "colour", "areas": "flat"},
    }  # fmt: skip
    assert set(predictor(known, select="hull").settings()) == {"matcher"}
    loaded = counterview.load("geometric:sift").settings()
    fields = {field.name for field in dataclasses.fields(GeometricConfig)}
    assert set(loaded["matcher"]) == {"name", "matches", *fields}
    assert loaded["matcher"]["matches"]["name"] == "sift"
    assert loaded["proposals"]["name"] == "graph"


def test_names_mean_the_same_everywhere(tmp_path):
    assert resolve("geometric").options == {"matcher": "sift", "select": "proposal", "weights": ""}
    assert counterview.load("geometric").settings() == counterview.load("geometric:sift").settings()
    assert isinstance(load_take_predictor("geometric:sift+hull"), FramePredictor)
    assert load_take_predictor("geometric").settings() == counterview.load("geometric").settings()
    for name, near in (("geometrc", "geometric"), ("geometric:sitf", "geometric:sift"), ("geomtric:sift", "geometric")):
        for load in (counterview.load, load_take_predictor):
            with pytest.raises(ConfigError, match=f"(?i)did you mean '{near}"):
                load(name)
    for load in (counterview.load, load_take_predictor):
        with pytest.raises(ConfigError, match="geometric takes no --features"):
            load("geometric:sift", features="classical")
    assert counterview.load("geometric", proposals="tiny", cache=tmp_path).proposer.name == "tiny"
    write_json(
        tmp_path / "config.json", {"format": "counterview", "format_version": 2, "method": "geometric", "model": {}}
    )
    with pytest.raises(CheckpointError, match="unknown method; found geometric"):
        method_of(tmp_path)


def test_weights_in_a_name_reach_the_matcher(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config.json here"):
        counterview.load(f"geometric:lightglue:{tmp_path}", device="cpu")


def moved_pair():
    """A mottled red card on grey, and both 12 px further to the left."""
    rng = np.random.default_rng(0)
    image = np.full((240, 320, 3), 128, np.uint8)
    mottled = cv2.GaussianBlur(rng.standard_normal((100, 120)), (0, 0), 1.5)
    image[60:160, 100:220] = np.array([190, 60, 40]) + (40 * mottled / mottled.std()).clip(-50, 50)[..., None]
    mask = np.zeros((240, 320), bool)
    mask[60:160, 100:220] = True
    return image, mask, np.roll(image, -12, axis=1), np.roll(mask, -12, axis=1)


@pytest.mark.parametrize("name", ["geometric", "geometric:sift+hull"])
def test_the_command_finds_what_moved(name, tmp_path, capsys):
    image, mask, target, there = moved_pair()
    write_image(tmp_path / "a.png", image)
    write_image(tmp_path / "b.png", target)
    write_mask_png(tmp_path / "noise.png", ObjectMask.from_array(mask))
    files = [str(tmp_path / file) for file in ("a.png", "b.png")]
    # Noise has no edges that the proposals for prompts, `tiny`, would follow.
    arguments = ["--model", name, "--proposals", "graph", "--out", str(tmp_path / "out"), "--json"]
    assert main(["match", *files, "--mask", str(tmp_path / "noise.png"), "--box", "96,56,224,164", *arguments]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["settings"]["matcher"]["select"] == ("hull" if "hull" in name else "proposal")
    for item in result["objects"]:
        assert iou(from_coco(item["mask"]), ObjectMask.from_array(there)) > 0.8
        assert item["visibility"] > 0.9
    assert sorted(p.name for p in (tmp_path / "out").glob("[!.]*")) == [
        "mask_box.png", "mask_noise.png", "match.json", "overlay.png",
    ]  # fmt: skip
    blank = np.full_like(image, 128)
    write_image(tmp_path / "b.png", blank)
    assert main(["match", *files, "--mask", str(tmp_path / "noise.png"), *arguments[:-1]]) == 0
    printed = capsys.readouterr()
    assert "probably not visible (visibility 0.00" in printed.out
    assert "note: fewer than 4 matches of the object" in printed.err
    assert json.loads((tmp_path / "out" / "match.json").read_text())["objects"][0]["runners_up"] == []


def test_a_take_is_predicted_as_its_pairs_are():
    take = load_take()
    assert take is not None
    model = load_take_predictor("geometric:sift+hull")
    assert isinstance(model, FramePredictor)
    pairs = list(pairs_of_take(take, "ego2exo"))
    frame = pairs[0].frame
    wanted = [("ego2exo", pair) for pair in pairs if pair.frame == frame]
    ((number, predictions),) = model.predict(take, {frame: wanted})
    assert number == frame
    assert len(predictions) == len(wanted) > 2
    for prediction in predictions:
        pair = prediction.pair
        images = [take.frame(camera, frame) for camera in (pair.query_camera, pair.target_camera)]
        (match,) = model.predictor.match(images[0], query_mask(take, pair, images[0].shape[:2]), images[1])
        size = prediction_size(take, pair.target_camera, images[1].shape[:2])
        assert prediction.mask == resize_mask(match.mask_rle, size)
        assert prediction.confidence == match.visibility
        assert prediction.note == ("; ".join(match.notes) or None)


def test_takes_may_have_proposals_in_a_folder(tmp_path):
    """``folder:PATH`` of a take is ``PATH/TAKE UID/CAMERA/FRAME``, as for the other predictors."""
    take = load_take()
    assert take is not None
    (direction, pair), *_ = [("ego2exo", pair) for pair in pairs_of_take(take, "ego2exo")]
    for camera in (pair.query_camera, pair.target_camera):
        mask = np.zeros(take.frame(camera, pair.frame).shape[:2], bool)
        mask[5:30, 5:30] = True
        folder = tmp_path / take.uid / camera / str(pair.frame)
        write_mask_png(folder / "only.png", ObjectMask.from_array(mask))
    model = load_take_predictor("geometric:sift", proposals=f"folder:{tmp_path}")
    everywhere = grid(0, 0, side=max(take.frame(pair.query_camera, pair.frame).shape), step=2)
    model.predictor.matcher = KnownMatches(everywhere, np.full(everywhere.shape, 9.0))
    ((_, (prediction,)),) = model.predict(take, {pair.frame: [(direction, pair)]})
    assert prediction.note is None
    assert prediction.confidence > 0.5
    assert iou(prediction.mask, resize_mask(ObjectMask.from_array(mask), prediction.mask.size_hw)) == 1


def test_the_command_predicts_a_data_set(tmp_path, capsys):
    data, out = write_takes(tmp_path / "data", frames=2, splits={"test": 1}), tmp_path / "p.json"
    arguments = ["predict", "geometric:sift", str(data), "--direction", "ego2exo", "--out", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    written = json.loads(out.read_text())["ego-exo"]["results"]["take0"]["masks"]
    count = sum(len(frames) for cameras in written.values() for frames in cameras.values())
    assert f"{count} predictions of 1 take" in printed.out
    assert f"{count} of them: fewer than 4 matches of the object" in printed.err, "flat colours have no keypoints"
    assert main([*arguments, "--features", "classical"]) == 2
    assert "geometric takes no --features" in capsys.readouterr().err
