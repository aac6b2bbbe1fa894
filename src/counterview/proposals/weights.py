"""Networks from the Hub or from a folder, or one clear line that says why not."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from counterview.errors import CheckpointError, WeightsError
from counterview.hub import check_access, quiet_transformers

WITHOUT_WEIGHTS = "Without weights, --proposals graph and --proposals folder:PATH work."


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
        with quiet_transformers():
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
        with quiet_transformers():
            return cls.from_pretrained(str(folder) if folder.is_dir() else source)  # type: ignore[attr-defined]
    except Exception as error:
        detail = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(f"{what}: no configuration that can be read", path=source, found=detail) from None


def _require_reachable(source: str, what: str) -> None:
    """Refuse early what cannot be fetched: transformers would try for half a minute, and say less."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError
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
    check_access(source, f"{what}: the weights {source}", WITHOUT_WEIGHTS)
