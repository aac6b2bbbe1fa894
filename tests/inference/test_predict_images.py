"""Predictions depend on the images: the file says which, and without loss they do not."""

import json

import pytest

from counterview.data.open import open_dataset
from counterview.data.prepare.prepare import prepare_release
from counterview.errors import InputError
from counterview.evaluation.open import open_predictions
from counterview.evaluation.protocol import evaluate
from counterview.evaluation.provenance import predicted_from
from counterview.inference.dataset import predict
from counterview.inference.loading import load_take_predictor
from counterview.media.files import write_json
from tests.data_egoexo.release_maker import EGO, EXO, TakeSpec, make_release


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A release, and what is prepared from it as JPEG and as PNG."""
    root = tmp_path_factory.mktemp("places")
    spec = TakeSpec("u", "n", 31, (EGO, EXO), objects=("mug 0",), absent={}, split="test")
    make_release(root / "release", [spec], noise=120)
    for images in ("jpg", "png"):
        prepare_release(root / "release", root / images, splits=["test"], images=images)
    return root


@pytest.fixture(scope="module")
def files(places):
    predictor = load_take_predictor("knn", device="cpu")
    for name in ("release", "jpg", "png"):
        predict(predictor, open_dataset(places / name, "test"), ["ego2exo"], places / f"{name}.json", progress=False)
    return {name: json.loads((places / f"{name}.json").read_text())["ego-exo"] for name in ("release", "jpg", "png")}


def test_lossless_images_give_the_predictions_of_the_videos(files):
    assert files["png"]["results"] == files["release"]["results"]
    assert files["jpg"]["results"] != files["release"]["results"]


def test_the_file_and_the_scores_say_which_images_were_used(places, files):
    assert {name: file["counterview"]["data"] for name, file in files.items()} == {
        "release": {"format": "release", "images": "video full"},
        "jpg": {"format": "prepared", "images": "jpg"},
        "png": {"format": "prepared", "images": "png"},
    }
    for name, text in (("release", "release video full"), ("jpg", "prepared jpg"), ("png", "prepared png")):
        source = open_predictions(places / f"{name}.json")
        assert predicted_from(source, "ego2exo") == text
        report = evaluate(places / "release", source, split="test")
        assert report.notes == [f"predicted from {text} images"]


def test_files_of_others_say_nothing(places, files):
    for content in ({"results": {}}, {"counterview": {"data": 3}, "results": {}}, {"counterview": 3, "results": {}}):
        write_json(places / "other.json", {"ego-exo": content})
        assert predicted_from(open_predictions(places / "other.json"), "ego2exo") is None


def test_a_run_is_not_resumed_on_images_of_another_kind(places, tmp_path):
    predictor, out = load_take_predictor("knn", device="cpu"), tmp_path / "p.json"

    def stop(*arguments):
        raise KeyboardInterrupt

    original, predictor.predict = predictor.predict, stop
    with pytest.raises(KeyboardInterrupt):
        predict(predictor, open_dataset(places / "jpg", "test"), ["ego2exo"], out, progress=False)
    predictor.predict = original
    with pytest.raises(InputError, match="other settings or data"):
        predict(predictor, open_dataset(places / "png", "test"), ["ego2exo"], out, progress=False)
