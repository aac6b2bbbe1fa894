"""What a call takes: images as paths, of Pillow and in OpenCV's order; points, boxes and prompts in place of masks.

Oracle: the same call with RGB arrays and masks, in scenes whose right matches are known (see fakes.py).
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import counterview
from counterview import Box, Point, Prompt
from counterview.errors import CheckpointError, ConfigError, ImageError, InputError, MaskError
from counterview.inference.matchers import KnnMatcher
from counterview.inference.proposal_matcher import ProposalMatcher
from counterview.media.inputs import load_rgb
from counterview.media.video import VideoReader
from counterview.proposals.base import Proposals
from tests.inference.fakes import ColourBackbone, ColourProposer, scene

QUERY, QUERY_MASKS = scene({"red": (5, 5), "green": (40, 30), "blue": (90, 50)})
TARGET, TARGET_MASKS = scene({"green": (2, 60), "yellow": (30, 10), "red": (100, 40), "blue": (60, 20)}, (100, 140), 12)
GREEN = TARGET_MASKS["green"]


def predictor(proposer=None, prompts=None):
    return ProposalMatcher(proposer or ColourProposer(), ColourBackbone(), KnnMatcher(), prompts)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, image in (("query", QUERY), ("target", TARGET)):
        Image.fromarray(image).save(folder / f"{name}.png")
    QUERY_MASKS["green"].save_png(folder / "green.png")
    return folder


def test_images_of_every_kind_are_the_same_image(stored):
    for image in (stored / "query.png", str(stored / "query.png"), Image.open(stored / "query.png"), QUERY,
                  counterview.View(QUERY)):  # fmt: skip
        assert np.array_equal(load_rgb(image), QUERY)
    assert np.array_equal(load_rgb(QUERY[..., ::-1], color="bgr"), QUERY)
    assert np.array_equal(load_rgb(stored / "query.png", color="bgr"), QUERY), "a file knows its own order"
    with pytest.raises(ConfigError, match="'rgb' or 'bgr'"):
        load_rgb(QUERY, color="gbr")
    with pytest.raises(ImageError, match="the query image is not an RGB array; found int"):
        load_rgb(5, what="query image")


def test_a_match_takes_paths_pillow_and_bgr(stored):
    model = predictor()
    expected = model.match(QUERY, QUERY_MASKS["green"], TARGET)
    assert expected[0].mask_rle == GREEN
    assert model.match(stored / "query.png", stored / "green.png", str(stored / "target.png")) == expected
    assert model.match(Image.fromarray(QUERY), QUERY_MASKS["green"], Image.fromarray(TARGET)) == expected
    assert model.match(QUERY[..., ::-1], QUERY_MASKS["green"], TARGET[..., ::-1], color="bgr") == expected
    encoded = model.encode(QUERY[..., ::-1], color="bgr"), model.encode(stored / "target.png")
    assert model.match_encoded(encoded[0], [QUERY_MASKS["green"]], encoded[1]) == expected


def test_a_path_names_the_image_for_proposals_made_beforehand(stored):
    names = []

    class Named(ColourProposer):
        def __call__(self, image, name=None):
            names.append(name)
            return super().__call__(image, name)

    predictor(Named()).match(stored / "query.png", QUERY_MASKS["green"], stored / "target.png")
    assert names == [f"{stored.name}/query", f"{stored.name}/target"]


@pytest.mark.parametrize(
    "how",
    [
        {"point": (45, 35)},
        {"point": Point(45, 35)},
        {"box": (39, 29, 57, 47)},
        {"box": Box(39, 29, 57, 47), "point": (45, 35)},
        {"query_masks": (45, 35)},
        {"query_masks": Prompt(points=[(45, 35), (50, 40)], background=[(8, 8)])},
        {"query_masks": {"object 1": Box(39, 29, 57, 47)}},
    ],
)
def test_one_object_by_a_point_a_box_or_a_prompt(how):
    (match,) = predictor().match(QUERY, target_image=TARGET, **how)
    assert (match.name, match.mask_rle, match.notes) == ("object 1", GREEN, ())


def test_prompts_and_masks_mix_and_may_be_named():
    prompts = {"a": (45, 35), "b": QUERY_MASKS["red"], "c": Box(88, 48, 108, 68), "d": QUERY_MASKS["blue"].to_array()}
    found = predictor().match(QUERY, prompts, TARGET)
    assert [(m.name, m.mask_rle) for m in found] == [
        (name, TARGET_MASKS[colour]) for name, colour in zip("abcd", ("green", "red", "blue", "blue"), strict=True)
    ]
    unnamed = predictor().match(QUERY, list(prompts.values()), TARGET, names=list(prompts))
    assert unnamed == found


def test_prompts_have_a_proposer_of_their_own_and_candidates_keep_theirs():
    class Whole(ColourProposer):
        """Joins all squares into one mask."""

        def __call__(self, image, name=None):
            self.calls += 1
            joined = np.logical_or.reduce([m.to_array() for m in super().__call__(image).masks])
            return Proposals(image.shape[:2], (counterview.ObjectMask.from_array(joined),), [1.0])

    prompts = Whole()
    model = predictor(prompts=prompts)
    query = model.encode(QUERY)
    assert prompts.calls == 0, "made when a point needs them"
    for _ in range(2):
        assert model.resolve(query, Point(45, 35)).area == sum(m.area for m in QUERY_MASKS.values())
    assert prompts.calls == 2  # its own call, and that of its base class
    assert len(query.proposals) == 3
    own = model.encode(QUERY, ColourProposer()(QUERY))
    assert model.resolve(own, Point(45, 35)) == QUERY_MASKS["green"], "given proposals are the ones to choose from"


@pytest.mark.parametrize("name", ["knn", "geometric", "tiny-follow"])
def test_points_choose_among_tiny_proposals_where_graph_was_nobodys_wish(name, bundled_models):
    model = counterview.load(name)
    assert model.prompt_settings()["name"] == "tiny"
    if name != "tiny-follow":
        assert model.proposer.name == "graph"
        assert counterview.load(name, proposals="graph").prompt_settings()["name"] == "graph"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"query_masks": None, "target_image": TARGET}, InputError, "no query object was given"),
        ({"query_masks": [None], "target_image": TARGET}, MaskError, "the query object 'object 1' is None"),
        ({"point": (1, 2, 3), "target_image": TARGET}, InputError, "a point is .x, y.*found .1, 2, 3.*counterview.Box"),
        ({"query_masks": (1, 2, 3), "target_image": TARGET}, InputError, "a point is .x, y"),
        ({"query_masks": [(1, float("nan"))], "target_image": TARGET}, InputError, "a point is .x, y"),
        ({"point": "1,2", "target_image": TARGET}, InputError, "a point is .x, y.*found '1,2'"),
        ({"box": (1, 2, 3), "target_image": TARGET}, InputError, "a box is .x1, y1, x2, y2"),
        ({"query_masks": [object()], "target_image": TARGET}, InputError, "unknown kind; found object"),
        ({"query_masks": 7, "target_image": TARGET}, InputError, "unknown kind; found int"),
        ({"query_masks": [], "target_image": TARGET}, InputError, "no query object"),
        ({"query_masks": (45, 35)}, InputError, "there is no target image"),
        ({"query_masks": TARGET, "point": (45, 35)}, InputError, "Write model.match.query_image, target_image="),
        ({"query_masks": (45, 35), "target_image": TARGET, "box": (1, 2, 3, 4)}, InputError, "given twice"),
        ({"query_masks": (450, 35), "target_image": TARGET}, InputError, "outside the query image"),
        ({"query_masks": (45, 35), "target_image": "nowhere.png"}, ImageError, "no such file"),
    ],
)
def test_what_a_match_cannot_take_is_one_line(arguments, error, text):
    with pytest.raises(error, match=text):
        predictor().match(QUERY, **arguments)


def test_encoded_images_are_matched_by_masks():
    model = predictor()
    query, target = model.encode(QUERY), model.encode(TARGET)
    with pytest.raises(InputError, match=r"'object 1' is none; found Point. Turn it into a mask first: model.resolve"):
        model.match_encoded(query, [Point(45, 35)], target)


def test_what_is_no_name_of_a_model(tmp_path, monkeypatch):
    for wrong, text in ((5, "found int"), ("", "found ''"), (None, "found NoneType")):
        with pytest.raises(ConfigError, match=text):
            counterview.load(wrong) if wrong is not None else counterview.inference.zoo.resolve(None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    for name, text in (
        ("exo.mp4", "is a file, not a model; found a video"),
        ("videos/exo.mp4", "is a file, not a model; found a video"),
        ("ego.png", "found an image"),
        ("best.pt", "found weights.*counterview convert"),
    ):
        Path(name).write_bytes(b"")
        with pytest.raises(ConfigError, match=text):
            counterview.load(name)
    Path("config.json").write_text("{}")
    Path("model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="Give its folder"):
        counterview.load("model.safetensors")
    with pytest.raises(ImageError, match="from a path or from bytes; found ndarray"):
        counterview.read_image(QUERY)
    with pytest.raises(counterview.CounterviewError, match="videos: is a folder; expected a video"):
        VideoReader("videos")


def test_a_bundled_model_by_its_class_and_name(with_bundled, tmp_path, monkeypatch):
    from counterview.lmeec import LMEEC
    from counterview.omama import OMaMa
    from counterview.tiny import TinyMatch

    monkeypatch.chdir(tmp_path)
    assert isinstance(TinyMatch.from_pretrained("tiny"), TinyMatch)
    with pytest.raises(CheckpointError, match=r"found TinyMatch; expected OMaMa. Call TinyMatch.from_pretrained"):
        OMaMa.from_pretrained("tiny-match")
    with pytest.raises(CheckpointError, match=r"tiny-match, tiny-follow, or owner/name"):
        LMEEC.from_pretrained("tiny-folow")


def test_an_lmeec_by_the_name_of_the_bundled_one():
    from counterview.lmeec import LMEEC
    from counterview.nn import bundled
    from counterview.tiny import TinyFollow

    if "tiny-follow" not in bundled.available():
        pytest.skip("this installation has no tiny-follow")
    model = LMEEC.from_pretrained("tiny-follow")
    assert type(model) is TinyFollow
    session = model.session()
    with pytest.raises(counterview.CounterviewError, match=r"nowhere/s\.safetensors"):
        session.save("/proc/nowhere/s.safetensors")


SNIPPET = """
from pathlib import Path
from typing import assert_type

import numpy as np

import counterview
from counterview.inference import MaskTracker, ProposalMatcher
from counterview.lmeec import Session

assert_type(counterview.load(), ProposalMatcher)
assert_type(counterview.load("tiny-follow"), MaskTracker)
assert_type(counterview.load("tiny-follow").session(), Session)
match = counterview.load(Path("mine")).match("ego.jpg", target_image=Path("exo.jpg"), point=(410, 260))[0]
assert_type(match, counterview.Match)
image = np.zeros((4, 4, 3), np.uint8)
counterview.load("knn").match(image, {"mug": (3, 4), "tray": counterview.Box(1, 2, 3, 4)}, "exo.jpg", color="bgr")
counterview.Prompt(points=[(410, 260), (430, 280)], background=[(500, 300)], box=(1, 2, 3, 4))
match.to_coco(), match.to_polygons(), match.to_supervision()
match.show()
"""


@pytest.mark.slow
def test_a_program_outside_is_typed(tmp_path):
    """By mypy in strict mode, with the package followed as one that is installed."""
    pytest.importorskip("mypy")
    (tmp_path / "use.py").write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports", "silent", "--cache-dir", tmp_path / "c"]
    source = Path(counterview.__file__).parents[1]
    done = subprocess.run([*command, "use.py"], cwd=tmp_path, env={"MYPYPATH": str(source), "PATH": ""},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
