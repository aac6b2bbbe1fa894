"""A clip through the model with gradients: what training sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from counterview.lmeec.network import LMEECNetwork
from counterview.lmeec.preprocess import normalise
from counterview.lmeec.sam2_parts import Decoded, ImageFeatures
from counterview.lmeec.window_inputs import WindowInputs


@dataclass
class ClipBatch:
    """B clips of T frames with N tracks in all.

    Attributes:
        query_images: ``(B, T, S, S, 3)`` uint8.
        target_images: ``(B, T, S, S, 3)`` uint8.
        query_masks: ``(N, T, S, S)`` bool.
        target_masks: ``(N, T, S, S)`` bool, empty where the object is absent.
        clip_of: ``(N,)`` int64, the clip of each track.
    """

    query_images: Tensor
    target_images: Tensor
    query_masks: Tensor
    target_masks: Tensor
    clip_of: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The batch on another device."""
        return type(self)(*(getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)))

    def pin_memory(self) -> Self:
        """The batch in page-locked memory."""
        return type(self)(*(getattr(self, f.name).pin_memory() for f in fields(self)))

    @property
    def clips(self) -> int:
        """B."""
        return self.query_images.shape[0]

    def features(self, model: LMEECNetwork, images_at_a_time: int | None = None) -> tuple[ImageFeatures, ImageFeatures]:
        """Features of the B * T query images and of the target images, clip by clip.

        Args:
            model: the model.
            images_at_a_time: see :func:`encode_frames`.
        """
        query, target = (
            encode_frames(model, images, images_at_a_time) for images in (self.query_images, self.target_images)
        )
        return query, target


def unroll(
    model: LMEECNetwork,
    batch: ClipBatch,
    *,
    recompute: bool = False,
    recompute_images: int = 1,
    watch: Callable[[ImageFeatures, ImageFeatures], None] | None = None,
) -> list[Decoded]:
    """Predict every frame of the clips in turn, each from the memories of those before it.

    Banks hold the last ``bank_size`` frames; compression is for inference only (paper, section 3.3).

    Args:
        model: the model.
        batch: the clips.
        recompute: keep no activations of the encoder and of each frame; compute them again in the backward pass.
        recompute_images: images encoded at a time where that is done.
        watch: called in each frame with the features of the N tracks' query images and target images.

    Returns:
        one :class:`Decoded` a frame, of N tracks.
    """
    config = model.config
    frames = batch.query_images.shape[1]
    run = _Recompute(recompute)
    images_at_a_time = recompute_images if recompute else None
    queries, targets = batch.features(model, images_at_a_time)
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
        decoded = model.decode(model.fuse(memory, view, images.top), images, masks, query.extra)
        if last:
            return decoded, query_memory, None  # nothing comes that could remember it
        target_memory = model.encode_memory(images.top, decoded.logits, decoded.score)
        return decoded, query_memory, target_memory

    for t in range(frames):
        rows = frame_rows(batch, t)
        images, query = targets.pick(rows), queries.pick(rows)
        length = min(len(query_bank), config.bank_size)
        past = (*query_bank[-length:], *target_bank[-length:]) if length else ()
        newest_first = pointers[::-1][: config.max_pointers - 1]
        decoded, query_memory, target_memory = run(
            predict, images, query, batch.query_masks[:, t], length, t == frames - 1, *past, *newest_first
        )
        if watch is not None:
            watch(query, images)
        results.append(decoded)
        query_bank.append(query_memory)
        target_bank.append(target_memory)
        pointers.append(decoded.pointer)
    return results


def frame_rows(batch: ClipBatch, frame: int) -> Tensor:
    """Index ``(N,)`` of one frame of each track's clip among the frames that :func:`encode_frames` encodes."""
    return batch.clip_of * batch.query_images.shape[1] + frame


def encode_frames(
    model: LMEECNetwork,
    images: Tensor,
    recompute_at_a_time: int | None = None,
    windows: WindowInputs | None = None,
) -> ImageFeatures:
    """Encode the frames of one view of all clips.

    Args:
        model: the model.
        images: ``(B, T, S, S, 3)`` uint8.
        recompute_at_a_time: if given, encode so many images at a time and keep no activations.
        windows: what is known of the B * T images where they are windows.

    Returns:
        Features of B * T images, clip by clip.
    """
    flat = images.flatten(0, 1).permute(0, 3, 1, 2)

    def encode(rows: Tensor) -> ImageFeatures:
        pixels = normalise(flat[rows].float() / 255)
        return model.encode_images(pixels) if windows is None else model.encode_images(pixels, windows.pick(rows))

    every = torch.arange(len(flat), device=flat.device)
    if recompute_at_a_time is None:
        return encode(every)
    run = _Recompute(True)
    return ImageFeatures.join([run(encode, rows) for rows in every.split(recompute_at_a_time)])


@dataclass(frozen=True)
class _Recompute:
    """Runs functions, and where it is on keeps no activations of them but computes them again backwards."""

    on: bool

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self.on and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False)
        return function(*arguments)


def unused_parameters(model: LMEECNetwork) -> dict[str, str]:
    """Parameters that no training step can reach, and why. They are frozen while training.

    Returns:
        parameter name to reason.
    """
    config = model.config
    reasons: dict[str, str] = {
        "sam.prompt_encoder.point_embed.": "there are no prompts of points or boxes",
        "sam.mask_downsample.": "SAM 2 uses it for mask prompts on the tracked view, and there are none",
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
