"""What a model's folder may name without the user's word.

``config.json`` of a model names its features and its proposer. A folder or a Hub repository may be anybody's, so it may
name parts of this package, the published networks whose names are listed here and in
:data:`counterview.features.backbone.HUB_IDS`, and files inside itself. Opening any other file, address or repository
needs the user's word: the option that names it, or ``--trust``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counterview.errors import PathError, TrustError, shown
from counterview.features.backbone import ALIASES, HUB_IDS
from counterview.media.files import safe_join

SAM2_IDS = tuple(
    f"facebook/{version}-hiera-{size}"
    for version in ("sam2.1", "sam2")
    for size in ("tiny", "small", "base-plus", "large")
)
"""Repositories of SAM 2 that a model may name."""
FASTSAM_FILES = ("FastSAM-x.pt", "FastSAM-s.pt")
"""Weights of FastSAM that a model may name. They are pickles, which need the user's word of their own."""

_SHIPPED_FEATURES = {"classical", "tiny", *ALIASES, *HUB_IDS, *HUB_IDS.values()}
_ARGUMENTS = {"sam2": ("model", SAM2_IDS), "fastsam": ("weights", FASTSAM_FILES), "folder": ("path", ())}
"""What follows the colon of a proposer: the setting of that name, and the values that are shipped."""


@dataclass(frozen=True)
class ModelParts:
    """Features and proposer of a model, as :func:`counterview.features.load_backbone` and ``load_proposer`` take them.

    Attributes:
        features: name of the features.
        features_settings: their settings.
        proposer: name of the proposer.
        proposer_settings: its settings.
    """

    features: str
    features_settings: Mapping[str, Any]
    proposer: str
    proposer_settings: Mapping[str, Any] = field(default_factory=dict)


def check_parts(
    parts: ModelParts, folder: Path, *, given: tuple[str | None, ...] = (), trust: bool = False
) -> ModelParts:
    """Check what a model's folder names, and find the files inside the folder that it means.

    Args:
        parts: as the folder's ``config.json`` has them.
        folder: of the model; relative names may lead into it.
        given: what the user named on the command line or in the call; these names are the user's word.
        trust: the user's word for all others.

    Returns:
        the same parts, with paths into the folder written out.

    Raises:
        TrustError: names what would be opened.
    """
    refused: list[str] = []
    words = {text for name in given if name is not None for text in (name, name.partition(":")[2])}

    def allowed(text: Any, shipped: object, what: str) -> Any:
        if text in shipped or (isinstance(text, str) and text in words):  # type: ignore[operator]
            return text
        inside = _inside(folder, text)
        if inside is None and not trust:
            refused.append(f"{what} {shown(text, 200)}")
        return text if inside is None else str(inside)

    features = allowed(parts.features, _SHIPPED_FEATURES, "features")
    features_settings = dict(parts.features_settings)
    if features_settings.get("revision") is not None and not trust:
        refused.append(f"the revision {shown(features_settings['revision'], 80)} of features {shown(features, 80)}")
    proposer, settings = parts.proposer, dict(parts.proposer_settings)
    kind, colon, argument = proposer.partition(":")
    if kind in _ARGUMENTS:
        key, shipped = _ARGUMENTS[kind]
        if colon:
            proposer = f"{kind}:{allowed(argument, shipped, f'proposals {kind}:')}"
        if key in settings:
            settings[key] = allowed(settings[key], shipped, f"proposals {kind}:")
    if not trust:
        settings.pop("sha256", None)  # a hash vouches for weights only where the user wrote it
    if refused:
        raise TrustError(
            "the model names what is not inside its folder", path=folder, found="; ".join(refused),
            fix="If it is yours, or you trust it: add --trust (in Python, trust=True), which opens what was found, or "
            "name it yourself: --proposals folder:PATH, --features NAME.",
        )  # fmt: skip
    return ModelParts(features, features_settings, proposer, settings)


def _inside(folder: Path, text: Any) -> Path | None:
    """The file or folder inside ``folder`` that a name in its ``config.json`` means; ``None`` if there is none."""
    if not isinstance(text, str) or not text or "\0" in text:
        return None
    try:
        path = safe_join(folder, *(part for part in text.split("/") if part not in ("", ".")))
        if not text.startswith(("/", "~")) and path != folder and path.exists():
            return path
        path = Path(text)
        inside = path.is_absolute() and path.resolve().is_relative_to(folder.resolve()) and path.exists()
        return path if inside else None
    except (PathError, OSError, ValueError, RuntimeError):
        return None
