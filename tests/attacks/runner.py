"""Runs the cases of one entry in a process of their own, within limits of time and memory, and counts how they end.

A case ends well with an answer, with a skip that the reader documents, or with a typed error of one line. It ends
badly with any other exception, a wrong answer, a word on standard error, more than :data:`TIME_S` seconds of processor
time or :data:`MEMORY_MB` more memory than before, or if the process dies or has to be stopped.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

TIME_S, MEMORY_MB, STUCK_S = 10.0, 1500, 90.0
MIN_CASES = 20
"""Cases that are tried whatever the budget of time."""
KEPT = 20
"""Bad cases that are reported in full."""


@dataclass
class Count:
    """What became of the cases of one entry.

    Attributes:
        entry: its name.
        ended: number of cases by how they ended: ``answer``, ``skip``, ``typed``, ``bad``.
        bad: what happened in the first bad cases.
        slowest_s: processor time of the slowest case.
        most_mb: memory of the largest case.
    """

    entry: str
    ended: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("answer", "skip", "typed", "bad"), 0))
    bad: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    most_mb: float = 0.0

    @property
    def cases(self) -> int:
        """Number of cases."""
        return sum(self.ended.values())

    def add(self, case: int, how: str, detail: str, seconds: float, megabytes: float) -> None:
        """Count one case."""
        self.ended[how] += 1
        self.slowest_s, self.most_mb = max(self.slowest_s, seconds), max(self.most_mb, megabytes)
        if how == "bad" and len(self.bad) < KEPT:
            self.bad.append(f"{self.entry} case {case}: {detail}")

    def line(self) -> str:
        """One row of the table."""
        ended = "  ".join(f"{how} {number:>6}" for how, number in self.ended.items())
        return f"{self.entry:<12} {self.cases:>7} cases  {ended}  slowest {self.slowest_s:.1f} s, {self.most_mb:.0f} MB"


def run(entry: str, *, seconds: float, seed: int = 0, case: int | None = None) -> Count:
    """Run the cases of one entry for a while.

    Args:
        entry: its name.
        seconds: budget, from the first case on.
        seed: of all cases.
        case: only this one.
    """
    count, first, left = Count(entry), 0 if case is None else case, seconds
    context = multiprocessing.get_context("spawn")
    while left > 0:
        here, there = context.Pipe(duplex=False)
        with tempfile.TemporaryDirectory(prefix="counterview-attack-") as folder:
            process = context.Process(target=_work, args=(entry, folder, seed, first, left, case is not None, there))
            process.start()
            there.close()
            current, started, ready = first, time.monotonic(), None
            dead = ""
            while True:
                if not here.poll(STUCK_S):
                    dead = f"no end after {STUCK_S:.0f} s"
                    break
                try:
                    message = here.recv()
                except EOFError:
                    process.join()
                    dead = "" if process.exitcode == 0 else f"the process ended with {process.exitcode}"
                    break
                if message[0] == "ready":
                    ready = time.monotonic()
                elif message[0] == "failed":
                    raise RuntimeError(message[1])
                elif message[0] == "start":
                    current = message[1]
                else:
                    count.add(*message[1:])
            if process.is_alive():
                process.kill()
            process.join()
        if not dead:
            break
        count.add(current, "bad", dead, 0, 0)
        left -= time.monotonic() - (ready or started)
        first = current + 1
        if case is not None:
            break
    return count


def _work(name: str, folder: str, seed: int, first: int, seconds: float, single: bool, pipe: Connection) -> None:
    """The process: makes the seeds, then runs case after case until the time is over."""
    import logging

    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.basicConfig(handlers=[logging.NullHandler()], force=True)
    try:
        from tests.attacks.entries import ENTRIES

        entry = ENTRIES[name](Path(folder))
        entry.prepare()
    except Exception:
        pipe.send(("failed", traceback.format_exc()))
        return
    _limit_memory()
    told = Path(folder) / "stderr.txt"
    handle = os.open(told, os.O_CREAT | os.O_RDWR)
    os.dup2(handle, 2)
    pipe.send(("ready",))
    end = time.monotonic() + seconds
    case = first
    # A loaded machine gets its least number of cases all the same.
    while time.monotonic() < end or (not single and case - first < MIN_CASES):
        pipe.send(("start", case))
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        before = _reset_peak()
        start = time.process_time()
        how, detail = _one(entry, case, seed)
        spent, used = time.process_time() - start, _peak() - before
        words = told.read_bytes()[:300]
        if how != "bad" and (spent > TIME_S or used > MEMORY_MB or words):
            how, detail = "bad", f"{spent:.1f} s, {used:.0f} MB, standard error {words!r}; {detail}"
        if how == "bad":
            detail += f" [{entry.about}]"
        pipe.send(("done", case, how, detail, spent, used))
        case += 1
        if single:
            break
    pipe.close()


def _one(entry: Any, case: int, seed: int) -> tuple[str, str]:
    from counterview.errors import CounterviewError

    rng = random.Random(f"{seed} {entry.name} {case}")
    try:
        entry.damage(rng)
        return entry.read(rng), ""
    except CounterviewError as error:
        line = str(error)
        if "\n" in line or not line.isprintable() or len(line) > 4200:
            return "bad", f"an error that is not one line of moderate length: {line[:300]!r}"
        if entry.names and not any(name in line for name in entry.names):
            return "bad", f"an error that does not name the file: {line[:300]!r}"
        return "typed", line
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        way = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames[:-6:-1])
        text = ""
        with contextlib.suppress(Exception):
            text = str(error)[:200]
        return "bad", f"{type(error).__name__}: {text!r} at {way}"


# ------------------------------------------------------------------------------------------------------- memory


def _limit_memory() -> None:
    """A hard limit, so that a bad case does not take the machine with it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    size = 0
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        size = pages * os.sysconf("SC_PAGE_SIZE")
    if size:
        resource.setrlimit(resource.RLIMIT_AS, (size + 8_000_000_000,) * 2)


def _reset_peak() -> float:
    """Forget the largest size of the process so far, where the system can; its size now, in MB."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak()


def _peak() -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1000
    return 0.0
