"""A model as a folder, one way for every method: ``config.json``, ``model.safetensors``, ``README.md``.

``config.json`` is ``{"format": "counterview", "format_version": 2, "method": …, "model": {…}}``. The two formats of the
first version are read as well: O-MaMa's (``format_version`` 1) and LM-EEC's (``"format": "counterview-lmeec"``).

Nothing is ever unpickled beyond plain tensors: safetensors, or ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save
from torch import Tensor, nn

from counterview.config import load_config, to_dict
from counterview.errors import CheckpointError, ConfigError, InputError, WeightsError
from counterview.hub import ADVICE, fetch_folder
from counterview.media.files import atomic_write, read_json, write_json

FORMAT, VERSION = "counterview", 2
CONFIG_NAME, WEIGHTS_NAME, CARD_NAME = "config.json", "model.safetensors", "README.md"
FILES = (CONFIG_NAME, WEIGHTS_NAME, CARD_NAME)
"""What is fetched of a repository on the Hub."""

_FIRST_LMEEC = "counterview-lmeec"
_WRAPPERS = ("model_state_dict", "state_dict", "model")
_SHOWN = 12
_CARD = """---
library_name: counterview
license: apache-2.0
tags: [image-segmentation, cross-view-correspondence, ego-exo4d]
---
# {title}

{purpose}

```python
import counterview

{usage}
```

{rows}
"""


@dataclass(frozen=True)
class Header:
    """Content of ``config.json``.

    Attributes:
        method: ``omama``, ``lmeec``, ``tiny-match`` or ``tiny-follow``.
        version: of the format: 1 for what the first version wrote, then 2.
        model: the values of the model's configuration.
        path: the file.
    """

    method: str
    version: int
    model: Mapping[str, Any]
    path: Path

    def with_model(self, method: str, model: Mapping[str, Any]) -> Header:
        """The same file, read as another method and configuration."""
        return replace(self, method=method, model=model)


def read_header(folder: str | os.PathLike[str]) -> Header:
    """Read ``config.json`` of a checkpoint, in any of its formats.

    Raises:
        CheckpointError: missing, not JSON, or not a checkpoint of this package.
    """
    path = Path(folder) / CONFIG_NAME
    try:
        values = read_json(path)
    except InputError as error:
        raise CheckpointError(f"not a checkpoint: {error.problem}", path=path, found=error.found) from None
    if isinstance(values, dict) and isinstance(values.get("model"), dict):
        method, version = values.get("method"), values.get("format_version")
        if values.get("format") == _FIRST_LMEEC:
            method, version = "lmeec", values.get("version")
        readable = (1, VERSION) if values.get("format") != FORMAT else (VERSION,)
        if isinstance(method, str) and version not in readable:
            raise CheckpointError(
                "was written by another version of Counterview", path=path, found=f"format {version!r}",
                expected=f"at most {VERSION}", fix="Upgrade Counterview.",
            )  # fmt: skip
        if isinstance(method, str):
            return Header(method, int(cast(int, version)), values["model"], path)
    raise CheckpointError("is not a checkpoint of Counterview", path=path, expected='"method" and "model"')


def is_checkpoint(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a ``config.json`` of ours; its weights are not read."""
    try:
        read_header(folder)
    except CheckpointError:
        return False
    return True


def find_folder(source: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a model: ``source`` itself, or a repository of the Hub fetched to this machine.

    Raises:
        CheckpointError: neither a folder nor ``owner/name``.
        WeightsError: the Hub cannot be reached, or has no such repository.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if len(folder.parts) != 2 or folder.is_absolute() or folder.exists():
        raise CheckpointError("no such folder", path=source, expected="a folder, or owner/name on the Hub")
    return fetch_folder(os.fspath(source), FILES, ADVICE, revision=revision, token=token)


# -------------------------------------------------------------------------------------------------------- tensors


def decode_tensors(data: bytes, path: str | os.PathLike[str] | None = None) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file.

    Raises:
        CheckpointError: damaged.
    """
    try:
        return load_bytes(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError("is not a readable file of weights", path=path, found=_first_line(error)) from None


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: missing or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("the weights are missing", path=path, expected=path.name)
    try:
        return decode_tensors(path.read_bytes(), path)
    except OSError as error:
        raise CheckpointError("cannot be read", path=path, found=error.strerror) from None


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


def write_model(
    folder: str | os.PathLike[str], header: Mapping[str, Any], card: str, weights: Mapping[str, Tensor]
) -> None:
    """Write the three files of a model: ``README.md``, ``config.json`` and, last, ``model.safetensors``.

    Args:
        folder: made where it does not exist.
        header: content of ``config.json``.
        card: text of ``README.md``.
        weights: content of ``model.safetensors``, on any device.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    folder = Path(folder)
    with atomic_write(folder / CARD_NAME, "w") as handle:
        handle.write(card)
    write_json(folder / CONFIG_NAME, dict(header))
    write_tensors(folder / WEIGHTS_NAME, weights)


def read_released(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state dict in a file that others released, ``.safetensors`` or torch's, without running code from it.

    A dictionary that holds it under ``model_state_dict``, ``state_dict`` or ``model`` is unwrapped.

    Raises:
        CheckpointError: missing, damaged, or holding more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("no such file", path=path, expected="a file of weights")
    if path.suffix == ".safetensors":
        return dict(read_tensors(path))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            "cannot be read as plain tensors",
            path=path,
            found=type(error).__name__,
            fix="Save the state dict alone (torch.save(model.state_dict(), ...)), or as safetensors.",
        ) from None
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError("holds no state dict", path=path, found=type(content).__name__)
    return {str(name): value for name, value in content.items()}


def load_strictly(model: nn.Module, state: Mapping[str, Any], path: str | os.PathLike[str] | None = None) -> None:
    """Load weights of exactly the model's names and shapes.

    Raises:
        CheckpointError: names every weight that is missing, unknown, of another shape, not a tensor, or not finite.
    """
    check_state(model, state, path)
    model.load_state_dict(dict(state), strict=True)


def check_state(model: nn.Module, state: Mapping[str, Any], path: str | os.PathLike[str] | None = None) -> None:
    """Check that weights are exactly those of a model (which may lie on the ``meta`` device), and finite.

    Raises:
        CheckpointError: see :func:`load_strictly`.
    """
    check_architecture(model, state, path)
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
        if not isinstance(weight, Tensor):
            problems.append(f"{name} is not a tensor")
        elif weight.shape != value.shape:
            problems.append(f"{name} is {tuple(weight.shape)}, expected {tuple(value.shape)}")
        elif value.is_floating_point() and not weight.is_floating_point():
            problems.append(f"{name} is of dtype {weight.dtype}, expected floating point")
    if problems:
        raise CheckpointError(f"the weights are of another architecture: {shortened(problems)}", path=path)


def shortened(lines: Sequence[str], limit: int = _SHOWN) -> str:
    """Lines joined by semicolons, the first ``limit`` of them.

    >>> shortened(["a is missing", "b is missing", "c is unknown"], limit=2)
    'a is missing; b is missing; and 1 more'
    """
    remainder = f"; and {len(lines) - limit} more" if len(lines) > limit else ""
    return "; ".join(lines[:limit]) + remainder


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


# ---------------------------------------------------------------------------------------------------------- models


class Pretrained:
    """The checkpoint side of a model: mixed into an ``nn.Module`` that is built from one dataclass.

    A class that mixes it in sets :attr:`method`, :attr:`config_class`, :attr:`about` and :attr:`usage`, takes the
    configuration as its only argument, and keeps it as ``self.config``.
    """

    method: ClassVar[str]
    """Its name in ``config.json``."""
    config_class: ClassVar[type]
    """The dataclass that it is built from."""
    about: ClassVar[tuple[str, str, str]]
    """For the card: a title, whose method it is, and what it does."""
    usage: ClassVar[str]
    """For the card: Python that loads and uses it, ``{name}`` for the folder."""
    renamed_weights: ClassVar[Mapping[str, str]] = {}
    """Earlier beginnings of the names of weights, and the current ones."""

    config: Any

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None
    ) -> Self:
        """Load a folder that :meth:`save_pretrained` wrote, or a repository of the Hugging Face Hub.

        Args:
            source: a folder, or ``owner/name``.
            revision: branch, tag or commit of the repository.
            token: access token of the Hub.

        Returns:
            The model on the CPU, in evaluation mode.

        Raises:
            CheckpointError: not such a folder, another method or architecture, or weights that are missing, unknown
                or not finite: each is named.
            WeightsError: the Hub cannot be reached, or has no such repository.
        """
        folder = find_folder(source, revision=revision, token=token)
        header = cls.upgraded(read_header(folder))
        model = cls(cls.parse_config(header))  # type: ignore[call-arg]
        path = folder / WEIGHTS_NAME
        load_strictly(cast(nn.Module, model), cls.current_names(read_tensors(path)), path)
        cast(nn.Module, model).eval()
        return model

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``README.md``, ``config.json`` and, last, ``model.safetensors``; return the folder.

        No file is left half written.
        """
        folder = Path(folder)
        write_model(folder, self.header(), self.card(name=folder.name), cast(nn.Module, self).state_dict())
        return folder

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload to a repository of the Hugging Face Hub; return its address.

        Raises:
            WeightsError: the Hub cannot be reached, or refuses.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        with tempfile.TemporaryDirectory() as temporary:
            folder = self.save_pretrained(Path(temporary) / repo_id.rpartition("/")[2])
            try:
                api = HfApi(token=token)
                api.create_repo(repo_id, private=private, exist_ok=True)
                message = f"Upload a model of {self.method}"
                commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
            except (HfHubHTTPError, HFValidationError, OSError) as error:
                raise WeightsError(f"{repo_id} could not be uploaded ({type(error).__name__})") from None
        return str(commit.repo_url)

    def fingerprint(self) -> str:
        """SHA-256 over the weights, in hex: the same on every device."""
        return weights_fingerprint(cast(nn.Module, self))

    def header(self) -> dict[str, Any]:
        """Content of ``config.json``."""
        return {"format": FORMAT, "format_version": VERSION, "method": self.method, "model": self.config_values()}

    def config_values(self) -> dict[str, Any]:
        """The configuration as it is written to ``config.json``."""
        return to_dict(self.config)

    def card(
        self,
        *,
        name: str = "this-folder",
        metrics: Mapping[str, float] | None = None,
        rows: Mapping[str, object] | None = None,
    ) -> str:
        """Text of ``README.md``: what the model is, how to load it, and its validation scores if given.

        Args:
            name: the folder that the example loads.
            metrics: validation scores by name.
            rows: further rows of the table, for instance what the model was trained on.
        """
        lines = {"method": self.about[1], **self.card_rows(), **(rows or {})}
        lines |= {f"validation: {key}": f"{value:.4g}" for key, value in sorted((metrics or {}).items())}
        table = "| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in lines.items())
        return _CARD.format(title=self.about[0], purpose=self.about[2], usage=self.usage.format(name=name), rows=table)

    def card_rows(self) -> dict[str, object]:
        """Rows of the card's table beside the method and the scores."""
        return {"parameters": f"{sum(p.numel() for p in cast(nn.Module, self).parameters()):,}"}

    @classmethod
    def upgraded(cls, header: Header) -> Header:
        """The header of a checkpoint of any format as a current one.

        Raises:
            CheckpointError: of another method.
        """
        if header.method != cls.method:
            raise CheckpointError(
                "is a checkpoint of another method", path=header.path, found=header.method, expected=cls.method,
                fix="counterview.load finds the right class for any checkpoint.",
            )  # fmt: skip
        return header

    @classmethod
    def parse_config(cls, header: Header) -> Any:
        """The configuration in a header.

        Raises:
            CheckpointError: keys that this version does not know, or values that it refuses.
        """
        try:
            return load_config(cls.config_class, header.model)
        except ConfigError as error:
            problem = f"has a configuration that cannot be used: {error.problem}"
            raise CheckpointError(problem, path=header.path) from None

    @classmethod
    def current_names(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a file of any version under the current names."""
        return renamed(state, cls.renamed_weights)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:120]
