"""Models that come with the package: their names, their folders, and the check that they are what was shipped.

``assets/models/NAME/`` holds ``config.json``, ``model.safetensors`` (half precision), ``README.md`` (the model card)
and ``card.json`` (what the card says, as values); ``assets/models/hashes.json`` holds the SHA-256 of every file.

``python -m counterview.inference.bundled add NAME FOLDER`` puts a trained model there, ``card NAME`` writes its card
anew, ``check`` verifies everything; see :mod:`tools.ship_model`.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

from counterview.errors import CheckpointError, InputError, WeightsError
from counterview.media.files import HASHES, REINSTALL, read_json, read_shipped

SHIPPED = {
    "tiny-match": "a small O-MaMa",
    "tiny-follow": "a small LM-EEC",
}
"""Names of the models that the package may hold, and what they are."""

ALIASES = {"tiny": "tiny-match"}
"""Other names for them."""

DEFAULT_MODEL = "tiny-match"
"""What ``counterview.load()``, ``match``, ``predict`` and ``demo`` take if no model is named."""


def default_model(features: str | None = None) -> str:
    """The model if none is named: :data:`DEFAULT_MODEL`, and nearest neighbour if features are chosen for it."""
    return DEFAULT_MODEL if features is None else "knn"


def models_root() -> Path:
    """The folder of shipped models. It may be absent."""
    return Path(str(files("counterview"))) / "assets" / "models"


def read_hashes(root: Path | None = None) -> dict[str, str]:
    """SHA-256 by file, as ``NAME/FILE``; empty if nothing is shipped.

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
            f"the list of shipped files is damaged: {error.problem}", path=path, fix=REINSTALL
        ) from None
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise CheckpointError("the list of shipped files is damaged", path=path, fix=REINSTALL)
    return values


def available() -> tuple[str, ...]:
    """Names of the models that this installation holds, by its list; nothing is read but that list."""
    try:
        listed = {name.partition("/")[0] for name in read_hashes()}
    except CheckpointError:
        return ()
    return tuple(name for name in SHIPPED if name in listed)


def shipped_folder(name: str) -> Path:
    """The folder of a shipped model, every file of it checked against its hash.

    Args:
        name: one of :data:`SHIPPED` or :data:`ALIASES`.

    Raises:
        WeightsError: this installation does not hold it.
        CheckpointError: a file is missing or damaged.
    """
    full = ALIASES.get(name, name)
    root = models_root()
    listed = {path: digest for path, digest in read_hashes(root).items() if path.partition("/")[0] == full}
    if not listed:
        raise WeightsError(
            f"the model {full!r} is not part of this installation",
            found=", ".join(available()) or "no shipped model",
            fix="`--model knn` needs no weights; or give the folder of a model that you trained.",
        )
    verify(root, listed)
    return root / full


def verify(root: Path, listed: dict[str, str]) -> None:
    """Check files below ``root`` against their SHA-256.

    Raises:
        CheckpointError: names the first that is missing or damaged.
    """
    for name in sorted(listed):
        read_shipped(root, name)


if __name__ == "__main__":
    from tools.ship_model import main

    sys.exit(main())
