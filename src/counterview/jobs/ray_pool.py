"""Workers as actors of a Ray cluster. Ray places them and carries the small messages; the rules are :mod:`.run`'s."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from counterview import __version__
from counterview.errors import CounterviewError, InputError, MissingExtraError
from counterview.jobs.engine import JobEngine
from counterview.jobs.manifest import MakeWorker
from counterview.jobs.worker import Reply, TaskRunner, begin

_LOST_FIX = "Start the cluster again, then run the same command again: what is done is not repeated."

_KNOCK_S = 10.0


class ClusterError(CounterviewError):
    """A Ray cluster that cannot be reached, or was lost."""


class RayTaskRunner:
    """What runs in the actor.

    Args:
        make_worker: makes the worker in the process.
        arguments: of ``make_worker``.
        number: position among the workers.
        version: of the package on the side that gives the tasks.
        folder: in which relative paths begin; where a machine lacks it, only absolute paths can be read there.
    """

    def __init__(
        self, make_worker: MakeWorker, arguments: tuple[Any, ...], number: int, version: str, folder: str
    ) -> None:
        with suppress(OSError):
            os.chdir(folder)
        self._steps: int | None = None
        self._version = version
        begin(number, self._count)
        self._runner = TaskRunner(make_worker, arguments)

    def _count(self, number: int) -> None:
        self._steps = (self._steps or 0) + number

    def process(self, item: Any) -> Reply:
        """Do one task.

        Args:
            item: of the task.
        """
        if self._version != __version__:  # another version may give other bytes
            problem = InputError(
                "a machine of the cluster has another version of counterview", found=__version__,
                expected=self._version, fix="Install the same version on every machine.",
            )  # fmt: skip
            return Reply("unusable", problem)
        return self._runner(item)

    def steps(self) -> int | None:
        """Number of steps since the start; ``None`` until the worker is made. Answers while a task is running."""
        return self._steps


class RayWorker:
    """An actor.

    Args:
        pool: that it is of.
        actor: its handle.
        number: position among the workers.
    """

    def __init__(self, pool: RayPool, actor: Any, number: int) -> None:
        self._pool, self._actor, self.number = pool, actor, number
        self.task: Any = None
        self._asked: Any = None
        self._steps = 0
        self.has_started = False

    def submit(self, item: Any) -> bool:
        """Begin a task; whether the worker was there to take it.

        Args:
            item: of the task.
        """
        with self._pool.cluster():
            self.task = self._actor.process.remote(item)
        return True

    def reply(self) -> Reply:
        """What became of the task, which has ended."""
        ray = self._pool.ray
        task, self.task = self.task, None
        with self._pool.cluster():
            try:
                return ray.get(task)
            except ray.exceptions.RayActorError:
                return Reply("died")
            except (ray.exceptions.RayTaskError, ray.exceptions.WorkerCrashedError) as error:
                return Reply("failed", RuntimeError(str(error)))

    def steps(self) -> int:
        """Number of steps since this was last asked."""
        ray = self._pool.ray
        with self._pool.cluster():
            if self._asked is None:
                self._asked = self._actor.steps.remote()
            if not ray.wait([self._asked], timeout=0)[0]:
                return 0
            asked, self._asked = self._asked, None
            try:
                total = ray.get(asked)
            except ray.exceptions.RayActorError:
                return 0
        if total is None:
            return 0
        self.has_started = True
        new, self._steps = total - self._steps, total
        return new

    def kill(self) -> None:
        """End the process, whatever it does."""
        with suppress(Exception):
            self._pool.ray.kill(self._actor, no_restart=True)

    def close(self) -> None:
        """End the process."""
        self.kill()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes over SIGTERM where it is initialised, and never gives it back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


class RayPool:
    """Actors of a cluster, each with one core.

    Args:
        make_worker: makes a worker in each actor.
        arguments: of ``make_worker``.
        engine: names the cluster.
        workers: number of workers.

    Raises:
        MissingExtraError: ``ray`` is not installed.
        ClusterError: no cluster at the address.
    """

    def __init__(self, make_worker: MakeWorker, arguments: tuple[Any, ...], engine: JobEngine, workers: int) -> None:
        try:
            import ray
        except ImportError:
            raise MissingExtraError("ray", "the engine ray") from None
        self.ray: Any = ray
        self._address = engine.address or os.environ.get("RAY_ADDRESS")
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            _knock(self._address)
            here = {"address": "local", "num_cpus": workers}  # not a cluster that happens to run here
            place: dict[str, Any] = {"address": self._address} if self._address else here
            try:
                with _signals_kept():
                    ray.init(
                        **place, include_dashboard=False if not self._address else None, logging_level=logging.ERROR
                    )
            except Exception as error:  # of many classes, by what is wrong
                raise ClusterError(
                    "no Ray cluster can be reached", found=f"{type(error).__name__}: {error}"[:300],
                    expected=f"one at {self._address}" if self._address else "that one can be started here",
                    fix="Start it with: ray start --head",
                ) from None  # fmt: skip
        self._actor_class: Any = ray.remote(RayTaskRunner).options(
            num_cpus=1, num_gpus=engine.worker_gpus, max_restarts=0, max_task_retries=0, max_concurrency=2
        )
        self._arguments = (make_worker, arguments)

    def start(self, number: int) -> RayWorker:
        """A new worker, which waits until the cluster has room for it.

        Args:
            number: its position among the workers.
        """
        with self.cluster():
            actor = self._actor_class.remote(*self._arguments, number, __version__, str(Path.cwd()))
        return RayWorker(self, actor, number)

    def wait(self, busy: Sequence[RayWorker], seconds: float) -> list[RayWorker]:
        """The workers whose task has ended, waiting for one at most so long.

        Args:
            busy: workers with a task.
            seconds: to wait.
        """
        tasks = {worker.task: worker for worker in busy}
        with self.cluster():
            ended, _ = self.ray.wait(list(tasks), num_returns=1, timeout=seconds)
        return [tasks[task] for task in ended]

    def close(self) -> None:
        """Leave the cluster, or end it if it was started for this run."""
        if self._is_ours:
            with suppress(Exception):
                self.ray.shutdown()

    @contextmanager
    def cluster(self) -> Iterator[None]:
        """Turn the loss of the cluster into one clear line."""
        try:
            yield
        except (ConnectionError, self.ray.exceptions.RayError) as error:
            raise ClusterError(
                "the Ray cluster was lost", found=f"{type(error).__name__}: {error}"[:300], fix=_LOST_FIX
            ) from None


def _knock(address: str | None) -> None:
    """Find out at once whether anything listens at ``HOST:PORT``: Ray itself tries for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
    except OSError as error:
        raise ClusterError(
            "no Ray cluster can be reached", found=f"{address}: {error}", expected="a running cluster",
            fix="Start it with: ray start --head",
        ) from None  # fmt: skip
