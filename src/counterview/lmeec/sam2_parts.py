"""SAM 2's sub-modules as functions of feature maps and memories, for frame loops of one's own.

``sam`` is transformers' ``Sam2VideoModel`` everywhere. B counts images, N tracks; h = w = image side / 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional

from counterview.lmeec.attention import attend, first_self_attention
from counterview.lmeec.constants import constant
from counterview.lmeec.window_inputs import WindowInputs

NO_OBJECT_LOGIT = -1024.0
"""Mask logit of SAM 2 where the object score says that the object is not there."""

MASK_SCALE, MASK_BIAS = 20.0, -10.0
"""Masks enter SAM 2's memory encoder as ``sigmoid(logits) * 20 - 10``."""


class ExtraFeatures(Protocol):
    """Further features of images that a subclass of ``LMEECNetwork`` carries along with the feature maps."""

    def pick(self, index: Tensor) -> Self:
        """Those of the images of ``index`` ``(N,)``, repeated as it says."""

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Those of all ``parts``, one after the other."""


@dataclass
class ImageFeatures:
    """Feature maps of B images, ready for attention and mask decoder. h = w = image side / 16.

    Attributes:
        top: ``(B, C, h, w)``.
        half: ``(B, C / 4, 2h, 2w)``, projected for the mask decoder.
        quarter: ``(B, C / 8, 4h, 4w)``, projected for the mask decoder.
        extra: what ``LMEECNetwork.extra_features`` gives: ``None`` for LM-EEC.
        windows: what is known of them where they are windows of images; ``None`` for whole images.
    """

    top: Tensor
    half: Tensor
    quarter: Tensor
    extra: Any = None
    windows: WindowInputs | None = None

    def pick(self, index: Tensor | Sequence[int]) -> ImageFeatures:
        """The images of ``index`` ``(N,)``, repeated as it says."""
        index = torch.as_tensor(index, device=self.top.device)
        extra = None if self.extra is None else self.extra.pick(index)
        windows = None if self.windows is None else self.windows.pick(index)
        return ImageFeatures(self.top[index], self.half[index], self.quarter[index], extra, windows)

    @staticmethod
    def join(parts: Sequence[ImageFeatures]) -> ImageFeatures:
        """The images of all ``parts``, one after the other."""
        extras = [p.extra for p in parts if p.extra is not None]
        windows = [p.windows for p in parts if p.windows is not None]
        return ImageFeatures(
            torch.cat([p.top for p in parts]),
            torch.cat([p.half for p in parts]),
            torch.cat([p.quarter for p in parts]),
            type(extras[0]).join(extras) if extras else None,
            WindowInputs.join(windows) if windows else None,
        )


@dataclass
class Decoded:
    """What the mask decoder gives for N tracks in one frame.

    Attributes:
        logits: ``(N, 4h, 4w)`` mask logits; all :data:`NO_OBJECT_LOGIT` where the score is not above 0.
        all_logits: ``(N, M, 4h, 4w)`` of every decoded mask (M is 1, or 3 with multimask), never overwritten.
        ious: ``(N, M)`` predicted IoU.
        score: ``(N,)`` object score, a logit.
        pointer: ``(N, C)`` object pointer.
        best: ``(N,)`` index of the mask in ``logits``.
    """

    logits: Tensor
    all_logits: Tensor
    ious: Tensor
    score: Tensor
    pointer: Tensor
    best: Tensor

    @property
    def best_logits(self) -> Tensor:
        """``(N, 4h, 4w)`` logits of the mask of highest predicted IoU, whatever the score."""
        return self.all_logits[torch.arange(len(self.best), device=self.best.device), self.best]

    @property
    def best_iou(self) -> Tensor:
        """``(N,)`` predicted IoU of that mask."""
        return self.ious.gather(1, self.best[:, None])[:, 0]


def neck_maps(sam: Any, pixels: Tensor) -> Sequence[Tensor]:
    """The neck's maps of normalised images ``(B, 3, S, S)``, from high to low resolution: ``(B, C, side, side)``."""
    maps: Sequence[Tensor] = sam.vision_encoder(pixels).fpn_hidden_states
    return maps


def image_features(sam: Any, maps: Sequence[Tensor], extra: Any = None) -> ImageFeatures:
    """Maps as attention and mask decoder take them.

    Args:
        sam: the model.
        maps: :func:`neck_maps`, ``(B, C, 4h, 4w)``, ``(B, C, 2h, 2w)`` and ``(B, C, h, w)``.
        extra: see :class:`ImageFeatures`.
    """
    decoder = sam.mask_decoder
    return ImageFeatures(maps[2], decoder.conv_s1(maps[1]), decoder.conv_s0(maps[0]), extra)


def image_position(sam: Any, top: Tensor) -> Tensor:
    """Position encoding ``(h * w, 1, C)`` of images with features ``(B, C, h, w)``."""
    encoding = sam.vision_encoder.neck.position_encoding(torch.Size((1, *top.shape[1:])), top.device, torch.float32)
    return encoding.flatten(2).permute(2, 0, 1).to(top.dtype)


def memory_position(sam: Any, channels: int, grid: int, device: torch.device) -> Tensor:
    """Position encoding ``(grid * grid, 1, channels)`` of a stored memory: where in the image, not when."""
    encoding = sam.memory_encoder.position_encoding(torch.Size((1, channels, grid, grid)), device, torch.float32)
    return encoding.flatten(2).permute(2, 0, 1)


def mask_values(logits: Tensor, side: int) -> Tensor:
    """Mask logits ``(N, s, s)`` as values ``(N, side, side)`` in 0..1."""
    logits = logits[:, None].float()
    if logits.shape[-1] != side:
        logits = functional.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False)
    return torch.sigmoid(logits)[:, 0]


def encode_memory(sam: Any, top: Tensor, masks: Tensor, score: Tensor | None = None) -> Tensor:
    """Encode a frame and an object's mask into a memory.

    Args:
        sam: the model.
        top: ``(N, C, h, w)``.
        masks: ``(N, S, S)`` values in 0..1 at the side of the model's image.
        score: ``(N,)`` object score; where it is not above 0, SAM 2.1's occlusion embedding is added.

    Returns:
        ``(N, h * w, 64)``.
    """
    memory, _ = sam.memory_encoder(top, masks[:, None] * MASK_SCALE + MASK_BIAS)
    occlusion = sam.occlusion_spatial_embedding_parameter
    if score is not None and occlusion is not None:
        absent = (score <= 0).to(memory.dtype)[:, None, None, None]
        memory = memory + absent * occlusion[..., None, None]
    return memory.flatten(2).transpose(1, 2)


def self_attended(sam: Any, top: Tensor) -> Tensor | None:
    """What the memory attention needs of images ``(B, C, h, w)`` whatever the object; None where it is no gain.

    Returns:
        ``(B, h * w, C)``; its rows, picked for N tracks, may be passed to :func:`attend_to_memory`.
    """
    if sam.memory_attention.training or top.device.type != "cpu":
        return None
    return first_self_attention(sam.memory_attention, top, image_position(sam, top))


def attend_to_memory(
    sam: Any, top: Tensor, memory: Tensor, positions: Tensor, pointer_tokens: int, attended: Tensor | None
) -> Tensor:
    """Let images attend to memories.

    Args:
        sam: the model.
        top: ``(N, C, h, w)``.
        memory: ``(L, N, 64)``; the last ``pointer_tokens`` are object pointers.
        positions: position encoding of ``memory``, of its shape.
        pointer_tokens: see above.
        attended: :func:`self_attended` of ``top``, ``(N, h * w, C)``; None for transformers' own forward pass.

    Returns:
        ``(N, C, h, w)``.
    """
    count, channels, height, width = top.shape
    if attended is not None:
        memory, positions = memory.to(attended.dtype), positions.to(attended.dtype)
        result = attend(sam.memory_attention, attended, memory, positions, pointer_tokens)
        return result.transpose(1, 2).reshape(count, channels, height, width)
    # SAM 2 keeps the sequence first: (h*w, N, C) attends to (L, N, 64).
    result = sam.memory_attention(
        current_vision_features=top.flatten(2).permute(2, 0, 1),
        memory=memory.to(top.dtype),
        current_vision_position_embeddings=image_position(sam, top),
        memory_posision_embeddings=positions.to(top.dtype),
        num_object_pointer_tokens=pointer_tokens,
    )
    return result[0].transpose(1, 2).reshape(count, channels, height, width)


def pointer_tokens(sam: Any, pointers: Tensor, distances: Tensor, span: int) -> tuple[Tensor, Tensor]:
    """Object pointers as tokens of the memory attention.

    Args:
        sam: the model.
        pointers: ``(N, P, C)``.
        distances: ``(N, P)`` how many frames ago each was.
        span: distance that counts as 1.

    Returns:
        tokens ``(C / 64 * P, N, 64)`` and their positions, of the same shape.
    """
    count, number, channels = pointers.shape
    projection = sam.temporal_positional_encoding_projection_layer
    width = projection.out_features
    splits = channels // width
    sine = _sine_encoding(distances.float() / max(span, 1), channels).to(pointers.dtype)
    positions = projection(sine)  # (N, P, 64)
    tokens = pointers.reshape(count, number * splits, width).transpose(0, 1)
    return tokens, positions.repeat_interleave(splits, dim=1).transpose(0, 1)


def no_prompt(sam: Any, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """SAM 2's empty prompt for ``count`` tracks.

    Args:
        sam: the model.
        count: N.
        device: where it is to be.

    Returns:
        sparse ``(N, 1, 2, C)`` and dense ``(N, C, h, w)`` embeddings.
    """

    def compute() -> tuple[Tensor, Tensor]:
        # As in SAM 2, an empty prompt is two points that are none.
        points = torch.zeros(1, 1, 1, 2, device=device)
        labels = -torch.ones(1, 1, 1, dtype=torch.int64, device=device)
        sparse, dense = sam.prompt_encoder(points, labels, None, None)
        return sparse, dense

    encoder = sam.prompt_encoder
    weights = [encoder.not_a_point_embed.weight, encoder.no_mask_embed.weight, encoder.point_embed.weight]
    sparse, dense = constant(sam, "no_prompt", weights, compute)
    return sparse.expand(count, -1, -1, -1), dense.expand(count, -1, -1, -1)


def decode_masks(
    sam: Any,
    images: ImageFeatures,
    sparse: Tensor,
    dense: Tensor,
    multimask: bool,
    mask_offset: Tensor | None = None,
    score_offset: Tensor | None = None,
) -> Decoded:
    """Run the mask decoder, and take of each track the mask of highest predicted IoU.

    Args:
        sam: the model.
        images: of N tracks; ``top`` after the memory attention.
        sparse: embeddings of points ``(N, 1, P, C)``.
        dense: embedding of the mask prompt, ``(N, C, h, w)`` or what broadcasts to it.
        multimask: decode three masks and not one.
        mask_offset: ``(N, 1, 4h, 4w)``, added to the mask logits.
        score_offset: ``(N,)``, added to the object score.
    """
    count, device = images.top.shape[0], images.top.device
    embedding = sam.shared_image_embedding.positional_embedding
    places = constant(sam, "image_positions", [embedding], sam.get_image_wide_positional_embeddings)
    masks, ious, tokens, score = sam.mask_decoder(
        image_embeddings=images.top,
        image_positional_embeddings=places.expand(count, -1, -1, -1),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
        high_resolution_features=[images.quarter, images.half],
    )
    masks, ious, tokens = masks[:, 0].float(), ious[:, 0].float(), tokens[:, 0]
    if mask_offset is not None:
        masks = masks + mask_offset.float()
    score = score.reshape(count).float()
    if score_offset is not None:
        score = score + score_offset.float()
    best = ious.argmax(dim=1)
    rows = torch.arange(count, device=device)
    logits = masks[rows, best]
    present = (score > 0)[:, None]
    logits = torch.where(present[..., None], logits, NO_OBJECT_LOGIT)
    pointer = sam.object_pointer_proj(tokens[rows, best])
    pointer = torch.where(present, pointer, sam.no_object_pointer.to(pointer.dtype))
    return Decoded(logits, masks, ious, score, pointer, best)


def _sine_encoding(values: Tensor, channels: int, temperature: float = 10000.0) -> Tensor:
    """SAM 2's sine encoding of numbers ``(...)`` to ``(..., channels)``."""
    half = channels // 2
    exponent = torch.arange(half, dtype=torch.float32, device=values.device)
    angles = values[..., None] / temperature ** (2 * torch.div(exponent, 2, rounding_mode="floor") / half)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
