"""One exported network, computed by ONNX Runtime."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from counterview.deploy.manifest import Signature
from counterview.errors import CheckpointError, ConfigError, MissingExtraError
from counterview.guard import library_errors

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def require_onnx(*, exporting: bool = False) -> None:
    """Check that the extra is installed.

    Args:
        exporting: what exports is needed as well, not only what computes.

    Raises:
        MissingExtraError: it is not.
    """
    needed = ("onnxruntime", "onnx", "onnxscript") if exporting else ("onnxruntime", "onnx")
    if any(find_spec(name) is None for name in needed):
        raise MissingExtraError("onnx", "exporting to ONNX" if exporting else "the runtime onnx")


def providers_for(device: str) -> list[str]:
    """The execution providers of ONNX Runtime for a device, the first choice first.

    Args:
        device: ``auto``, ``cpu`` or ``cuda[:N]``.

    Raises:
        ConfigError: another device, or one that the installed ONNX Runtime does not have.
    """
    import onnxruntime

    kind, there = device.partition(":")[0], onnxruntime.get_available_providers()
    if kind == "auto":
        kind = "cuda" if _PROVIDERS["cuda"] in there else "cpu"
    if kind not in _PROVIDERS:
        raise ConfigError("the runtime onnx does not have this device", found=device, expected="auto, cpu or cuda")
    if _PROVIDERS[kind] not in there:
        raise ConfigError(
            "the installed ONNX Runtime does not have this device", found=", ".join(there), expected=_PROVIDERS[kind],
            fix="Install onnxruntime-gpu in place of onnxruntime, or use device cpu.",
        )  # fmt: skip
    return list(dict.fromkeys([_PROVIDERS[kind], _PROVIDERS["cpu"]]))


class OnnxSession:
    """One network, ready to compute; tensors go in and come out on the CPU.

    Args:
        data: the file of ONNX.
        signature: names of its inputs and outputs.
        path: where it is from, for messages.
        providers: of :func:`providers_for`; the CPU's by default.

    Raises:
        CheckpointError: ONNX Runtime cannot load it.
    """

    def __init__(self, data: bytes, signature: Signature, path: Path, providers: list[str] | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # as torch, whatever set that
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that wait by spinning take a core each from the rest of the work, which runs between two networks.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.signature, self.path = signature, path
        with library_errors(CheckpointError, "cannot be loaded by ONNX Runtime", path=path):
            self._session = onnxruntime.InferenceSession(data, options, providers=providers or [_PROVIDERS["cpu"]])

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute all outputs, float32, in their order.

        Args:
            inputs: in their order, of the shapes in the manifest.

        Raises:
            CheckpointError: shapes that the network does not take.
        """
        arrays = [np.ascontiguousarray(value.detach().cpu().numpy(), dtype=np.float32) for value in inputs]
        feed = dict(zip(self.signature.inputs, arrays, strict=True))
        with library_errors(
            CheckpointError, "cannot be computed by ONNX Runtime", path=self.path, expected="inputs as in its manifest"
        ):
            return tuple(torch.from_numpy(value) for value in self._session.run(None, feed))
