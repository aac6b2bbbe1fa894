"""Workers that die, hang and raise where a task says so; a module of its own, which other processes import."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from counterview.errors import InputError
from counterview.jobs.worker import report_steps, worker_number


def make_faulty(folder: Path) -> Callable[[tuple[str, str]], Any]:
    """A worker that writes how often a task was begun, and then does as the task says."""

    def work(item: tuple[str, str]) -> tuple[str, int]:
        key, what = item
        attempts = folder / f"{key}.attempts"
        begun = int(attempts.read_text()) + 1 if attempts.exists() else 1
        attempts.write_text(str(begun))
        first = begun == 1
        if what == "die" or (what == "die once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "hang" or (what == "hang once" and first):
            time.sleep(600)
        if what == "raise" or (what == "raise once" and first):
            raise ValueError(f"{key} failed")
        if what == "malformed":
            raise InputError("is malformed", path=key)
        if what == "slow":
            for _ in range(8):
                time.sleep(0.4)
                report_steps()
        report_steps(3)
        (folder / f"{key}.done").write_text(what)
        return key, worker_number()

    return work


def make_nothing(problem: str) -> Callable[[Any], Any]:
    raise ValueError(problem)


def make_lame() -> Callable[[int], tuple[int, int]]:
    """The second worker never begins."""
    if worker_number() == 1:
        time.sleep(600)
    return lambda number: (number, worker_number())


def make_pid(folder: Path) -> Callable[[int], int]:
    def work(item: int) -> int:
        time.sleep(0.05)
        (folder / f"{item}").write_text(str(os.getpid()))
        return item * item

    return work


class Square:
    def __call__(self, number: int) -> int:
        time.sleep(0.05 * (number % 3 == 0))
        return number * number
