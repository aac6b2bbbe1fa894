"""Load model folders while every file, connection and process is watched: ``python -m tests.attacks.spy FOLDER…``.

A process of its own, since an audit hook stays for good. It prints one JSON object: by folder, how loading it ended and
what was done that a model has no right to, and the largest resident memory of the whole.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

FORBIDDEN = (
    "socket.", "urllib.", "http.", "ftplib.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn",
    "os.fork", "os.startfile", "pty.spawn", "pickle.find_class", "builtins.input", "webbrowser.", "ctypes.dlopen",
)  # fmt: skip
READING = ("open", "os.listdir", "os.scandir")
CHANGING = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "shutil.", "os.truncate")
HARMLESS = ("/dev/null", "/dev/urandom", "/proc/", "/sys/")
"""What libraries ask about the machine; none of it is anybody's file."""


def installation() -> list[str]:
    """Folders of Python, of installed packages and of this package, in which files may be read."""
    import counterview

    places = [*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, str(Path(counterview.__file__).parent)]
    places += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return [os.path.realpath(place) for place in places]


class Spy:
    """Watches this process.

    Attributes:
        seen: what was done that is not allowed, while :attr:`allowed` is not ``None``.
        allowed: the folders in which files may be read.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.allowed: list[str] | None = None
        self._inside = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, details: tuple[object, ...]) -> None:
        if self.allowed is None or self._inside:
            return
        self._inside = True  # what this function does itself
        try:
            if event.startswith((*FORBIDDEN, *CHANGING)) and event != "socket.__new__":
                self.seen.append(f"{event} {details}"[:300])
            elif event in READING:
                self._opened(event, details)
        finally:
            self._inside = False

    def _opened(self, event: str, details: tuple[object, ...]) -> None:
        path, mode = details[0], details[1] if len(details) > 1 else None
        if not isinstance(path, (str, bytes, os.PathLike)):
            return  # a file that is open already
        place = os.path.realpath(os.fsdecode(path))
        writes = event == "open" and isinstance(mode, str) and bool(set(mode) & set("wax+"))
        inside = any(place == root or place.startswith(root + os.sep) for root in self.allowed or ())
        if writes or not (inside or place.startswith(HARMLESS)):
            self.seen.append(f"{event} {place} {mode}")


def main(folders: list[str]) -> None:
    """Load each folder and print what happened."""
    import resource

    # Imports open files, start no process, and are the user's own.
    from counterview.errors import CounterviewError
    from counterview.inference.loading import load

    load("tiny-match", device="cpu")
    before = _peak_bytes(resource)  # what libraries take differs by a gigabyte between builds of torch
    spy, known = Spy(), installation()
    found = {}
    for folder in folders:
        spy.seen, spy.allowed = [], [*known, os.path.realpath(folder)]
        try:
            load(folder, device="cpu")
            ended = "loaded"
        except CounterviewError as error:
            ended = f"{type(error).__name__}: {error}"
        except BaseException as error:
            ended = f"NOT TYPED {type(error).__name__}: {error}"
        spy.allowed = None
        found[folder] = {"ended": ended, "seen": spy.seen}
    spy.seen, spy.allowed = [], known
    _misbehave()
    spy.allowed = None
    print(json.dumps({"folders": found, "control": spy.seen, "grown_bytes": _peak_bytes(resource) - before}))


def _peak_bytes(resource: ModuleType) -> int:
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _misbehave() -> None:
    """Do what a hostile model would, for the spy to see."""
    import contextlib
    import socket
    import subprocess

    with contextlib.suppress(OSError):
        Path("/etc/hostname").read_bytes()
    subprocess.run([sys.executable, "-c", ""], check=False)
    with contextlib.suppress(OSError), socket.socket() as connection:
        connection.connect(("127.0.0.1", 9))


if __name__ == "__main__":
    main(sys.argv[1:])
