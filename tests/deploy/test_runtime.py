"""``--runtime``: what it may be, for which models, and what is said where ONNX Runtime is not installed."""

import sys

import pytest

import counterview
from counterview.cli.main import main
from counterview.deploy.runtime import require_onnx
from counterview.errors import ConfigError, MissingExtraError
from counterview.inference.runtime import is_onnx


@pytest.mark.parametrize("runtime", ["tensorrt", "torch:x", "onnx:", "", "ONNX"])
def test_other_runtimes_are_refused(runtime):
    with pytest.raises(ConfigError, match="no such runtime"):
        is_onnx(runtime)


@pytest.mark.parametrize("model", ["knn", "geometric:sift", "tiny-follow"])
def test_other_models_run_with_torch_alone(model):
    pytest.importorskip("onnxruntime", reason='not asked: pip install -e ".[onnx]"')
    with pytest.raises(ConfigError, match=f"{model} runs with torch alone"):
        counterview.load(model, runtime="onnx")


def test_without_onnxruntime_the_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"\[onnx\]"):
        counterview.load("tiny-match", runtime="onnx")
    with pytest.raises(MissingExtraError):
        require_onnx(exporting=True)
    assert main(["export", "onnx", "tiny", str(tmp_path / "out")]) == 1
    assert 'pip install "counterview[onnx]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["onx", "tiny"], "Did you mean 'onnx'?"), (["onnx", "knn"], "expected a tiny-match or an O-MaMa"),
     (["onnx", "tiny-follow"], "expected a tiny-match or an O-MaMa"), (["onnx", "nothing"], "no model")],
)  # fmt: skip
def test_what_cannot_be_exported(arguments, message, tmp_path, capsys):
    pytest.importorskip("onnxscript", reason='not asked: pip install -e ".[onnx]"')
    assert main(["export", *arguments, str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
