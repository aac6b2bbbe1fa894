"""What the bundled models answer stays what it was, and what users saved with earlier versions still loads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import counterview
from counterview.training.recipe import load_recipe
from tests.golden.saved import MASKS, QUERY, SAVED, TARGET, unpack

EXPECTED = json.loads((SAVED / "answers.json").read_text())
MODELS = ("omama", "omama-residual", "tiny-match", "lmeec", "tiny-follow")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bundled_models_answer_as_they_did():
    """In a process of its own, whose threads and state no other test has changed."""
    done = subprocess.run([sys.executable, "-m", "tests.golden.answers", "check"], capture_output=True, text=True,
                          cwd=Path(__file__).parents[2], check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", MODELS)
def test_a_model_saved_by_the_first_version_answers_as_it_did(name, tmp_path):
    model = counterview.load(unpack(name, tmp_path / name), device="cpu")
    for match in model.match(QUERY, MASKS, TARGET):
        expected = EXPECTED[name][match.name]
        assert list(match.mask_rle.box_xywh) == expected["box"]
        assert match.mask_rle.area == expected["area"]
        assert match.similarity == pytest.approx(expected["similarity"], abs=1e-5)
        assert match.visibility == pytest.approx(expected["visibility"], abs=1e-5)
        found = [(list(c.mask_rle.box_xywh), pytest.approx(c.similarity, abs=1e-5)) for c in match.candidates]
        assert [(box, value) for box, value in expected["candidates"]] == found


@pytest.mark.parametrize("name", ["lmeec", "tiny-follow"])
def test_a_session_saved_by_the_first_version_goes_on_as_it_did(name, tmp_path):
    from counterview.lmeec.session import Session

    model = counterview.load(unpack(name, tmp_path / name), device="cpu").model
    session = Session.load(model, SAVED / f"{name}.session.safetensors")
    result = session.step(TARGET, {"red": MASKS["red"]}, QUERY)["red"]
    expected = EXPECTED[f"{name} session"]
    assert result.mask_rle.area == expected["area"]
    assert result.object_score == pytest.approx(expected["score"], abs=1e-5)
    assert result.visibility == pytest.approx(expected["visibility"], abs=1e-5)
    assert result.predicted_iou == pytest.approx(expected["iou"], abs=1e-5)


@pytest.mark.parametrize("path", sorted((SAVED / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_written_for_the_first_version_still_loads(path):
    recipe = load_recipe(path)
    assert recipe.training.epochs >= 1
    assert recipe.config.model is not None
