"""From the name of a model to the thing that predicts: the same names in Python and in every command.

=======================  =======================================================================================
``knn``                  nearest neighbour, no weights
``base``                 nearest neighbour on DINOv2-B features with SAM 2.1 proposals, both from the Hub
``tiny``, ``tiny-…``     a model that comes with the package (:mod:`counterview.inference.bundled`)
a folder                 a trained model, or the run that left one
a recipe                 its file, or its name below ``recipes/`` such as ``omama/main-ego2exo``: the folder
                         ``runs/NAME/model`` that it was trained to. A recipe of nearest neighbour needs no training
``owner/name``           a repository on the Hub
=======================  =======================================================================================

They are tried in this order; a folder that is called like a shipped model is given as ``./tiny``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from counterview.config import nearest, read_yaml
from counterview.errors import CheckpointError, ConfigError, PathError
from counterview.inference import bundled as shipped
from counterview.media.files import read_json, safe_join

if TYPE_CHECKING:
    from counterview.inference.dataset import TakePredictor

Method = Literal["knn", "omama", "lmeec"]

BASE = {"features": "dinov2-base-reg", "proposals": "sam2"}
"""What ``base`` stands for: these features and proposals for nearest neighbour."""
RUNS = Path("runs")
"""Where ``counterview train`` puts runs if it is not told."""
WITHOUT_NETWORK = "Without a network `--model knn` runs, and so do shipped models and folders."


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        name: as it was asked for, or its full name for a shipped one.
        method: ``knn``, ``omama`` or ``lmeec``.
        folder: of the weights; ``None`` where there are none.
        options: features and proposals that the name stands for.
        settings: the ``model`` part of a recipe that needs no training.
    """

    name: str
    method: Method
    folder: Path | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] | None = None


def resolve(model: str | os.PathLike[str]) -> Source:
    """Find a model by name; see the module's text. Nothing is loaded; a Hub id is fetched.

    Raises:
        ConfigError: nothing of that name; the nearest known one is named.
        CheckpointError: a folder without a model, a damaged shipped file, or a recipe that was not trained.
        WeightsError: a shipped model that this installation lacks, or a repository that cannot be fetched.
    """
    name = os.fspath(model)
    if name == "knn":
        return Source(name, "knn")
    if name == "base":
        return Source(name, "knn", options=BASE)
    if name in shipped.SHIPPED or name in shipped.ALIASES:
        folder = shipped.shipped_folder(name)
        return Source(shipped.ALIASES.get(name, name), method_of(folder), folder)
    path = Path(name)
    if path.is_dir():
        return _folder(name, path)
    recipe = find_recipe(name)
    if recipe is not None:
        return _trained(name, recipe)
    if path.suffix in (".yaml", ".yml"):
        raise ConfigError("no such recipe", path=name, fix=_known_recipes(name))
    if name.count("/") == 1 and not path.is_absolute() and not name.startswith((".", "~")):
        from counterview.hub import fetch_folder

        found = fetch_folder(name, ("config.json", "*.safetensors", "README.md"), WITHOUT_NETWORK)
        return Source(name, method_of(found), found)
    known = ["knn", "base", *shipped.ALIASES, *shipped.SHIPPED]
    raise ConfigError(
        f"there is no model {name!r}",
        expected="knn, base, tiny, the folder of a trained model, a recipe, or owner/name on the Hub",
        fix=nearest(name, known).capitalize(),
    )


def method_of(folder: str | os.PathLike[str]) -> Literal["omama", "lmeec"]:
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
        if "lmeec" in str(values.get("format", "")) or values.get("method") in ("lmeec", "tiny-follow"):
            return "lmeec"
    raise CheckpointError("is no checkpoint of a method that is known", path=path, expected="omama or lmeec")


def _folder(name: str, path: Path) -> Source:
    if not (path / "config.json").is_file() and (path / "model" / "config.json").is_file():
        path = path / "model"  # what a training run leaves
    return Source(name, method_of(path), path)


# ---------------------------------------------------------------------------------------------------- recipes


def recipes_root() -> Path | None:
    """The folder of recipes: ``recipes/`` here, in the source tree, or in the installed package; ``None`` without."""
    package = Path(__file__).resolve().parents[1]
    for place in (Path("recipes"), package.parents[1] / "recipes", package / "recipes"):
        if any((place / kind).is_dir() for kind in ("omama", "lmeec", "tabletop")):
            return place
    return None


def find_recipe(name: str) -> Path | None:
    """The file of a recipe, by its path or by its name below the folder of recipes; ``None`` if there is none."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    root = recipes_root()
    if root is None or path.is_absolute():
        return None
    try:
        place = safe_join(root, path.as_posix().removesuffix(".yaml") + ".yaml")
    except PathError:
        return None
    return place if place.is_file() else None


def _known_recipes(name: str) -> str:
    root = recipes_root()
    names = (
        [] if root is None else [p.relative_to(root).with_suffix("").as_posix() for p in sorted(root.rglob("*.yaml"))]
    )
    return nearest(Path(name).with_suffix("").as_posix(), names).capitalize() if names else "Give the recipe's path."


def run_folder(recipe: Path) -> Path:
    """Where ``counterview train RECIPE`` puts its run if it is not told."""
    return RUNS / recipe.stem


def _trained(name: str, recipe: Path) -> Source:
    values = read_yaml(recipe)
    model = values.get("model")
    if values.get("method") == "omama" and isinstance(model, dict) and model.get("matching_head") is False:
        return Source(name, "omama", settings=model)
    run = run_folder(recipe)
    if not (run / "model" / "config.json").is_file():
        raise CheckpointError(
            f"the recipe {name} has not been trained here",
            path=run / "model",
            expected="config.json and model.safetensors",
            fix=f"Run `counterview train {recipe}`, or give the folder that it was trained to.",
        )
    return Source(name, method_of(run / "model"), run / "model")


# ------------------------------------------------------------------------------------------------- whole takes


def refuse_options(method: str, **given: object) -> None:
    """Raise ``ConfigError`` for options that an LM-EEC has no use for."""
    surplus = [f"--{name}" for name, value in given.items() if value is not None]
    if method == "lmeec" and surplus:
        raise ConfigError(
            f"LM-EEC takes no {' and no '.join(surplus)}", fix="It has no proposals and features of its own to choose."
        )


def load_take_predictor(
    model: str | os.PathLike[str] | None = None,
    *,
    proposals: str | None = None,
    features: str | None = None,
    device: str = "auto",
    cache: str | os.PathLike[str] | None = None,
) -> TakePredictor:
    """What predicts whole takes, by name. Arguments and errors as :func:`counterview.load`.

    An LM-EEC makes a :class:`~counterview.inference.clips.ClipPredictor`, everything else a
    :class:`~counterview.inference.dataset.FramePredictor`.
    """
    from counterview.devices import resolve_device
    from counterview.inference.clips import ClipPredictor
    from counterview.inference.dataset import FramePredictor
    from counterview.inference.predictor import load_source

    source = resolve(shipped.default_model(features) if model is None else model)
    if source.method == "lmeec" and source.folder is not None:
        from counterview.nn.checkpoint import read_header
        from counterview.tiny.follow import follow_class

        refuse_options(source.method, proposals=proposals, features=features, cache=cache)
        follower = follow_class(read_header(source.folder)).from_pretrained(source.folder)
        return ClipPredictor(follower.to(resolve_device(device)))
    return FramePredictor(load_source(source, proposals=proposals, features=features, device=device, cache=cache))
