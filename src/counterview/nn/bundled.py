"""Models that are part of the package: their names, their folders, and the check of their hashes.

``assets/models/NAME/`` has ``config.json``, ``model.safetensors`` (half precision), ``README.md`` (the model card) and
``card.json`` (the values of the card); ``assets/models/hashes.json`` has the SHA-256 of every file. Maintainers add a
trained model with ``python -m tools.ship_model``.
"""

from __future__ import annotations

import importlib
from importlib.resources import files
from pathlib import Path

from counterview.errors import CheckpointError, InputError, WeightsError
from counterview.media.files import HASHES, REINSTALL, read_bundled, read_json

BUNDLED = {
    "tiny-match": "an O-MaMa head on object crops, with a geometric re-ranker of our own",
    "tiny-follow": "a small LM-EEC with an appearance prompt",
}
"""Bundled models: name to a short description. An installation may lack some of them."""

CLASSES = {
    "tiny-match": "counterview.tiny.model:TinyMatch",
    "tiny-follow": "counterview.tiny.follow:TinyFollow",
}
"""The class of each, as ``module:name``: this module stands below those classes."""

ALIASES = {"tiny": "tiny-match"}
"""Other names of bundled models."""

DEFAULT_MODEL = "tiny-match"
"""The model of ``counterview.load()``, ``match``, ``predict`` and ``demo`` if none is named."""


def default_model(features: str | None = None) -> str:
    """The model if none is named: :data:`DEFAULT_MODEL`, or nearest neighbour (``knn``) if features are chosen."""
    return DEFAULT_MODEL if features is None else "knn"


def is_bundled(source: object) -> bool:
    """Whether this is the name of a bundled model."""
    return isinstance(source, str) and (source in BUNDLED or source in ALIASES)


def model_class(name: str) -> type:
    """The class of a bundled model.

    Args:
        name: one of :data:`BUNDLED` or :data:`ALIASES`.
    """
    module, _, attribute = CLASSES[ALIASES.get(name, name)].partition(":")
    found: type = getattr(importlib.import_module(module), attribute)
    return found


def models_root() -> Path:
    """The folder of bundled models. It may not exist."""
    return Path(str(files("counterview"))) / "assets" / "models"


def read_hashes(root: Path | None = None) -> dict[str, str]:
    """The list of bundled files: ``NAME/FILE`` to SHA-256 in hex; empty if nothing is bundled.

    Raises:
        CheckpointError: the list is damaged.
    """
    path = (models_root() if root is None else root) / HASHES
    if not path.is_file():
        return {}
    try:
        values = read_json(path)
    except InputError as error:
        raise CheckpointError(
            f"the list of bundled files is damaged: {error.problem}", path=path, fix=REINSTALL
        ) from None
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise CheckpointError("the list of bundled files is damaged", path=path, fix=REINSTALL)
    return values


def available() -> tuple[str, ...]:
    """Names of the models in the list of bundled files. Reads that list and nothing else."""
    try:
        listed = {name.partition("/")[0] for name in read_hashes()}
    except CheckpointError:
        return ()
    return tuple(name for name in BUNDLED if name in listed)


def bundled_folder(name: str) -> Path:
    """The folder of a bundled model, after a check of every file against its hash.

    Args:
        name: one of :data:`BUNDLED` or :data:`ALIASES`.

    Raises:
        WeightsError: the model is not part of this installation.
        CheckpointError: a file is missing or damaged.
    """
    full_name = ALIASES.get(name, name)
    root = models_root()
    listed = {path: digest for path, digest in read_hashes(root).items() if path.partition("/")[0] == full_name}
    if not listed:
        raise WeightsError(
            f"the model {full_name!r} is not part of this installation",
            found=", ".join(available()) or "no bundled model",
            fix="`--model knn` needs no weights; or give the folder of a model that you trained.",
        )
    verify(root, listed)
    return root / full_name


def verify(root: Path, listed: dict[str, str]) -> None:
    """Check files below ``root`` against their SHA-256.

    Args:
        root: the folder of bundled models.
        listed: ``NAME/FILE`` to SHA-256 in hex.

    Raises:
        CheckpointError: a file is missing or damaged; the first such file is named.
    """
    for name in sorted(listed):
        read_bundled(root, name)
