"""Weights: where they come from, and what tells them apart. One clear line when they cannot be had."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from counterview.errors import WeightsError

ADVICE = "Check the name and the network, or give the folder of a model."
"""What to do about a model that is neither a folder nor to be had."""


def check_access(source: str, what: str, advice: str, *, token: str | None = None) -> None:
    """Ask the Hub once whether a repository may be read: ``from_pretrained`` would retry for half a minute.

    Args:
        source: ``owner/repository``.
        what: what the weights are, for the message: "the weights of dinov2-base".
        advice: what runs without them.
        token: for a private repository; that of `hf auth login` if not given.

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
            f"{what} cannot be had",
            found="no such repository on the Hugging Face Hub, or no access to it",
            fix=f"Check the name; for a private one run `hf auth login`. {advice}",
        ) from None
    except HfHubHTTPError as error:
        raise WeightsError(f"{what} cannot be had", found=str(error).splitlines()[0], fix=advice) from None
    except Exception as error:  # the HTTP library under huggingface_hub changes, and so do its errors
        raise WeightsError(
            f"{what} are not on this machine, and the Hugging Face Hub cannot be reached ({type(error).__name__})",
            fix=f"Connect once, or give a folder that holds them. {advice}",
        ) from None


def fetch_folder(
    source: str, patterns: Sequence[str], advice: str, *, revision: str | None = None, token: str | None = None
) -> Path:
    """Files of a repository as a folder: from this machine if they lie here, else from the Hub.

    Args:
        source: ``owner/repository``.
        patterns: names of the files.
        advice: what runs without them, or what to check.
        revision: branch, tag or commit.
        token: for a private repository; that of `hf auth login` if not given.

    Raises:
        WeightsError: they are not here and cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    wanted: dict[str, Any] = {"allow_patterns": list(patterns), "revision": revision}
    try:
        with contextlib.suppress(FileNotFoundError):  # what huggingface_hub raises for files that are not here
            return Path(snapshot_download(source, **wanted, local_files_only=True))
        check_access(source, f"the files of {source}", advice, token=token)
        return Path(snapshot_download(source, **wanted, token=token))
    except HFValidationError as error:
        raise WeightsError(f"{source!r} is no name of a repository", found=str(error).splitlines()[0]) from None
    except WeightsError:
        raise
    except Exception as error:  # the client raises a dozen kinds
        raise WeightsError(f"the files of {source} cannot be had ({type(error).__name__})", fix=advice) from None


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from listing weights that are not used and from drawing a bar for a second's work."""
    from transformers.utils import logging as messages

    level, bars = messages.get_verbosity(), messages.is_progress_bar_enabled()
    messages.set_verbosity_error()
    messages.disable_progress_bar()
    try:
        yield
    finally:
        messages.set_verbosity(level)
        if bars:
            messages.enable_progress_bar()
