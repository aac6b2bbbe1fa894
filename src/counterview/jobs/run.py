"""Running a manifest: workers that die or hang are replaced, and a task that fails twice is set aside."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tqdm import tqdm

from counterview.errors import CounterviewError, InputError, MissingExtraError, OutputError
from counterview.jobs.engine import JobEngine
from counterview.jobs.local import LocalPool
from counterview.jobs.manifest import JobTask, MakeWorker, Manifest, Outcome
from counterview.jobs.worker import Reply, listening

logger = logging.getLogger(__name__)

MIN_POOL_ITEMS = 8
"""Fewer items are processed in the calling process: starting a process would take longer."""

ATTEMPTS = 2
"""How often a task is tried. What is wrong with its input is not tried again: it would be wrong again."""

_POLL_S = 0.2
_MAX_DEATHS = 10
_PATIENCE_S = 60.0
_STOPPING = (OutputError, MissingExtraError)
"""Errors that every other task would meet as well: they end the run."""


class WorkerError(CounterviewError):
    """A worker whose process died, or that made no progress for so long that it was ended."""


class PoolWorker(Protocol):
    """A process that does one task after the other."""

    number: int
    """Position among the workers."""
    has_started: bool
    """Whether its worker is made. A task that still waits for a machine or a model does not count as hanging."""

    def submit(self, item: Any) -> bool:
        """Begin a task; whether the worker was there to take it."""
        ...

    def reply(self) -> Reply:
        """What became of the task, which has ended."""
        ...

    def steps(self) -> int:
        """Number of steps since this was last asked."""
        ...

    def kill(self) -> None:
        """End the process, whatever it does."""
        ...

    def close(self) -> None:
        """End the process: at once where it works on a task."""
        ...


class WorkerPool(Protocol):
    """An engine's workers."""

    def start(self, number: int) -> Any:
        """A new worker."""
        ...

    def wait(self, busy: Sequence[Any], seconds: float) -> list[Any]:
        """The workers whose task has ended, waiting for one at most so long."""
        ...

    def close(self) -> None:
        """Give back what is left."""
        ...


def run(
    make_worker: MakeWorker,
    arguments: Sequence[Any],
    manifest: Manifest,
    *,
    engine: JobEngine | None = None,
    on_steps: Callable[[int], None] = lambda number: None,
) -> Generator[Outcome, None, None]:
    """Do every task, and give the outcomes as they come.

    A task whose worker dies, makes no progress for :attr:`JobEngine.timeout_s`, or raises, is tried once
    more; then it is set aside with its reason. Tasks therefore leave the same files when they are done again.

    Args:
        make_worker: is called as ``make_worker(*arguments)``, once in each process; the function that it returns is
            called with one item after another.
        arguments: of ``make_worker``; picklable if there are several processes, like the items.
        manifest: the tasks.
        engine: where they are done; in the calling process if not given.
        on_steps: is told of the steps that workers report (:func:`counterview.jobs.worker.report_steps`).

    Yields:
        an outcome for each task, in order of completion; in the order of the manifest in the calling process.

    Raises:
        OutputError: a task met a place that cannot be written; so would the others.
        MissingExtraError: a task, or the engine, needs an extra.
        WorkerError: workers die before they begin, or the engine was lost.
        Exception: what ``make_worker`` raised.
    """
    engine = engine or JobEngine()
    if not len(manifest):
        return
    if engine.is_inline:
        yield from _run_inline(make_worker, arguments, manifest, on_steps)
        return
    pool: WorkerPool
    if engine.kind == "ray":
        from counterview.jobs.ray_pool import RayPool

        pool = RayPool(make_worker, tuple(arguments), engine, min(engine.workers, len(manifest)))
    else:
        pool = LocalPool(make_worker, tuple(arguments))
    yield from _Supervisor(pool, manifest, engine, on_steps).run()


def map_ordered(function: Callable[[Any], Any], items: Sequence[Any], workers: int, label: str) -> Iterator[Any]:
    """Results of a function in the order of its items; the first error ends the run.

    Args:
        function: is sent once to each process.
        items: its arguments.
        workers: processes of this machine; with 1 the function is called here.
        label: what is done, for messages.

    Raises:
        Exception: the error of an item, unchanged.

    >>> list(map_ordered(str, [1, 2], workers=1, label="numbers"))
    ['1', '2']
    """
    waiting: dict[str, Any] = {}
    manifest = Manifest.of(label, items)
    keys = iter(task.key for task in manifest)
    following = next(keys, None)
    outcomes = run(_same, (function,), manifest, engine=JobEngine(workers=max(1, workers)))
    try:
        for outcome in outcomes:
            waiting[outcome.task.key] = outcome.result()
            while following in waiting:
                yield waiting.pop(following)
                following = next(keys, None)
    finally:
        outcomes.close()  # its workers end with it


def _same(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return function


def for_each_item(
    make_worker: MakeWorker,
    arguments: Sequence[Any],
    items: Sequence[Any],
    *,
    engine: JobEngine,
    label: str,
    progress: bool = True,
) -> None:
    """Process every item once, for its side effects, with a progress bar on standard error.

    Args:
        make_worker: as for :func:`run`.
        arguments: likewise.
        items: what to process, in no particular order.
        engine: where; on this machine fewer than :data:`MIN_POOL_ITEMS` items start no process.
        label: text before the bar.
        progress: whether to show the bar.

    Raises:
        Exception: the first error of an item, unchanged. The other processes are stopped.

    >>> squares = []
    >>> def start(out):
    ...     return lambda n: out.append(n * n)
    >>> for_each_item(start, [squares], [1, 2, 3], engine=JobEngine(), label="", progress=False)
    >>> squares
    [1, 4, 9]
    """
    if engine.kind == "local" and len(items) < MIN_POOL_ITEMS:
        engine = JobEngine()
    with tqdm(total=len(items), desc=label, unit="image", dynamic_ncols=True, disable=not progress) as bar:
        outcomes = run(make_worker, arguments, Manifest.of(label, items), engine=engine)
        try:
            for outcome in outcomes:
                outcome.result()
                bar.update()
        finally:
            outcomes.close()  # its workers end with it


def _run_inline(
    make_worker: MakeWorker,
    arguments: Sequence[Any],
    manifest: Manifest,
    on_steps: Callable[[int], None],
) -> Iterator[Outcome]:
    worker = make_worker(*arguments)
    for task in manifest:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with listening(on_steps):
                    value = worker(task.item)
            except _STOPPING:
                raise
            except Exception as error:
                if attempt < ATTEMPTS and not isinstance(error, InputError):
                    logger.warning("%s: %s is tried again: %s", manifest.label, task.key, error)
                    continue
                yield Outcome(task, error=error, attempts=attempt)
            else:
                yield Outcome(task, value, attempts=attempt)
            break


@dataclass
class _Begun:
    """A task that a worker has: which, the attempt, when it was given, and when there was a sign of progress."""

    task: JobTask
    attempt: int
    begun: float
    last_sign: float
    is_hanging: bool = False


class _Supervisor:
    """Hands out tasks, and looks after the workers."""

    def __init__(
        self, pool: WorkerPool, manifest: Manifest, engine: JobEngine, on_steps: Callable[[int], None]
    ) -> None:
        self.pool, self.manifest, self.engine, self.on_steps = pool, manifest, engine, on_steps
        self.queue = deque((task, 1) for task in manifest)
        self.idle: list[PoolWorker] = []
        self.busy: dict[PoolWorker, _Begun] = {}
        self.numbers = list(range(min(engine.workers, len(manifest))))[::-1]
        self.deaths: int | None = 0  # until the first task is done

    def run(self) -> Iterator[Outcome]:
        """As :func:`run`."""
        try:
            while self.queue or self.busy:
                self._hand_out()
                ended = self.pool.wait(list(self.busy), _POLL_S)
                self._look_after()
                for worker in ended:
                    outcome = self._take_back(worker) if worker in self.busy else None
                    if outcome is not None:
                        yield outcome
        finally:
            for worker in self.busy:
                worker.kill()  # all at once, before any is waited for
            for worker in (*self.busy, *self.idle):
                worker.close()
            self.pool.close()

    def _hand_out(self) -> None:
        while self.queue and (self.idle or self.numbers):
            worker = self.idle.pop() if self.idle else self.pool.start(self.numbers.pop())
            task, attempt = self.queue[0]
            if worker.submit(task.item):
                self.queue.popleft()
                self.busy[worker] = _Begun(task, attempt, time.monotonic(), time.monotonic())
            else:
                self._drop(worker)

    def _look_after(self) -> None:
        """Pass on progress, and end workers without any."""
        now = time.monotonic()
        for worker, begun in self.busy.items():
            steps = worker.steps()
            if steps or not worker.has_started:
                begun.last_sign = now
            if steps:
                self.on_steps(steps)
            if now - begun.last_sign > self.engine.timeout_s and not begun.is_hanging:
                begun.is_hanging = True
                worker.kill()
        if self.idle and not self.queue:
            self._take_from_those_that_wait(now)

    def _take_from_those_that_wait(self, now: float) -> None:
        """Give the tasks of workers that have no machine or model yet to workers that have nothing to do."""
        for worker, begun in list(self.busy.items()):
            if not worker.has_started and now - begun.begun > _PATIENCE_S and len(self.queue) < len(self.idle):
                del self.busy[worker]
                self.queue.append((begun.task, begun.attempt))
                worker.kill()
                self._drop(worker)

    def _take_back(self, worker: PoolWorker) -> Outcome | None:
        """The outcome of a task that has ended; ``None`` if it is tried again."""
        begun, reply = self.busy.pop(worker), worker.reply()
        if reply.kind == "died":
            self._drop(worker)
            error: Exception = self._death(begun)
        else:
            self.idle.append(worker)
            error = reply.value
        if reply.kind == "done":
            self.deaths = None
            return Outcome(begun.task, reply.value, attempts=begun.attempt)
        if reply.kind == "unusable" or isinstance(error, _STOPPING):
            raise error
        if begun.attempt < ATTEMPTS and not isinstance(error, InputError):
            logger.warning("%s: %s is tried again: %s", self.manifest.label, begun.task.key, error)
            self.queue.appendleft((begun.task, begun.attempt + 1))
            return None
        return Outcome(begun.task, error=error, attempts=begun.attempt)

    def _death(self, begun: _Begun) -> WorkerError:
        if begun.is_hanging:
            return WorkerError(f"no progress for {self.engine.timeout_s:g} s, so its process was ended")
        if self.deaths is not None:
            self.deaths += 1
            if self.deaths > _MAX_DEATHS + 3 * self.engine.workers:
                raise WorkerError("the worker processes die one after the other", fix="Look at their messages above.")
        return WorkerError("its process died: out of memory, killed, or a fault in a library")

    def _drop(self, worker: PoolWorker) -> None:
        worker.close()
        self.numbers.append(worker.number)
