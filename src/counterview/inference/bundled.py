"""Models that come with the package: their names, their folders, and the check of their hashes.

``assets/models/NAME/`` holds ``config.json``, ``model.safetensors`` (half precision), ``README.md`` (the model card)
and ``card.json`` (the card's values); ``assets/models/hashes.json`` holds the SHA-256 of every file. Maintainers put a
trained model there with ``python -m tools.ship_model``.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from counterview.errors import CheckpointError, InputError, WeightsError
from counterview.media.files import HASHES, REINSTALL, read_json, read_shipped

BUNDLED = {
    "tiny-match": "Counterview's own matcher: an O-MaMa head on object crops, with a geometric re-ranker",
    "tiny-follow": "a small LM-EEC with an appearance prompt",
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
    """The folder of bundled models. It may be absent."""
    return Path(str(files("counterview"))) / "assets" / "models"


def read_hashes(root: Path | None = None) -> dict[str, str]:
    """SHA-256 by file, as ``NAME/FILE``; empty if nothing is bundled.

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
    """Names of the models that this installation holds, by its list; nothing is read but that list."""
    try:
        listed = {name.partition("/")[0] for name in read_hashes()}
    except CheckpointError:
        return ()
    return tuple(name for name in BUNDLED if name in listed)


def bundled_folder(name: str) -> Path:
    """The folder of a bundled model, every file of it checked against its hash.

    Args:
        name: one of :data:`BUNDLED` or :data:`ALIASES`.

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
            found=", ".join(available()) or "no bundled model",
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
