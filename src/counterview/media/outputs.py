"""Where results go: one policy for what a command may write, remove and replace, and one lock.

A command writes into a folder that is new, empty, or of its own making, and replaces a file only if a command of ours
wrote it; everything else needs ``--overwrite``. A folder is known by the hidden file :data:`MARKER`, which names the
command and its files, or by what the command has always written there. Files that are not ours are never removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from counterview.errors import CounterviewError, InputError, OutputError
from counterview.media.files import PART, host_tag, read_json, safe_join, write_errors, write_json

MARKER = ".counterview.json"
"""Name of the hidden file in an output folder: the command, and the files that its last run wrote."""
LOCK = ".counterview.lock"
"""Name of the lock in an output folder. It holds process and machine of the run that writes there."""
STAGED = ".counterview.new"
"""Name of the folder in an output folder in which results are written before they replace earlier ones."""
_SYSTEM = {"lost+found", ".DS_Store", "Thumbs.db", "desktop.ini"}
_LOCKED_BYTE = 4096  # beyond the text, which another process may then read on Windows, too
_OVERWRITE = "Give another place, or add --overwrite."

IsOwn = Callable[[Path], bool]
"""Tells whether a file or folder without a marker was written by the command in question."""


# ------------------------------------------------------------------------------------------------------ checks


def check_output_file(
    path: str | os.PathLike[str], kind: str, *, is_own: IsOwn | None = None, overwrite: bool | None = False
) -> None:
    """Check, before any work, that a file can be written and replaces nothing that is not ours.

    Args:
        path: the file.
        kind: what will be written, in words, for instance ``"a prediction file"``.
        is_own: whether an existing file is of this kind and may be replaced; no file may be if not given.
        overwrite: replace any file; ``None`` as ``False``, where the command has no option ``--overwrite`` to name.

    Raises:
        OutputError: a folder or a device, an existing file of another kind, or a place that cannot be written.
    """
    path = Path(path)
    with write_errors(path):
        if path.is_dir():
            raise OutputError("is a folder", path=path, expected=f"a file name, for {kind}", fix="Add a file name.")
        if path.exists():
            if not path.is_file():
                raise OutputError("is a device, not a file", path=path, expected=f"a file name, for {kind}")
            if not overwrite and not (is_own is not None and is_own(path)):
                raise OutputError(
                    "exists already", path=path, found=f"{path.stat().st_size} bytes",
                    expected=f"a new name{'' if is_own is None else f' or {kind}'}", fix=_fix(overwrite),
                )  # fmt: skip
        _check_place(path.parent)


def check_output_folder(
    path: str | os.PathLike[str], command: str, *, is_own: IsOwn | None = None, overwrite: bool | None = False
) -> None:
    """Check, before any work, that a folder can be written and is new, empty, or the command's own.

    Args:
        path: the folder.
        command: its name.
        is_own: whether a folder without a marker is an output of the command, for instance of an earlier version.
        overwrite: write into a folder with other contents, too; they are kept. ``None`` as ``False``, where the command
            has no option ``--overwrite`` to name.

    Raises:
        OutputError: a file, a folder with other contents, or a place that cannot be written.
    """
    path = Path(path)
    with write_errors(path):
        if path.exists() and not path.is_dir():
            raise OutputError(
                "is a file", path=path, expected=f"a folder, for the output of counterview {command}",
                fix="Give a folder.",
            )  # fmt: skip
        _check_place(path)
        if overwrite or not path.is_dir() or _command_of(path) == command or (is_own is not None and is_own(path)):
            return
        others = sorted(p.name for p in path.iterdir() if not _is_ignored(p.name))
        if others:
            raise OutputError(
                f"is not empty and not an output of counterview {command}", path=path,
                found=", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else ""),
                expected="a new or empty folder", fix=_fix(overwrite),
            )  # fmt: skip


def check_cache_folder(path: str | os.PathLike[str] | None) -> None:
    """Check that a cache can be kept in a folder. Whatever else is in it stays.

    Args:
        path: the folder; nothing is checked if it is ``None``.

    Raises:
        OutputError: a file, or a place that cannot be written.
    """
    if path is not None:
        check_output_folder(path, "cache", overwrite=True)


def _fix(overwrite: bool | None) -> str:
    return "Give another place." if overwrite is None else _OVERWRITE


def _check_place(folder: Path) -> None:
    """Check that the first folder that exists, ``folder`` or one above it, can be written."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise OutputError("is a file", path=place, expected="a folder", fix="Give another place.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(
            "the folder cannot be written", path=place, found="no permission",
            fix="Grant access, or give another place.",
        )  # fmt: skip
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return
    if free == 0:
        raise OutputError("the disk is full", path=place, found="0 bytes free", fix="Free space, then run again.")


def _is_ignored(name: str) -> bool:
    """Whether a name in a folder is of the system, or what a killed run of ours leaves before its first result."""
    return name in _SYSTEM or name in (LOCK, STAGED) or PART.match(name) is not None


def _command_of(folder: Path) -> str | None:
    """The command that the marker of a folder names; ``None`` without a readable one."""
    with contextlib.suppress(InputError):
        marker = read_json(folder / MARKER)
        if isinstance(marker, dict) and isinstance(marker.get("command"), str):
            return str(marker["command"])
    return None


# ------------------------------------------------------------------------------------------------------ lock


@contextlib.contextmanager
def locked(lock: Path, place: Path) -> Iterator[None]:
    """Exclude other runs. The lock ends with its process, even if that is killed.

    Args:
        lock: the lock file, in an existing folder; it is removed at the end.
        place: what is written, for the error.

    Raises:
        OutputError: another run has the lock, or the lock file cannot be written.
    """
    with write_errors(lock):
        handle = _acquire(lock, place)
    try:
        yield
    finally:
        if os.name != "nt":  # first removed, so that nobody waits for a file that is gone
            lock.unlink(missing_ok=True)
        handle.close()
        if os.name == "nt":
            with contextlib.suppress(OSError):
                lock.unlink(missing_ok=True)


def _acquire(lock: Path, place: Path) -> IO[bytes]:
    for _ in range(100):
        handle = lock.open("a+b")
        try:
            _lock_handle(handle)
        except OSError:
            handle.close()
            pid, host = _holder(lock)
            if pid and host == socket.gethostname() and not is_running(pid):
                lock.unlink(missing_ok=True)  # a child of a killed run has inherited it
                continue
            by = f", process {pid} on {host}" if pid else ""
            raise OutputError(
                "another run is writing here", path=place, found=f"its lock {lock.name}{by}",
                fix="Wait for it, or stop it.",
            ) from None  # fmt: skip
        try:
            if os.name == "nt" or os.fstat(handle.fileno()).st_ino == lock.stat().st_ino:
                handle.truncate(0)
                handle.write(f"{os.getpid()} {socket.gethostname()}\n".encode())
                handle.flush()
                return handle
        except FileNotFoundError:
            pass  # its holder has just removed it
        except BaseException:
            handle.close()
            raise
        handle.close()
    raise OutputError("the lock cannot be taken", path=lock, fix="Wait for the other runs, or stop them.")


def _lock_handle(handle: IO[bytes]) -> None:
    if os.name == "nt":
        import msvcrt

        handle.seek(_LOCKED_BYTE)
        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(lock: Path) -> tuple[int, str]:
    """Process and machine in a lock file; 0 and an empty text if it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        pid, _, host = lock.read_text(encoding="utf-8").strip().partition(" ")
        return int(pid), host
    return 0, ""


def is_running(pid: int) -> bool:
    """Whether a process of this machine is running; ``True`` where that cannot be found out."""
    if os.name == "nt":
        import ctypes

        kernel = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
        process = kernel.OpenProcess(0x1000, False, pid)  # query limited information
        if not process:
            return bool(kernel.GetLastError() == 5)  # access denied: it exists
        kernel.CloseHandle(process)
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def remove_parts(folder: Path, name: str | None = None, *, shared: bool = False) -> None:
    """Remove temporary files of dead processes, in a folder that is locked, or shared by several machines.

    Args:
        folder: in which, and in whose folders, they are; only in itself if ``name`` is given.
        name: only those of this file.
        shared: others may be writing there now: leave alone what another machine, or this process, has begun.
    """
    for path in [*folder.glob(".*.part"), *(() if name is not None else folder.glob("*/.*.part"))]:
        found = PART.match(path.name)
        if found is None or (name is not None and found["name"] != name[:100]):
            continue
        pid = int(found["pid"])
        if shared and (pid == os.getpid() or found["host"] != host_tag()):
            continue
        if path.is_file() and (pid == os.getpid() or not is_running(pid)):
            with contextlib.suppress(OSError):
                path.unlink()


# ------------------------------------------------------------------------------------------------------ claims


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Create a folder for the block; what was created and is empty at the end is removed."""
    created = [folder, *folder.parents]
    created = [p for p in created if not p.exists()]
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for path in created:
                path.rmdir()


@contextlib.contextmanager
def claim_output_file(
    path: str | os.PathLike[str], kind: str, *, is_own: IsOwn | None = None, overwrite: bool | None = False
) -> Iterator[Path]:
    """Hold an output file for one run, from before its work to the end of writing.

    Args:
        path: the file.
        kind: see :func:`check_output_file`, as for the others.
        is_own: likewise.
        overwrite: likewise.

    Yields:
        the path.

    Raises:
        OutputError: as :func:`check_output_file`, or another run writes this file.
    """
    path = Path(path)
    check_output_file(path, kind, is_own=is_own, overwrite=overwrite)
    with _made(path.parent), locked(path.with_name(f".{path.name[:200]}.lock"), path):
        remove_parts(path.parent, path.name)
        check_output_file(path, kind, is_own=is_own, overwrite=overwrite)
        yield path


@contextlib.contextmanager
def claim_output_folder(
    path: str | os.PathLike[str], command: str, *, is_own: IsOwn | None = None, overwrite: bool | None = False
) -> Iterator[OutputFolder]:
    """Hold an output folder for one run, from before its work to the end of writing.

    A folder that is created and stays empty is removed.

    Args:
        path: the folder.
        command: see :func:`check_output_folder`, as for the others.
        is_own: likewise.
        overwrite: likewise.

    Yields:
        the folder, to be written.

    Raises:
        OutputError: as :func:`check_output_folder`, or another run writes there.
    """
    path = Path(path)
    check_output_folder(path, command, is_own=is_own, overwrite=overwrite)
    with _made(path), locked(path / LOCK, path):
        remove_parts(path)
        check_output_folder(path, command, is_own=is_own, overwrite=overwrite)
        yield OutputFolder(path, command, overwrite=bool(overwrite))


class OutputFolder:
    """An output folder that is held by :func:`claim_output_folder`.

    Args:
        path: the folder.
        command: whose it is.
        overwrite: replace files that the command has not written.
    """

    def __init__(self, path: Path, command: str, *, overwrite: bool = False) -> None:
        self.path, self.command, self.overwrite = path, command, overwrite

    def files(self) -> list[str]:
        """The files of the last run, relative to the folder, as the marker lists them."""
        with contextlib.suppress(InputError):
            marker = read_json(self.path / MARKER)
            files = marker.get("files") if isinstance(marker, dict) else None
            if isinstance(files, list):
                return [name for name in files if isinstance(name, str) and _is_inside(self.path, name)]
        return []

    def mark(self, files: Iterable[str] = ()) -> None:
        """Write the marker."""
        write_json(self.path / MARKER, {"command": self.command, "files": sorted(set(files))})

    def check_free(self, names: Iterable[str], own: Iterable[str] = ()) -> None:
        """Check that files to be written replace only files of the last run.

        Args:
            names: of the files, relative to the folder.
            own: further files that count as the last run's.

        Raises:
            OutputError: a file exists that the command has not written.
        """
        known = {*self.files(), *own}
        for name in names:
            place = self.path / name
            if not self.overwrite and name not in known and (place.exists() or place.is_symlink()):
                raise OutputError(
                    "exists already and is not of an earlier run", path=place,
                    expected=f"a free name for the output of counterview {self.command}", fix=_OVERWRITE,
                )  # fmt: skip

    @contextlib.contextmanager
    def replace(self, own: Iterable[str] = ()) -> Iterator[Path]:
        """Replace the results of the last run by those that the block writes, all of them or none.

        Args:
            own: files of an earlier run that the marker does not list, since an earlier version wrote none.

        Yields:
            a folder to write into. Its files are moved into place when the block ends without an error.

        Raises:
            OutputError: a file exists that the command has not written, or the disk cannot be written.
        """
        staged = self.path / STAGED
        shutil.rmtree(staged, ignore_errors=True)
        with write_errors(self.path):
            staged.mkdir()
            try:
                yield staged
                new = sorted(p.relative_to(staged).as_posix() for p in staged.rglob("*") if p.is_file())
                old = {*self.files(), *(name for name in own if _is_inside(self.path, name))}
                self.check_free(new, old)
                # Killed from here on, the next run still knows every file as ours.
                self.mark([*old, *new])
                for name in old - set(new):
                    self._remove(name)
                for name in new:
                    (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                    (staged / name).replace(self.path / name)
                self.mark(new)
            finally:
                shutil.rmtree(staged, ignore_errors=True)

    def _remove(self, name: str) -> None:
        place = self.path / name
        if place.is_file() or place.is_symlink():
            place.unlink()
        with contextlib.suppress(OSError):  # not empty
            for folder in place.parents:
                if folder == self.path:
                    break
                folder.rmdir()

    def final(self, path: Path) -> Path:
        """Where a file that was written in :meth:`replace` is afterwards."""
        return self.path / path.relative_to(self.path / STAGED)


def _is_inside(folder: Path, name: str) -> bool:
    """Whether a name out of a file stays below ``folder``: a list of files to remove is not trusted."""
    try:
        safe_join(folder, name)
    except CounterviewError:
        return False
    return True
