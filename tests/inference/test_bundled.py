"""Bundled models: files are intact, weights are those of the training run, cards describe the model."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import counterview
from counterview.errors import CheckpointError, ConfigError, InputError, WeightsError
from counterview.inference.examples import load_pair
from counterview.inference.loading import load_take_predictor
from counterview.inference.mask_tracker import MaskTracker
from counterview.inference.takes import ClipPredictor, FramePredictor
from counterview.media.files import write_json
from counterview.nn import bundled
from counterview.types import ObjectMask
from tests.inference.fakes import scene
from tests.inference.small_models import as_run, small_lmeec, small_tiny_match
from tools import ship_model

IMAGE, MASKS = scene({"red": (5, 5), "green": (40, 30), "blue": (90, 50)})


def test_bundled_models_load_by_every_name(with_bundled):
    for name in ("tiny", "tiny-match"):
        model = counterview.load(name)
        assert model.matcher.name == "tiny-match"
        assert model.settings()["matcher"]["source"] == "tiny-match", "no path of this machine in the settings"
    match = model.match(IMAGE, {"red": MASKS["red"]}, IMAGE)[0]
    assert match.mask.shape == IMAGE.shape[:2]
    assert isinstance(load_take_predictor("tiny"), FramePredictor)
    assert isinstance(load_take_predictor("tiny-follow"), ClipPredictor)


def test_lmeec_is_a_predictor(with_bundled):
    model = counterview.load("tiny-follow")
    assert isinstance(model, MaskTracker)
    matches = model.match(IMAGE, dict(MASKS), IMAGE)
    assert [m.name for m in matches] == list(MASKS)
    for match in matches:
        assert match.mask.shape == IMAGE.shape[:2]
        assert 0 <= match.visibility <= 1
        assert 0 <= match.similarity <= 1
    # The same as a session of one frame.
    result = model.session(frames=1).step(IMAGE, {n: m.to_array() for n, m in MASKS.items()}, IMAGE)
    assert matches[0].mask_rle == result["red"].mask_rle
    assert matches[0].visibility == pytest.approx(result["red"].visibility)
    with pytest.raises(ConfigError, match="no --features"):
        counterview.load("tiny-follow", features="classical")
    with pytest.raises(counterview.CounterviewError, match="does not fit"):
        model.match(IMAGE, ObjectMask.empty((4, 4)), IMAGE)


def test_a_model_that_is_not_installed_is_an_error_with_a_way_out(without_bundled):
    for name in ("tiny", "tiny-follow"):
        with pytest.raises(WeightsError, match="not part of this installation") as caught:
            counterview.load(name)
        assert "knn" in str(caught.value)
    assert bundled.available() == ()


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "README.md", "card.json"])
def test_a_damaged_or_missing_file_is_an_error_of_one_line_with_a_fix(own_bundled, file):
    path = own_bundled / "tiny-match" / file
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
    assert isinstance(counterview.load("tiny-follow"), MaskTracker), "the other model is intact"


def test_a_damaged_list_of_hashes(own_bundled):
    for content in ("{", "[]", '{"tiny-match/config.json": 3}'):
        (own_bundled / bundled.HASHES).write_text(content)
        with pytest.raises(CheckpointError, match="list of bundled files is damaged"):
            counterview.load("tiny")
        assert bundled.available() == ()
    (own_bundled / bundled.HASHES).write_text('{"tiny-match/../../x": "00"}')
    with pytest.raises(InputError):
        counterview.load("tiny")


def test_adding_stores_half_precision_and_keeps_the_similarities(with_bundled, tmp_path):
    small_tiny_match(tmp_path / "m")
    before, after = (load_file(p / "model.safetensors") for p in (tmp_path / "m", with_bundled / "tiny-match"))
    assert before.keys() == after.keys()
    matrices = [k for k, v in before.items() if v.ndim > 1]
    assert matrices
    assert all(after[k].dtype == torch.float16 for k in matrices)
    assert all(torch.equal(before[k], after[k]) for k, v in before.items() if v.ndim < 2 and v.numel() <= 512)
    assert ship_model.check("tiny-match", tmp_path / "m") == f"tiny-match has the weights of {tmp_path / 'm'}"
    full, half = counterview.load(tmp_path / "m"), counterview.load("tiny")
    a, b = (m.match(IMAGE, MASKS["red"], IMAGE)[0].similarity for m in (full, half))
    assert a == pytest.approx(b, abs=5e-3)


def test_card_and_hashes_follow_a_training_run(own_bundled, tmp_path, capsys):
    run = as_run(small_tiny_match(tmp_path / "m"), tmp_path / "run")
    row = {"accuracy": {"value": 0.8}, "iou": {"value": 0.6}, "location_error": {"value": 0.1},
           "contour_accuracy": {"value": 0.7}, "balanced_accuracy": {"value": 0.9}}  # fmt: skip
    parts = {table: {"rows": {"tiny-match": row}} for table in ("candidates", "proposals")}
    write_json(tmp_path / "scores.json", {"sets": {"hard": parts}})
    arguments = ["add", "tiny-match", str(run), "--data", "thousands of takes", "--recipe", "recipes/x.yaml",
                 "--scores", str(tmp_path / "scores.json")]  # fmt: skip
    assert ship_model.main(arguments) == 0
    facts = json.loads((own_bundled / "tiny-match" / "card.json").read_text())
    assert (facts["seed"], facts["steps"], facts["best_step"]) == (7, 10, 8)
    assert facts["seconds"] == 2 * 3600 + 3600, "a logged step stands for log_every steps"
    assert facts["settings"]["data"]["root"] == "data", "no folder of the training machine"
    card = (own_bundled / "tiny-match" / "README.md").read_text()
    for part in ("thousands of takes", "recipes/x.yaml", "| seed | 7 |", "3.0 hours", "What it is not for",
                 "Part of [Counterview]", "| hard | 0.800 | 0.600 | 0.100 | 0.700 | 0.900 |"):  # fmt: skip
        assert part in card, part
    assert "/somewhere" not in card + json.dumps(facts)
    counterview.load("tiny")
    assert ship_model.main(["card", "tiny-match", "--note", "Checked by hand."]) == 0
    assert "Checked by hand." in (own_bundled / "tiny-match" / "README.md").read_text()
    assert ship_model.main(["check"]) == 0
    assert "all hashes match" in capsys.readouterr().out


@pytest.fixture
def real_models(tmp_path, monkeypatch):
    """A copy of the models of this package."""
    root = tmp_path / "real"
    shutil.copytree(bundled.models_root(), root)
    monkeypatch.setattr(bundled, "models_root", lambda: root)
    return root


def origins(card):
    """The table of a card below the heading of that name: part to origin."""
    section = card.partition("## Which part is whose\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    assert rows.pop(0) == ["part", "from"]
    return dict(rows)


def origin_of(card, words):
    [origin] = [origin for part, origin in origins(card).items() if words in part]
    return origin


ROWS = {
    "tiny-match": {
        "iou": [0.5, 0.45, 0.55], "iou_lost": [0.0, 0.0, 0.0], "balanced_accuracy": [0.8, 0.7, 0.9]
    },
    "without homographies": {
        "iou": [0.4, 0.35, 0.45], "iou_lost": [0.1, 0.08, 0.12], "balanced_accuracy": [None, 0.6, 0.7]
    },
}  # fmt: skip
ABLATION = {"benchmark": "tiny_match_ablation", "sets": {"hard": {"takes": 24, "rows": ROWS}}}


def test_the_card_of_tiny_match_names_each_part_and_whose_it_is(real_models, tmp_path):
    weights = (real_models / "tiny-match" / "model.safetensors").read_bytes()
    write_json(tmp_path / "ablation.json", ABLATION)
    path = ship_model.renew_card("tiny-match", note="Trained in seven runs.", ablation=tmp_path / "ablation.json")
    card = path.read_text()
    for words in ("object crops of 64 px", "colour histogram", "descriptor weight 0.75", "homographies",
                  "geometric re-ranker", "one look", "proposer `tiny`"):  # fmt: skip
        assert origin_of(card, words) == "Counterview", words
    assert origin_of(card, "matching head") == "O-MaMa"
    assert len(origins(card)) == 8
    assert "| hard, 24 takes | IoU | IoU lost | balanced accuracy |" in card
    assert "| tiny-match | 0.500 (0.450..0.550) | 0.000 (0.000..0.000) | 0.800 (0.700..0.900) |" in card
    assert "| without homographies | 0.400 (0.350..0.450) | 0.100 (0.080..0.120) | - |" in card
    assert "import counterview\n" in card
    assert "\n\nTrained in seven runs.\n\n" in card
    assert "shipped" not in card + (path.parent / "card.json").read_text()
    assert ship_model.renew_card("tiny-match").read_text() == card, "what is not given again is kept"
    assert (real_models / "tiny-match" / "model.safetensors").read_bytes() == weights
    config = json.loads((path.parent / "config.json").read_text())
    assert (config["format_version"], config["method"]) == (2, "tiny-match")
    assert "all hashes match" in ship_model.check()


def test_the_card_of_tiny_follow_names_each_part_and_whose_it_is(real_models):
    card = ship_model.renew_card("tiny-follow").read_text()
    assert origin_of(card, "appearance prompt") == "Counterview"
    assert origin_of(card, "convolutional image encoder") == "Counterview"
    assert origin_of(card, "MV-MoE fusion") == "LM-EEC"
    assert origin_of(card, "mask decoder").startswith("SAM 2.1")
    assert "## Ablation" not in card
    assert "session.step(" in card


def test_a_card_names_only_the_parts_of_its_model(own_bundled):
    card = ship_model.renew_card("tiny-match").read_text()
    assert origin_of(card, "descriptor weight learned") == "Counterview"
    assert origin_of(card, "matching head") == "O-MaMa"
    assert len(origins(card)) == 2
    assert "Which part is whose" not in ship_model.renew_card("tiny-follow").read_text(), "a plain LM-EEC"


@pytest.mark.parametrize("option", ["scores", "ablation"])
def test_a_results_file_of_another_kind_leaves_the_bundled_files_intact(own_bundled, tmp_path, option, capsys):
    before = {path: path.read_bytes() for path in own_bundled.rglob("*.*") if path.is_file()}
    write_json(tmp_path / "other.json", {"benchmark": "match", "sets": {}})
    assert ship_model.main(["card", "tiny-match", f"--{option}", str(tmp_path / "other.json")]) == 2
    assert f"ship_model: {tmp_path / 'other.json'}: has no " in capsys.readouterr().out
    assert {path: path.read_bytes() for path in own_bundled.rglob("*.*") if path.is_file()} == before
    assert ship_model.main(["check"]) == 0


def test_a_model_that_cannot_be_added_changes_nothing(own_bundled, tmp_path, monkeypatch, capsys):
    kept = (own_bundled / bundled.HASHES).read_bytes()
    folder = small_tiny_match(tmp_path / "m", dropout=0.1)
    with pytest.raises(ConfigError, match="tiny-match"):
        ship_model.add("tiny-mach", folder)
    with pytest.raises(InputError, match="has no scores of tiny-match"):
        write_json(tmp_path / "s.json", {"sets": {}})
        ship_model.add("tiny-match", folder, scores=tmp_path / "s.json")
    monkeypatch.setattr(ship_model, "BUDGET_BYTES", 50_000)
    assert ship_model.main(["add", "tiny-match", str(folder)]) == 2
    assert "too large" in capsys.readouterr().out
    monkeypatch.undo()
    assert (own_bundled / bundled.HASHES).read_bytes() == kept, "nothing was changed"
    assert not list(own_bundled.glob(".*"))


def test_weights_that_are_not_finite_in_half_precision(own_bundled, tmp_path):
    from safetensors.torch import save_file

    folder = small_lmeec(tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    name = next(k for k, v in state.items() if v.ndim > 1)
    state[name] = state[name] + 1e6
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="not finite in half precision"):
        ship_model.add("tiny-follow", folder)


def test_check_refuses_the_weights_of_another_run(own_bundled, tmp_path):
    torch.manual_seed(5)
    other = small_lmeec(tmp_path / "m")
    state = load_file(other / "model.safetensors")
    assert ship_model.check("tiny-follow", other)
    from safetensors.torch import save_file

    name = next(k for k, v in state.items() if v.ndim > 1)
    state[name] = torch.from_numpy(np.ones(state[name].shape, np.float32))
    save_file(state, other / "model.safetensors")
    with pytest.raises(CheckpointError, match="differs from the weights of the run"):
        ship_model.check("tiny-follow", other)


def test_the_bundled_files_of_this_package_are_intact():
    """The real files, whichever models are part of the package."""
    total = 0
    for name in bundled.available():
        folder = bundled.bundled_folder(name)
        assert (folder / "README.md").is_file()
        total += sum(p.stat().st_size for p in folder.iterdir())
    assert total <= ship_model.BUDGET_BYTES
    assert bundled.DEFAULT_MODEL in ("knn", *bundled.BUNDLED, *bundled.ALIASES)
    if bundled.DEFAULT_MODEL != "knn":
        assert bundled.ALIASES.get(bundled.DEFAULT_MODEL, bundled.DEFAULT_MODEL) in bundled.available()


def test_tiny_follow_says_that_it_is_lost_without_a_query_mask():
    """The same images again, without the mask: as the docs say, it marks nearly everything and calls it not visible."""
    if "tiny-follow" not in bundled.available():
        pytest.skip("this installation has no tiny-follow")
    pair = load_pair()
    name, mask = next(iter(pair.near.masks.items()))
    session = counterview.load("tiny-follow").session()
    shown = session.step(pair.near.image, {name: mask.to_array()}, pair.far.image)[name]
    assert shown.visibility > 0.5
    assert shown.mask.mean() < 0.1
    for _ in range(2):
        remembered = session.step(pair.near.image, {name: None}, pair.far.image)[name]
        assert remembered.visibility < 0.5
