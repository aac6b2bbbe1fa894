"""A folder that transformers' ``save_pretrained`` wrote, or that somebody else made, before transformers reads it.

transformers follows what such a folder says: to another model (``adapter_config.json``), to kernels and quantisers that
are fetched, to code of its own (``auto_map``), to sizes that no file of the folder has. None of that is followed here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from counterview.errors import CheckpointError, shown
from counterview.guard import library_errors, regular_file
from counterview.media.files import read_json
from counterview.nn.checkpoint import CONFIG_NAME, MAX_CONFIG_BYTES, model_file
from counterview.nn.torch_file import check_torch_file
from counterview.nn.weights import check_finite, shapes_only

MAX_NUMBER, MAX_LAYERS, MAX_ITEMS = 1_000_000, 256, 100_000
"""Largest number of a configuration, of layers or blocks, and of values in it."""
MAX_BUFFER_VALUES = 100_000_000
"""Values in tables that a network computes and does not save, such as positions."""

_ELSEWHERE = (
    "quantization_config",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "use_kernels",
)
"""Keys with which a configuration makes transformers fetch and run something else."""

_OWN_ATTENTION = ("eager", "sdpa")
"""Implementations of attention that transformers has itself; LightGlue's configuration names one."""


def check_network_folder(folder: Path) -> dict[str, Any]:
    """Check the files of a folder, and return its configuration.

    Raises:
        CheckpointError: ``config.json`` is missing, no JSON object, too large, or asks for something that is not in the
            folder; a file is a link out of it; or the folder holds an adapter of another model.
    """
    path = model_file(folder, CONFIG_NAME)
    values = read_json(path, error=CheckpointError, max_bytes=MAX_CONFIG_BYTES)
    if not isinstance(values, dict):
        raise CheckpointError("is not a configuration", path=path, found=type(values).__name__)
    check_network_config(values, path)
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            "holds an adapter, which names another model", path=folder, fix="Merge it into its model first."
        )
    for file in folder.iterdir():
        if file.name.endswith((".safetensors", ".json", ".bin")):
            regular_file(model_file(folder, file.name), CheckpointError)
        if file.suffix == ".bin":
            check_torch_file(file)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = read_json(index, error=CheckpointError, max_bytes=100 * MAX_CONFIG_BYTES)
        files = content.get("weight_map") if isinstance(content, dict) else None
        names = set(map(str, files.values())) if isinstance(files, dict) else {""}
        if any(Path(name).name != name or not (folder / name).is_file() for name in names):
            raise CheckpointError("names files that are not in its folder", path=index)
    return values


def check_network_config(values: Mapping[str, Any], path: Path | str) -> None:
    """Check that a configuration of transformers stays within bounds, and asks for nothing from elsewhere.

    Args:
        values: of ``config.json``.
        path: where they are from, for messages.

    Raises:
        CheckpointError: it does not.
    """
    waiting: list[tuple[str, Any]] = list(values.items())
    for number, (key, value) in enumerate(_each(waiting)):
        if key in _ELSEWHERE and value and value not in _OWN_ATTENTION:
            raise CheckpointError(f"asks for {key}, which is not in its folder", path=path, found=shown(value, 60))
        if number > MAX_ITEMS:
            raise CheckpointError("holds too many values", path=path, expected=f"at most {MAX_ITEMS}")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            most = MAX_LAYERS if any(word in key for word in ("layers", "blocks", "depth")) else MAX_NUMBER
            # Ids of tokens that a family does not have are -1; infinity is the bound of values that are not clipped.
            if abs(value) > most and abs(value) != float("inf"):
                raise CheckpointError(f"{shown(key)} is too large", path=path, found=shown(value), expected=most)


def _each(waiting: list[tuple[str, Any]]) -> Any:
    """Keys and values of a configuration, those of its groups and lists as well."""
    while waiting:
        key, value = waiting.pop()
        yield str(key), value
        if isinstance(value, Mapping):
            waiting.extend(value.items())
        elif isinstance(value, (list, tuple)):
            waiting.extend((key, item) for item in value)


def check_network_size(cls: Any, config: Any, folder: Path) -> None:
    """Check that a network has no more weights than its folder's files hold, before memory is asked for.

    Args:
        cls: the class of the network.
        config: its configuration.
        folder: with ``*.safetensors``.

    Raises:
        CheckpointError: it has more, or cannot be built.
    """
    with library_errors(CheckpointError, "the network cannot be built", path=folder / CONFIG_NAME):
        stored = 0
        for file in folder.glob("*.safetensors"):
            with (
                library_errors(CheckpointError, "the weights cannot be read", path=file),
                safe_open(file, framework="pt") as handle,
            ):
                names = list(handle.keys())
                stored += sum(math.prod(handle.get_slice(name).get_shape()) for name in names)
        with shapes_only():  # takes no memory, whatever the configuration says
            network: nn.Module = cls(config)
        needed = sum(parameter.numel() for parameter in network.parameters())
        computed = sum(buffer.numel() for buffer in network.buffers())
    if needed > stored + MAX_NUMBER or computed > MAX_BUFFER_VALUES + stored:
        raise CheckpointError(
            "the configuration is of a larger network than the weights", path=folder / CONFIG_NAME,
            found=f"{max(needed, computed)} values", expected=f"about {stored}",
        )  # fmt: skip


def check_network_weights(network: nn.Module, folder: Path) -> None:
    """Check that the weights of a loaded network are finite.

    Args:
        network: loaded from ``folder``.
        folder: with its files.

    Raises:
        CheckpointError: names the file and every weight that is not.
    """
    files = sorted(folder.glob("*.safetensors"))
    check_finite(dict(network.named_parameters()), files[0] if len(files) == 1 else folder)
