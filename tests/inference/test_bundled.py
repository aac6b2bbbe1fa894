"""Shipped models: what is loaded is what was shipped, and what was shipped is what was trained."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import counterview
from counterview.errors import CheckpointError, ConfigError, InputError, WeightsError
from counterview.inference import bundled
from counterview.inference.loading import load_take_predictor
from counterview.inference.mask_tracker import MaskTracker
from counterview.inference.takes import ClipPredictor, FramePredictor
from counterview.media.files import write_json
from counterview.types import ObjectMask
from tests.inference.fakes import scene
from tests.inference.small_models import as_run, small_lmeec, small_tiny_match
from tools import ship_model

IMAGE, MASKS = scene({"red": (5, 5), "green": (40, 30), "blue": (90, 50)})


def test_shipped_models_load_by_every_name_and_find_something(with_shipped):
    for name in ("tiny", "tiny-match"):
        model = counterview.load(name)
        assert model.matcher.name == "tiny-match"
        assert model.settings()["matcher"]["source"] == "tiny-match", "no path of this machine in the settings"
    found = model.match(IMAGE, {"red": MASKS["red"]}, IMAGE)[0]
    assert found.mask.shape == IMAGE.shape[:2]
    assert isinstance(load_take_predictor("tiny"), FramePredictor)
    assert isinstance(load_take_predictor("tiny-follow"), ClipPredictor)


def test_lmeec_stands_where_a_predictor_stands(with_shipped):
    model = counterview.load("tiny-follow")
    assert isinstance(model, MaskTracker)
    matches = model.match(IMAGE, dict(MASKS), IMAGE)
    assert [m.name for m in matches] == list(MASKS)
    for match in matches:
        assert match.mask.shape == IMAGE.shape[:2]
        assert 0 <= match.visibility <= 1
        assert 0 <= match.similarity <= 1
    # The same as the session that it stands for.
    result = model.session(frames=1).step(IMAGE, {n: m.to_array() for n, m in MASKS.items()}, IMAGE)
    assert matches[0].mask_rle == result["red"].mask_rle
    assert matches[0].visibility == pytest.approx(result["red"].visibility)
    with pytest.raises(ConfigError, match="no --features"):
        counterview.load("tiny-follow", features="classical")
    with pytest.raises(counterview.CounterviewError, match="does not fit"):
        model.match(IMAGE, ObjectMask.empty((4, 4)), IMAGE)


def test_what_is_not_shipped_is_said(without_shipped):
    for name in ("tiny", "tiny-follow"):
        with pytest.raises(WeightsError, match="not part of this installation") as caught:
            counterview.load(name)
        assert "knn" in str(caught.value)
    assert bundled.available() == ()


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "README.md", "card.json"])
def test_a_damaged_or_missing_file_is_one_line_that_says_what_to_do(own_shipped, file):
    path = own_shipped / "tiny-match" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="damaged") as caught:
        counterview.load("tiny")
    assert str(path) in str(caught.value)
    assert "reinstall" in str(caught.value)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        counterview.load("tiny")
    assert isinstance(counterview.load("tiny-follow"), MaskTracker), "the other one is whole"


def test_damaged_list_of_hashes(own_shipped):
    for content in ("{", "[]", '{"tiny-match/config.json": 3}'):
        (own_shipped / bundled.HASHES).write_text(content)
        with pytest.raises(CheckpointError, match="list of bundled files is damaged"):
            counterview.load("tiny")
        assert bundled.available() == ()
    (own_shipped / bundled.HASHES).write_text('{"tiny-match/../../x": "00"}')
    with pytest.raises(InputError):
        counterview.load("tiny")


def test_adding_halves_weights_and_keeps_what_the_model_says(with_shipped, tmp_path):
    small_tiny_match(tmp_path / "m")
    before, after = (load_file(p / "model.safetensors") for p in (tmp_path / "m", with_shipped / "tiny-match"))
    assert before.keys() == after.keys()
    matrices = [k for k, v in before.items() if v.ndim > 1]
    assert matrices
    assert all(after[k].dtype == torch.float16 for k in matrices)
    assert all(torch.equal(before[k], after[k]) for k, v in before.items() if v.ndim < 2 and v.numel() <= 512)
    assert ship_model.check("tiny-match", tmp_path / "m") == f"tiny-match is what {tmp_path / 'm'} left"
    full, half = counterview.load(tmp_path / "m"), counterview.load("tiny")
    a, b = (m.match(IMAGE, MASKS["red"], IMAGE)[0].similarity for m in (full, half))
    assert a == pytest.approx(b, abs=5e-3)


def test_card_and_hashes_follow_a_training_run(own_shipped, tmp_path, capsys):
    run = as_run(small_tiny_match(tmp_path / "m"), tmp_path / "run")
    row = {"accuracy": {"value": 0.8}, "iou": {"value": 0.6}, "location_error": {"value": 0.1},
           "contour_accuracy": {"value": 0.7}, "balanced_accuracy": {"value": 0.9}}  # fmt: skip
    parts = {table: {"rows": {"tiny-match": row}} for table in ("candidates", "proposals")}
    write_json(tmp_path / "scores.json", {"sets": {"hard": parts}})
    arguments = ["add", "tiny-match", str(run), "--data", "thousands of takes", "--recipe", "recipes/x.yaml",
                 "--scores", str(tmp_path / "scores.json")]  # fmt: skip
    assert ship_model.main(arguments) == 0
    facts = json.loads((own_shipped / "tiny-match" / "card.json").read_text())
    assert (facts["seed"], facts["steps"], facts["best_step"]) == (7, 10, 8)
    assert facts["seconds"] == 2 * 3600 + 3600, "a logged step stands for log_every steps"
    assert facts["settings"]["data"]["root"] == "data", "no folder of the machine it was trained on"
    card = (own_shipped / "tiny-match" / "README.md").read_text()
    for part in ("thousands of takes", "recipes/x.yaml", "| seed | 7 |", "3.0 hours", "What it is not for",
                 "| hard | 0.800 | 0.600 | 0.100 | 0.700 | 0.900 |"):  # fmt: skip
        assert part in card, part
    assert "/somewhere" not in card + json.dumps(facts)
    counterview.load("tiny")
    assert ship_model.main(["card", "tiny-match", "--note", "Seen it."]) == 0
    assert "Seen it." in (own_shipped / "tiny-match" / "README.md").read_text()
    assert ship_model.main(["check"]) == 0
    assert "every hash is right" in capsys.readouterr().out


def test_what_cannot_be_added(own_shipped, tmp_path, monkeypatch, capsys):
    kept = (own_shipped / bundled.HASHES).read_bytes()
    folder = small_tiny_match(tmp_path / "m", dropout=0.1)
    with pytest.raises(ConfigError, match="tiny-match"):
        ship_model.add("tiny-mach", folder)
    with pytest.raises(InputError, match="no scores of"):
        write_json(tmp_path / "s.json", {"sets": {}})
        ship_model.add("tiny-match", folder, scores=tmp_path / "s.json")
    monkeypatch.setattr(ship_model, "BUDGET_BYTES", 50_000)
    assert ship_model.main(["add", "tiny-match", str(folder)]) == 2
    assert "too large" in capsys.readouterr().out
    monkeypatch.undo()
    assert (own_shipped / bundled.HASHES).read_bytes() == kept, "nothing was changed"
    assert not list(own_shipped.glob(".*"))


def test_weights_that_half_precision_cannot_hold(own_shipped, tmp_path):
    from safetensors.torch import save_file

    folder = small_lmeec(tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    name = next(k for k, v in state.items() if v.ndim > 1)
    state[name] = state[name] + 1e6
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="not finite in half precision"):
        ship_model.add("tiny-follow", folder)


def test_a_run_that_is_not_the_shipped_one_is_told(own_shipped, tmp_path):
    torch.manual_seed(5)
    other = small_lmeec(tmp_path / "m")
    state = load_file(other / "model.safetensors")
    assert ship_model.check("tiny-follow", other)
    from safetensors.torch import save_file

    name = next(k for k, v in state.items() if v.ndim > 1)
    state[name] = torch.from_numpy(np.ones(state[name].shape, np.float32))
    save_file(state, other / "model.safetensors")
    with pytest.raises(CheckpointError, match="not what the run left"):
        ship_model.check("tiny-follow", other)


def test_what_this_package_ships_is_whole():
    """The package's own files, whichever models it holds."""
    total = 0
    for name in bundled.available():
        folder = bundled.bundled_folder(name)
        assert (folder / "README.md").is_file()
        total += sum(p.stat().st_size for p in folder.iterdir())
    assert total <= ship_model.BUDGET_BYTES
    assert bundled.DEFAULT_MODEL in ("knn", *bundled.BUNDLED, *bundled.ALIASES)
    if bundled.DEFAULT_MODEL != "knn":
        assert bundled.ALIASES.get(bundled.DEFAULT_MODEL, bundled.DEFAULT_MODEL) in bundled.available()
