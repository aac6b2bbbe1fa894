"""What is to be done, and what came of it: a manifest of tasks, and an outcome for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from counterview.errors import CounterviewError, InputError, counted, shown

Worker = Callable[[Any], Any]
"""Does one task, given its item. Doing it twice leaves the same files as doing it once."""

MakeWorker = Callable[..., Worker]
"""Makes a worker, once in each process, so that models are loaded once. Pickled by name: a function of a module."""

_LISTED = 20


@dataclass(frozen=True)
class JobTask:
    """One unit of work, such as a take or a pair of videos.

    Attributes:
        key: its name, for messages; no other task of the manifest has it.
        item: what the worker is given. Heavy data are named by path or URL, never held.
    """

    key: str
    item: Any


@dataclass(frozen=True)
class Manifest:
    """The tasks of a run, in the order of its results.

    Attributes:
        label: what is done, for messages.
        tasks: what to do.

    Raises:
        InputError: two tasks have one key.
    """

    label: str
    tasks: tuple[JobTask, ...]

    def __post_init__(self) -> None:
        keys: set[str] = set()
        for task in self.tasks:
            if task.key in keys:
                raise InputError(f"{self.label}: two tasks have the name {shown(task.key)}", expected="each name once")
            keys.add(task.key)

    @classmethod
    def of(cls, label: str, items: Sequence[Any], key: Callable[[Any], str] | None = None) -> Manifest:
        """A manifest of items.

        Args:
            label: what is done.
            items: one for each task.
            key: names an item; its position does if not given.
        """
        return cls(label, tuple(JobTask(str(n) if key is None else key(item), item) for n, item in enumerate(items)))

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[JobTask]:
        return iter(self.tasks)


@dataclass(frozen=True)
class Outcome:
    """What came of a task.

    Attributes:
        task: the task.
        value: what the worker returned; ``None`` if it failed.
        error: why the task was set aside; ``None`` if it was done.
        attempts: how often it was begun.
    """

    task: JobTask
    value: Any = None
    error: Exception | None = None
    attempts: int = 1

    def result(self) -> Any:
        """What the worker returned.

        Raises:
            Exception: the error of the task.
        """
        if self.error is not None:
            raise self.error
        return self.value


class TasksFailedError(CounterviewError):
    """Tasks that were set aside; all others are done."""


def set_aside(label: str, outcomes: Sequence[Outcome], total: int) -> TasksFailedError:
    """The error of a run in which tasks were set aside, with the list of them.

    Args:
        label: what was done.
        outcomes: of the tasks that were set aside.
        total: number of all tasks.
    """
    listed = "; ".join(f"{outcome.task.key}: {outcome.error}" for outcome in outcomes[:_LISTED])
    more = f"; and {len(outcomes) - _LISTED} more" if len(outcomes) > _LISTED else ""
    return TasksFailedError(
        f"{label}: {len(outcomes)} of {counted(total, 'task')} set aside, the others are done", found=listed + more,
        fix="Mend them and run again: what is done is not repeated.",
    )  # fmt: skip
