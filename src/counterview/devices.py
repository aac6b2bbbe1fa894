"""Device and dtype by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterview.config import nearest
from counterview.errors import ConfigError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float16", "bfloat16")


def resolve_device(name: str = "auto") -> torch.device:
    """The device of a name; ``auto`` is CUDA, else MPS, else the CPU.

    Raises:
        ConfigError: an unknown name, or a device that is not available on this machine.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(
            f"unknown device {name!r} ({nearest(name, ['auto', 'cpu', 'cuda', 'mps'])})",
            expected="auto, cpu, cuda, cuda:N or mps",
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r} is not available",
            found=f"{torch.cuda.device_count()} CUDA devices with torch {torch.__version__}",
            fix="Use device auto or cpu.",
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' is not available", fix="Use device auto or cpu.")
    return device


def resolve_dtype(name: str = "float32") -> torch.dtype:
    """The torch dtype of a name: float32, or float16 or bfloat16 for speed.

    Raises:
        ConfigError: another name.
    """
    import torch

    if name not in DTYPES:
        raise ConfigError(f"unknown dtype {name!r} ({nearest(name, DTYPES)})", expected=", ".join(DTYPES))
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(f"torch {torch.__version__} has no dtype {name!r}")
    return dtype
