"""A clip through the model with gradients: what training sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from counterview.lmeec.model import LMEEC, Decoded, ImageFeatures
from counterview.lmeec.preprocess import normalise
from counterview.tiny.appearance import FineMaps


@dataclass
class ClipBatch:
    """B clips of T frames with N tracks in all.

    Attributes:
        query_images: ``(B, T, S, S, 3)`` uint8.
        target_images: ``(B, T, S, S, 3)`` uint8.
        query_masks: ``(N, T, S, S)`` bool.
        target_masks: ``(N, T, S, S)`` bool, empty where the object is absent.
        clip_of: ``(N,)`` int64, the clip of each track.
        decode: ``()`` bool; false where only the features of both views are to be matched, and no mask decoded.
    """

    query_images: Tensor
    target_images: Tensor
    query_masks: Tensor
    target_masks: Tensor
    clip_of: Tensor
    decode: Tensor = field(default_factory=lambda: torch.tensor(True))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        """The batch on another device."""
        return ClipBatch(*(getattr(self, n).to(device, non_blocking=non_blocking) for n in self.__dataclass_fields__))

    @property
    def clips(self) -> int:
        """B."""
        return self.query_images.shape[0]


def unroll(
    model: LMEEC,
    batch: ClipBatch,
    *,
    recompute: bool = False,
    recompute_images: int = 1,
    watch: list[tuple[FineMaps, FineMaps]] | None = None,
) -> list[Decoded]:
    """Predict every frame of the clips in turn, each from the memories of those before it.

    Banks hold the last ``bank_size`` frames; compression is for inference only (paper, section 3.3).

    Args:
        model: the model.
        batch: the clips.
        recompute: keep no activations of the encoder and of each frame; compute them again in the backward pass.
        recompute_images: images encoded at a time where that is done.
        watch: is given the features of query and target of each frame that are to match, see :func:`matched`.

    Returns:
        one :class:`Decoded` a frame, of N tracks.
    """
    config = model.config
    frames = batch.query_images.shape[1]
    keep = _Recompute(recompute)
    queries = _encode(model, batch.query_images, keep, recompute_images)
    targets = _encode(model, batch.target_images, keep, recompute_images)
    # Frame t of the clip of each track.
    rows = [batch.clip_of * frames + t for t in range(frames)]
    span = min(frames, config.max_pointers) - 1
    query_bank: list[Tensor] = []
    target_bank: list[Tensor] = []
    pointers: list[Tensor] = []
    results: list[Decoded] = []

    def predict(
        images: ImageFeatures, query: ImageFeatures, masks: Tensor, number: int, last: bool, *past: Tensor
    ) -> Any:
        banks, points = past[: 2 * number], past[2 * number :]
        query_memory = model.encode_memory(query.top, model.query_logits(masks))
        view = model.view_features(images.top, query_memory) if config.cross_view_prompt or not number else None
        distances = None
        if points:
            distances = torch.arange(1, len(points) + 1, device=masks.device).expand(len(masks), -1)
        memory = model.memory_features(
            images.top,
            banks[:number],
            banks[number:],
            torch.stack(points, dim=1) if points else None,
            distances,
            span,
        )
        decoded = model.decode(model.fuse(memory, view, images.top), images, masks, query.fine)
        if last:
            return decoded, query_memory, None  # nothing comes that could remember it
        target_memory = model.encode_memory(images.top, decoded.logits, decoded.score)
        return decoded, query_memory, target_memory

    for t in range(frames):
        images, query = targets.pick(rows[t]), queries.pick(rows[t])
        held = min(len(query_bank), config.bank_size)
        past = (*query_bank[-held:], *target_bank[-held:]) if held else ()
        newest_first = pointers[::-1][: config.max_pointers - 1]
        decoded, query_memory, target_memory = keep(
            predict, images, query, batch.query_masks[:, t], held, t == frames - 1, *past, *newest_first
        )
        if watch is not None:
            watch.append((matched(query), matched(images)))
        results.append(decoded)
        query_bank.append(query_memory)
        target_bank.append(target_memory)
        pointers.append(decoded.pointer)
    return results


def matched_features(model: LMEEC, batch: ClipBatch) -> list[tuple[FineMaps, FineMaps]]:
    """Features of query and target of each frame that are to match, of N tracks each, with nothing decoded."""
    frames = batch.query_images.shape[1]
    views = [
        matched(_encode(model, images, _Recompute(False), 1)) for images in (batch.query_images, batch.target_images)
    ]
    rows = [batch.clip_of * frames + t for t in range(frames)]
    return [(views[0].pick(row), views[1].pick(row)) for row in rows]


def matched(features: ImageFeatures) -> FineMaps:
    """The features that are to match: those of the appearance prompt if there is one, or else the top map."""
    if features.fine is not None:
        return features.fine
    top = functional.normalize(features.top.float(), dim=1)
    return FineMaps.of(torch.cat([top, torch.zeros_like(top[:, :1])], dim=1))


@dataclass(frozen=True)
class _Recompute:
    on: bool

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self.on and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False)
        return function(*arguments)


def _encode(model: LMEEC, images: Tensor, keep: _Recompute, at_a_time: int) -> ImageFeatures:
    flat = images.flatten(0, 1).permute(0, 3, 1, 2)

    def encode(part: Tensor) -> ImageFeatures:
        return model.encode_images(normalise(part.float() / 255))

    if not keep.on:
        return encode(flat)
    return ImageFeatures.join([keep(encode, part) for part in flat.split(at_a_time)])


def unused_parameters(model: LMEEC) -> dict[str, str]:
    """Parameters that no training step can reach, and why. They are frozen while training.

    Returns:
        parameter name to reason.
    """
    config = model.config
    reasons: dict[str, str] = {
        "sam.prompt_encoder.point_embed.": "no points or boxes are ever given",
        "sam.mask_downsample.": "SAM 2 uses it for mask prompts on the tracked view, which there are none of",
        "sam.no_memory_positional_encoding": "SAM 2 itself never uses it",
    }
    if config.dense_prompt != "mask":
        reasons["sam.prompt_encoder.mask_embed."] = "the query mask is no dense prompt"
    if config.dense_prompt != "empty":
        reasons["sam.prompt_encoder.no_mask_embed."] = "the empty dense prompt is not added"
    if not config.multimask:
        for token in (1, 2, 3):
            reasons[f"sam.mask_decoder.output_hypernetworks_mlps.{token}."] = "only the first mask is decoded"
    else:
        reasons["sam.mask_decoder.output_hypernetworks_mlps.0."] = "only masks 1 to 3 are decoded"
    reasons["sam.no_memory_embedding"] = "every frame has a query mask or a memory to attend to"
    if not (config.query_memory or config.target_memory):
        reasons["sam.memory_temporal_positional_encoding"] = "there are no banks"
        reasons["fusion."] = "there is nothing to fuse with"
        reasons["sam.occlusion_spatial_embedding_parameter"] = "no target frame is remembered"
    elif not config.target_memory:
        reasons["sam.occlusion_spatial_embedding_parameter"] = "no target frame is remembered"
    if not config.cross_view_prompt:
        reasons["fusion."] = "there is nothing to fuse with"
    if not config.pointers or not (config.query_memory or config.target_memory):
        reasons["sam.temporal_positional_encoding_projection_layer."] = "no pointers are attended to"
        reasons["sam.object_pointer_proj."] = "no pointers are attended to"
        reasons["sam.no_object_pointer"] = "no pointers are attended to"
    return {
        name: reason
        for name, _ in model.named_parameters()
        for prefix, reason in reasons.items()
        if name == prefix or (prefix.endswith(".") and name.startswith(prefix))
    }
