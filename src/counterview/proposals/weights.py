"""Networks from the Hub or from a folder, or one clear line that says why not."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterview.config import nearest
from counterview.errors import CheckpointError, ConfigError, WeightsError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")

WITHOUT_WEIGHTS = "Without weights, --proposals graph and --proposals folder:PATH work."


def choose_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is CUDA if there, else MPS, else the CPU.

    Raises:
        ConfigError: an unknown device, or one that is not there.
    """
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device("cuda" if there["cuda"] else "mps" if there["mps"] else "cpu")
    kind, _, index = name.partition(":")
    if kind not in there or (index and not (kind == "cuda" and index.isdecimal())):
        raise ConfigError(f"there is no device {name!r}", fix=nearest(name, DEVICES))
    if not there[kind] or (index and int(index) >= torch.cuda.device_count()):
        raise ConfigError(f"the device {name!r} is not on this machine", fix="Use auto or cpu.")
    return torch.device(name)


def load_network(cls: type, source: str, what: str, config: Any = None) -> Any:
    """``cls.from_pretrained(source)``, strict about missing weights, and never from a pickle.

    Args:
        cls: a model class of transformers.
        source: a Hub id, or a folder with ``config.json`` and ``model.safetensors``.
        what: what the weights are for, for messages.
        config: a changed configuration, if not the checkpoint's own.

    Raises:
        WeightsError: not on this machine, and the Hub cannot be reached or does not give it.
        CheckpointError: what is there is damaged or belongs to another architecture.
    """
    folder = Path(source).expanduser()
    local = folder.is_dir()
    if local and not (folder / "config.json").is_file():
        raise CheckpointError(
            "no config.json here", path=folder, expected="a folder made by save_pretrained", fix=WITHOUT_WEIGHTS
        )
    if not local:
        _require_reachable(source, what)
    try:
        with _quietly():
            given = {} if config is None else {"config": config}
            model, report = cls.from_pretrained(  # type: ignore[attr-defined]
                str(folder) if local else source, use_safetensors=True, output_loading_info=True, **given
            )
    except Exception as error:  # safetensors, transformers and the HTTP library each raise their own
        detail = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if local:
            raise CheckpointError(f"{what} cannot be read from here", path=folder, found=detail) from None
        raise WeightsError(f"{what}: {source} cannot be loaded", found=detail, fix=WITHOUT_WEIGHTS) from None
    lacking = sorted(report["missing_keys"]) + sorted(str(key[0]) for key in report["mismatched_keys"])
    if lacking:
        raise CheckpointError(
            f"{what}: the weights do not fit {cls.__name__}",
            path=source,
            found=f"{len(lacking)} missing or of another shape, {lacking[0]} among them",
        )
    return model.eval()


def load_config_of(cls: type, source: str, what: str) -> Any:
    """The configuration of a checkpoint, as ``cls``. Errors as for :func:`load_network`."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        _require_reachable(source, what)
    try:
        with _quietly():
            return cls.from_pretrained(str(folder) if folder.is_dir() else source)  # type: ignore[attr-defined]
    except Exception as error:
        detail = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(f"{what}: no configuration that can be read", path=source, found=detail) from None


def fingerprint(model: Any) -> str:
    """SHA-256 over names, shapes and values of all weights, in hex: the same wherever they came from."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().to("cpu").contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)};".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _require_reachable(source: str, what: str) -> None:
    """Refuse early what cannot be fetched: transformers would try for half a minute, and say less."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(source)
    except HFValidationError:
        raise WeightsError(
            f"{what}: {source!r} is neither a folder nor the name of a Hub repository", fix=WITHOUT_WEIGHTS
        ) from None
    with contextlib.suppress(Exception):
        held = Path(snapshot_download(source, local_files_only=True))
        if (held / "config.json").is_file() and any(held.glob("*.safetensors")):
            return
    problem = f"{what}: the weights {source} are not on this machine"
    try:
        HfApi().auth_check(source)
    except GatedRepoError:
        raise WeightsError(
            f"{problem}, and are given only after asking",
            fix=f"Ask on https://huggingface.co/{source}, then run `hf auth login`. {WITHOUT_WEIGHTS}",
        ) from None
    except RepositoryNotFoundError:
        raise WeightsError(f"{problem}, and the Hub has no such repository for you", fix=WITHOUT_WEIGHTS) from None
    except Exception as error:  # no network, a proxy, offline mode: the HTTP library's errors change
        raise WeightsError(
            f"{problem}, and the Hugging Face Hub cannot be reached ({type(error).__name__})",
            fix=f"Connect once, or give a folder that holds them. {WITHOUT_WEIGHTS}",
        ) from None


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' notes on weights that are not used, and its progress bar for a second's work."""
    from transformers.utils import logging as notes

    level, bars = notes.get_verbosity(), notes.is_progress_bar_enabled()
    notes.set_verbosity_error()
    notes.disable_progress_bar()
    try:
        yield
    finally:
        notes.set_verbosity(level)
        if bars:
            notes.enable_progress_bar()
