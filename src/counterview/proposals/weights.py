"""Networks of transformers from the Hub or from a folder, or one clear line that says why not."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from counterview.errors import CheckpointError, WeightsError, shown
from counterview.guard import expanded, is_folder, reason
from counterview.hub import check_access, quiet_transformers
from counterview.nn.network_folder import check_network_folder, check_network_size, check_network_weights
from counterview.nn.weights import shortened

WITHOUT_WEIGHTS = "Without weights, --proposals graph and --proposals folder:PATH work."


def load_network(cls: type, source: str, what: str, config: Any = None, advice: str = WITHOUT_WEIGHTS) -> Any:
    """``cls.from_pretrained(source)``, strict about missing weights, and never from a pickle.

    Args:
        cls: a model class of transformers.
        source: a Hub id, or a folder with ``config.json`` and ``model.safetensors``.
        what: what the weights are for, for messages.
        config: a configuration to use instead of the checkpoint's own.
        advice: what works without the weights, for messages.

    Returns:
        the model in evaluation mode.

    Raises:
        WeightsError: not on this machine, and the Hub cannot be reached or refuses.
        CheckpointError: the folder's files are damaged or belong to another architecture.
    """
    folder = expanded(source)
    local = is_folder(folder)
    if local and not (folder / "config.json").is_file():
        raise CheckpointError(
            "no config.json here", path=folder, expected="a folder made by save_pretrained", fix=advice
        )
    if not local:
        _require_reachable(source, what, advice)
    try:
        with quiet_transformers():
            if local:
                check_network_folder(folder)
                built = config if config is not None else cls.config_class.from_pretrained(folder)  # type: ignore[attr-defined]
                check_network_size(cls, built, folder)
            options = {} if config is None else {"config": config}
            model, report = cls.from_pretrained(  # type: ignore[attr-defined]
                str(folder) if local else source, use_safetensors=True, output_loading_info=True, **options
            )
    except CheckpointError as error:
        raise CheckpointError(
            f"{what}: the checkpoint cannot be read: {error.problem}", path=error.path, found=error.found,
            expected=error.expected, fix=error.fix,
        ) from None  # fmt: skip
    except Exception as error:  # safetensors, transformers and the HTTP library each raise their own
        detail = reason(error)
        if local:
            raise CheckpointError(f"{what}: the checkpoint cannot be read", path=folder, found=detail) from None
        raise WeightsError(f"{what}: {source} cannot be loaded", found=detail, fix=advice) from None
    problems = sorted(report["missing_keys"]) + sorted(str(key[0]) for key in report["mismatched_keys"])
    if problems:
        raise CheckpointError(
            f"{what}: the weights do not fit {cls.__name__}",
            path=source,
            found=f"{len(problems)} missing or of another shape: {shortened(problems)}",
        )
    check_network_weights(model, folder if local else Path(source))
    return model.eval()


def load_config_of(cls: type, source: str, what: str) -> Any:
    """``cls.from_pretrained(source)`` for a configuration class of transformers.

    Args:
        cls: the configuration class.
        source: a Hub id, or a folder with ``config.json``.
        what: what the weights are for, for messages.

    Raises:
        WeightsError: not on this machine, and the Hub cannot be reached or refuses.
        CheckpointError: the configuration cannot be read.
    """
    folder = expanded(source)
    if not is_folder(folder):
        _require_reachable(source, what, WITHOUT_WEIGHTS)
    try:
        with quiet_transformers():
            if is_folder(folder):
                check_network_folder(folder)
            return cls.from_pretrained(str(folder) if is_folder(folder) else source)  # type: ignore[attr-defined]
    except Exception as error:
        raise CheckpointError(f"{what}: the configuration cannot be read", path=source, found=reason(error)) from None


def _require_reachable(source: str, what: str, advice: str) -> None:
    """Refuse early what cannot be fetched: transformers would try for half a minute, with a vaguer message."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(source)
    except HFValidationError:
        raise WeightsError(
            f"{what}: {shown(source)} is neither a folder nor the name of a Hub repository", fix=advice
        ) from None
    with contextlib.suppress(Exception):
        snapshot = Path(snapshot_download(source, local_files_only=True))
        if (snapshot / "config.json").is_file() and any(snapshot.glob("*.safetensors")):
            return
    check_access(source, f"{what}: the weights {source}", advice)
