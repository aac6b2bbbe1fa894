"""Models that a process keeps from one run of a command to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_MODELS: list[dict[tuple[Any, ...], Any]] = []


def keep() -> None:
    """Keep models in this process from now on."""
    _MODELS[:] = [{}]


def load_once(load: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """A model, loaded, or kept from an earlier run with the same arguments.

    Args:
        load: loads it.
        arguments: of ``load``.
        options: of ``load``.
    """
    if not _MODELS:
        return load(*arguments, **options)
    key = (arguments, tuple(sorted(options.items())))
    if key not in _MODELS[0]:
        _MODELS[0].clear()  # one at a time: memory
        _MODELS[0][key] = load(*arguments, **options)
    return _MODELS[0][key]
