"""Configurations: plain dataclasses, from and to YAML and JSON.

A configuration is a dataclass whose fields are numbers, texts, truth values, lists or tuples of these,
mappings with text keys, ``Literal`` choices, optional ones, or other dataclasses. A field's help text is in its
metadata (``field(default=…, metadata={"help": "…"})``); the command line shows it. A renamed field lists its
earlier names there (``"formerly": ("…",)``), so that files of earlier versions load. A dataclass checks its
values in ``__post_init__`` by raising ``ConfigError`` or ``ValueError``. All problems of a file are reported
together.
"""

from __future__ import annotations

import dataclasses
import difflib
import operator
import os
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from counterview.errors import ConfigError, shown
from counterview.guard import read_file, reason

if TYPE_CHECKING:
    import yaml

T = TypeVar("T")
MAX_BYTES = 250_000
"""Size of the largest configuration file; PyYAML reads a hundred thousand bytes a second."""
MAX_VALUES = 100_000
"""Values in a configuration file at most, those that aliases repeat counted each time."""
MAX_DIGITS = 100
"""Characters of the longest integer."""
MAX_PROBLEMS = 20
"""Problems that one error lists."""


def load_config(cls: type[T], source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()) -> T:
    """Build ``cls`` from a YAML or JSON file, or from a mapping.

    Args:
        cls: a dataclass.
        source: a path, or the values themselves.
        overrides: ``key=value`` texts as on a command line, ``outer.inner=value`` for nested ones; the
            value is read as YAML.

    Raises:
        ConfigError: the file cannot be read, a key is unknown (the message names the nearest key), or a value
            has the wrong type or is refused by the dataclass. One error lists every problem.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Schedule:
    ...     steps: int
    ...     rate: float = 1e-4
    >>> load_config(Schedule, {"steps": 100}, ["rate=3e-5"])
    Schedule(steps=100, rate=3e-05)
    >>> load_config(Schedule, {"step": 100, "rate": "fast"})
    Traceback (most recent call last):
    counterview.errors.ConfigError: 3 problems: unknown key 'step' (did you mean 'steps'?); rate is 'fast', \
expected a number; steps is missing
    """
    path = None if isinstance(source, Mapping) else Path(source)
    values = dict(source) if isinstance(source, Mapping) else read_yaml(source)
    for text in overrides:
        set_value(values, text)
    problems: list[str] = []
    result = _build(cls, values, "", problems)
    if problems:
        number = f"{len(problems)} problems: " if len(problems) > 1 else ""
        raise ConfigError(number + joined(problems), path=path)
    return typing.cast(T, result)


def joined(problems: Sequence[str]) -> str:
    """Problems in one line, the first :data:`MAX_PROBLEMS` of them."""
    rest = len(problems) - MAX_PROBLEMS
    return "; ".join(problems[:MAX_PROBLEMS]) + (f"; and {rest} more" if rest > 0 else "")


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML (or JSON) file that holds one mapping, with PyYAML's safe loader.

    Raises:
        ConfigError: the file is missing, too large, not YAML, or does not hold a mapping.
    """
    path = Path(path)
    data = read_file(path, ConfigError, max_bytes=MAX_BYTES)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError("is not text in UTF-8", path=path) from None
    values = _parse_yaml(text, path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError("is not a configuration", path=path, found=type(values).__name__, expected="keys and values")
    return values


def _parse_yaml(text: str, path: Path | None = None) -> Any:
    """The value of a YAML text. Aliases that repeat or contain each other are counted before they are built."""
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _node_count(node, {}, path) > MAX_VALUES:
                raise ConfigError(
                    "holds too many values", path=path, expected=f"at most {MAX_VALUES}, aliases included"
                )
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError("is not YAML", path=path, found=where + (error.problem or reason(error))[:120]) from None
    except ConfigError:
        raise
    except Exception as error:  # tags with text that they cannot hold, numbers of a million digits, deep nesting
        raise ConfigError("is not YAML", path=path, found=f"{type(error).__name__}: {reason(error)}") from None


def _node_count(node: yaml.Node, counts: dict[int, int], path: Path | None) -> int:
    """Values below a node if every alias is written out.

    Args:
        node: of a graph that PyYAML composed, in which an alias is the node itself.
        counts: those of nodes that were seen; 0 while they are being counted.
        path: the file, for the message.

    Raises:
        ConfigError: a node contains itself, or is an integer that Python may refuse to print.
    """
    import yaml

    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:int" and len(node.value) > MAX_DIGITS:
        raise ConfigError("an integer is too long", path=path, expected=f"at most {MAX_DIGITS} digits")
    known = counts.get(id(node))
    if known == 0:
        raise ConfigError("an alias contains itself", path=path)
    if known is None:
        counts[id(node)] = 0
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        known = counts[id(node)] = 1 + sum(_node_count(child, counts, path) for child in children)
    return known


def to_dict(config: Any) -> dict[str, Any]:
    """The values of a configuration as plain dicts, lists and scalars, in field order."""
    return typing.cast(dict[str, Any], _plain(config))


def dump_yaml(config: Any) -> str:
    """The values of a configuration as YAML text; :func:`load_config` reads it back to an equal object."""
    import yaml

    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def field_help(cls: type) -> dict[str, str]:
    """Help text of every field by its name; nested ones are named ``outer.inner``."""
    lines: dict[str, str] = {}
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        lines[item.name] = item.metadata.get("help", "")
        inner = hints[item.name]
        if dataclasses.is_dataclass(inner):
            lines |= {f"{item.name}.{key}": text for key, text in field_help(typing.cast(type, inner)).items()}
    return lines


def out_of_range(
    config: Any,
    *names: str,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> list[str]:
    """Check numbers of a configuration against bounds, for its ``__post_init__``.

    Args:
        config: the configuration.
        names: fields to check. ``None`` is within every range, NaN out of every range.
        at_least: lower bound, included.
        above: lower bound, excluded.
        at_most: upper bound, included.
        below: upper bound, excluded.

    Returns:
        one line for each field out of range.
    """
    bounds = (
        (at_least, operator.ge, "{} or more"),
        (above, operator.gt, "above {}"),
        (at_most, operator.le, "up to {}"),
        (below, operator.lt, "below {}"),
    )
    expected = " and ".join(text.format(bound) for bound, _, text in bounds if bound is not None)
    return [
        f"{name} is {shown(value)}, expected {expected}"
        for name in names
        if (value := getattr(config, name)) is not None
        and not all(holds(value, bound) for bound, holds, _ in bounds if bound is not None)
    ]


def nearest(name: str, choices: Sequence[str]) -> str:
    """A phrase for error messages that suggests the nearest of ``choices``, or lists them all.

    >>> nearest("exo2ergo", ["ego2exo", "exo2ego"])
    "did you mean 'exo2ego'?"
    """
    close = difflib.get_close_matches(str(name)[:200], choices, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(sorted(choices))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def set_value(values: dict[str, Any], text: str) -> None:
    """Lay one override ``key=value`` over nested values, in place; see :func:`load_config`.

    Raises:
        ConfigError: not of that form, a value that is not YAML, or a key below a value that is no group.
    """
    key, separator, raw = text.partition("=")
    if not separator or not key:
        raise ConfigError("an override is key=value", found=repr(text))
    try:
        value = _parse_yaml(raw)
    except ConfigError:
        raise ConfigError(f"the value of {key} is not YAML", found=shown(raw)) from None
    *outer, last = key.split(".")
    group: Any = values
    for name in outer:
        group = group.setdefault(name, {})
        if not isinstance(group, dict):
            raise ConfigError(f"{key} cannot be set", found=f"{name} is not a group of values")
    group[last] = value


def _build(cls: type, values: Mapping[str, Any], prefix: str, problems: list[str]) -> Any:
    before = len(problems)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    renamed = {old: f.name for f in fields.values() for old in f.metadata.get("formerly", ())}
    arguments = {}
    for name, value in values.items():
        if len(problems) > 2 * MAX_PROBLEMS:
            return None  # enough to report
        key = renamed.get(name, name)
        if key != name and key in values:
            problems.append(f"{prefix}{name} is the earlier name of {prefix}{key}, which is given too")
            continue
        if key not in fields:
            text = _key_text(key)
            problems.append(f"unknown key {shown(prefix + text)} ({nearest(text, list(fields))})")
            continue
        arguments[key] = _convert(hints[key], value, f"{prefix}{key}", problems)
    for name, item in fields.items():
        no_default = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if no_default and name not in values and not any(old in values for old in item.metadata.get("formerly", ())):
            problems.append(f"{prefix}{name} is missing")
    if len(problems) > before:
        return None
    try:
        return cls(**arguments)
    except ConfigError as error:
        problems.append(f"{prefix.rstrip('.')}: {error}" if prefix else str(error))
    except Exception as error:  # a check that did not expect such a value
        problems.append(f"{prefix.rstrip('.') or cls.__name__}: {reason(error)}")
    return None


def _convert(hint: Any, value: Any, name: str, problems: list[str]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        attempts: list[list[str]] = []
        for option in (a for a in arguments if a is not type(None)):
            trial: list[str] = []
            result = _convert(option, value, name, trial)
            if not trial:
                return result
            attempts.append(trial)
        shortest: list[str] = min(attempts, key=len)
        problems.extend(shortest)
        return None
    if origin is typing.Literal:
        if any(value == a and type(value) is type(a) for a in arguments):
            return value
        choices = [str(a) for a in arguments]
        text = value if isinstance(value, str) else shown(value)
        problems.append(f"{name} is {shown(value)} ({nearest(text, choices)}; choices: {', '.join(choices)})")
        return None
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return _build(typing.cast(type, hint), value, f"{name}.", problems)
        return _mismatch(name, value, "a group of keys and values", problems)
    if origin in (list, tuple, Sequence) or hint in (list, tuple):
        if not isinstance(value, (list, tuple)):
            return _mismatch(name, value, "a list", problems)
        if origin is tuple and arguments and arguments[-1] is not Ellipsis:
            if len(value) != len(arguments):
                return _mismatch(name, value, f"{len(arguments)} values", problems)
            return tuple(
                _convert(a, v, f"{name}[{i}]", problems) for i, (a, v) in enumerate(zip(arguments, value, strict=True))
            )
        inner = arguments[0] if arguments else Any
        items = [_convert(inner, v, f"{name}[{i}]", problems) for i, v in enumerate(value)]
        return tuple(items) if origin is tuple or hint is tuple else items
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            return _mismatch(name, value, "keys and values", problems)
        inner = arguments[1] if arguments else Any
        return {_key_text(k): _convert(inner, v, f"{name}.{_key_text(k)[:120]}", problems) for k, v in value.items()}
    if hint is bool:
        return value if isinstance(value, bool) else _mismatch(name, value, "true or false", problems)
    if hint is int:
        return (
            value
            if isinstance(value, int) and not isinstance(value, bool)
            else _mismatch(name, value, "an integer", problems)
        )
    if hint is float:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):  # YAML 1.1 reads 1e-5 as text
            try:
                return float(value)
            except (ValueError, OverflowError):
                pass
        return _mismatch(name, value, "a number", problems)
    if hint is str:
        return value if isinstance(value, str) else _mismatch(name, value, "text", problems)
    if isinstance(hint, type) and issubclass(hint, os.PathLike):
        return Path(value) if isinstance(value, (str, os.PathLike)) else _mismatch(name, value, "a path", problems)
    return _mismatch(name, value, f"a {hint}", problems)


def _key_text(key: Any) -> str:
    return shown(key) if isinstance(key, int) else str(key)


def _mismatch(name: str, value: Any, expected: str, problems: list[str]) -> None:
    problems.append(f"{name} is {shown(value)}, expected {expected}")
