"""Workers as processes of this machine: one executor for each, so that one which dies takes no other with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from counterview.jobs.manifest import MakeWorker
from counterview.jobs.worker import Reply, TaskRunner, begin, end_with_parent

_NVIDIA = Path("/proc/driver/nvidia/gpus")

_RUNNER: list[TaskRunner] = []
"""Of this process, once it is a worker."""


class LocalWorker:
    """One process. It says on a pipe of its own which process it is, then how many steps are done.

    Args:
        make_worker: makes the worker in the process.
        arguments: of ``make_worker``.
        number: position among the workers.
    """

    def __init__(self, make_worker: MakeWorker, arguments: tuple[Any, ...], number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.number = number
        self._reader, self._writer = context.Pipe(duplex=False)
        self._executor = ProcessPoolExecutor(
            1, context, initializer=_start, initargs=(self._writer, make_worker, arguments, number)
        )
        self.future: Future[Reply] | None = None
        self._pid: int | None = None
        self.has_started = False

    def submit(self, item: Any) -> bool:
        """Begin a task; whether the worker was there to take it.

        Args:
            item: of the task.
        """
        try:
            self.future = self._executor.submit(_process, item)
        except BrokenProcessPool:  # it was killed between two tasks
            return False
        return True

    def reply(self) -> Reply:
        """What became of the task, which has ended."""
        assert self.future is not None
        future, self.future = self.future, None
        try:
            return future.result()
        except BrokenProcessPool:
            return Reply("died")
        except Exception as error:  # the item or the result cannot be pickled
            return Reply("failed", error)

    def steps(self) -> int:
        """Number of steps since this was last asked."""
        steps = 0
        with suppress(EOFError, OSError):
            while self._reader.poll():
                value = self._reader.recv()
                if self._pid is None:
                    self._pid = value
                else:
                    self.has_started = True
                    steps += value
        return steps

    def kill(self) -> None:
        """End the process, whatever it does."""
        self.steps()
        # Before its first message only the executor knows it. Python 3.14 has `kill_workers` for this.
        pids = {self._pid, *(getattr(self._executor, "_processes", None) or {})} - {None}
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))

    def close(self) -> None:
        """End the process and wait for it: at once where it works on a task."""
        if self.future is not None:
            self.kill()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._reader.close()
        self._writer.close()


class LocalPool:
    """Processes of this machine.

    Args:
        make_worker: makes a worker in each process.
        arguments: of ``make_worker``.
    """

    def __init__(self, make_worker: MakeWorker, arguments: tuple[Any, ...]) -> None:
        self._make, self._arguments = make_worker, arguments

    def start(self, number: int) -> LocalWorker:
        """A new worker.

        Args:
            number: its position among the workers.
        """
        return LocalWorker(self._make, self._arguments, number)

    def wait(self, busy: Sequence[LocalWorker], seconds: float) -> list[LocalWorker]:
        """The workers whose task has ended, waiting for one at most so long.

        Args:
            busy: workers with a task.
            seconds: to wait.
        """
        futures = {worker.future: worker for worker in busy if worker.future is not None}
        return [futures[future] for future in wait(futures, seconds, return_when=FIRST_COMPLETED).done]

    def close(self) -> None:
        """Nothing is left to close beside the workers."""


def _start(writer: Connection, make_worker: MakeWorker, arguments: tuple[Any, ...], number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    end_with_parent()
    _take_a_gpu(number)
    writer.send(os.getpid())
    begin(number, writer.send)
    _RUNNER[:] = [TaskRunner(make_worker, arguments)]


def _take_a_gpu(number: int) -> None:
    """Let the processes take turns on the GPUs of this machine, before any library looks for them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = listed.split(",") if listed else [str(n) for n in range(len(list(_NVIDIA.glob("*"))))]
    if listed != "" and len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]


def _process(item: Any) -> Reply:
    return _RUNNER[0](item)
