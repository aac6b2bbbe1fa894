"""The models of ``match`` and ``predict``, and what ``doctor`` reports about them."""

import json
from importlib.resources import files
from pathlib import Path

import pytest

from counterview.cli.main import main
from counterview.config import read_yaml, set_value
from counterview.data.dataset import DIRECTIONS
from counterview.data.open import open_dataset
from counterview.data.pairs import enumerate_pairs, subset
from counterview.inference.dataset import predict
from counterview.inference.loading import load_take_predictor
from counterview.inference.takes import ClipPredictor
from counterview.inference.zoo import find_recipe
from counterview.media.files import write_json
from counterview.nn import bundled
from tests.omama.tiny_takes import write_takes

PAIR = Path(str(files("counterview") / "assets" / "pair"))
ARGUMENTS = ["match", str(PAIR / "ego.jpg"), str(PAIR / "exo.jpg"), "--mask", str(sorted(PAIR.glob("ego_*.png"))[0])]


@pytest.mark.parametrize(("model", "name"), [("tiny", "tiny-match"), ("tiny-follow", "lmeec"), (None, "tiny-match")])
def test_match_with_bundled_models(with_bundled, tmp_path, capsys, monkeypatch, model, name):
    monkeypatch.setattr(bundled, "DEFAULT_MODEL", "tiny-match")
    option = [] if model is None else ["--model", model]
    assert main([*ARGUMENTS, *option, "--out", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["settings"]["matcher"]["name"] == name
    assert (tmp_path / "overlay.png").is_file()


def test_features_alone_mean_nearest_neighbour(with_bundled, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bundled, "DEFAULT_MODEL", "tiny-match")
    assert main([*ARGUMENTS, "--features", "classical", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["matcher"]["name"] == "knn"


def test_a_damaged_bundled_file_is_an_error_of_one_line(own_bundled, tmp_path, capsys):
    path = own_bundled / "tiny-match" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert main([*ARGUMENTS, "--model", "tiny", "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1
    assert "damaged" in err
    assert "reinstall" in err


def test_doctor_reports_which_bundled_models_are_intact(own_bundled, capsys):
    path = own_bundled / "tiny-follow" / "config.json"
    path.write_text("{}")
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bundled"] == {
        "tiny-match": "intact", "tiny-follow": "a bundled file is damaged or was replaced"
    }  # fmt: skip
    (own_bundled / bundled.HASHES).unlink()
    assert main(["doctor", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["bundled"].values()) == {"not installed"}


def test_a_point_and_a_box_select_objects_for_lmeec(with_bundled, tmp_path, capsys):
    arguments = ["--model", "tiny-follow", "--point", "150,210", "--box", "60,180,160,280", "--out", str(tmp_path)]
    assert main([*ARGUMENTS[:3], *arguments, "--json"]) == 0
    objects = json.loads(capsys.readouterr().out)["objects"]
    assert [o["name"] for o in objects] == ["point", "box"]
    assert main([*ARGUMENTS[:3], "--model", "tiny-follow", "--point", "9999,1", "--out", str(tmp_path)]) == 2
    assert "outside the query image" in capsys.readouterr().err


def test_predict_reports_a_take_that_cannot_be_read_and_exits_with_1(with_bundled, tmp_path, capsys):
    data = write_takes(tmp_path / "data", frames=1, splits={"test": 2})
    (data / "take0" / "annotation.json").write_text("{")
    out = tmp_path / "p.json"
    assert main(["predict", "tiny-follow", str(data), "--out", str(out), "--direction", "exo2ego"]) == 1
    printed = capsys.readouterr()
    results = json.loads(out.read_text())["exo-ego"]["results"]
    count = sum(len(frames) for cameras in results["take1"]["masks"].values() for frames in cameras.values())
    assert list(results) == ["take1"]
    assert f"{count} predictions of 2 takes written to {out}" in printed.out
    assert "left out: take take0: " in printed.err


def test_predict_takes_a_model_or_the_default(with_bundled, tmp_path, capsys, monkeypatch):
    data = write_takes(tmp_path / "data", frames=1, splits={"test": 1})
    results = {}
    for name, arguments in {"tiny": ["tiny"], "tiny-follow": ["tiny-follow"], "default": []}.items():
        monkeypatch.setattr(bundled, "DEFAULT_MODEL", "tiny-match")
        out = tmp_path / f"{name}.json"
        assert main(["predict", *arguments, str(data), "--out", str(out)]) == 0
        results[name] = json.loads(out.read_text())
    assert results["tiny"] == results["default"]
    assert results["tiny"] != results["tiny-follow"]
    capsys.readouterr()
    assert main(["predict", "a", "b", "c"]) == 2
    assert "[MODEL] DATA" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "none"), "--out", str(tmp_path / "x.json")]) == 2
    assert "no such folder" in capsys.readouterr().err


KNN = ["model.omama.matching_head=false", "model.omama.context=false", "model.omama.cross_attention=false",
       "model.omama.visibility=released", "model.descriptor_weight=0"]  # fmt: skip


def test_predict_lays_overrides_over_a_recipe_that_then_needs_no_training(tmp_path, capsys):
    """Oracle: the same values in a recipe of its own."""
    data, out = write_takes(tmp_path / "data", frames=1, splits={"test": 1}), tmp_path / "p.json"
    assert main(["predict", "tabletop/omama-classical", str(data), "--out", str(out)]) == 2
    assert "has not been trained here" in capsys.readouterr().err
    assert main(["predict", "tabletop/omama-classical", *KNN, str(data), "--out", str(out)]) == 0, (
        capsys.readouterr().err
    )
    recipe = read_yaml(find_recipe("tabletop/omama-classical"))
    for text in KNN:
        set_value(recipe, text)
    write_json(tmp_path / "knn.yaml", recipe)
    assert main(["predict", str(tmp_path / "knn.yaml"), str(data), "--out", str(tmp_path / "q.json")]) == 0
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("p.json", "q.json"))
    assert one["ego-exo"]["results"] == two["ego-exo"]["results"]
    assert one["exo-ego"]["results"] == two["exo-ego"]["results"]


def test_predict_lays_overrides_over_the_settings_of_a_trained_lmeec(with_bundled, tmp_path, capsys):
    """Oracle: ``with_settings`` of the model."""
    data = write_takes(tmp_path / "data", frames=8, splits={"test": 1})
    for name, overrides in (("as-trained", []), ("fifo", ["model.compression=fifo", "model.bank_size=2"])):
        assert main(["predict", "tiny-follow", *overrides, str(data), "--out", str(tmp_path / f"{name}.json")]) == 0
    model = load_take_predictor("tiny-follow").model
    expected = ClipPredictor(model.with_settings(compression="fifo", bank_size=2))
    predict(expected, open_dataset(data, "test"), list(DIRECTIONS), tmp_path / "oracle.json", progress=False)
    results = {p.stem: json.loads(p.read_text()) for p in tmp_path.glob("*.json")}
    assert results["fifo"] == results["oracle"]
    assert results["fifo"]["ego-exo"]["results"] != results["as-trained"]["ego-exo"]["results"]
    capsys.readouterr()
    for arguments, parts in (
        (["tiny-follow", "model.compresion=fifo"], ["unknown key 'compresion'", "compression"]),
        (["tiny-follow", "model.compression=last"], ["compression is 'last'"]),
        (["tiny-follow", "model.channels=128"], ["change the architecture"]),
        (["tiny", "model.omama.hidden=8"], ["settings of tiny cannot be changed", "a trained LM-EEC"]),
        (["tiny-follow", "training.lr=1"], ["too many arguments"]),
        (["tiny-follow", "--layout", "squares"], ["no layout 'squares'"]),
    ):
        assert main(["predict", *arguments, str(data), "--out", str(tmp_path / "x.json")]) == 2, arguments
        err = capsys.readouterr().err
        assert len(err.strip().splitlines()) == 1
        for part in parts:
            assert part in err, err


def test_predict_records_takes_fraction_and_layout_and_evaluate_goes_by_them(with_bundled, tmp_path, capsys):
    data, out = write_takes(tmp_path / "data", frames=4, splits={"test": 3}), tmp_path / "p.json"
    options = ["--takes", "2", "--fraction", "0.25", "--seed", "5", "--layout", "lmeec", "--direction", "ego2exo"]
    assert main(["predict", "tiny-follow", str(data), *options, "--out", str(out)]) == 0
    capsys.readouterr()
    scored = ["evaluate", "--gt", str(data), "--split", "test", "--pred", str(out), "--allow-missing-takes"]
    assert main([*scored, "--protocol", "lmeec", "--json"]) == 0
    printed = capsys.readouterr()
    pairs = subset(enumerate_pairs(open_dataset(data, "test").first(2), "ego2exo", targets="annotated"), 0.25, 5)
    assert json.loads(printed.out)["counts"]["frames"] == sum(p.target_visible for p in pairs)
    assert "only 0.25 of the pairs are scored, selected with seed 5" in printed.err
    assert main([*scored, "--protocol", "official"]) == 2
    assert "Predict again with --layout official" in capsys.readouterr().err
