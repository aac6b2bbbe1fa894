"""What a command may write, remove and replace; one lock; and no word of the system's own errors."""

import errno
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from counterview.errors import InputError, OutputError
from counterview.media import files
from counterview.media.encode import write_video
from counterview.media.files import atomic_write, host_tag, part_path, write_errors, write_json
from counterview.media.images import write_image
from counterview.media.outputs import (
    LOCK,
    MARKER,
    STAGED,
    check_cache_folder,
    check_output_file,
    check_output_folder,
    claim_output_file,
    claim_output_folder,
    is_running,
    locked,
    remove_parts,
)

as_root = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root can write anywhere")


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# ---------------------------------------------------------------------------------------------------- checks


def test_a_file_is_replaced_only_if_it_is_of_our_kind(tmp_path):
    path = tmp_path / "a.json"
    check_output_file(path, "a prediction file")
    path.write_text("mine")
    for is_own in (None, lambda p: p.read_text() == "ours"):
        with pytest.raises(
            OutputError, match=r"a.json: exists already; found 4 bytes; expected .*--overwrite"
        ) as caught:
            check_output_file(path, "a prediction file", is_own=is_own)
        assert caught.value.exit_code == 2
    check_output_file(path, "a prediction file", overwrite=True)
    path.write_text("ours")
    check_output_file(path, "a prediction file", is_own=lambda p: p.read_text() == "ours")


def test_places_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a folder; expected a file name"):
        check_output_file(tmp_path, "a prediction file", overwrite=True)
    with pytest.raises(OutputError, match="file: is a file; expected a folder"):
        check_output_file(tmp_path / "file" / "a" / "b.json", "a prediction file")
    with pytest.raises(OutputError, match="is a file; expected a folder, for the output of counterview match"):
        check_output_folder(tmp_path / "file", "match", overwrite=True)
    with pytest.raises(OutputError, match="is a file; expected a folder"):
        check_output_folder(tmp_path / "file" / "out", "match")
    with pytest.raises(OutputError, match="is a file"):
        check_cache_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be written"):
        check_output_file(tmp_path / ("x" * 300), "a prediction file")
    check_cache_folder(None)
    check_cache_folder(tmp_path)
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="no such device")
def test_a_device_is_never_replaced():
    with pytest.raises(OutputError, match="is a device, not a file"):
        check_output_file("/dev/null", "a prediction file", overwrite=True)


@as_root
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    try:
        for check in (lambda p: check_output_file(p, "a file"), lambda p: check_output_folder(p, "match")):
            with pytest.raises(OutputError, match=r"the folder cannot be written; found no permission"):
                check(tmp_path / "new")
    finally:
        tmp_path.chmod(0o755)


def test_a_folder_without_permission_is_refused_whoever_asks(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="the folder cannot be written; found no permission"):
        check_output_folder(tmp_path / "new", "match")


def test_a_disk_without_a_byte_is_refused(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 0})
    monkeypatch.setattr("counterview.media.outputs.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match="the disk is full; found 0 bytes free"):
        check_output_file(tmp_path / "a.json", "a file")


@pytest.mark.parametrize("kept", ["lost+found", ".DS_Store", LOCK, STAGED, ".a.json.12.0123abcd.part"])
def test_a_folder_counts_as_empty_with_what_is_no_result(tmp_path, kept):
    (tmp_path / kept).mkdir()
    check_output_folder(tmp_path, "match")
    (tmp_path / "notes.txt").write_text("mine")
    refused = pytest.raises(OutputError, match=r"not an output of counterview match; found notes.txt")
    with refused, claim_output_folder(tmp_path, "match"):
        pass
    assert names(tmp_path) == sorted([kept, "notes.txt"])


def test_a_folder_is_of_the_command_that_its_marker_names(tmp_path):
    with claim_output_folder(tmp_path, "match") as folder:
        folder.mark()
    check_output_folder(tmp_path, "match")
    with pytest.raises(OutputError, match=r"not an output of counterview demo"):
        check_output_folder(tmp_path, "demo")
    (tmp_path / MARKER).write_text("no json")
    with pytest.raises(OutputError, match=r"not an output of counterview match"):
        check_output_folder(tmp_path, "match")


# ---------------------------------------------------------------------------------------------------- claims


def test_a_run_that_fails_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError), claim_output_folder(tmp_path / "a" / "b", "match"):
        assert (tmp_path / "a" / "b" / LOCK).is_file()
        raise RuntimeError
    with pytest.raises(RuntimeError), claim_output_file(tmp_path / "a" / "x.json", "a file"):
        raise RuntimeError
    assert names(tmp_path) == []


def write_run(out, contents, **options):
    with claim_output_folder(out, "match", **options) as folder, folder.replace() as staged:
        for name, text in contents.items():
            with atomic_write(staged / name, "w") as handle:
                handle.write(text)


def test_results_of_two_runs_never_mix_and_other_files_stay(tmp_path):
    write_run(tmp_path, {"a.txt": "1", "b/c.txt": "1"})
    (tmp_path / "notes.txt").write_text("mine")
    write_run(tmp_path, {"a.txt": "2", "d.txt": "2"})
    assert names(tmp_path) == [MARKER, "a.txt", "d.txt", "notes.txt"]
    assert (tmp_path / "a.txt").read_text() == "2"
    with pytest.raises(OutputError, match=r"notes.txt: exists already and is not of an earlier run"):
        write_run(tmp_path, {"a.txt": "3", "notes.txt": "3"})
    assert names(tmp_path) == [MARKER, "a.txt", "d.txt", "notes.txt"]
    assert ((tmp_path / "a.txt").read_text(), (tmp_path / "notes.txt").read_text()) == ("2", "mine")
    write_run(tmp_path, {"notes.txt": "4"}, overwrite=True)
    assert names(tmp_path) == [MARKER, "notes.txt"]


def test_a_disk_that_fills_up_keeps_the_results_of_the_last_run(tmp_path, monkeypatch):
    write_run(tmp_path, {"a.txt": "1", "b.txt": "1"})
    calls = []

    def fsync(handle):
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(OutputError, match=r"b.txt: cannot be written, the disk is full; found No space") as caught:
        write_run(tmp_path, {"a.txt": "2", "b.txt": "2"})
    assert caught.value.exit_code == 2
    assert names(tmp_path) == [MARKER, "a.txt", "b.txt"]
    assert (tmp_path / "a.txt").read_text() == "1"


def test_a_run_killed_while_it_replaces_is_known_to_the_next(tmp_path):
    write_run(tmp_path, {"a.txt": "1", "b.txt": "1"})
    with claim_output_folder(tmp_path, "match") as folder:
        folder.mark(["a.txt", "b.txt", "c.txt"])  # as replace() does before it moves the first file
        (tmp_path / "a.txt").unlink()
        (tmp_path / "c.txt").write_text("2")
        (tmp_path / STAGED).mkdir()
        (tmp_path / STAGED / "d.txt").write_text("2")
    write_run(tmp_path, {"d.txt": "3"})
    assert names(tmp_path) == [MARKER, "d.txt"]


def test_a_marker_removes_nothing_outside_its_folder(tmp_path):
    out = tmp_path / "out"
    write_run(out, {"a.txt": "1"})
    (tmp_path / "precious.txt").write_text("mine")
    listed = ["../precious.txt", str(tmp_path / "precious.txt"), 7, "a.txt"]
    write_json(out / MARKER, {"command": "match", "files": listed})
    write_run(out, {"b.txt": "2"})
    assert names(tmp_path) == ["out", f"out/{MARKER}", "out/b.txt", "precious.txt"]


# ---------------------------------------------------------------------------------------------------- lock


def hold(path, ready, end):
    with locked(path, path.parent):
        ready.set()
        end.wait(30)


def test_a_second_run_is_refused_with_process_and_machine(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / LOCK, ready, end))
    process.start()
    try:
        assert ready.wait(30)
        refused = pytest.raises(OutputError, match="another run is writing here")
        with refused as caught, claim_output_folder(tmp_path, "match"):
            pass
        assert f"process {process.pid} on {socket.gethostname()}" in str(caught.value)
        if hasattr(signal, "SIGKILL"):
            os.kill(process.pid, signal.SIGKILL)
        else:
            end.set()
        process.join(30)
        with claim_output_folder(tmp_path, "match"):  # the lock of a dead process is taken over
            pass
    finally:
        process.kill()
    assert names(tmp_path) == []


def test_one_process_has_one_lock_too(tmp_path):
    path = tmp_path / "p.json"
    refused = pytest.raises(OutputError, match=f"process {os.getpid()} on")
    with claim_output_file(path, "a file"), refused, claim_output_file(path, "a file"):
        pass
    with claim_output_file(path, "a file"):
        pass
    assert names(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_lock_that_a_child_of_a_dead_run_inherited_is_taken_over(tmp_path):
    code = (
        "import os, sys, time; from pathlib import Path; from counterview.media.outputs import locked\n"
        "with locked(Path(sys.argv[1]), Path(sys.argv[1])):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        time.sleep(60)\n"
        "    print(child, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    paths = os.pathsep.join(p for p in sys.path if p)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / LOCK)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    child = int(process.stdout.readline())
    process.wait()
    try:
        assert is_running(child)
        with locked(tmp_path / LOCK, tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_temporary_files_of_dead_processes_are_removed_and_no_others(tmp_path):
    (tmp_path / "sub").mkdir()
    dead, alive = dead_pid(), os.getppid()
    gone = [f".a.json.{dead}.0123abcd.part", f"sub/.b.png.{dead}.0123abcd.part"]
    stay = [f".c.json.{alive}.0123abcd.part", ".mine.part", f".d.{dead}.xyz.part", "sub"]
    for name in (*gone, *stay[:3]):
        (tmp_path / name).write_text("half")
    remove_parts(tmp_path, "z.json")
    assert names(tmp_path) == sorted([*gone, *stay])
    remove_parts(tmp_path)
    assert names(tmp_path) == sorted(stay)
    leftover = part_path(tmp_path / "p.json").with_name(f".p.json.{dead}.0123abcd.part")
    leftover.write_text("half")
    with claim_output_file(tmp_path / "p.json", "a file"):
        assert not leftover.exists()


def test_where_other_machines_write_too_their_temporary_files_stay(tmp_path):
    dead, host = dead_pid(), host_tag()
    other = "0000" if host != "0000" else "1111"
    gone, stay = f".e.npy.{dead}.{host}0123.part", f".e.npy.{dead}.{other}0123.part"
    own = part_path(tmp_path / "e.npy")
    for name in (gone, stay, own.name):
        (tmp_path / name).write_text("half")
    remove_parts(tmp_path, "e.npy", shared=True)
    assert names(tmp_path) == sorted([stay, own.name])


# ---------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("number", "text"),
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "access is refused"), (errno.EROFS, "access is refused")],
)
def test_errors_while_writing_name_the_file_and_leave_nothing(tmp_path, monkeypatch, number, text):
    def fsync(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", fsync)
    image = np.zeros((8, 8, 3), np.uint8)
    for name, write in (("a.json", lambda p: write_json(p, 1)), ("a.png", lambda p: write_image(p, image))):
        with pytest.raises(OutputError, match=text) as caught:
            write(tmp_path / name)
        assert caught.value.path == str(tmp_path / name)
        assert (caught.value.errno, caught.value.exit_code) == (number, 2)
        assert isinstance(caught.value, OSError)
    assert names(tmp_path) == []


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("x")
    for write in (
        lambda p: write_json(p, 1),
        lambda p: write_video(p, [np.zeros((8, 8, 3), np.uint8)]),
    ):
        with pytest.raises(OutputError, match="a file is where a folder should be"):
            write(tmp_path / "file" / "a" / "b.mp4")


def test_errors_of_other_files_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.json", "w") as handle:
        handle.write((tmp_path / "other" / "missing").read_text())
    with pytest.raises(BrokenPipeError), write_errors(tmp_path):
        raise BrokenPipeError(errno.EPIPE, "x")
    assert names(tmp_path) == []


def test_the_error_survives_a_worker_process():
    error = pickle.loads(pickle.dumps(OutputError("bad", path="p", fix="Mend it.", errno=errno.ENOSPC)))
    assert (str(error), error.errno, error.filename) == ("p: bad. Mend it.", errno.ENOSPC, "p")
    assert isinstance(error, InputError)


def test_running_processes():
    assert is_running(os.getpid())
    pid = dead_pid()
    deadline = time.monotonic() + 60
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)
