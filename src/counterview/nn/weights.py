"""Weights by name: files of tensors, and checks against a model.

Nothing is ever unpickled beyond plain tensors: safetensors, or ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from counterview.errors import CheckpointError, shown
from counterview.guard import library_errors, read_file
from counterview.media.files import atomic_write
from counterview.nn.torch_file import check_torch_file

_WRAPPERS = ("model_state_dict", "state_dict", "model")
_SHOWN = 12
_FILLS = {Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_, Tensor.random_, Tensor.erfinv_, Tensor.clamp_}
"""Methods that fill a tensor with random values, or turn such into those of another distribution; shapes stay."""


def decode_tensors(data: bytes, path: str | os.PathLike[str] | None = None) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file.

    Raises:
        CheckpointError: damaged.
    """
    with library_errors(CheckpointError, "is not a readable file of weights", path=path):
        return load_bytes(data)


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: missing or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError("the weights are missing", path=path, expected=path.name)
    return decode_tensors(read_file(path, CheckpointError), path)


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, whole or not at all. Tied weights are written under each of their names."""
    pointers: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        pointer = value.untyped_storage().data_ptr()
        separate[name] = value.clone() if pointer in pointers and value.numel() else value
        pointers.add(pointer)
    with atomic_write(path) as handle:
        handle.write(save(separate, metadata={"format": "pt"}))


def read_released(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state dict in a file that others released, ``.safetensors`` or torch's, without running code from it.

    A dictionary that holds it under ``model_state_dict``, ``state_dict`` or ``model`` is unwrapped.

    Raises:
        CheckpointError: missing, damaged, or holding more than tensors and plain values.
    """
    path = Path(path)
    if path.suffix == ".safetensors" and path.is_file():
        return dict(read_tensors(path))
    content = load_torch_file(path)
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError("holds no state dict", path=path, found=type(content).__name__)
    return {name if isinstance(name, str) else shown(name): value for name, value in content.items()}


def load_torch_file(path: str | os.PathLike[str]) -> Any:
    """What ``torch.save`` wrote, on the CPU, without running code from it.

    Raises:
        CheckpointError: missing, damaged, or holding more than tensors and plain values.
    """
    path = Path(path)
    check_torch_file(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torch\b")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader runs over the end of its lists; its texts advise to trust the file
        raise CheckpointError(
            "cannot be read as plain tensors",
            path=path,
            found=type(error).__name__,
            fix="Save the state dict alone (torch.save(model.state_dict(), ...)), or as safetensors.",
        ) from error


def load_strictly(model: nn.Module, state: Mapping[str, Any], path: str | os.PathLike[str] | None = None) -> None:
    """Load weights of exactly the model's names and shapes.

    Raises:
        CheckpointError: names every weight that is missing, unknown, of another shape, not a tensor, or not finite.
    """
    check_state(model, state, path)
    with library_errors(CheckpointError, "the weights cannot be used", path=path):
        model.load_state_dict(dict(state), strict=True)


def check_state(model: nn.Module, state: Mapping[str, Any], path: str | os.PathLike[str] | None = None) -> None:
    """Check that weights are exactly those of a model (which may lie on the ``meta`` device), and finite.

    Raises:
        CheckpointError: see :func:`load_strictly`.
    """
    check_architecture(model, state, path)
    check_finite(state, path)


def check_finite(state: Mapping[str, Tensor], path: str | os.PathLike[str] | None = None) -> None:
    """Check that weights hold neither NaN nor infinity.

    Args:
        state: weights by name, of any shapes.
        path: their file, for the message.

    Raises:
        CheckpointError: names every weight that does.
    """
    with library_errors(CheckpointError, "the weights cannot be used", path=path):
        not_finite = [n for n, v in state.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if not_finite:
        raise CheckpointError(f"the weights are not finite: {shortened(not_finite)}", path=path)


def check_architecture(model: nn.Module, state: Mapping[str, Any], path: str | os.PathLike[str] | None = None) -> None:
    """Check that weights have the names, shapes and kinds of a model's, whatever their values.

    Raises:
        CheckpointError: names every weight that is missing, unknown, of another shape or not a tensor.
    """
    expected = model.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in expected]
    for name, value in expected.items():
        weight = state.get(name)
        if weight is None:
            continue
        if not isinstance(weight, Tensor) or weight.layout != torch.strided or weight.is_quantized:
            problems.append(f"{name} is not a tensor")
        elif weight.shape != value.shape:
            problems.append(f"{name} is {tuple(weight.shape)}, expected {tuple(value.shape)}")
        elif value.is_floating_point() and not weight.is_floating_point():
            problems.append(f"{name} is of dtype {weight.dtype}, expected floating point")
    if problems:
        raise CheckpointError(f"the weights are of another architecture: {shortened(problems)}", path=path)


class _WithoutValues(TorchFunctionMode):
    """Leave out initial values, and make a range of its length alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS or getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        if func is torch.linspace:
            return torch.empty(args[2] if len(args) > 2 else kwargs["steps"], dtype=kwargs.get("dtype"))
        return func(*args, **kwargs)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Inside it, modules are built on the meta device: shapes that take no memory, and no initial values.

    There, torch computes random values and ranges by its references in Python, for which it imports its compiler and
    SymPy: a second and a half where only shapes are asked for.

    >>> with shapes_only():
    ...     layer = nn.Linear(3, 2)
    >>> layer.weight.device.type, tuple(layer.weight.shape)
    ('meta', (2, 3))
    """
    with torch.device("meta"), _WithoutValues():
        yield


def shortened(lines: Sequence[str], limit: int = _SHOWN) -> str:
    """Lines joined by semicolons, the first ``limit`` of them.

    >>> shortened(["a is missing", "b is missing", "c is unknown"], limit=2)
    'a is missing; b is missing; and 1 more'
    """
    remainder = f"; and {len(lines) - limit} more" if len(lines) > limit else ""
    return "; ".join(line[:200] for line in lines[:limit]) + remainder


def renamed(state: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights under other names: the first of ``prefixes`` that a name begins with is replaced.

    Args:
        state: weights by name.
        prefixes: old beginnings of names, and new ones.

    >>> list(renamed({"scene.bias": torch.zeros(1), "head.bias": torch.zeros(1)}, {"scene.": "reranker."}))
    ['reranker.bias', 'head.bias']
    """

    def new_name(name: str) -> str:
        for old, new in prefixes.items():
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    return {new_name(name): value for name, value in state.items()}


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and values of all weights, in hex: the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().to("cpu").contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)};".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
