"""Export the networks of a model to ONNX, each checked against torch before anything is kept."""

from __future__ import annotations

import hashlib
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from counterview import __version__
from counterview.config import to_dict
from counterview.deploy.manifest import (
    SIGNATURES,
    TOLERANCE,
    ExportManifest,
    NetworkFile,
    file_name,
    read_manifest,
    read_network,
    write_manifest,
)
from counterview.deploy.networks import Network, calibration_of, networks_of
from counterview.deploy.runtime import OnnxSession, require_onnx
from counterview.errors import CheckpointError, CounterviewError
from counterview.guard import library_errors
from counterview.media.files import atomic_write, part_path
from counterview.omama.model import OMaMa
from counterview.tiny.model import TinyMatch

logger = logging.getLogger(__name__)

OPSET = 18
"""Version of ONNX's operators: one that TensorRT and older runtimes know."""
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")
EXPORTED_AT = 3
"""Size of each varying dimension in the inputs that torch follows; any other works then."""
CHECKED_AT = (1, 5)
"""Sizes of the varying dimensions at which every network is compared with torch."""


@dataclass(frozen=True)
class Export:
    """Exported networks, read and checked.

    Attributes:
        folder: that holds them.
        manifest: what it says of them.
        files: content of the file of each network, by name.
    """

    folder: Path
    manifest: ExportManifest
    files: Mapping[str, bytes]


def export_model(model: OMaMa | TinyMatch, folder: Path, *, proposer: str, name: str = "") -> ExportManifest:
    """Export the networks of a model into a folder.

    Args:
        model: in evaluation mode, on the CPU.
        folder: an empty one; what is in it after an error is not an export, since the manifest is written last.
        proposer: name of the proposer; the networks of ``tiny`` are exported with the model.
        name: of the model, for the manifest.

    Raises:
        MissingExtraError: without ``[onnx]``.
        ConfigError: nearest neighbour, which has no weights.
        CounterviewError: a network cannot be exported, or differs from torch by more than
            :data:`~counterview.deploy.manifest.TOLERANCE`.
    """
    require_onnx(exporting=True)
    files = {key: _export(network, folder) for key, network in networks_of(model, proposer).items()}
    described = {
        "name": name, "method": model.method, "weights": model.fingerprint(), "proposer": proposer,
        "config": to_dict(model.config),
    }  # fmt: skip
    versions = {"counterview": __version__, **{package: version(package) for package in PACKAGES}, "opset": str(OPSET)}
    manifest = ExportManifest(files, described, versions, calibration_of(model))
    write_manifest(folder, manifest)
    return manifest


def cached_export(model: OMaMa | TinyMatch, *, proposer: str, name: str = "") -> Export:
    """A model's exported networks out of this user's cache; they are exported where it has none.

    It lies beside the cache of the Hugging Face Hub, under a hash of all weights, settings and torch's version; folders
    of models that are gone can be deleted. Arguments and errors as :func:`export_model`.

    Args:
        model: as for :func:`export_model`.
        proposer: likewise.
        name: likewise.
    """
    from huggingface_hub import cached_assets_path

    networks = networks_of(model, proposer)
    key = hashlib.sha256("".join([torch.__version__, *(n.source for n in networks.values())]).encode()).hexdigest()[:24]
    folder = cached_assets_path("counterview", "onnx") / key
    if folder.is_dir():
        try:
            return read_export(folder, networks)
        except CheckpointError as error:
            logger.warning("%s; it is exported again", error)
            shutil.rmtree(folder, ignore_errors=True)
    logger.warning("exporting %s to ONNX, once: %s", name or model.method, folder)
    staged = part_path(folder)
    staged.mkdir(parents=True)
    try:
        export_model(model, staged, proposer=proposer, name=name)
        try:
            staged.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster
                raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return read_export(folder, networks)


def read_export(folder: Path, networks: Mapping[str, Network]) -> Export:
    """Read the exports of some networks, and check that they are of these weights and settings, and unchanged.

    Args:
        folder: with the manifest.
        networks: by name.

    Raises:
        CheckpointError: a network is missing, damaged or of other weights.
    """
    manifest, files = read_manifest(folder), {}
    for name, network in networks.items():
        entry = manifest.networks.get(name)
        if entry is None or entry.source != network.source:
            raise CheckpointError(
                f"{name} is missing" if entry is None else f"{name} was exported from other weights or settings",
                path=folder, fix="Run `counterview export onnx` for the model.",
            )  # fmt: skip
        files[name] = read_network(folder, name, entry)
    return Export(folder, manifest, files)


def _export(network: Network, folder: Path) -> NetworkFile:
    """Write one network, and compare it with torch."""
    module, path = network.build(), folder / file_name(network.name)
    data = to_onnx(network, module)
    with atomic_write(path) as handle:
        handle.write(data)
    session = OnnxSession(data, SIGNATURES[network.name], path)
    difference = max(_difference(network, module, session, size) for size in CHECKED_AT)
    if not difference <= TOLERANCE:
        raise CounterviewError(
            f"the exported {network.name} differs from torch", path=path, found=f"{difference:.2g}",
            expected=f"at most {TOLERANCE:g}", fix="Try another version of torch or of onnxruntime.",
        )  # fmt: skip
    logger.info("%s exported: %d bytes, largest difference from torch %.2g", network.name, len(data), difference)
    return NetworkFile(
        hashlib.sha256(data).hexdigest(), len(data), network.source,
        {k: list(shape) for k, shape in network.inputs.items()}, list(SIGNATURES[network.name].outputs), difference,
    )  # fmt: skip


def to_onnx(network: Network, module: nn.Module) -> bytes:
    """The bytes of a network's file of ONNX, without names of this machine's files.

    Args:
        network: what is exported.
        module: what it built.

    Raises:
        CounterviewError: torch cannot export it.
    """
    signature = SIGNATURES[network.name]
    dims = {name: torch.export.Dim(name, min=1) for name in network.varying}
    shapes = tuple(
        {axis: _dim(part, dims) for axis, part in enumerate(shape) if isinstance(part, str)}
        for shape in network.inputs.values()
    )
    with library_errors(CounterviewError, f"the network {network.name} cannot be exported"), _quiet():
        program = torch.onnx.export(
            module,
            network.example(dict.fromkeys(network.varying, EXPORTED_AT)),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=list(signature.inputs),
            output_names=list(signature.outputs),
            dynamic_shapes=shapes,
        )
        assert program is not None
        return _without_traces(program.model_proto)


def _dim(part: str, dims: Mapping[str, Any]) -> Any:
    factor, _, name = part.rpartition("*")
    return int(factor) * dims[name] if factor else dims[name]


def _without_traces(model: Any) -> bytes:
    """A model of ONNX as bytes, without the lines of source code that torch notes at every node."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    return bytes(model.SerializeToString(deterministic=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on packages that are not installed and on names that it changes."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [known.level for known in loggers]
    for known in loggers:
        known.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for known, level in zip(loggers, before, strict=True):
            known.setLevel(level)


def _difference(network: Network, module: nn.Module, session: OnnxSession, size: int) -> float:
    """The largest difference of any output for random inputs, as :data:`TOLERANCE` measures it."""
    sizes = {name: size + number % 2 * (size > 1) for number, name in enumerate(network.varying)}
    inputs = network.example(sizes, seed=1)
    with torch.inference_mode():
        expected = module(*inputs)
    expected = (expected,) if isinstance(expected, Tensor) else expected
    return max(relative_difference(a, b) for a, b in zip(expected, session(*inputs), strict=True))


def relative_difference(expected: Tensor, found: Tensor) -> float:
    """The largest absolute difference of two tensors of one shape, as :data:`TOLERANCE` measures it.

    Args:
        expected: torch's, of any shape.
        found: of the same shape.

    >>> relative_difference(torch.tensor([2.0, -4.0]), torch.tensor([2.0, -3.0]))
    0.25
    """
    if expected.shape != found.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    return float((expected - found).abs().max() / expected.abs().max().clamp(min=1))
