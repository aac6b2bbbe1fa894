"""A folder of exported networks: ``NAME.onnx`` for each, and ``manifest.json`` with their hashes and shapes.

Reading one runs no code of it: the manifest is JSON, each file is checked against its hash, and a graph that refers to
further files or holds loops and branches, which no export of ours has, is refused before ONNX Runtime sees it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from counterview.errors import CheckpointError, shown
from counterview.guard import library_errors, read_file
from counterview.media.files import read_json, write_json
from counterview.nn.checkpoint import model_file

FORMAT, VERSION = "counterview-onnx", 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1_000_000
MAX_FILE_BYTES = 2**31 - 1
"""Of one network: what a file of ONNX can hold without further files beside it."""
TOLERANCE = 1e-4
"""Largest difference from torch, divided by the largest absolute value of torch's output where that is above 1."""


@dataclass(frozen=True)
class Signature:
    """Names of a network's inputs and outputs.

    Attributes:
        inputs: in their order.
        outputs: likewise.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


SIGNATURES: Mapping[str, Signature] = MappingProxyType(
    {
        "boundary": Signature(("image",), ("logits", "embedding", "extent")),
        "ranker": Signature(("features",), ("predicted_iou", "selection")),
        "map": Signature(("pixels",), ("map",)),
        "maps": Signature(("pixels",), ("colours", "fine", "map")),
        "crops": Signature(("pixels", "sizes"), ("descriptors",)),
        "head": Signature(
            ("query_descriptors", "candidate_descriptors", "query_map", "target_map"),
            ("similarity", "visibility_logit", "query_embedding", "candidate_embeddings"),
        ),
        "reranker": Signature(("pair_features", "query_features"), ("scores", "visibility_logit")),
        "weighing": Signature(("evidence",), ("scores", "visibility_logit")),
    }
)
"""Every network that is exported; a model has some of them."""


@dataclass(frozen=True)
class NetworkFile:
    """One exported network, as the manifest describes it.

    Attributes:
        sha256: of the file, in hex.
        size: of the file, in bytes.
        source: SHA-256 over the weights and settings that it was exported from, in hex.
        inputs: name to shape; a dimension that varies is a name, or a multiple of one, such as ``32*h``.
        outputs: names, in their order.
        difference: largest one from torch when it was exported, as :data:`TOLERANCE` measures it.
    """

    sha256: str
    size: int
    source: str
    inputs: Mapping[str, Sequence[int | str]]
    outputs: Sequence[str]
    difference: float


@dataclass(frozen=True)
class ExportManifest:
    """The content of ``manifest.json``.

    Attributes:
        networks: by name, see :data:`SIGNATURES`.
        model: the model's name, method, fingerprint and configuration.
        versions: of the packages that exported.
        calibration: buffers of the visibility's :class:`~counterview.nn.calibration.Calibration`, which is applied to
            ``visibility_logit`` (of the re-ranker where there is one) before the sigmoid.
        tolerance: see :data:`TOLERANCE`.
    """

    networks: Mapping[str, NetworkFile]
    model: Mapping[str, Any]
    versions: Mapping[str, str]
    calibration: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = TOLERANCE


def file_name(network: str) -> str:
    """The file of a network."""
    return f"{network}.onnx"


def write_manifest(folder: Path, manifest: ExportManifest) -> None:
    """Write ``manifest.json``, whole or not at all.

    Raises:
        OutputError: the folder cannot be written.
    """
    write_json(folder / MANIFEST, {"format": FORMAT, "format_version": VERSION, **asdict(manifest)})


def read_manifest(folder: str | os.PathLike[str]) -> ExportManifest:
    """Read and check ``manifest.json``.

    Args:
        folder: that ``counterview export onnx`` wrote.

    Raises:
        CheckpointError: missing, damaged, of another format, or with a network that is not one of ours.
    """
    path = model_file(folder, MANIFEST)
    values = read_json(path, error=CheckpointError, max_bytes=MAX_MANIFEST_BYTES)
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise CheckpointError("is not a manifest of exported networks", path=path, expected=f'"format": "{FORMAT}"')
    version = values.pop("format_version", None)
    if version != VERSION:
        raise CheckpointError(
            "was written by another version of Counterview", path=path, found=f"format {shown(version)}",
            expected=VERSION, fix="Run `counterview export onnx` again.",
        )  # fmt: skip
    with library_errors(CheckpointError, "is damaged", path=path):
        networks = {name: NetworkFile(**entry) for name, entry in values.pop("networks").items()}
        manifest = ExportManifest(networks, **values)
    if unknown := networks.keys() - SIGNATURES.keys():
        raise CheckpointError(
            f"names networks that are not Counterview's: {shown(sorted(unknown))}", path=path,
            expected=", ".join(SIGNATURES),
        )  # fmt: skip
    for name, entry in networks.items():
        texts = (entry.sha256, entry.source, *entry.outputs) if isinstance(entry.outputs, list) else (None,)
        if not all(isinstance(text, str) for text in texts):
            raise CheckpointError(f"is damaged: {name} has no hashes or outputs", path=path)
    return manifest


def read_network(folder: str | os.PathLike[str], name: str, entry: NetworkFile) -> bytes:
    """The bytes of an exported network, after a check of its hash and of its graph.

    Args:
        folder: with the manifest.
        name: of the network.
        entry: of the manifest.

    Raises:
        CheckpointError: missing, of another hash, or a graph that is refused.
    """
    path = model_file(folder, file_name(name))
    data = read_file(path, CheckpointError, max_bytes=MAX_FILE_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry.sha256:
        raise CheckpointError(
            "is damaged or was replaced", path=path, found=f"SHA-256 {digest[:12]}…",
            expected=f"{shown(entry.sha256[:12])}…", fix="Run `counterview export onnx` again.",
        )  # fmt: skip
    check_graph(data, SIGNATURES[name], path)
    return data


def check_graph(data: bytes, signature: Signature, path: Path) -> None:
    """Check that a file of ONNX is self-contained, without loops and branches, and has the inputs and outputs expected.

    Args:
        data: the file.
        signature: what it takes and gives.
        path: where it is from, for messages.

    Raises:
        CheckpointError: it is not.
    """
    import onnx

    with library_errors(CheckpointError, "is not a readable file of ONNX", path=path):
        model = onnx.load_model_from_string(data)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    external = any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise CheckpointError("holds a graph within its graph, which no export of ours has", path=path,
                                      found=shown(node.op_type))  # fmt: skip
            external |= any(t.data_location == onnx.TensorProto.EXTERNAL for t in (attribute.t, *attribute.tensors))
    external |= any(
        part.data_location == onnx.TensorProto.EXTERNAL
        for tensor in model.graph.sparse_initializer
        for part in (tensor.values, tensor.indices)
    )
    if external:
        raise CheckpointError("refers to other files", path=path, expected="weights within the file")
    given = (tuple(i.name for i in model.graph.input), tuple(o.name for o in model.graph.output))
    if given != (signature.inputs, signature.outputs):
        raise CheckpointError(
            "has other inputs or outputs", path=path, found=shown(given),
            expected=shown((signature.inputs, signature.outputs)),
        )  # fmt: skip
