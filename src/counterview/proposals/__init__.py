"""Mask proposals: class-agnostic candidate masks of an image, from several generators behind one protocol.

``load_proposer("graph")`` needs no weights; the weights of ``"tiny"`` come with the package; ``"sam2"`` and
``"fastsam"`` need theirs; ``"folder:PATH"`` reads masks that another tool made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from counterview.config import load_config, nearest
from counterview.errors import ConfigError, shown
from counterview.proposals.base import Proposals, Proposer
from counterview.proposals.cache import CachedProposer

__all__ = ["PROPOSERS", "CachedProposer", "Proposals", "Proposer", "load_proposer"]

PROPOSERS = ("graph", "tiny", "sam2", "fastsam", "folder")
"""The names that :func:`load_proposer` knows."""


def load_proposer(name: str, *, trust: bool = False, **settings: Any) -> Proposer:
    """Load a proposer by name.

    Args:
        name: ``"graph"``; ``"tiny"``; ``"sam2"`` or ``"sam2:MODEL"``; ``"fastsam"`` or ``"fastsam:WEIGHTS"``;
            ``"folder:PATH"``. ``MODEL`` is a Hub id or a folder with ``config.json`` and ``model.safetensors``.
        trust: read weights that are pickles, which FastSAM's are.
        settings: fields of :class:`~counterview.proposals.graph.GraphSettings`,
            :class:`~counterview.proposals.tiny.TinySettings`,
            :class:`~counterview.proposals.sam2.Sam2Settings`,
            :class:`~counterview.proposals.fastsam.FastSamSettings` or
            :class:`~counterview.proposals.folder.FolderSettings`.

    Raises:
        ConfigError: an unknown name or setting; the message names the nearest known one.
        WeightsError: the weights are not available.
        CheckpointError: weights are damaged, those that come with the package included.
        MissingExtraError: an optional package is not installed.
        ProposalError: the folder does not exist.
        TrustError: the weights are a pickle, and neither ``trust`` nor their ``sha256`` is given.

    Example:
        >>> import numpy as np
        >>> from counterview.proposals import load_proposer
        >>> image = np.full((40, 60, 3), 90, np.uint8)
        >>> image[10:30, 20:50] = (200, 60, 40)
        >>> proposals = load_proposer("graph", max_masks=1)(image)
        >>> proposals.boxes_xywh.tolist()
        [[20.0, 10.0, 30.0, 20.0]]
    """
    if not isinstance(name, str):
        raise ConfigError("a proposer is chosen by name", found=type(name).__name__, expected=", ".join(PROPOSERS))
    kind, colon, argument = name.partition(":")
    if kind not in PROPOSERS:
        raise ConfigError(f"unknown proposer {shown(kind)}", fix=nearest(kind, PROPOSERS))
    if colon and not argument:
        raise ConfigError(f"nothing follows the colon in {name!r}", expected=f"{kind}:…")
    if kind in ("graph", "tiny") and argument:
        raise ConfigError(f"the proposer {kind!r} takes no argument", found=repr(name), expected=repr(kind))
    if kind == "tiny":
        from counterview.proposals.tiny import TinyProposer, TinySettings

        return TinyProposer(load_config(TinySettings, settings))
    if kind == "graph":
        from counterview.proposals.graph import GraphProposer, GraphSettings

        return GraphProposer(load_config(GraphSettings, settings))
    if kind == "folder":
        from counterview.proposals.folder import FolderProposer, FolderSettings

        if not argument and "path" not in settings:
            raise ConfigError("the proposer 'folder' needs a folder", found=repr(name), expected="'folder:PATH'")
        return FolderProposer(load_config(FolderSettings, _with(settings, "path", argument)))
    if kind == "sam2":
        from counterview.proposals.sam2 import Sam2Proposer, Sam2Settings

        return Sam2Proposer(load_config(Sam2Settings, _with(settings, "model", argument)))
    from counterview.proposals.fastsam import FastSamProposer, FastSamSettings

    return FastSamProposer(load_config(FastSamSettings, _with(settings, "weights", argument)), trust=trust)


def _with(settings: Mapping[str, Any], key: str, argument: str) -> dict[str, Any]:
    """The settings, with what follows the colon of a name put under ``key``."""
    if not argument:
        return dict(settings)
    if key in settings and settings[key] != argument:
        raise ConfigError(f"{key} is given twice", found=f"{argument!r} and {settings[key]!r}")
    return {**settings, key: argument}
