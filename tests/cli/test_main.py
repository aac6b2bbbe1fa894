import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from counterview import __version__
from counterview.cli import main as cli
from counterview.cli.doctor import WEIGHTS
from counterview.cli.progress import stage
from counterview.errors import InputError, WeightsError
from counterview.media.images import write_image


def test_help_and_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in ("match", "demo", "doctor", "predict", "evaluate", "prepare", "train"):
        assert command in out


def test_without_a_command_the_help_is_shown(capsys):
    assert cli.main([]) == 0
    out, err = capsys.readouterr()
    assert "Usage:" in out
    assert "doctor" in out
    assert err == ""


def test_doctor_prints_every_id_whole_at_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for name in WEIGHTS:
        assert name in out
    assert max(map(len, out.splitlines())) <= 120  # the lines that are not of the table may be longer


def test_verbose_says_what_is_done_and_how_long_it_takes(tmp_path):
    """In a process of its own, with the option at the end of the command."""
    image = np.full((60, 80, 3), 120, np.uint8)
    image[10:30, 10:30] = (200, 30, 30)
    write_image(tmp_path / "a.png", image)
    command = [sys.executable, "-m", "counterview.cli.main", "match", "a.png", "a.png", "--point", "15,15"]
    command += ["--model", "knn"]
    done = subprocess.run([*command, "-v"], cwd=tmp_path, capture_output=True, text=True, check=True)
    for what in ("loading the model", "encoding the query image", "encoding the target image", "matching"):
        assert re.search(rf"INFO counterview\.cli\.progress: {what}: \d+\.\d\d s", done.stderr), done.stderr
    quiet = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert quiet.stderr == ""


def test_a_stage_is_shown_on_a_terminal_alone(capsys, monkeypatch):
    with stage("thinking"):
        pass
    assert capsys.readouterr().err == ""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with stage("thinking"):
        pass
    assert "thinking …" in terminal.getvalue()


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


@pytest.mark.parametrize(("name", "value"), [(None, None), ("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "5")])
def test_a_process_of_the_command_line_has_threads_that_wait(name, value, monkeypatch):
    """What the user chose stays, and a program that calls the function keeps its own environment."""
    for variable in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.setenv(variable, "")  # so that what is set below is taken back
        monkeypatch.delenv(variable)
    assert cli.main(["--version"]) == 0
    assert "OMP_WAIT_POLICY" not in os.environ
    if name is not None:
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["counterview", "--version"])
    assert cli.main() == 0
    chosen = {"OMP_WAIT_POLICY": "PASSIVE"} if name is None else {name: value}
    assert {k: v for k, v in os.environ.items() if k in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")} == chosen


@pytest.mark.parametrize("command", [["--help"], ["match", "--help"], ["match", "none.png", "none.png"]])
def test_nothing_heavy_is_imported_before_it_is_used(command):
    """Torch before a wrong file name is reported would be seconds of waiting."""
    code = (
        "import sys; from counterview.cli.main import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'scipy', 'av', 'cv2', 'yaml', 'supervision', 'sklearn', 'skimage'};"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert "heavy: []" in done.stdout, done.stdout + done.stderr


def test_a_model_is_loaded_without_the_compiler_of_torch():
    code = (
        "import sys, counterview; counterview.load();"
        "heavy = {'torch._dynamo', 'sympy', 'transformers', 'av', 'scipy.spatial', 'skimage', 'supervision'};"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "heavy: []"


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


def test_a_torchvision_that_breaks_transformers_is_named(tmp_path):
    """ultralytics brings one of another build than a CPU torch; every model of transformers then fails to import."""
    package, metadata = tmp_path / "torchvision", tmp_path / "torchvision-0.99.0.dist-info"
    package.mkdir()
    metadata.mkdir()
    (package / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.99.0\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "counterview.cli.main"]
    options = {"capture_output": True, "text": True, "env": {**os.environ, "PYTHONPATH": path}}
    doctor = subprocess.run([*command, "doctor", "--json"], **options)
    (problem,) = json.loads(doctor.stdout)["problems"]
    assert "torchvision 0.99.0 does not work beside torch" in problem["what"]
    assert "pip install --force-reinstall --no-deps" in problem["fix"]
    code = "from counterview.hub import transformers_class; transformers_class('Dinov2Model')"
    loading = subprocess.run([sys.executable, "-c", code], **options)
    assert "CounterviewError: no model of transformers can be loaded" in loading.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_output_that_is_not_unicode_is_no_failure(encoding, tmp_path, monkeypatch):
    """Names beyond the encoding are escaped; nothing fails after the work is done."""
    image = np.full((60, 80, 3), 120, np.uint8)
    image[10:30, 10:30] = (200, 30, 30)
    write_image(tmp_path / "\u65e5\u672c.png", image)
    files = str(tmp_path / "\u65e5\u672c.png")
    match = ["match", files, files, "--box", "9,9,31,31", "--name", "\u676f", "--model", "knn"]
    match += ["--out", str(tmp_path / "\u51fa")]
    for arguments, words in ((["doctor"], "torch"), (match, "\\u676f")):
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
        err = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")  # as Python opens it
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = cli.main(arguments)
        err.flush()
        out.flush()
        assert code == 0, err.buffer.getvalue()
        assert words in out.buffer.getvalue().decode(encoding)
    assert (tmp_path / "\u51fa" / "match.json").is_file()
