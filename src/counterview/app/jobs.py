"""Long work of the page: a queue with places, progress, and jobs that stop when they are told to."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from counterview.errors import CounterviewError, InputError

logger = logging.getLogger(__name__)
T = TypeVar("T")

POLL_S = 0.1
"""How often a page that waits for a job is told of it."""


class JobCancelled(CounterviewError):
    """A job that was told to stop."""

    def __init__(self) -> None:
        super().__init__("stopped")


@dataclass(eq=False)
class Job(Generic[T]):
    """One piece of work.

    Attributes:
        owner: whose it is.
        purpose: what it is for; an owner has one job of a purpose at a time.
        lane: the queue in which it waits.
        state: where it is.
        text: what it is doing.
        fraction: how much is done, 0 to 1; ``None`` if that is not known.
        result: what it returned.
        error: why it failed.
        is_replaced: whether a later job of its owner and purpose took its place; nothing is said of it then.
        waited_s: seconds from when it was submitted to when it began; ``None`` before.
        ran_s: seconds that it ran; ``None`` before it ended.
    """

    owner: object
    purpose: str
    lane: str
    function: Callable[[Job[T]], T] = field(repr=False)
    state: Literal["waiting", "running", "done", "failed", "cancelled"] = "waiting"
    text: str = ""
    fraction: float | None = None
    result: T | None = None
    error: Exception | None = None
    is_replaced: bool = False
    waited_s: float | None = None
    ran_s: float | None = None
    _submitted: float = field(default_factory=time.monotonic)
    _began: float = 0.0
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Stop here if the job was told to; work calls this between its steps.

        Raises:
            JobCancelled: it was.
        """
        if self._cancelled.is_set():
            raise JobCancelled

    def report(self, text: str, fraction: float | None = None) -> None:
        """Say what the job is doing, and stop if it was told to.

        Args:
            text: a few words for the page.
            fraction: how much is done, 0 to 1.

        Raises:
            JobCancelled: it was told to stop.
        """
        self.check()
        self.text, self.fraction = text, fraction

    def cancel(self) -> None:
        """Tell the job to stop. One that waits never begins; one that runs stops at its next step."""
        self._cancelled.set()

    @property
    def is_over(self) -> bool:
        """Whether it is done, failed or was stopped."""
        return self._ended.is_set()

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop and has not stopped yet."""
        return self._cancelled.is_set() and not self.is_over

    @property
    def seconds(self) -> float:
        """Seconds since it began, or since it was submitted while it waits."""
        if self.ran_s is not None:
            return self.ran_s
        return time.monotonic() - (self._began or self._submitted)

    def wait(self, timeout_s: float | None = None) -> T:
        """Wait for the result.

        Args:
            timeout_s: seconds to wait at most.

        Raises:
            JobCancelled: it was stopped.
            TimeoutError: it is not over.
            Exception: whatever the work raised.
        """
        if not self._ended.wait(timeout_s):
            raise TimeoutError(f"the job {self.purpose!r} is not over")
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]

    def _run(self) -> None:
        self._began = time.monotonic()
        self.waited_s = self._began - self._submitted
        self.state = "running"
        try:
            self.check()
            self.result = self.function(self)
            self.state = "done"
        except JobCancelled as stop:
            self.error, self.state = stop, "cancelled"
        except CounterviewError as error:
            self.error, self.state = error, "failed"
        except Exception as error:
            logger.exception("the job %r failed", self.purpose)
            self.error, self.state = error, "failed"
        finally:
            self.function = _nothing  # what it holds is let go
            self.ran_s = time.monotonic() - self._began
            self._ended.set()


def _nothing(job: Job[Any]) -> Any:
    return None


class Jobs:
    """Queues of jobs, each with its own threads.

    Args:
        lanes: name of each queue to the number of jobs that run at a time in it.
        waiting: jobs of one owner that may wait at a time.
    """

    def __init__(self, lanes: Mapping[str, int], waiting: int = 4) -> None:
        self._waiting: dict[str, list[Job[Any]]] = {lane: [] for lane in lanes}
        self._running: list[Job[Any]] = []
        self._limit = waiting
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), name=f"counterview-{lane}-{i}", daemon=True)
            for lane, count in lanes.items()
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, lane: str, owner: object, purpose: str, function: Callable[[Job[T]], T]) -> Job[T]:
        """Put a job at the end of a queue. An earlier job of the same owner and purpose is told to stop.

        Args:
            lane: the queue.
            owner: whose job it is.
            purpose: what it is for.
            function: the work; it calls :meth:`Job.report` or :meth:`Job.check` between its steps.

        Raises:
            InputError: the owner has too many waiting jobs.
        """
        job = Job(owner, purpose, lane, function)
        with self._changed:
            for earlier in self._all():
                if earlier.owner is owner and earlier.purpose == purpose:
                    earlier.is_replaced = True
                    earlier.cancel()
            self._drop_cancelled()
            if sum(other.owner is owner for jobs in self._waiting.values() for other in jobs) >= self._limit:
                raise InputError("too many jobs of this page are waiting", found=self._limit, fix="Wait, or stop one.")
            self._waiting[lane].append(job)
            self._changed.notify_all()
        return job

    def place(self, job: Job[Any]) -> int:
        """Number of jobs that begin before this one; 0 if it is the next, or began.

        Args:
            job: of one of the queues.
        """
        with self._changed:
            waiting = self._waiting[job.lane]
            return waiting.index(job) if job in waiting else 0

    def cancel(self, owner: object, purpose: str | None = None) -> int:
        """Tell an owner's jobs to stop.

        Args:
            owner: whose jobs.
            purpose: only those of this purpose.

        Returns:
            how many were told.
        """
        with self._changed:
            mine = [job for job in self._all() if job.owner is owner and purpose in (None, job.purpose)]
            for job in mine:
                job.cancel()
            self._drop_cancelled()
        return len(mine)

    def running(self, owner: object) -> bool:
        """Whether an owner has a job that waits or runs.

        Args:
            owner: whose jobs.
        """
        with self._changed:
            return any(job.owner is owner for job in self._all())

    async def watch(self, job: Job[T]) -> AsyncIterator[Job[T]]:
        """The job again and again until it is over, for a page that shows its progress.

        Args:
            job: of one of the queues.

        Yields:
            the job, when something about it changed.
        """
        last: object = None
        while not job.is_over:
            now = (job.state, job.text, job.fraction, self.place(job), int(job.seconds), job.is_stopping)
            if now != last:
                last = now
                yield job
            await asyncio.sleep(POLL_S)
        yield job

    def close(self) -> None:
        """Tell all jobs to stop, and end the threads."""
        with self._changed:
            self._closed = True
            for job in self._all():
                job.cancel()
            self._drop_cancelled()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=10)

    def _all(self) -> list[Job[Any]]:
        return [*self._running, *(job for jobs in self._waiting.values() for job in jobs)]

    def _drop_cancelled(self) -> None:
        """Take cancelled jobs out of the queues; they never begin."""
        for jobs in self._waiting.values():
            for job in [job for job in jobs if job._cancelled.is_set()]:
                jobs.remove(job)
                job._run()

    def _work(self, lane: str) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting[lane])
                if self._closed:
                    return
                job = self._waiting[lane].pop(0)
                self._running.append(job)
            job._run()
            with self._changed:
                self._running.remove(job)
