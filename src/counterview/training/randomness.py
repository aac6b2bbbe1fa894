"""The random state of a process as tensors, so that it can be saved without pickle and restored exactly."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from counterview.errors import CheckpointError


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - models and libraries may still draw from the global generator
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """State of the global generators as CPU tensors of fixed shapes.

    Returns:
        ``python`` ``(625,)`` int64 and ``python_gauss`` ``(2,)`` float64; ``numpy`` ``(626,)`` int64 and
        ``numpy_gauss`` ``(1,)`` float64; ``torch`` ``(n,)`` uint8; ``device`` ``(m,)`` uint8 on CUDA and MPS.
    """
    _, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    state = {
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor([gauss is not None, gauss or 0.0], dtype=torch.float64),
        "numpy": torch.tensor([*(int(k) for k in keys), int(position), int(has_gauss)], dtype=torch.int64),
        "numpy_gauss": torch.tensor([float(cached)], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["device"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["device"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Restore what :func:`random_state` returned, and check that the generators have it.

    Args:
        state: tensors ``(...)`` of the names and shapes that :func:`random_state` lists.
        device: whose generator is restored beside those of the CPU.

    Raises:
        CheckpointError: the state is incomplete, or a generator refused it.
    """
    try:
        words = tuple(int(w) for w in state["python"])
        gauss = float(state["python_gauss"][1]) if state["python_gauss"][0] else None
        random.setstate((3, words, gauss))
        numbers = state["numpy"].tolist()
        keys = np.array(numbers[:-2], dtype=np.uint32)
        cached = float(state["numpy_gauss"][0])
        np.random.set_state(("MT19937", keys, numbers[-2], numbers[-1], cached))  # noqa: NPY002
        # Copies: torch crashes on a state that is a view into a larger tensor.
        generator = state["torch"].cpu().clone()
        if generator.shape != torch.get_rng_state().shape or generator.dtype != torch.uint8:
            raise ValueError(f"torch's has the shape {tuple(generator.shape)}")
        torch.set_rng_state(generator)
        if device.type == "cuda" and "device" in state:
            torch.cuda.set_rng_state(state["device"].cpu().clone(), device)
        elif device.type == "mps" and "device" in state:
            torch.mps.set_rng_state(state["device"].cpu().clone())
    except (KeyError, ValueError, TypeError, RuntimeError, IndexError, OverflowError) as error:
        raise CheckpointError(f"the random state cannot be restored ({error})") from None
    now = random_state(device)
    wrong = [key for key in now if key in state and not torch.equal(now[key], state[key].cpu())]
    if wrong:
        raise CheckpointError("the random state was restored but differs", found=", ".join(wrong))


@contextlib.contextmanager
def preserved_random_state(device: torch.device) -> Iterator[None]:
    """Restore the global generators when the block ends, whatever it drew."""
    before = random_state(device)
    try:
        yield
    finally:
        set_random_state(before, device)
