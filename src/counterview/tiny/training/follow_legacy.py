"""Recipes of the first version, in which tiny-follow was an LM-EEC with further keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from counterview.lmeec.config import is_tiny_follow

_EARLIER_KEYS: dict[str, dict[str, Any]] = {
    "model": {"appearance": 0},
    "data": {"short_epochs": 0, "match_epochs": 0, "match_times": 1},
    "loss": {"match": 0.0},
}
"""Keys that ``method: lmeec`` had, with the values at which they change nothing."""


def upgrade_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a recipe of ``method: lmeec`` as the present version has them; those of others as they are.

    A recipe becomes one of ``method: tiny-follow`` if it uses what tiny-follow has beside LM-EEC: its encoders, its
    prompt, its first epochs, matching, or training from scratch. Otherwise the keys for it are left out.

    Args:
        values: of the file, which are not changed.
    """
    result = dict(values)
    if result.get("method") != "lmeec":
        return result
    groups = {name: dict(result[name]) for name in _EARLIER_KEYS if isinstance(result.get(name), Mapping)}
    if result.get("init_from") is None or is_tiny_follow(groups.get("model", {})) or _uses_earlier_keys(groups):
        return {**result, "method": "tiny-follow"}
    for name, group in groups.items():
        result[name] = {key: value for key, value in group.items() if key not in _EARLIER_KEYS[name]}
    return result


def _uses_earlier_keys(groups: Mapping[str, Mapping[str, Any]]) -> bool:
    return any(
        groups.get(name, {}).get(key, neutral) != neutral
        for name, keys in _EARLIER_KEYS.items()
        for key, neutral in keys.items()
    )
