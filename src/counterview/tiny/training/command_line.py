"""Options of a training program, one for each field of its settings."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["parse"]

T = TypeVar("T")


def parse(
    description: str | None, paths: dict[str, str], settings: type[T], arguments: Sequence[str] | None
) -> tuple[list[Path], T]:
    """Read a command line, and send log messages to standard error.

    Args:
        description: of the program, for ``--help``.
        paths: positional arguments by name, with their help texts.
        settings: a dataclass; each field is an option of its name, with its default and its ``help``.
        arguments: the command line; by default the process's own.

    Returns:
        the paths, and the settings.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, text in paths.items():
        parser.add_argument(name, type=Path, help=text)
    hints = typing.get_type_hints(settings)
    for item in dataclasses.fields(typing.cast(Any, settings)):
        text = item.metadata.get("help", "")
        parser.add_argument(
            f"--{item.name.replace('_', '-')}", type=_plain_type(hints[item.name]), default=item.default, help=text
        )
    values = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    positional = [values.pop(name) for name in paths]
    return positional, settings(**values)


def _plain_type(hint: Any) -> type:
    """The type of an option, without ``None``."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next(option for option in options if option is not type(None))
