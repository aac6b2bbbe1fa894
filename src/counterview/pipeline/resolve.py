"""From the name of a model to the thing that predicts: a shipped name, a folder, or a repository on the Hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from counterview.errors import CheckpointError, ConfigError
from counterview.media.files import read_json

if TYPE_CHECKING:
    from counterview.pipeline.predict import TakePredictor


def method_of(folder: str | os.PathLike[str]) -> str:
    """Which method a checkpoint folder holds: ``omama`` or ``lmeec``.

    Raises:
        CheckpointError: it holds none.
        InputError: its ``config.json`` is missing or no JSON.
    """
    path = Path(folder) / "config.json"
    values = read_json(path)
    if isinstance(values, dict):
        if values.get("method") == "omama":
            return "omama"
        if "lmeec" in str(values.get("format", "")) or values.get("method") == "lmeec":
            return "lmeec"
    raise CheckpointError("is no checkpoint of a method that is known", path=path, expected="omama or lmeec")


def load_take_predictor(
    model: str | os.PathLike[str],
    *,
    proposals: str | None = None,
    features: str | None = None,
    device: str = "auto",
    cache: str | os.PathLike[str] | None = None,
) -> TakePredictor:
    """What predicts whole takes, by name. Arguments and errors as :func:`counterview.load`.

    An LM-EEC folder makes a :class:`~counterview.pipeline.clips.ClipPredictor`, everything else a
    :class:`~counterview.pipeline.predict.FramePredictor`.
    """
    from counterview.devices import resolve_device
    from counterview.pipeline.clips import ClipPredictor
    from counterview.pipeline.predict import FramePredictor
    from counterview.pipeline.predictor import load

    if Path(model).is_dir() and method_of(model) == "lmeec":
        from counterview.lmeec.model import LMEEC

        given = {"proposals": proposals, "features": features, "cache": cache}
        surplus = [f"--{name}" for name, value in given.items() if value is not None]
        if surplus:
            raise ConfigError(
                f"LM-EEC takes no {' and no '.join(surplus)}",
                fix="It has no proposals and features of its own to choose.",
            )
        return ClipPredictor(LMEEC.from_pretrained(model).to(resolve_device(device)))
    return FramePredictor(load(model, proposals=proposals, features=features, device=device, cache=cache))
