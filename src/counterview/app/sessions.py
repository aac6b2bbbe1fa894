"""Sessions of the page: each has a private folder, which goes when it ends or after a time without requests."""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from counterview.app.limits import Kind, PageLimits, check_ending
from counterview.app.memory import give_memory_back
from counterview.app.turns import Turns
from counterview.app.uploads import Incoming, Upload, plain_name
from counterview.errors import InputError, counted
from counterview.media.files import safe_join
from counterview.media.outputs import is_running

if TYPE_CHECKING:
    from counterview.app.gradio_states import GradioStates

logger = logging.getLogger(__name__)
_T = TypeVar("_T")

PREFIX = "counterview-serve-"
"""Folders of sessions begin with this, then the number of the process that serves them."""

KEPT_FREE = 500_000_000
"""Bytes of the disk that uploads leave free."""


class SessionError(InputError):
    """A session that ended, that is another visitor's, or for which there is no room."""


@dataclass(eq=False)
class PageSession:
    """One visitor's page, from when it is opened to when it is closed.

    Attributes:
        token: names the session in addresses of its files; nobody can guess it.
        owner: the secret of the browser, from its cookie; requests of others are refused.
        folder: of its files, which only this user of the machine can read.
        limits: what it may hold.
        lock: held while the session's work is changed.
        work: what a tab keeps, by the tab's name.
        uploads: files by their ids.
        used_at: when it was last used, as :func:`time.monotonic` counts.
        ended: whether it was removed.
        turns: the order of what the page does.
    """

    token: str
    owner: str
    folder: Path
    limits: PageLimits
    lock: threading.RLock = field(default_factory=threading.RLock)
    work: dict[str, Any] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    used_at: float = field(default_factory=time.monotonic)
    ended: bool = False
    turns: Turns = field(default_factory=Turns)
    _offers: dict[str, Callable[[Path], Path]] = field(default_factory=dict)

    def use(self) -> None:
        """Note that the session is in use."""
        self.used_at = time.monotonic()

    def kept(self, tab: str, make: Callable[[], _T]) -> _T:
        """What a tab keeps in the session; made on first use.

        Args:
            tab: its name.
            make: makes it.
        """
        with self.lock:
            if tab not in self.work:
                self.work[tab] = make()
            return self.work[tab]

    def place(self, *parts: str) -> Path:
        """A path inside the session's folder; the folder that holds it is made.

        Args:
            parts: names below the session's folder.

        Raises:
            PathError: a name that leads outside.
            SessionError: the session ended.
        """
        if self.ended:
            raise SessionError("the session ended", fix="Load the page again.")
        path = safe_join(self.folder, *parts)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    def held_bytes(self) -> int:
        """Bytes of the files in the session's folder."""
        total = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with contextlib.suppress(OSError):
                    total += (Path(folder) / name).stat().st_size
        return total

    # ------------------------------------------------------------------------------------------ uploads

    @contextlib.contextmanager
    def receive(self, name: str, kind: Kind, stated: int | None) -> Iterator[Incoming]:
        """Take an upload piece by piece; what is too large is refused before it is stored.

        Args:
            name: as the visitor's machine calls it.
            kind: what it is uploaded as.
            stated: how many bytes will come, if the request says so.

        Yields:
            what takes the pieces; without an error the file is kept afterwards.

        Raises:
            InputError: an ending that is not of the kind, an empty file, too large a file, too many files, or no room.
            SessionError: the session ended.
        """
        shown_name = plain_name(name)
        ending = check_ending(shown_name, kind)
        if len(self.uploads) >= self.limits.files:
            raise InputError(
                "the session holds as many files as it may", found=len(self.uploads),
                fix="Load the page again to begin a new session.",
            )  # fmt: skip
        key = secrets.token_hex(8)
        path = self.place("uploads", key + ending)
        room = min(
            int(self.limits.session_mb * 1e6) - self.held_bytes(), shutil.disk_usage(self.folder).free - KEPT_FREE
        )
        try:
            with path.open("xb") as handle:
                incoming = Incoming(key, shown_name, handle, self.limits.file_bytes(kind), room)
                incoming.check(stated or 0)
                yield incoming
            if incoming.size == 0:
                raise InputError(f"{shown_name}: is empty")
            with self.lock:
                if self.ended:
                    raise SessionError("the session ended", fix="Load the page again.")
                self.uploads[key] = Upload(shown_name, path, kind, incoming.size)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def uploaded(self, key: object) -> Upload:
        """An upload by its id.

        Args:
            key: the id, as a browser sent it.

        Raises:
            InputError: there is none.
        """
        found = self.uploads.get(key) if isinstance(key, str) else None
        if found is None:
            raise InputError("there is no such upload in this session", fix="Choose the file again.")
        return found

    def forget(self, key: str) -> None:
        """Remove an upload.

        Args:
            key: its id.
        """
        with self.lock:
            found = self.uploads.pop(key, None)
        if found is not None:
            found.path.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------ downloads

    def offer(self, name: str, make: Callable[[Path], Path]) -> str:
        """Offer a file that is made when it is fetched.

        Args:
            name: of the file as the visitor gets it.
            make: writes it into an empty folder and returns its path.

        Returns:
            its address on the page.

        Raises:
            PathError: a name that is none of a file.
        """
        safe_join(self.folder, name)
        self._offers[name] = make
        return f"files/{self.token}/{name}"

    def fetch(self, name: str) -> Path:
        """Make an offered file.

        Args:
            name: as it was offered.

        Raises:
            InputError: no such file is offered.
            CounterviewError: it cannot be made.
        """
        make = self._offers.get(name)
        if make is None:
            raise InputError("there is no such file in this session")
        with self.lock:
            folder = self.place("downloads", name, "file").parent
            shutil.rmtree(folder)  # what was fetched before, of an earlier state
            folder.mkdir(mode=0o700)
            return make(folder)


class Sessions:
    """All sessions of a server, below one private folder.

    Args:
        limits: of each of them.
        on_end: called with each session that ended, before its files go.

    Attributes:
        root: the folder of their folders.
        limits: of each of them.
        states: what Gradio keeps of their pages, once the page is served.
    """

    def __init__(self, limits: PageLimits, on_end: Callable[[PageSession], None] | None = None) -> None:
        remove_left_over()
        self.limits = limits
        self.root = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))  # made for this user alone
        self.states: GradioStates | None = None
        self._on_end = on_end
        self._by_key: dict[str, PageSession] = {}
        self._by_token: dict[str, PageSession] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="counterview-sessions", daemon=True)
        self._sweeper.start()

    def __len__(self) -> int:
        return len(self._by_key)

    def of(self, key: str | None, owner: str | None, *, begin: bool = False) -> PageSession:
        """The session of a page.

        Args:
            key: of the page, which its browser chose.
            owner: the secret of the browser, from its cookie.
            begin: begin a session if there is none.

        Raises:
            SessionError: no cookie, another visitor's session, an ended one, or no room for a further one.
        """
        if not key or not owner:
            raise SessionError("the browser sent no cookie", fix="Allow cookies of this page, and load it again.")
        with self._lock:
            found = self._by_key.get(key)
            if found is None:
                if not begin:
                    raise SessionError("the session ended", fix="Load the page again.")
                if len(self._by_key) >= self.limits.sessions:
                    raise SessionError(
                        "the page is in use by as many visitors as it takes", found=len(self._by_key),
                        fix="Try again later.",
                    )  # fmt: skip
                token = secrets.token_urlsafe(24)
                folder = self.root / token
                folder.mkdir(mode=0o700)
                found = self._by_key[key] = self._by_token[token] = PageSession(token, owner, folder, self.limits)
        _check_owner(found, owner)
        found.use()
        return found

    def by_token(self, token: str, owner: str | None) -> PageSession:
        """The session whose files an address names.

        Args:
            token: from the address.
            owner: the secret of the browser, from its cookie.

        Raises:
            SessionError: no such session, or another visitor's.
        """
        found = self._by_token.get(token)
        if found is None:
            raise SessionError("the session ended", fix="Load the page again.")
        _check_owner(found, owner)
        found.use()
        return found

    def allows(self, key: str, owner: str | None) -> bool:
        """Whether a browser may listen to what is sent to a page: to its own, or to one that has no session yet.

        Args:
            key: of the page.
            owner: the secret of the browser, from its cookie.
        """
        found = self._by_key.get(key)
        return found is None or _is_owner(found, owner)

    def end(self, key: str | None, owner: str | None) -> None:
        """End a session, if it is the visitor's: cancel its jobs and remove its files.

        Args:
            key: of the page.
            owner: the secret of the browser, from its cookie.
        """
        found = self._by_key.get(key or "")
        if found is not None and _is_owner(found, owner):
            self._end(found)

    def close(self) -> None:
        """End all sessions and remove their files."""
        self._stop.set()
        for session in list(self._by_key.values()):
            self._end(session)
        shutil.rmtree(self.root, ignore_errors=True)

    def _end(self, session: PageSession) -> None:
        with self._lock:
            self._by_token.pop(session.token, None)
            keys = [key for key, value in self._by_key.items() if value is session]
            for key in keys:
                del self._by_key[key]
            session.ended = True
        if self._on_end is not None:
            self._on_end(session)
        with session.lock:
            session.work.clear()
            session.uploads.clear()
            session._offers.clear()
            shutil.rmtree(session.folder, ignore_errors=True)
        if self.states is not None:
            self.states.drop(keys)
        give_memory_back()

    def _sweep(self) -> None:
        while not self._stop.wait(min(30.0, self.limits.idle_s / 4)):
            oldest = time.monotonic() - self.limits.idle_s
            late = [session for session in list(self._by_key.values()) if session.used_at < oldest]
            for session in late:
                self._end(session)
            if self.states is not None:
                self.states.drop_others(list(self._by_key))
            if late:
                logger.info("%s removed after %g s without requests", counted(len(late), "session"), self.limits.idle_s)


def _is_owner(session: PageSession, owner: str | None) -> bool:
    return owner is not None and hmac.compare_digest(session.owner.encode(), owner.encode())


def _check_owner(session: PageSession, owner: str | None) -> None:
    if not _is_owner(session, owner):
        raise SessionError("the session is another visitor's", fix="Load the page again.")


def remove_left_over() -> None:
    """Remove the folders of servers that were killed; those of running ones stay."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        number = folder.name.removeprefix(PREFIX).partition("-")[0]
        with contextlib.suppress(OSError, ValueError):
            is_ours = folder.stat().st_uid == os.getuid() if hasattr(os, "getuid") else True
            if is_ours and not folder.is_symlink() and not is_running(int(number)):
                shutil.rmtree(folder, ignore_errors=True)
