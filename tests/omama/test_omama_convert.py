"""The command gives the model that the library gives."""

import pytest
import torch
import typer
from typer.testing import CliRunner

from counterview.cli.convert import convert
from counterview.errors import CheckpointError, InputError
from counterview.omama import OMaMa
from counterview.omama.released import released_names

app = typer.Typer()
app.command()(convert)


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_convert_names_every_tensor(released, tmp_path):
    torch.save(released["exo2ego"], tmp_path / "best.pt")
    result = run("omama", tmp_path / "best.pt", tmp_path / "out", "--direction", "exo2ego")
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in released_names(OMaMa))
    model = OMaMa.from_pretrained(tmp_path / "out")
    expected = OMaMa.from_released(released["exo2ego"]).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())
    again = run("omama", tmp_path / "best.pt", tmp_path / "out")
    assert isinstance(again.exception, InputError)
    assert run("omama", tmp_path / "best.pt", tmp_path / "out", "--overwrite").exit_code == 0


@pytest.mark.parametrize("arguments", [("omana", "x.pt"), ("omama", "x.pt")])
def test_what_cannot_be_converted_leaves_nothing(tmp_path, arguments):
    result = run(arguments[0], tmp_path / arguments[1], tmp_path / "out")
    assert isinstance(result.exception, (InputError, CheckpointError))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["omama", "lmeec"])
def test_a_folder_is_called_a_folder(method, tmp_path):
    result = run(method, tmp_path, tmp_path / "model")
    assert isinstance(result.exception, InputError)
    assert "is a folder; expected a file of weights" in str(result.exception)
