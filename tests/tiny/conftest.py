"""The small data set and the small backbone of O-MaMa's tests."""

from tests.omama.conftest import place, task

__all__ = ["place", "task"]
