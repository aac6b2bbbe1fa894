"""A model as a folder, one way for every method: ``config.json``, ``model.safetensors``, ``README.md``.

``config.json`` is ``{"format": "counterview", "format_version": 2, "method": …, "model": {…}}``. The two formats of the
first version are read as well: O-MaMa's (``format_version`` 1) and LM-EEC's (``"format": "counterview-lmeec"``).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from torch import Tensor, nn

from counterview.config import load_config, to_dict
from counterview.errors import CheckpointError, ConfigError, InputError, WeightsError
from counterview.guard import is_folder, library_errors
from counterview.hub import ADVICE, fetch_folder
from counterview.media.files import atomic_write, read_json, write_json
from counterview.nn.bundled import BUNDLED, bundled_folder, is_bundled, model_class
from counterview.nn.weights import (
    check_architecture,
    load_strictly,
    read_tensors,
    renamed,
    shapes_only,
    weights_fingerprint,
    write_tensors,
)

FORMAT, VERSION = "counterview", 2
CONFIG_NAME, WEIGHTS_NAME, CARD_NAME = "config.json", "model.safetensors", "README.md"
FILES = (CONFIG_NAME, WEIGHTS_NAME, CARD_NAME)
"""What is fetched of a repository on the Hub."""

MAX_CONFIG_BYTES = 1_000_000
"""Size of the largest ``config.json``."""

_FIRST_LMEEC = "counterview-lmeec"
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
    path = model_file(folder, CONFIG_NAME)
    try:
        values = read_json(path, max_bytes=MAX_CONFIG_BYTES)
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


def model_file(folder: str | os.PathLike[str], name: str) -> Path:
    """A file of a model's folder, which may not be a link to another place.

    A folder of the Hub's cache is made of links to the ``blobs`` beside it; these are followed.

    Args:
        folder: of the model, itself a link or not.
        name: of the file, which need not exist.

    Raises:
        CheckpointError: the file is a link out of the folder.
    """
    path = Path(folder) / name
    with library_errors(CheckpointError, "cannot be read", path=path):
        root, target = Path(folder).resolve(), path.resolve()
    allowed = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    if not any(target.is_relative_to(place) for place in allowed):
        raise CheckpointError(
            "is a link out of the model's folder", path=path, found=target, fix="Copy the file into the folder."
        )
    return path


def is_checkpoint(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a ``config.json`` of ours; its weights are not read."""
    try:
        read_header(folder)
    except CheckpointError:
        return False
    return True


def find_folder(source: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a model: ``source`` itself, a bundled model, or a repository of the Hub fetched to this machine.

    Raises:
        CheckpointError: neither a folder, nor the name of a bundled model, nor ``owner/name``.
        WeightsError: the Hub cannot be reached, or has no such repository.
    """
    folder = Path(source)
    if is_folder(folder):
        return folder
    if folder.is_file():
        raise CheckpointError("is a file", path=source, expected="the folder of a model", fix="Give its folder.")
    if is_bundled(source):
        return bundled_folder(os.fspath(source))
    if len(folder.parts) != 2 or folder.is_absolute() or len(os.fspath(folder)) > 200 or folder.exists():
        raise CheckpointError(
            "no such folder", path=source, expected=f"a folder, {', '.join(BUNDLED)}, or owner/name on the Hub"
        )
    return fetch_folder(os.fspath(source), FILES, ADVICE, revision=revision, token=token)


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
        """Load a folder that :meth:`save_pretrained` wrote, a bundled model, or a repository of the Hugging Face Hub.

        Args:
            source: a folder, the name of a bundled model of this class or one derived from it, or ``owner/name``.
            revision: branch, tag or commit of the repository.
            token: access token of the Hub.

        Returns:
            The model on the CPU, in evaluation mode.

        Raises:
            CheckpointError: not such a folder, another method or architecture, or weights that are missing, unknown
                or not finite: each is named.
            WeightsError: the Hub cannot be reached, or has no such repository.
        """
        if is_bundled(source) and not Path(source).is_dir():
            bundled_class = model_class(os.fspath(source))
            if not issubclass(bundled_class, cls):
                raise CheckpointError(
                    f"the bundled model {os.fspath(source)} is of another class", found=bundled_class.__name__,
                    expected=cls.__name__, fix=f"Call {bundled_class.__name__}.from_pretrained, or counterview.load.",
                )  # fmt: skip
            cls = bundled_class
        folder = find_folder(source, revision=revision, token=token)
        header = read_header(folder)
        with library_errors(CheckpointError, "has a configuration that cannot be read", path=header.path):
            header = cls.upgraded(header)
        config = cls.parse_config(header)
        path = model_file(folder, WEIGHTS_NAME)
        state = cls.current_names(read_tensors(path))
        with library_errors(CheckpointError, "describes a model that cannot be built", path=header.path):
            with shapes_only():  # takes no memory, whatever the configuration says
                check_architecture(cast(nn.Module, cls(config)), state, path)  # type: ignore[call-arg]
            model = cls(config)  # type: ignore[call-arg]
        load_strictly(cast(nn.Module, model), state, path)
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
