"""Files from the Hugging Face Hub, with one clear error line when they are not available."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from counterview.errors import CounterviewError, WeightsError

ADVICE = "Check the name and the network, or give the folder of a model."
"""The fix for a model that is neither a local folder nor available on the Hub."""


def check_access(source: str, what: str, advice: str, *, token: str | None = None) -> None:
    """Ask the Hub once whether a repository is readable: ``from_pretrained`` alone would retry for half a minute.

    Args:
        source: ``owner/repository``.
        what: the subject of the error message, in the plural: "the weights of dinov2-base".
        advice: the fix in the error message, for example what runs without the weights.
        token: for a private repository; the one of `hf auth login` if not given.

    Raises:
        WeightsError: no network, no such repository, or access not granted.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        HfApi(token=token).auth_check(source)
    except GatedRepoError:
        raise WeightsError(
            f"{what} are gated",
            fix=f"Ask for access on https://huggingface.co/{source}, then run `hf auth login`. {advice}",
        ) from None
    except RepositoryNotFoundError:
        raise WeightsError(
            f"{what} are not available",
            found="no such repository on the Hugging Face Hub, or no access to it",
            fix=f"Check the name; for a private one run `hf auth login`. {advice}",
        ) from None
    except HfHubHTTPError as error:
        raise WeightsError(f"{what} are not available", found=str(error).splitlines()[0], fix=advice) from None
    except Exception as error:  # the HTTP library under huggingface_hub changes, and so do its errors
        raise WeightsError(
            f"{what} are not on this machine and the Hugging Face Hub cannot be reached ({type(error).__name__})",
            fix=f"Connect to the network once, or give a folder that holds them. {advice}",
        ) from None


def fetch_folder(
    source: str, patterns: Sequence[str], advice: str, *, revision: str | None = None, token: str | None = None
) -> Path:
    """Files of a repository as a local folder: from the cache of this machine, else downloaded from the Hub.

    Args:
        source: ``owner/repository``.
        patterns: names of the files; ``*`` matches any characters.
        advice: the fix in the error message.
        revision: branch, tag or commit.
        token: for a private repository; the one of `hf auth login` if not given.

    Returns:
        the folder that holds the files.

    Raises:
        WeightsError: the name is not that of a repository, or the files are neither cached nor downloadable.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    selection: dict[str, Any] = {"allow_patterns": list(patterns), "revision": revision}
    try:
        with contextlib.suppress(FileNotFoundError):  # huggingface_hub's error for files that are not in the cache
            return Path(snapshot_download(source, **selection, local_files_only=True))
        check_access(source, f"the files of {source}", advice, token=token)
        return Path(snapshot_download(source, **selection, token=token))
    except HFValidationError as error:
        raise WeightsError(f"{source!r} is not the name of a repository", found=str(error).splitlines()[0]) from None
    except WeightsError:
        raise
    except Exception as error:  # the client raises a dozen types
        raise WeightsError(f"the files of {source} are not available ({type(error).__name__})", fix=advice) from None


def transformers_class(name: str) -> Any:
    """A class of transformers.

    Args:
        name: of the class.

    Raises:
        CounterviewError: torchvision is installed and does not fit torch, which makes every model unimportable.
    """
    import transformers

    try:
        return getattr(transformers, name)
    except Exception:
        problem = torchvision_problem()
        if problem is None:
            raise
        raise CounterviewError(f"no model of transformers can be loaded: {problem[0]}", fix=problem[1]) from None


def torchvision_problem() -> tuple[str, str] | None:
    """What is wrong with an installed torchvision, and the fix; ``None`` if it is missing or works.

    Counterview does not use it, but ultralytics (FastSAM) brings one, often of another build than torch, and
    transformers imports what it finds.
    """
    from importlib.metadata import PackageNotFoundError, version

    import torch

    try:
        installed = version("torchvision")
    except PackageNotFoundError:
        return None
    try:
        importlib.import_module("torchvision")  # to see whether it loads; nothing here uses it
    except Exception as error:  # a missing operator is a RuntimeError, a missing library an OSError
        number, _, build = torch.__version__.partition("+")
        release = [int(part) for part in number.split(".")[:2]]
        # torch 2.N goes with torchvision 0.(N + 15).
        fitting = f"torchvision==0.{release[1] + 15}.*" if release[0] == 2 else "torchvision"
        index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
        return (
            f"torchvision {installed} does not work beside torch {torch.__version__} ({str(error).splitlines()[0]})",
            f'Run: pip install --force-reinstall --no-deps "{fitting}"{index}; or, without FastSAM: '
            "pip uninstall torchvision.",
        )
    return None


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within the block, transformers reports neither unused weights nor the progress of loading."""
    from transformers.utils import logging

    level, had_progress_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_progress_bar:
            logging.enable_progress_bar()
