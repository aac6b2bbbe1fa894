"""The Hugging Face Hub and transformers, asked politely: one clear line when weights cannot be had."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from counterview.errors import WeightsError


def check_access(source: str, what: str, advice: str) -> None:
    """Ask the Hub once whether a repository may be read: ``from_pretrained`` would retry for half a minute.

    Args:
        source: ``owner/repository``.
        what: what the weights are, for the message: "the weights of dinov2-base".
        advice: what runs without them.

    Raises:
        WeightsError: no network, no such repository, or access not granted.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        HfApi().auth_check(source)
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
