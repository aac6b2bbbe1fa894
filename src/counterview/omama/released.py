"""The authors' released weights, read strictly: every tensor of the file is used and named."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from counterview.config import nearest
from counterview.errors import CheckpointError
from counterview.nn.weights import read_released, shapes_only, shortened
from counterview.omama.config import RELEASED_GRIDS_HW, OMaMaConfig

if TYPE_CHECKING:
    from counterview.omama.model import OMaMa

_MODULES = {
    "mlp.mlp.": "head.",
    "mlp_visible.": "visibility_head.mlp.",
    "CROSS_context_attn.query.": "attention.query.",
    "CROSS_context_attn.key.": "attention.key.",
    "CROSS_context_attn.value.": "attention.value.",
    "CROSS_context_attn.project.0.": "attention.project.",
    "CROSS_context_attn.norm_input.": "attention.input_norm.",
    "CROSS_context_attn.norm_output.": "attention.output_norm.",
    "CROSS_context_attn.mlp.": "attention.mlp.",
}
_POSITIONS = {"pos_embed_Q": "query_position.weight", "pos_embed_T": "target_position.weight"}
_OURS = ("visibility_head.statistics.", "visibility_head.calibration.")


def released_names(model_class: type[OMaMa]) -> dict[str, str]:
    """The name of each released tensor, and that of the same parameter in :class:`OMaMa`."""
    with shapes_only():
        parameters = model_class(OMaMaConfig.released("ego2exo")).state_dict()
    names = dict(_POSITIONS)
    for name in parameters:
        for released_prefix, prefix in _MODULES.items():
            if name.startswith(prefix) and not name.startswith(_OURS):
                names[released_prefix + name.removeprefix(prefix)] = name
    return names


def load_released(
    model_class: type[OMaMa],
    source: str | os.PathLike[str] | Mapping[str, Tensor],
    direction: Literal["ego2exo", "exo2ego"] | None = None,
) -> OMaMa:
    """Load released weights; see :meth:`OMaMa.from_released`.

    Args:
        model_class: :class:`OMaMa`.
        source: the file, or its state dict. A leading ``module.`` of every name is dropped.
        direction: the one that the weights were trained for; read from their grids if not given.

    Returns:
        The model in evaluation mode, with visibility as in the released code. Its visibility network
        (1.4 of 11.8 million parameters) is loaded and, as in the released code, not used.

    Raises:
        CheckpointError: tensors are missing, unknown, of another shape, not finite, or of the other direction.
    """
    path = None if isinstance(source, Mapping) else Path(source)
    tensors = dict(source) if isinstance(source, Mapping) else _tensors(read_released(source), path)
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    names = released_names(model_class)
    problems = [f"{name} is missing" for name in names if name not in tensors]
    problems += [f"{name} is unknown ({nearest(name, list(names))})" for name in tensors if name not in names]
    if problems:
        raise CheckpointError(f"is not a released O-MaMa checkpoint: {shortened(problems)}", path=path)
    config = OMaMaConfig.released(_direction(tensors, direction, path))
    with shapes_only():
        shapes = {name: tuple(value.shape) for name, value in model_class(config).state_dict().items()}
    state = {}
    for old, new in names.items():
        tensor, shape = tensors[old], shapes[new]
        expected = (1, shape[0] * shape[1], shape[2]) if old in _POSITIONS else shape
        if tuple(tensor.shape) != expected:
            problems.append(f"{old} is {tuple(tensor.shape)}, expected {expected}")
        elif not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            problems.append(f"{old} has values that are not finite")
        else:
            state[new] = tensor.detach().to(torch.float32).reshape(shape)
    if problems:
        raise CheckpointError(f"cannot be used: {shortened(problems)}", path=path)
    model = model_class(config)
    not_released = {name: value for name, value in model.state_dict().items() if name.startswith(_OURS)}
    for name, value in not_released.items():
        if name.startswith("visibility_head.statistics."):
            value = torch.zeros_like(value)  # not random: every conversion writes the same bytes
        state[name] = value
    model.load_state_dict(state, strict=True)
    return model.eval()


def _direction(tensors: Mapping[str, Tensor], requested: str | None, path: Path | None) -> Any:
    """The direction whose grids the position embeddings have."""
    expected_cells = {
        direction: {"pos_embed_Q": math.prod(query), "pos_embed_T": math.prod(target)}
        for direction, (query, target) in RELEASED_GRIDS_HW.items()
    }
    cells = {name: tensors[name].shape[1] if tensors[name].ndim == 3 else None for name in _POSITIONS}
    inferred = next((direction for direction, counts in expected_cells.items() if counts == cells), None)
    if requested is not None and requested not in expected_cells:
        raise CheckpointError("no such direction", found=repr(requested), expected="ego2exo or exo2ego")
    if inferred is None:
        raise CheckpointError(
            "the grids of its position embeddings match no released model",
            path=path,
            found=f"pos_embed_Q {cells['pos_embed_Q']}, pos_embed_T {cells['pos_embed_T']} cells",
            expected="2500 and 2584 (ego2exo) or 2584 and 2500 (exo2ego)",
        )
    if requested not in (None, inferred):
        raise CheckpointError(
            "these weights were trained for the other direction",
            path=path,
            found=inferred,
            expected=requested,
            fix=f"Load them with direction={inferred!r}.",
        )
    return inferred


def _tensors(values: Mapping[str, Any], path: Path | None) -> dict[str, Tensor]:
    if not all(isinstance(value, Tensor) for value in values.values()):
        raise CheckpointError("is not a state dict", path=path, expected="tensors under names")
    return dict(values)
