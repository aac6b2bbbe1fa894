"""Real disks that are full or cannot be written, and inputs that may not be read: one line and exit code 2, everywhere.

Mounting and another user need root and Linux.
"""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from counterview.cli.main import main
from tests.attacks.kills import commands, inputs

pytest.importorskip("accelerate")
NAMES = [
    "match", "match --cache", "demo", "inspect", "prepare", "predict", "evaluate --report", "evaluate --per-frame",
    "submit", "convert", "train", "tabletop",
]  # fmt: skip
TESTS = Path(__file__).parents[1]


def mounted(place: Path, options: str) -> bool:
    """Whether a disk in memory could be mounted."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def disk(place: Path, options: str):
    if sys.platform != "linux" or os.geteuid() != 0 or not mounted(place, options):
        pytest.skip("a disk cannot be mounted here: full and read-only disks are NOT tested")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    from counterview.training.recipe import register_method

    sys.path.insert(0, str(TESTS / "training"))
    from training_toy import ToyTask

    register_method("toy", ToyTask)
    return {command.name: command for command in commands(inputs(tmp_path_factory.mktemp("disks") / "in"))}


def run(arguments: list[str]) -> tuple[int, str]:
    """Exit code and what was said on standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return code, err.getvalue()


def get(known, name):
    if name not in known:
        pytest.skip("the extra [render] is not installed")
    return known[name]


def check_refusal(code: int, said: str, *words: str) -> None:
    last = said.strip().splitlines()[-1]
    assert code == 2, said
    assert last.startswith("counterview: ")
    assert any(word in last for word in words), last
    assert "Traceback" not in said
    assert "failed with" not in said


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_fills_up_is_exit_code_2(name, known, tmp_path):
    """From the first byte that does not fit: 4 kB are free, so that every command begins."""
    command = get(known, name)
    with disk(tmp_path / "disk", "size=64k") as place:
        (place / "filler").write_bytes(bytes(60 << 10))
        code, said = run(command.arguments(place / "out"))
        check_refusal(code, said, "disk is full", "No space left")


@pytest.mark.parametrize("name", NAMES)
def test_a_full_or_read_only_disk_is_refused_before_any_work(name, known, tmp_path):
    command = get(known, name)
    with disk(tmp_path / "disk", "size=64k") as place:
        with contextlib.suppress(OSError):
            (place / "filler").write_bytes(bytes(64 << 10))
        code, said = run(command.arguments(place / "out"))
        check_refusal(code, said, "disk is full")
    with disk(tmp_path / "fixed", "ro,size=64k") as place:
        code, said = run(command.arguments(place / "out"))
        check_refusal(code, said, "access is refused", "cannot be written", "Read-only")


LOCKED = {
    "match": ["a.png", "red.png"], "inspect": ["release/annotations/relations_val.json"],
    "prepare": ["release/takes.json"],
    "predict": ["takes/split.json", "takes"], "train": ["toy.yaml"], "convert": ["best.pt"],
}  # fmt: skip


def without_privileges() -> None:
    """Give up the right of root to read and write every file; for another user nothing changes."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    assert libc.capget(header, data) == 0
    for word in range(3):
        data[word] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, data) == 0


def run_without_privileges(arguments: list[str]) -> tuple[int, str]:
    """As :func:`run`, in a child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            without_privileges()
            code, said = run(arguments)
            os.write(writer, said.encode()[-4000:])
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


@contextlib.contextmanager
def mode(path: Path, bits: int):
    before = path.stat().st_mode
    path.chmod(bits)
    try:
        yield
    finally:
        path.chmod(before)


@pytest.mark.skipif(sys.platform != "linux", reason="rights of files are NOT tested: they are Linux's here")
@pytest.mark.parametrize("name", LOCKED)
def test_inputs_that_may_not_be_read_are_exit_code_2(name, known, tmp_path):
    command = get(known, name)
    root = Path(known["match"].arguments(tmp_path)[1]).parent
    for file in LOCKED[name]:
        with mode(root / file, 0):
            code, said = run_without_privileges(command.arguments(tmp_path / "out"))
        check_refusal(code, said, str(root / file))
        assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="rights of files are NOT tested: they are Linux's here")
@pytest.mark.parametrize("name", NAMES)
def test_outputs_that_may_not_be_written_are_exit_code_2(name, known, tmp_path):
    command = get(known, name)
    (tmp_path / "fixed").mkdir()
    with mode(tmp_path / "fixed", 0o555):
        code, said = run_without_privileges(command.arguments(tmp_path / "fixed" / "out"))
        check_refusal(code, said, "access is refused", "cannot be written")
        assert list((tmp_path / "fixed").iterdir()) == []
