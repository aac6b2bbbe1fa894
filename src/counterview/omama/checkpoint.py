"""A model as a folder: ``config.json``, ``model.safetensors``, ``README.md``; and the same on the Hub."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from counterview.config import load_config, to_dict
from counterview.errors import CheckpointError, ConfigError, InputError, WeightsError
from counterview.features.tiny_weights import current_name
from counterview.hub import ADVICE, fetch_folder
from counterview.media.files import atomic_write, read_json, write_json
from counterview.omama.config import OMaMaConfig
from counterview.omama.model import OMaMa
from counterview.omama.released import _few

METHOD = "omama"
VERSION = 1
WEIGHTS = "model.safetensors"

_CARD = """---
library_name: counterview
tags: [image-segmentation, cross-view-correspondence, ego-exo4d, o-mama]
---
# O-MaMa

Finds an object of one image among the masks of another (O-MaMa, ICCV 2025, arXiv 2506.06026), for
[Counterview](https://github.com/counterview/counterview).

```python
import counterview as cv
model = cv.load("{name}")
match = model.match(query_image, query_mask, target_image)[0]
```

{rows}
"""


def model_config(model: OMaMa) -> dict[str, Any]:
    """What ``config.json`` says of a model."""
    return {"method": METHOD, "format_version": VERSION, "model": to_dict(model.config)}


def model_card(model: OMaMa, *, name: str = "this-folder", metrics: Mapping[str, float] | None = None) -> str:
    """Text of ``README.md``: what the model is, how to load it, and its validation scores if given."""
    config = model.config
    rows: dict[str, object] = {
        "backbone": config.backbone,
        "proposals": config.proposer,
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "object descriptor": config.descriptor.pooling,
        "context": config.context,
        "cross-attention": config.cross_attention,
        "visibility": config.visibility,
    }
    rows |= {f"validation: {key}": f"{value:.4g}" for key, value in (metrics or {}).items()}
    table = "| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return _CARD.format(name=name, rows=table)


def save_model(model: OMaMa, folder: str | os.PathLike[str]) -> Path:
    """Write a model as a folder; each file is whole or not there, the weights last.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "README.md", "w") as handle:
        handle.write(model_card(model, name=folder.name))
    write_json(folder / "config.json", model_config(model))
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_write(folder / WEIGHTS) as handle:
        handle.write(save(state, metadata={"format": "pt"}))
    return folder


def load_model(source: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None) -> OMaMa:
    """Load a model that :func:`save_model` wrote.

    Args:
        source: a folder, or the id of a repository on the Hub.
        revision: branch, tag or commit of the repository.
        token: access token of the Hub.

    Returns:
        The model on the CPU, in evaluation mode.

    Raises:
        CheckpointError: not such a folder, another method or architecture, missing or surplus weights: each is named.
        WeightsError: the Hub cannot be reached, or has no such repository.
    """
    folder = Path(source)
    if not folder.is_dir():
        if len(folder.parts) != 2 or folder.is_absolute():
            raise CheckpointError("no such folder", path=source, expected="a folder, or owner/name on the Hub")
        folder = fetch_folder(os.fspath(source), ("config.json", WEIGHTS, "README.md"), ADVICE, revision=revision,
                              token=token)  # fmt: skip
    model = OMaMa(read_model_config(folder))
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError("the weights are missing", path=path, expected=WEIGHTS)
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError("is not a readable file of weights", path=path, found=type(error).__name__) from None
    load_state(model, state, path=path)
    return model.eval()


def read_model_config(folder: str | os.PathLike[str]) -> OMaMaConfig:
    """Read the configuration of a checkpoint.

    Raises:
        CheckpointError: missing, of another method or format, or with keys that this version does not know.
    """
    path = Path(folder) / "config.json"
    try:
        values = read_json(path)
    except InputError as error:
        raise CheckpointError(f"no checkpoint: {error.problem}", path=path, found=error.found) from None
    if not isinstance(values, dict) or values.get("method") != METHOD:
        found = values.get("method") if isinstance(values, dict) else type(values).__name__
        raise CheckpointError("is a checkpoint of another method", path=path, found=repr(found), expected=METHOD)
    if values.get("format_version") != VERSION:
        raise CheckpointError("has another format", path=path, found=values.get("format_version"), expected=VERSION)
    try:
        inner = values.get("model")
        return load_config(OMaMaConfig, inner if isinstance(inner, dict) else {})
    except ConfigError as error:
        raise CheckpointError(f"has a configuration that cannot be used: {error.problem}", path=path) from None


def load_state(model: OMaMa, state: Mapping[str, Tensor], *, path: str | os.PathLike[str] | None = None) -> None:
    """Load weights strictly.

    Raises:
        CheckpointError: names every tensor that is missing, unknown or of another shape.
    """
    state = {current_name(name): value for name, value in state.items()}
    ours = model.state_dict()
    problems = [f"{name} is missing" for name in ours if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in ours]
    problems += [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(value.shape)}"
        for name, value in ours.items()
        if name in state and state[name].shape != value.shape
    ]
    if problems:
        raise CheckpointError(f"the weights are of another architecture: {_few(problems)}", path=path)
    model.load_state_dict(dict(state), strict=True)


def push_model(model: OMaMa, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a model; see :meth:`OMaMa.push_to_hub`."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    with tempfile.TemporaryDirectory() as temporary:
        folder = save_model(model, Path(temporary) / repo_id.rpartition("/")[2])
        try:
            api = HfApi(token=token)
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload an O-MaMa model")
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise WeightsError(f"{repo_id} could not be uploaded ({type(error).__name__})") from None
    return str(commit.repo_url)
