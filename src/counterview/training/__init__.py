"""The training engine: any method, on one core or many machines; a resumed run equals an unbroken one to the bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterview.lazy import exports

__all__ = [
    "Task",
    "TrainingConfig",
    "load_recipe",
]

if TYPE_CHECKING:
    from counterview.training.recipe import TrainingConfig, load_recipe
    from counterview.training.task import Task

__getattr__, __dir__ = exports(
    __name__,
    {
        "Task": "counterview.training.task",
        "TrainingConfig": "counterview.training.recipe",
        "load_recipe": "counterview.training.recipe",
    },
)
