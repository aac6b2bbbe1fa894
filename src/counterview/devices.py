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


def check_device(name: str, dtype: str = "float32") -> None:
    """Check a device and a dtype before anything is read; torch is imported only where not every machine has them.

    Args:
        name: of the device, as for :func:`resolve_device`.
        dtype: one of :data:`DTYPES`.

    Raises:
        ConfigError: unknown, or not of this machine.
    """
    if name not in ("auto", "cpu") or dtype != "float32":
        resolve_autocast(dtype, resolve_device(name))


def resolve_autocast(name: str, device: torch.device) -> torch.dtype | None:
    """The dtype in which ``torch.autocast`` computes on a device; ``None`` for float32, which needs none.

    Args:
        name: one of :data:`DTYPES`.
        device: of the networks.

    Raises:
        ConfigError: another name, or a dtype that the device does not compute in.

    >>> import torch
    >>> resolve_autocast("float32", torch.device("cpu")), resolve_autocast("bfloat16", torch.device("cpu"))
    (None, torch.bfloat16)
    """
    import warnings

    import torch

    dtype = resolve_dtype(name)
    if dtype == torch.float32:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # on some devices, torch warns and computes in float32
            one = torch.ones(1, 1, 1, 1, device=device)
            with torch.autocast(device.type, dtype=dtype):
                can = torch.nn.functional.conv2d(one, one).dtype == dtype
    except (RuntimeError, UserWarning):
        can = False
    # Older GPUs emulate it, more slowly than they compute in float32.
    if device.type == "cuda" and dtype == torch.bfloat16:
        can = can and torch.cuda.is_bf16_supported(including_emulation=False)
    if not can:
        raise ConfigError(f"device {str(device)!r} does not compute in {name}", fix="Use --dtype float32.")
    return dtype


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
