"""Names of models and their sources. The names are the same in Python and in all commands.

=======================  =======================================================================================
``knn``                  nearest neighbour, no weights
``base``                 nearest neighbour on DINOv2-B features with SAM 2.1 proposals, both from the Hub
``geometric[:MATCHER]``  matched points carry the mask over (:func:`counterview.baselines.geometric.config.parse_name`)
``tiny``, ``tiny-…``     a bundled model (:mod:`counterview.nn.bundled`)
a folder                 a trained model, or the folder of a training run
a recipe                 its file, or its name below ``recipes/``, for example ``omama/main-ego2exo``: the model in
                         ``runs/NAME/model``, where training puts it. A recipe of nearest neighbour needs no training
``owner/name``           a repository on the Hub
=======================  =======================================================================================

They are tried in this order. A folder that has the name of a bundled model is written ``./tiny``.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from counterview.baselines.geometric.config import NAMES, is_geometric, parse_name
from counterview.config import nearest, read_yaml, set_value
from counterview.errors import CheckpointError, ConfigError, PathError, shown
from counterview.guard import is_folder, library_errors
from counterview.media.files import safe_join
from counterview.nn import bundled

Method = Literal["knn", "geometric", "omama", "tiny-match", "lmeec", "tiny-follow"]
"""Methods, as ``config.json`` of a model names them; those of :data:`WITHOUT_CONFIG` have no ``config.json``."""
WITHOUT_CONFIG = ("knn", "geometric")
"""Methods without a model of ours."""
TRACKERS = ("lmeec", "tiny-follow")
"""Methods that draw masks. The others choose among proposals."""

BASE = {"features": "dinov2-base-reg", "proposals": "sam2"}
"""Features and proposals of ``base``."""
RUNS = Path("runs")
"""Default folder of the runs of ``counterview train``."""
WITHOUT_NETWORK = "`--model knn`, bundled models and folders work without a network."


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        name: as the user wrote it; the full name of a bundled model.
        method: the method.
        folder: the folder of the weights; ``None`` if the method has no weights.
        options: what else the name implies: features and proposals, or for ``geometric`` matcher, select and weights.
        settings: the ``model`` part of a recipe that needs no training.
        overrides: ``key=value`` texts that are laid over the settings of a trained LM-EEC.
    """

    name: str
    method: Method
    folder: Path | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] | None = None
    overrides: tuple[str, ...] = ()


def resolve(model: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Source:
    """Find the source of a model by its name; the docstring of this module lists the names.

    No weights are loaded; the repository of a Hub id is fetched.

    Args:
        model: the name.
        overrides: ``model.KEY=VALUE`` texts, as ``counterview train`` takes them: laid over a recipe that needs no
            training, or over the settings of a trained LM-EEC as far as its weights allow.

    Raises:
        ConfigError: an unknown name (the error names the nearest one), or a model that overrides cannot change.
        CheckpointError: a folder without a model, a damaged bundled file, or a recipe that was not trained.
        WeightsError: a bundled model that is not part of this installation, or a repository that cannot be fetched.

    >>> source = resolve("base")
    >>> source.method, source.options["features"], source.options["proposals"]
    ('knn', 'dinov2-base-reg', 'sam2')
    >>> resolve("bse")
    Traceback (most recent call last):
    counterview.errors.ConfigError: there is no model 'bse'; ... Did you mean 'base'?
    """
    if not isinstance(model, str | os.PathLike) or not os.fspath(model):
        raise ConfigError(
            "a model is given by its name",
            found=repr(model) if isinstance(model, str) else type(model).__name__,
            expected="knn, base, geometric, tiny, the folder of a trained model, a recipe, or owner/name on the Hub",
        )
    name = os.fspath(model)
    if overrides:
        return _changed(name, overrides)
    if name == "knn":
        return Source(name, "knn")
    if name == "base":
        return Source(name, "knn", options=BASE)
    if is_geometric(name):
        return Source(name, "geometric", options=vars(parse_name(name)))
    if name in bundled.BUNDLED or name in bundled.ALIASES:
        folder = bundled.bundled_folder(name)
        return Source(bundled.ALIASES.get(name, name), method_of(folder), folder)
    path = Path(name)
    if is_folder(path):
        return _folder(name, path)
    recipe = find_recipe(name)
    if recipe is not None:
        return _trained(name, recipe)
    if path.suffix in (".yaml", ".yml"):
        raise ConfigError("no such recipe", path=name, fix=_nearest_recipe(name))
    if path.is_file():  # never asked for on the Hub, whatever its name
        raise ConfigError(
            "is a file, not a model", path=name, found=_kind_of_file(path),
            expected="the folder of a trained model, with config.json", fix=_advice_on_file(path),
        )  # fmt: skip
    if name.count("/") == 1 and not path.is_absolute() and not name.startswith((".", "~")):
        from counterview.hub import fetch_folder

        fetched = fetch_folder(name, ("config.json", "*.safetensors", "README.md"), WITHOUT_NETWORK)
        return Source(name, method_of(fetched), fetched)
    names = ["knn", "base", *NAMES, *bundled.ALIASES, *bundled.BUNDLED]
    raise ConfigError(
        f"there is no model {shown(name)}",
        expected="knn, base, geometric, tiny, the folder of a trained model, a recipe, or owner/name on the Hub",
        fix=nearest(name, names).capitalize(),
    )


_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
_KINDS = {
    "a video": (".mp4", ".mov", ".mkv", ".webm", ".avi"),
    "an image": (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"),
    "weights": _WEIGHTS,
    "JSON": (".json", ".jsonl"),
}


def _kind_of_file(path: Path) -> str:
    """What a file is by its ending, in words."""
    return next((kind for kind, endings in _KINDS.items() if path.suffix.lower() in endings), "another file")


def _advice_on_file(path: Path) -> str:
    if path.suffix.lower() not in _WEIGHTS:
        return "Images and videos are arguments of their own."
    if (path.parent / "config.json").is_file():
        return f"Give its folder, {path.parent}."
    return "Released weights become a model by `counterview convert`."


def _changed(name: str, overrides: Sequence[str]) -> Source:
    """The source of a name with overrides of its settings."""
    for text in overrides:
        if not text.startswith("model.") or "=" not in text:
            raise ConfigError("an override of a model is model.KEY=VALUE", found=repr(text))
    recipe = None if Path(name).is_dir() else find_recipe(name)
    if recipe is not None:
        source = _trained(name, recipe, overrides)
        if source.settings is not None:
            return source
    else:
        source = resolve(name)
    if source.method not in TRACKERS or source.folder is None:
        raise ConfigError(
            f"the settings of {name} cannot be changed", found=" ".join(overrides),
            expected="a recipe that needs no training, or a trained LM-EEC",
        )  # fmt: skip
    return replace(source, overrides=tuple(text.removeprefix("model.") for text in overrides))


def method_of(folder: str | os.PathLike[str]) -> Method:
    """The method of the model in a checkpoint folder, written by this or an earlier version.

    Raises:
        CheckpointError: not a checkpoint, or a method that this version does not have.
    """
    from counterview.nn.checkpoint import read_header
    from counterview.tiny.legacy import current_header

    header = read_header(folder)
    with library_errors(CheckpointError, "has a configuration that cannot be read", path=header.path):
        header = current_header(header)
    if header.method not in get_args(Method) or header.method in WITHOUT_CONFIG:
        expected = ", ".join(name for name in get_args(Method) if name not in WITHOUT_CONFIG)
        raise CheckpointError("is of an unknown method", path=header.path, found=header.method, expected=expected)
    return cast(Method, header.method)


def _folder(name: str, path: Path) -> Source:
    if not (path / "config.json").is_file() and (path / "model" / "config.json").is_file():
        path = path / "model"  # the folder of a training run
    return Source(name, method_of(path), path)


# ---------------------------------------------------------------------------------------------------- recipes


def recipes_root() -> Path | None:
    """The folder of recipes: in the working directory, the source tree or the package; ``None`` if there is none."""
    return next(iter(_recipe_folders()), None)


def _recipe_folders() -> list[Path]:
    """All folders of recipes, the nearest first."""
    package = Path(__file__).resolve().parents[1]
    return [
        folder
        for folder in (Path("recipes"), package.parents[1] / "recipes", package / "recipes")
        if any((folder / kind).is_dir() for kind in ("omama", "lmeec", "tabletop"))
    ]


def find_recipe(name: str) -> Path | None:
    """The file of a recipe, by its path or by its name below the folder of recipes; ``None`` if it does not exist."""
    path = Path(name)
    if len(name) > 4096 or "\0" in name:
        return None
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    if path.is_absolute():
        return None
    for root in _recipe_folders():
        try:
            file = safe_join(root, path.as_posix().removesuffix(".yaml") + ".yaml")
        except PathError:
            return None
        if file.is_file():
            return file
    return None


def recipe_file(name: str | os.PathLike[str]) -> Path:
    """The file of a recipe that must exist, by its path or its name; see :func:`find_recipe`.

    Raises:
        ConfigError: there is none; the error names the nearest one.
    """
    found = find_recipe(os.fspath(name))
    if found is None and Path(name).is_file():  # a recipe is YAML whatever its ending
        return Path(name)
    if found is None:
        is_path = Path(name).suffix in (".yaml", ".yml")
        problem = "is a folder" if Path(name).is_dir() else "no such file" if is_path else "no such recipe"
        raise ConfigError(problem, path=name, expected="a recipe", fix=_nearest_recipe(os.fspath(name)))
    return found


def _nearest_recipe(name: str) -> str:
    root = recipes_root()
    names = (
        [] if root is None else [p.relative_to(root).with_suffix("").as_posix() for p in sorted(root.rglob("*.yaml"))]
    )
    return nearest(Path(name).with_suffix("").as_posix(), names).capitalize() if names else "Give the recipe's path."


def run_folder(recipe: Path) -> Path:
    """Default folder of the run of ``counterview train RECIPE``.

    >>> run_folder(Path("recipes/omama/main-ego2exo.yaml")).as_posix()
    'runs/main-ego2exo'
    """
    return RUNS / recipe.stem


def _trained(name: str, recipe: Path, overrides: Sequence[str] = ()) -> Source:
    from counterview.tiny.legacy import upgrade_recipe

    values = copy.deepcopy(upgrade_recipe(read_yaml(recipe)))
    for text in overrides:
        set_value(values, text)
    model = values.get("model")
    if isinstance(model, dict):
        head = model.get("omama", model)
        if isinstance(head, dict) and head.get("matching_head") is False and model.get("network") is None:
            return Source(name, "tiny-match" if "omama" in model else "omama", settings=model)
    run = run_folder(recipe)
    if not (run / "model" / "config.json").is_file():
        raise CheckpointError(
            f"the recipe {name} has not been trained here",
            path=run / "model",
            expected="config.json and model.safetensors",
            fix=f"Run `counterview train {recipe}`, or give the folder of its run.",
        )
    return Source(name, method_of(run / "model"), run / "model")
