"""The state of an engine as one file: plain values and numpy arrays, without pickle."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from counterview.errors import InputError
from counterview.guard import library_errors
from counterview.media.files import atomic_write
from counterview.media.npy import open_archive

_ARRAY = "array:"
_TREE = "tree.json"


def write_state(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a state, aside and renamed.

    Args:
        path: the file.
        state: what :meth:`~counterview.tracking.base.Engine.state` gave: dictionaries with text keys, lists, text,
            numbers, ``None`` and arrays.

    Raises:
        OutputError: it cannot be written.
        InputError: a value of another kind.
    """
    arrays: list[np.ndarray] = []

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays.append(value)
            return f"{_ARRAY}{len(arrays) - 1}"
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, np.generic):
            return value.item()
        if value is None or isinstance(value, str | int | float | bool):
            return value
        raise InputError("a state holds plain values and arrays", found=type(value).__name__)

    tree = json.dumps(plain(state))
    with atomic_write(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_TREE, tree)
        for number, array in enumerate(arrays):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(f"{number}.npy", buffer.getvalue())


def read_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what :func:`write_state` wrote.

    Args:
        path: the file.

    Raises:
        InputError: missing, damaged, or not a state.
    """
    from pathlib import Path

    with open_archive(Path(path), InputError) as archive, library_errors(InputError, "is not a state", path=path):
        tree = json.loads(archive.read(_TREE))
        arrays: dict[str, np.ndarray] = {}

        def filled(value: Any) -> Any:
            if isinstance(value, str) and value.startswith(_ARRAY):
                if value not in arrays:
                    content = archive.read(f"{int(value.removeprefix(_ARRAY))}.npy")
                    arrays[value] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
                return arrays[value]
            if isinstance(value, dict):
                return {key: filled(item) for key, item in value.items()}
            return [filled(item) for item in value] if isinstance(value, list) else value

        result = filled(tree)
    if not isinstance(result, dict):
        raise InputError("is not a state", path=path, found=type(result).__name__)
    return result
