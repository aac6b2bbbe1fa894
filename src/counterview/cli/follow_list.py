"""``counterview follow --list FILE``: many runs of following, one a line, on one machine or many."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from counterview.errors import InputError, OutputError, shown
from counterview.media.files import atomic_write
from counterview.media.storage import ObjectFolder, is_url, split_url

MAX_LIST_BYTES = 16 << 20
_NOT_IN_A_LIST = ("--list", "--engine", "--workers", "--task-timeout", "--worker-gpus", "--json", "--help", "-h")


@dataclass(frozen=True)
class FollowRun:
    """One line of a list.

    Attributes:
        number: of the line, from 1.
        arguments: as they are typed after ``counterview follow``.
        out: folder or address of the results.
    """

    number: int
    arguments: tuple[str, ...]
    out: str


def read_list(path: Path) -> list[FollowRun]:
    """The runs of a list: a line each, with the arguments as a shell reads them; ``#`` begins a comment.

    Args:
        path: the file.

    Raises:
        InputError: no such file, a line that cannot be split, without ``--out``, or with an option of the list itself.
    """
    from counterview.guard import read_file

    runs = []
    text = read_file(path, InputError, max_bytes=MAX_LIST_BYTES).decode("utf-8", "replace")
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise InputError(f"line {number} cannot be split", path=path, found=f"{error}: {shown(line, 80)}") from None
        if not words:
            continue
        names = [word.partition("=")[0] for word in words]
        for name in _NOT_IN_A_LIST:
            if name in names:
                raise InputError(f"line {number}: {name} is not an option of a single run in a list", path=path)
        outs = [word.partition("=")[2] for word in words if word.startswith("--out=")]
        outs += [after for word, after in pairwise(words) if word == "--out"]
        if len(outs) != 1:
            raise InputError(
                f"line {number}: each run has a folder of its own", path=path, found=f"{len(outs)} times --out",
                expected="--out FOLDER",
            )  # fmt: skip
        runs.append(FollowRun(number, tuple(words), outs[0]))
    if not runs:
        raise InputError("holds no run", path=path, expected="a line for each, such as: ego.mp4 cam01.mp4 --point 3,5")
    return runs


def check_runs(path: Path, runs: Sequence[FollowRun], follow: Callable[..., None]) -> None:
    """Check the options of all runs before the first one begins.

    Args:
        path: the list, for messages.
        runs: its runs.
        follow: the command.

    Raises:
        InputError: an option that ``follow`` does not have, or a value of another kind.
    """
    for item in runs:
        try:
            _command(follow).make_context("follow", list(item.arguments))
        except Exception as error:  # typer's own, or click's, by their versions
            text = getattr(error, "format_message", lambda error=error: str(error))()
            raise InputError(f"line {item.number}: {text}", path=path) from None


def make_follower(follow: Callable[..., None]) -> Callable[[FollowRun], str]:
    """A worker that follows the objects of the runs it is given, and returns what it says of them.

    Args:
        follow: the command.
    """
    from counterview.cli import loaded

    loaded.keep()

    def work(item: FollowRun) -> str:
        said = io.StringIO()
        with tempfile.TemporaryDirectory(prefix="counterview-") as scratch:
            local, target, addresses = _fetched(item, Path(scratch))
            # Bars and stages of many runs would cover one another; the warnings still come by the log.
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
                command = _command(follow)
                with command.make_context("follow", list(local.arguments)) as context:
                    command.invoke(context)
            if target is not None:
                _store(Path(local.out), target, addresses)
        return said.getvalue()

    return work


def follow_list(path: Path, engine: Any, follow: Callable[..., None]) -> None:
    """Do all runs of a list, and print what came of each.

    Args:
        path: the list.
        engine: a :class:`~counterview.jobs.engine.JobEngine`.
        follow: the command.

    Raises:
        TasksFailedError: runs that failed, after all others.
        InputError: the list is malformed, or two runs have one folder.
    """
    from tqdm import tqdm

    from counterview.jobs.manifest import JobTask, Manifest, set_aside
    from counterview.jobs.run import run

    runs = read_list(path)
    check_runs(path, runs, follow)
    manifest = Manifest("follow", tuple(JobTask(item.out, item) for item in runs))
    failed = []
    with tqdm(total=len(runs), unit="run", desc="following", file=sys.stderr, disable=None) as bar:
        steps = 0

        def on_steps(number: int) -> None:
            nonlocal steps
            steps += number
            bar.set_postfix_str(f"{steps} steps")

        for outcome in run(make_follower, (follow,), manifest, engine=engine, on_steps=on_steps):
            bar.update()
            if outcome.error is not None:
                failed.append(outcome)
                bar.write(f"{outcome.task.key}: {outcome.error}", file=sys.stderr)
            else:
                bar.write(f"{outcome.task.key}: {_first_line(outcome.value)}")
    if failed:
        raise set_aside("follow", failed, len(runs))


def _first_line(said: str) -> str:
    return "finished already" if said.startswith("finished already") else "done"


def _command(follow: Callable[..., None]) -> Any:
    """``counterview follow`` alone, as a command that can be invoked."""
    import typer

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(follow)
    return typer.main.get_command(app)


# ------------------------------------------------------------------------------------------------- object storage


def _fetched(item: FollowRun, scratch: Path) -> tuple[FollowRun, ObjectFolder | None, dict[str, str]]:
    """The run with its inputs on this machine, where its results are stored, and the addresses of the inputs."""
    target = ObjectFolder(item.out) if is_url(item.out) else None
    out = item.out
    if target is not None:
        out = str(scratch / "out")
        target.fetch_all(target.files(), scratch / "out")
    arguments, addresses = [], {}
    for number, word in enumerate(item.arguments):
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if value == item.out or word == item.out:
            value = out
        elif is_url(value):
            url = value
            value = _fetch(url, scratch / f"in{number}")
            addresses[value] = url
        arguments.append(option + equals + value)
    return replace(item, arguments=tuple(arguments), out=out), target, addresses


def _fetch(value: str, place: Path) -> str:
    """The path of a file or a folder of images that is fetched, with the time that was written behind it."""
    url, at, time = value.rpartition("@")
    if not at:
        url, time = value, ""
    folder, name = split_url(url)
    if folder.has(name):
        folder.fetch(name, place / name)
    else:
        source = ObjectFolder(url)
        names = source.files()
        if not names:
            raise InputError("no such file", path=url)
        source.fetch_all(names, place / name)
    return f"{place / name}{at}{time}"


def _store(out: Path, target: ObjectFolder, addresses: Mapping[str, str]) -> None:
    """Store the results; ``tracks.json`` last, which says that they are there.

    Where they name the inputs, it is by address: the files on this machine are gone afterwards.
    """
    for path in (out / "tracks.json", *out.glob("*/*.json")):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            for local, url in addresses.items():
                text = text.replace(json.dumps(local), json.dumps(url))
            with atomic_write(path, "w") as handle:
                handle.write(text)
    names = [p.relative_to(out).as_posix() for p in sorted(out.rglob("*")) if p.is_file() and not p.is_symlink()]
    if "tracks.json" not in names:
        raise OutputError("holds no tracks", path=target.url)
    for name in [*(name for name in names if name != "tracks.json"), "tracks.json"]:
        target.store(out / name, name)
