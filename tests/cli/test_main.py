import json
import subprocess
import sys

import pytest

from counterview import __version__
from counterview.cli import main as cli
from counterview.errors import InputError, WeightsError


def test_help_and_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in ("match", "demo", "doctor", "predict", "evaluate", "prepare", "train"):
        assert command in out


def test_help_does_not_import_numpy():
    code = (
        "import sys; from counterview.cli.main import main; main(['match', '--help']); sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["match", "--nonsense"], ["match"], ["match", "a", "b", "--top", "0"]]
)
def test_usage_errors_have_exit_code_2(arguments, capsys):
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("counterview: ")
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [(InputError("bad"), 2), (WeightsError("gone"), 1), (KeyboardInterrupt(), 130), (RuntimeError("a\nb"), 1)],
)
def test_errors_become_one_line_and_an_exit_code(error, code, capsys, monkeypatch):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr("counterview.cli.doctor.examine", fail)
    assert cli.main(["doctor"]) == code
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err
    if not isinstance(error, KeyboardInterrupt):
        with pytest.raises(type(error)):
            cli.main(["doctor", "--debug"])


def test_doctor_reports_versions_devices_extras_and_weights(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["counterview"] == __version__
    assert report["packages"]["torch"]
    assert "cpu" in report["devices"]
    assert report["extras"]["fastsam"]["installed"] in (True, False)
    assert "facebook/dinov2-with-registers-base" in report["weights"]
    assert cli.main(["doctor"]) == 0
    assert "classical" in capsys.readouterr().out
