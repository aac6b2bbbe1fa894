"""Folders of sessions: private, limited, and gone afterwards."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from counterview.app import sessions as module
from counterview.app.limits import PageLimits
from counterview.app.sessions import PREFIX, SessionError, Sessions, remove_left_over
from counterview.app.uploads import plain_name
from counterview.errors import ConfigError, InputError, PathError

OWNER, OTHER = "o" * 32, "p" * 32


@pytest.fixture
def made():
    every = []

    def make(limits=None, on_end=None):
        every.append(Sessions(limits or PageLimits(image_mb=0.001, files=3, session_mb=0.0025), on_end))
        return every[-1]

    yield make
    for sessions in every:
        sessions.close()
        assert not sessions.root.exists()


def put(session, data: bytes, name="mug.png", kind="image", stated=None):
    with session.receive(name, kind, stated) as incoming:
        for start in range(0, len(data), 100):
            incoming.write(data[start : start + 100])
    return session.uploaded(incoming.key)


def test_a_session_has_a_private_folder_and_keeps_uploads_under_names_of_ours(made):
    session = made().of("key", OWNER, begin=True)
    upload = put(session, b"x" * 500, "../../etc/passwd.png")
    assert upload.name == "passwd.png"
    assert upload.path.parent.parent == session.folder
    assert upload.path.name != "passwd.png"
    assert upload.path.read_bytes() == b"x" * 500
    for folder in (session.folder, session.folder.parent, upload.path.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "C:x", "", "..", "con"])
def test_no_name_leads_outside(made, name):
    session = made().of("key", OWNER, begin=True)
    with pytest.raises(PathError):
        session.place(name)
    with pytest.raises(PathError):
        session.offer(name, lambda folder: folder)


def test_what_is_too_large_is_refused_before_and_while_it_comes(made):
    session = made().of("key", OWNER, begin=True)
    for stated in (2000, None, 5):
        with pytest.raises(InputError, match="too large"):
            put(session, b"x" * 1001, stated=stated)
    assert session.uploads == {}
    assert session.held_bytes() == 0
    put(session, b"x" * 1000)
    put(session, b"x" * 1000)
    with pytest.raises(InputError, match="no room"):
        put(session, b"x" * 1000)
    put(session, b"x")
    with pytest.raises(InputError, match="as many files"):
        put(session, b"x")
    with pytest.raises(InputError, match="is empty"):
        session.forget(next(iter(session.uploads)))
        put(session, b"")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.svg", "image"), ("a", "image"), ("a.mp4", "image"), ("a.png", "video"), ("a.png.exe", "image")],
)
def test_endings_of_other_kinds_are_refused(made, name, kind):
    with pytest.raises(InputError, match="that the page takes"):
        put(made().of("key", OWNER, begin=True), b"x", name, kind)


def test_another_visitor_gets_nothing(made):
    sessions = made()
    session = sessions.of("key", OWNER, begin=True)
    for call in (
        lambda: sessions.of("key", OTHER),
        lambda: sessions.of("key", OTHER, begin=True),
        lambda: sessions.of("key", None),
        lambda: sessions.of("other", OTHER),
        lambda: sessions.by_token(session.token, OTHER),
        lambda: sessions.by_token(session.token, None),
        lambda: sessions.by_token("guess", OWNER),
    ):
        with pytest.raises(SessionError):
            call()
    assert not sessions.allows("key", OTHER)
    assert sessions.allows("key", OWNER)
    sessions.end("key", OTHER)
    assert sessions.of("key", OWNER) is session


def test_an_ended_session_has_no_files_and_takes_none(made):
    ended = []
    sessions = made(on_end=ended.append)
    session = sessions.of("key", OWNER, begin=True)
    put(session, b"x")
    session.kept("tab", dict)
    sessions.end("key", OWNER)
    assert ended == [session]
    assert not session.folder.exists()
    assert session.work == {}
    with pytest.raises(SessionError):
        put(session, b"x")
    assert not session.folder.exists()
    assert len(sessions) == 0


def test_an_upload_that_is_cut_off_leaves_nothing(made):
    session = made().of("key", OWNER, begin=True)
    with pytest.raises(ConnectionError), session.receive("a.png", "image", None) as incoming:
        incoming.write(b"x")
        raise ConnectionError
    assert session.held_bytes() == 0


def test_sessions_without_requests_are_removed(made):
    sessions = made(PageLimits(idle_s=2))
    session, busy = sessions.of("key", OWNER, begin=True), sessions.of("other", OWNER, begin=True)
    until = time.monotonic() + 20
    while len(sessions) == 2 and time.monotonic() < until:
        busy.use()
        time.sleep(0.02)
    while session.folder.exists() and time.monotonic() < until:
        busy.use()
        time.sleep(0.02)
    assert session.ended
    assert not session.folder.exists()
    assert not busy.ended


def test_there_is_room_for_so_many_sessions(made):
    sessions = made(PageLimits(sessions=1))
    sessions.of("key", OWNER, begin=True)
    with pytest.raises(SessionError, match="as many visitors"):
        sessions.of("other", OTHER, begin=True)


def test_an_offered_file_is_made_when_it_is_fetched_and_not_kept_twice(made):
    session = made().of("key", OWNER, begin=True)
    made_in = []

    def make(folder: Path) -> Path:
        made_in.append(folder)
        (folder / "a.txt").write_text(str(len(made_in)))
        return folder / "a.txt"

    assert session.offer("a.txt", make) == f"files/{session.token}/a.txt"
    assert made_in == []
    assert [session.fetch("a.txt").read_text() for _ in range(2)] == ["1", "2"]
    assert session.held_bytes() == 1
    with pytest.raises(InputError):
        session.fetch("b.txt")


def test_folders_of_killed_servers_go_and_those_of_running_ones_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead = tmp_path / f"{PREFIX}{int(ended.stdout)}-x"
    running, linked, odd = tmp_path / f"{PREFIX}{os.getpid()}-x", tmp_path / f"{PREFIX}1x-y", tmp_path / f"{PREFIX}-"
    for folder in (dead, running, linked, odd):
        folder.mkdir()
        (folder / "file").write_bytes(b"x")
    remove_left_over()
    assert [folder.exists() for folder in (dead, running, linked, odd)] == [False, True, True, True]


def test_names_are_shown_without_folders_and_short():
    assert plain_name("a/b\\c.png") == "c.png"
    assert plain_name("\x1b[31mred.png") == "[31mred.png"
    long = plain_name("x" * 500 + ".jpeg")
    assert len(long) == 80
    assert long.endswith(".jpeg")


def test_limits_are_above_zero():
    with pytest.raises(ConfigError, match="files=0"):
        PageLimits(files=0)
