"""The networks of a model as they are exported: what each computes, and the shapes that it takes."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from counterview.errors import ConfigError
from counterview.features.object_crops import INPUT_PX, SIZE_FEATURES
from counterview.features.tiny import TinyNet
from counterview.geometry.relations import PairFeature, QueryFeature
from counterview.nn.weights import weights_fingerprint
from counterview.omama.config import OMaMaConfig
from counterview.omama.model import OMaMa
from counterview.proposals.boundary import STRIDE
from counterview.proposals.bundled import NodeRanker, load_boundary, load_ranker
from counterview.proposals.objectness import FEATURES
from counterview.tiny.model import TinyMatch
from counterview.tracking.evidence import Evidence
from counterview.tracking.weights import load_weighing

EXPORT = 1
"""Raised when the same weights give other graphs than before."""

Shape = tuple[int | str, ...]
"""Of an input: numbers, and names of dimensions that vary, alone (``n``) or as a multiple (``32*h``)."""


@dataclass(frozen=True, eq=False)
class Network:
    """A network to be exported.

    Attributes:
        name: of its file.
        build: makes the module, in evaluation mode.
        inputs: name to shape, in their order.
        source: SHA-256 over everything that the graph depends on, in hex.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Mapping[str, Shape]
    source: str

    def example(self, sizes: Mapping[str, int], seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs, of values from 0 to 1.

        Args:
            sizes: of the dimensions that vary; 2 or more for export, since torch takes a 1 as fixed.
            seed: of the values.
        """
        generator = torch.Generator().manual_seed(seed)
        return tuple(
            torch.rand(*(dimension(part, sizes) for part in shape), generator=generator)
            for shape in self.inputs.values()
        )

    @property
    def varying(self) -> tuple[str, ...]:
        """Names of the dimensions that vary, each once."""
        parts = [part for shape in self.inputs.values() for part in shape if isinstance(part, str)]
        return tuple(dict.fromkeys(part.rpartition("*")[2] for part in parts))


def dimension(part: int | str, sizes: Mapping[str, int]) -> int:
    """The size of one dimension of a :data:`Shape`.

    Args:
        part: of the shape.
        sizes: of the dimensions that vary.

    >>> dimension("32*h", {"h": 3}), dimension(128, {})
    (96, 128)
    """
    if isinstance(part, int):
        return part
    factor, _, name = part.rpartition("*")
    return int(factor or 1) * sizes[name]


class _Head(nn.Module):
    """The head without the calibration of its visibility, which is a table and no network."""

    def __init__(self, head: OMaMa | TinyMatch) -> None:
        super().__init__()
        self.head = copy.deepcopy(head)
        inner = self.head.omama if isinstance(self.head, TinyMatch) else self.head
        if inner.config.matching_head:
            inner.visibility_head.calibration = nn.Identity()  # type: ignore[assignment]

    def forward(
        self, query_descriptors: Tensor, candidate_descriptors: Tensor, query_map: Tensor, target_map: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        output = self.head(query_descriptors, candidate_descriptors, query_map, target_map, keep_queries=True)
        return output.similarity, output.visibility_logit, output.query_embedding, output.candidate_embeddings


class _Map(nn.Module):
    """The map alone of a network whose objects are described by crops."""

    def __init__(self, network: TinyNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network.map_alone(pixels).map


class _Maps(nn.Module):
    """All maps of a network whose objects are described by them."""

    def __init__(self, network: TinyNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = self.network(pixels)
        return maps.colours, maps.fine, maps.map


class RankerNet(nn.Module):
    """:func:`counterview.proposals.objectness.predict` as a module.

    Args:
        ranker: with its weights.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, ranker: NodeRanker) -> None:
        super().__init__()
        weights = ranker.weights
        self.register_buffer("mean", torch.from_numpy(weights["mean"]))
        self.register_buffer("scale", torch.from_numpy(weights["scale"]))
        self.layers = nn.ModuleList()
        for number in range(sum(name.startswith("w") for name in weights)):
            inputs, outputs = weights[f"w{number}"].shape
            layer = nn.Linear(inputs, outputs)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(weights[f"w{number}"].T)))
                layer.bias.copy_(torch.from_numpy(weights[f"b{number}"]))
            self.layers.append(layer)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted IoU and selection logit ``(m,)`` each, of features ``(m, 26)``."""
        x = ((features - self.mean) / self.scale).clamp(-5, 5)
        for number, layer in enumerate(self.layers):
            x = layer(x if number == 0 else torch.relu(x))
        return torch.sigmoid(x[:, 0]), x[:, 1]


def networks_of(model: OMaMa | TinyMatch, proposer: str) -> dict[str, Network]:
    """The networks of a model, by name.

    They are the head's, the model's own features', those of the ``tiny`` proposer, and the one that weighs evidence in
    ``follow``. Backbones and proposers of others are not among them.

    Args:
        model: in evaluation mode.
        proposer: name of the proposer in use.

    Raises:
        ConfigError: nearest neighbour, which has no weights.
    """
    config = omama_config(model)
    if not config.matching_head:
        raise ConfigError("the model has no head to export", found="matching_head false", expected="a trained head")
    settings, channels, width = set_values(model.config), config.channels, config.descriptor_width
    found: list[Network] = []

    def add(name: str, build: Callable[[], nn.Module], inputs: Mapping[str, Shape], weights: str) -> None:
        parts = json.dumps([EXPORT, name, settings if name == "head" else None, weights], sort_keys=True)
        found.append(Network(name, build, inputs, hashlib.sha256(parts.encode()).hexdigest()))

    if proposer == "tiny":
        boundary, ranker = load_boundary(), load_ranker()
        add("boundary", lambda: boundary.net, {"image": (1, 3, f"{STRIDE}*h", f"{STRIDE}*w")}, boundary.digest)
        add("ranker", lambda: RankerNet(ranker).eval(), {"features": ("m", len(FEATURES))}, ranker.digest)
    if isinstance(model, TinyMatch) and model.config.network is not None:
        network, weights = model.network, weights_fingerprint(model.network)
        pixels: Mapping[str, Shape] = {"pixels": (1, 3, "32*h", "32*w")}
        if model.config.network.object_crops:
            add("map", lambda: _Map(network), pixels, weights)
            inputs: Mapping[str, Shape] = {"pixels": ("n", 4, INPUT_PX, INPUT_PX), "sizes": ("n", SIZE_FEATURES)}
            add("crops", lambda: network.object_crops, inputs, weights)
        else:
            add("maps", lambda: _Maps(network), pixels, weights)
    head_inputs: Mapping[str, Shape] = {
        "query_descriptors": (1, "q", width), "candidate_descriptors": (1, "n", width),
        "query_map": (1, channels, "h", "w"), "target_map": (1, channels, "h2", "w2"),
    }  # fmt: skip
    add("head", lambda: _Head(without_parts(model)).eval(), head_inputs, model.fingerprint())
    if isinstance(model, TinyMatch) and model.config.reranker is not None:
        reranker = model.reranker
        add(
            "reranker",
            lambda: reranker,
            {"pair_features": ("k", "q", "n", len(PairFeature)), "query_features": ("k", "q", len(QueryFeature))},
            weights_fingerprint(reranker) + repr(model.config.reranker.similarity_scale)
            + repr(model.config.reranker.nearby_offset),
        )  # fmt: skip
    weighing = load_weighing()
    add("weighing", lambda: weighing, {"evidence": ("b", "n", len(Evidence))}, weights_fingerprint(weighing))
    return {network.name: network for network in found}


def set_values(config: Any) -> dict[str, Any]:
    """The fields of a configuration that differ from their defaults: a field of a later version changes nothing.

    >>> set_values(OMaMaConfig(channels=8, heads=2))
    {'channels': 8, 'heads': 2}
    """
    values = {}
    for item in fields(config):
        value = getattr(config, item.name)
        default = item.default_factory() if item.default_factory is not MISSING else item.default
        if value != default:
            values[item.name] = set_values(value) if is_dataclass(value) else value
    return values


def without_parts(model: OMaMa | TinyMatch) -> OMaMa | TinyMatch:
    """A model whose head alone is copied: features and re-ranker have graphs of their own."""
    if not isinstance(model, TinyMatch):
        return model
    bare = copy.copy(model)
    bare._modules = {k: v for k, v in model._modules.items() if k == "omama"}
    return bare


def omama_config(model: OMaMa | TinyMatch) -> OMaMaConfig:
    """The configuration of the head."""
    return model.config.omama if isinstance(model, TinyMatch) else model.config


def calibration_of(model: OMaMa | TinyMatch) -> dict[str, Any]:
    """The buffers of the visibility's calibration as lists; empty where there is none."""
    calibration = model.calibration
    return {} if calibration is None else {k: cast(Tensor, v).tolist() for k, v in calibration.state_dict().items()}
