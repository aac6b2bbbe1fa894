"""Models whose networks ONNX Runtime computes; everything else about them is inherited.

Each class has the weights of the model that it was made from (its fingerprint and calibration are the same), and
replaces the forward pass alone. What no graph takes (padding, several pairs at once) torch computes as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from counterview.deploy.export import cached_export, read_export
from counterview.deploy.manifest import SIGNATURES, file_name
from counterview.deploy.networks import networks_of
from counterview.deploy.runtime import OnnxSession, providers_for, require_onnx
from counterview.errors import ConfigError
from counterview.features.object_crops import ObjectCropNet
from counterview.features.tiny import TinyMaps, TinyNet
from counterview.omama.model import OMaMa, OMaMaOutput
from counterview.proposals.boundary import BoundaryNet
from counterview.proposals.bundled import BoundaryModel, NodeRanker, load_boundary, load_ranker
from counterview.proposals.tiny import TinyProposer, TinySettings
from counterview.tiny.model import TinyMatch
from counterview.tiny.reranker import GeometricReranker
from counterview.tracking.weighing import EvidenceWeighing
from counterview.tracking.weights import load_weighing

M = TypeVar("M", bound=nn.Module)


def _sharing(network: M, weights: nn.Module) -> M:
    """A network that was built without memory, with the tensors of another of its kind."""
    network.load_state_dict(weights.state_dict(), assign=True)
    return network.eval()


class OnnxBoundaryNet(BoundaryNet):
    """The boundary network. Args as its base, and its session."""

    def __init__(self, session: OnnxSession) -> None:
        super().__init__()
        self._session = session

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`BoundaryNet.forward`: ``(B, 3, H, W)`` to logits, embeddings and extents."""
        logits, embedding, extent = self._session(image)
        return logits, embedding, extent


@dataclass(frozen=True, eq=False)
class OnnxNodeRanker(NodeRanker):
    """The ranking network of the ``tiny`` proposer.

    Attributes:
        session: computes it.
    """

    session: OnnxSession = field(kw_only=True)

    def __call__(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See :meth:`NodeRanker.__call__`: ``(m,)`` each, of nodes with features ``(m, 26)``."""
        iou, selection = self.session(torch.from_numpy(features))
        return iou.numpy(), selection.numpy()


class OnnxObjectCropNet(ObjectCropNet):
    """The object-crop network."""

    session: OnnxSession

    def forward(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        """See :meth:`ObjectCropNet.forward`: ``(N, 4, S, S)`` and ``(N, 2)`` to ``(N, D)``."""
        return self.session(pixels, sizes)[0]


class OnnxTinyNet(TinyNet):
    """The feature network of tiny-match.

    Args:
        source: with the weights.
        sessions: ``map`` and ``crops``, or ``maps``.
    """

    def __init__(self, source: TinyNet, sessions: Mapping[str, OnnxSession]) -> None:
        config = source.config
        with torch.device("meta"):
            super().__init__(config)
            if config.object_crops:
                crops = OnnxObjectCropNet(config.object_crops, config.crop_widths, config.crop_blocks, config.colours)
                crops.session = sessions["crops"]
                self.object_crops: ObjectCropNet = crops
        self._sessions = dict(sessions)
        _sharing(self, source)

    def forward(self, pixels: Tensor) -> TinyMaps:
        """See :meth:`TinyNet.forward`: the maps of images ``(B, 3, H, W)``."""
        if "maps" not in self._sessions or len(pixels) != 1:
            return super().forward(pixels)
        return TinyMaps(*self._sessions["maps"](pixels))

    def map_alone(self, pixels: Tensor) -> TinyMaps:
        """See :meth:`TinyNet.map_alone`: the map of images ``(B, 3, H, W)``."""
        if "map" not in self._sessions or len(pixels) != 1:
            return super().map_alone(pixels)
        features = self._sessions["map"](pixels)[0]
        empty = features.new_zeros((len(features), 0, 0, 0))
        return TinyMaps(empty, empty, features)


class OnnxReranker(GeometricReranker):
    """The geometric re-ranker.

    Args:
        source: with the weights.
        session: ``reranker``.
    """

    def __init__(self, source: GeometricReranker, session: OnnxSession) -> None:
        with torch.device("meta"):
            super().__init__(source.config)
        self._session = session
        _sharing(self, source)

    def forward(
        self, pair_features: Tensor, query_features: Tensor, candidate_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`GeometricReranker.forward`.

        Args:
            pair_features: ``(B, Q, N, 14)``.
            query_features: ``(B, Q, 6)``.
            candidate_mask: ``(B, N)`` bool.

        Returns:
            ``(B, Q, N)`` and ``(B, Q)``.
        """
        if candidate_mask is not None or not pair_features.numel():
            return super().forward(pair_features, query_features, candidate_mask)
        scores, logit = self._session(pair_features, query_features)
        return scores, logit


class OnnxWeighing(EvidenceWeighing):
    """The network that weighs evidence.

    Args:
        source: with the weights.
        session: ``weighing``.
    """

    def __init__(self, source: EvidenceWeighing, session: OnnxSession) -> None:
        with torch.device("meta"):
            super().__init__(source.config)
        self._session = session
        _sharing(self, source)

    def forward(self, evidence: Tensor, is_candidate: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :meth:`EvidenceWeighing.forward`.

        Args:
            evidence: ``(B, N, 24)``.
            is_candidate: ``(B, N)`` bool.

        Returns:
            ``(B, N)`` and ``(B,)``.
        """
        if is_candidate is not None or not evidence.numel():
            return super().forward(evidence, is_candidate)
        scores, logit = self._session(evidence)
        return scores, logit


class OnnxOMaMa(OMaMa):
    """O-MaMa's head.

    Args:
        source: with the weights.
        session: ``head``.
    """

    def __init__(self, source: OMaMa, session: OnnxSession) -> None:
        with torch.device("meta"):
            super().__init__(source.config)
        self._session = session
        _sharing(self, source)

    def forward(
        self,
        query_descriptors: Tensor,
        candidate_descriptors: Tensor,
        query_map: Tensor,
        target_map: Tensor,
        candidate_mask: Tensor | None = None,
        *,
        keep_queries: bool = False,
    ) -> OMaMaOutput:
        """See :meth:`OMaMa.forward`.

        Args:
            query_descriptors: ``(B, Q, D)``.
            candidate_descriptors: ``(B, N, D)``.
            query_map: ``(B, C, h, w)``.
            target_map: ``(B, C, h', w')``.
            candidate_mask: ``(B, N)`` bool.
            keep_queries: keep the axis Q in the output even where Q is 1.

        Raises:
            InputError: shapes that do not fit together.
        """
        inputs = (query_descriptors, candidate_descriptors, query_map, target_map)
        self.check_inputs(*inputs, candidate_mask)
        if candidate_mask is not None or not _is_one_pair(*inputs):
            return super().forward(*inputs, candidate_mask, keep_queries=keep_queries)
        return _output(self, self._session, *inputs, keep_queries=keep_queries)


class OnnxTinyMatch(TinyMatch):
    """tiny-match, with its own features and re-ranker.

    Args:
        source: with the weights.
        sessions: of its networks, by name.
    """

    def __init__(self, source: TinyMatch, sessions: Mapping[str, OnnxSession]) -> None:
        with torch.device("meta"):
            super().__init__(source.config)
        if source.config.reranker is not None:
            self.reranker: GeometricReranker = OnnxReranker(source.reranker, sessions["reranker"])
        if source.config.network is not None:
            self.network: TinyNet = OnnxTinyNet(source.network, sessions)
        self._session = sessions["head"]
        _sharing(self, source)

    def forward(
        self,
        query_descriptors: Tensor,
        candidate_descriptors: Tensor,
        query_map: Tensor,
        target_map: Tensor,
        candidate_mask: Tensor | None = None,
        *,
        keep_queries: bool = False,
    ) -> OMaMaOutput:
        """See :meth:`TinyMatch.forward`.

        Args:
            query_descriptors: ``(B, Q, D)``.
            candidate_descriptors: ``(B, N, D)``.
            query_map: ``(B, C, h, w)``.
            target_map: ``(B, C, h', w')``.
            candidate_mask: ``(B, N)`` bool.
            keep_queries: keep the axis Q in the output even where Q is 1.

        Raises:
            InputError: shapes that do not fit together.
        """
        inputs = (query_descriptors, candidate_descriptors, query_map, target_map)
        self.omama.check_inputs(*inputs, candidate_mask)
        if candidate_mask is not None or not _is_one_pair(*inputs):
            return super().forward(*inputs, candidate_mask, keep_queries=keep_queries)
        return _output(self.omama, self._session, *inputs, keep_queries=keep_queries)

    def embed_candidates(self, candidate_descriptors: Tensor, query_map: Tensor) -> Tensor:
        """See :meth:`TinyMatch.embed_candidates`: ``(B, N, D)`` and ``(B, C, h, w)`` to ``(B, N, E)``."""
        inputs = (candidate_descriptors[:, :1], candidate_descriptors, query_map, query_map)
        if not _is_one_pair(*inputs):
            return super().embed_candidates(candidate_descriptors, query_map)
        return self._session(*inputs)[3]


def _is_one_pair(*inputs: Tensor) -> bool:
    """Whether the graph of the head takes these inputs: one pair of images, with a query object and a candidate."""
    return len(inputs[0]) == 1 and all(value.numel() for value in inputs)


def _output(head: OMaMa, session: OnnxSession, *inputs: Tensor, keep_queries: bool) -> OMaMaOutput:
    """What :meth:`OMaMa.compare` gives, from the outputs of the graph; the calibration is the model's own."""
    similarity, logit, queries, candidates = session(*inputs)
    is_released = head.config.visibility == "released"
    visibility = torch.sigmoid(logit) if is_released else head.visibility_head.probability(logit)
    output = OMaMaOutput(similarity, visibility, logit, queries, candidates, similarity.argmax(-1))
    return output.first_query() if inputs[0].shape[1] == 1 and not keep_queries else output


class OnnxNetworks:
    """The exported networks of a model, loaded.

    Args:
        model: that they were exported from.
        folder: of the export; ``None``: this user's cache, into which they are exported where it has none.
        proposer: name of the proposer in use.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        name: of the model, for messages and the manifest.

    Attributes:
        folder: that they were read from.

    Raises:
        MissingExtraError: without ``[onnx]``.
        CheckpointError: a folder that is damaged, or exported from another model.
        ConfigError: a device that ONNX Runtime does not have, or a model without a head.
    """

    def __init__(
        self, model: OMaMa | TinyMatch, folder: Path | None, *, proposer: str, device: str = "auto", name: str = ""
    ) -> None:
        require_onnx()
        self._providers = providers_for(device)
        if folder is None:
            export = cached_export(model, proposer=proposer, name=name)
        else:
            export = read_export(folder, networks_of(model, proposer))
        self.folder, self._manifest, self._model = export.folder, export.manifest, model
        self._sessions = {
            key: OnnxSession(data, SIGNATURES[key], self.folder / file_name(key), self._providers)
            for key, data in export.files.items()
        }

    def settings(self) -> dict[str, Any]:
        """What answers depend on beside those of torch."""
        return {
            "name": "onnx", "onnxruntime": version("onnxruntime"), "providers": self._providers,
            "networks": {name: self._manifest.networks[name].sha256[:16] for name in self._sessions},
        }  # fmt: skip

    def model(self) -> OMaMa | TinyMatch:
        """The model, computed by ONNX Runtime."""
        if isinstance(self._model, TinyMatch):
            return OnnxTinyMatch(self._model, self._sessions)
        return OnnxOMaMa(self._model, self._sessions["head"])

    def proposer(self, settings: TinySettings | None = None) -> TinyProposer:
        """The ``tiny`` proposer, computed by ONNX Runtime.

        Args:
            settings: see :class:`~counterview.proposals.tiny.TinySettings`.

        Raises:
            ConfigError: the export was opened for another proposer.
        """
        if "boundary" not in self._sessions:
            raise ConfigError("the export has no networks of the tiny proposer", found=str(self.folder))
        boundary, ranker = load_boundary(), load_ranker()
        with torch.device("meta"):
            network = OnnxBoundaryNet(self._sessions["boundary"])
        return TinyProposer(
            settings,
            BoundaryModel(_sharing(network, boundary.net), boundary.digest),
            OnnxNodeRanker(ranker.weights, ranker.digest, session=self._sessions["ranker"]),
            runtime="onnx",
        )

    def weighing(self) -> EvidenceWeighing:
        """The network that weighs evidence in ``follow``, computed by ONNX Runtime."""
        return OnnxWeighing(load_weighing(), self._sessions["weighing"])
