"""Files of the first version, which kept our additions under the names of the papers' methods.

A checkpoint of ``omama`` with a residual or a scene head is a ``tiny-match`` now; one of ``lmeec`` with an appearance
prompt is a ``tiny-follow``. The same holds for recipes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from counterview.lmeec.config import is_tiny_follow
from counterview.nn.checkpoint import Header
from counterview.omama.model import settings_of_ours

_METHODS = {
    "omama": "tiny-match-head",
    "omama-end-to-end": "tiny-match-maps",
    "omama-close-ups": "tiny-match-crops",
    "omama-scene": "tiny-match-reranker",
}
"""Methods that recipes of the first version name, and the current ones."""
_SECTIONS = {"close_ups": "object_crops", "scene": "reranker"}
"""Sections of recipes of the first version, and the current ones."""
_OURS = ("residual", "residual_share", "attention_pooling", "learned_backbone", "proposal_prior", "scene")


def current_header(header: Header) -> Header:
    """The header of a checkpoint of any version, under the method that its model has now."""
    if header.version > 1:
        return header
    if header.method == "omama" and settings_of_ours(header.model):
        return header.with_model("tiny-match", nested_model(header.model))
    if header.method == "lmeec" and is_tiny_follow(header.model):
        return header.with_model("tiny-follow", header.model)
    return header


def nested_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """A flat configuration of the first version as that of :class:`counterview.tiny.TinyMatch`."""
    omama = {key: value for key, value in model.items() if key not in _OURS}
    result: dict[str, Any] = {"omama": omama}
    if model.get("learned_backbone"):
        result["network"] = dict(omama.pop("backbone_settings", None) or {})
    if model.get("residual"):
        weight = model.get("residual_share")
        result["descriptor_weight"] = "learned" if weight is None else weight
    for old, new in (("attention_pooling", "attention_downscale"), ("proposal_prior", "proposal_prior")):
        if old in model:
            result[new] = model[old]
    scene = model.get("scene")
    if isinstance(scene, Mapping) and scene.get("proposals"):
        result["reranker"] = dict(scene)
    return result


def upgrade_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a training recipe of any version as those of a current recipe."""
    values = dict(values)
    method, model = values.get("method"), values.get("model")
    if not isinstance(method, str) or method not in _METHODS or not isinstance(model, Mapping) or "omama" in model:
        return values
    if method == "omama" and not settings_of_ours(model):
        values["model"] = {key: value for key, value in model.items() if key not in _OURS}
        return values
    values["method"] = _METHODS[method]
    values["model"] = nested_model(model)
    return {_SECTIONS.get(key, key): value for key, value in values.items()}
