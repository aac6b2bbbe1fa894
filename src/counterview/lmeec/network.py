"""The network of LM-EEC: SAM 2 with a second view, two memory banks and a fusion of both (arXiv 2510.11417).

It is stateless: it encodes images, attends to memories that it is given, and decodes masks.
:class:`counterview.lmeec.session.Session` keeps the memories of a clip; :mod:`counterview.lmeec.training.unroll` runs
clips with gradients. Both use the methods here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from counterview.config import to_dict
from counterview.hub import transformers_class
from counterview.lmeec.architecture import sam2_config
from counterview.lmeec.attention import attend, first_self_attention
from counterview.lmeec.config import LMEECConfig
from counterview.lmeec.fusion import build_fusion
from counterview.nn.weights import weights_fingerprint

NO_OBJECT_LOGIT = -1024.0
"""Mask logit of SAM 2 where the object score says that the object is not there."""

MASK_SCALE, MASK_BIAS = 20.0, -10.0
"""Masks enter SAM 2's memory encoder as ``sigmoid(logits) * 20 - 10``."""

AREA_THRESHOLD = 0.001
"""Fraction of the image above which the released code reports an object as visible."""


class ExtraFeatures(Protocol):
    """Further features of images that a subclass of :class:`LMEECNetwork` carries along with the feature maps."""

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
        extra: what :meth:`LMEECNetwork.extra_features` gives: ``None`` for LM-EEC.
    """

    top: Tensor
    half: Tensor
    quarter: Tensor
    extra: Any = None

    def pick(self, index: Tensor | Sequence[int]) -> ImageFeatures:
        """The images of ``index`` ``(N,)``, repeated as it says."""
        index = torch.as_tensor(index, device=self.top.device)
        extra = None if self.extra is None else self.extra.pick(index)
        return ImageFeatures(self.top[index], self.half[index], self.quarter[index], extra)

    @staticmethod
    def join(parts: Sequence[ImageFeatures]) -> ImageFeatures:
        """The images of all ``parts``, one after the other."""
        extras = [p.extra for p in parts if p.extra is not None]
        return ImageFeatures(
            torch.cat([p.top for p in parts]),
            torch.cat([p.half for p in parts]),
            torch.cat([p.quarter for p in parts]),
            type(extras[0]).join(extras) if extras else None,
        )


@dataclass
class DecoderInput:
    """What the mask decoder is given for N tracks, and what is added to what it gives.

    Attributes:
        feature: F_tar, ``(N, C, h, w)``.
        half: ``(N, C / 4, 2h, 2w)``.
        quarter: ``(N, C / 8, 4h, 4w)``.
        mask_offset: ``(N, 1, 4h, 4w)``, added to the mask logits; ``None`` for nothing.
    """

    feature: Tensor
    half: Tensor
    quarter: Tensor
    mask_offset: Tensor | None = None


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


class LMEECNetwork(nn.Module):
    """The network of LM-EEC on the sub-modules of transformers' SAM 2, with random weights.

    A subclass may put another encoder in (:meth:`build_sam`), carry further features of each image along
    (:meth:`extra_features`), and change what the mask decoder sees (:meth:`decoder_input`).

    Args:
        config: architecture and behaviour.
    """

    config: Any  # an LMEECConfig, or what a subclass is built from
    visibility_scale: Tensor
    visibility_bias: Tensor

    def __init__(self, config: LMEECConfig) -> None:
        super().__init__()
        self.config = config
        self.sam = self.build_sam()
        self.fusion = build_fusion(config.fusion, config.channels)
        # Visibility is sigmoid(scale * score + bias); calibration on validation data sets the two.
        self.register_buffer("visibility_scale", torch.ones(()))
        self.register_buffer("visibility_bias", torch.zeros(()))
        self._memory_position_cache: Tensor | None = None

    # -- for subclasses -----------------------------------------------------------------------------------------

    def build_sam(self) -> Any:
        """transformers' ``Sam2VideoModel`` with the image encoder of ``self.config``."""
        return transformers_class("Sam2VideoModel")(sam2_config(self.config))

    def extra_features(self, maps: Sequence[Tensor]) -> ExtraFeatures | None:
        """Further features of images, kept in :attr:`ImageFeatures.extra`; LM-EEC has none.

        Args:
            maps: of SAM 2's neck, ``(B, C, 4h, 4w)``, ``(B, C, 2h, 2w)`` and ``(B, C, h, w)``.
        """
        return None

    def decoder_input(
        self, feature: Tensor, images: ImageFeatures, query_masks: Tensor | None, query_extra: Any
    ) -> DecoderInput:
        """What the mask decoder sees; LM-EEC changes nothing. Arguments as for :meth:`decode`."""
        return DecoderInput(feature, images.half, images.quarter)

    # -- identity -----------------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """SHA-256 over configuration and weights, in hex: sessions are bound to the model that made them."""
        return self.fingerprints()[0]

    def fingerprints(self) -> tuple[str, str]:
        """:meth:`fingerprint`, and what the first version of Counterview computed for the same model."""
        weights, values = weights_fingerprint(self), to_dict(self.config)
        # The first version had one configuration for LM-EEC and tiny-follow.
        configs = (json.dumps(v, sort_keys=True) for v in (values, {"appearance": 0, **values}))
        today, first = (hashlib.sha256(f"{config} {weights}".encode()).hexdigest() for config in configs)
        return today, first

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.visibility_scale.device

    # -- parts --------------------------------------------------------------------------------------------------

    def visibility(self, score: Tensor, area_fraction: Tensor | None = None) -> Tensor:
        """Probability ``(N,)`` that the object is visible.

        With ``config.visibility == "area"`` it is 1 where the mask covers more than 0.1 % of the image, else 0, as
        the released code reports it.

        Args:
            score: object scores ``(N,)``, logits.
            area_fraction: fraction of the target image that each mask covers, ``(N,)``.
        """
        if self.config.visibility == "area" and area_fraction is not None:
            return (area_fraction > AREA_THRESHOLD).to(score.dtype)
        return torch.sigmoid(self.visibility_scale * score + self.visibility_bias)

    def encode_images(self, pixels: Tensor) -> ImageFeatures:
        """Encode normalised images ``(B, 3, S, S)``."""
        maps = self.sam.vision_encoder(pixels).fpn_hidden_states  # from high to low resolution, (B, C, side, side)
        decoder = self.sam.mask_decoder
        extra = self.extra_features(maps)
        return ImageFeatures(maps[2], decoder.conv_s1(maps[1]), decoder.conv_s0(maps[0]), extra)

    def query_logits(self, masks: Tensor) -> Tensor:
        """Query masks ``(..., S, S)``, 0 or 1, as the logits that the memory encoder is given, of the same shape."""
        masks = masks.to(torch.float32)
        return masks * -MASK_BIAS * 2 + MASK_BIAS if self.config.query_mask_logits == "scaled" else masks

    def encode_memory(self, top: Tensor, logits: Tensor, score: Tensor | None = None) -> Tensor:
        """Encode a frame and an object's mask into a memory.

        Args:
            top: ``(N, C, h, w)``.
            logits: ``(N, s, s)`` mask logits at any resolution.
            score: ``(N,)`` object score; where it is not above 0, SAM 2.1's occlusion embedding is added.

        Returns:
            ``(N, h * w, 64)``.
        """
        size = self.config.image_size
        logits = logits[:, None].float()
        if logits.shape[-1] != size:
            logits = functional.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)
        memory, _ = self.sam.memory_encoder(top, torch.sigmoid(logits) * MASK_SCALE + MASK_BIAS)
        occlusion = self.sam.occlusion_spatial_embedding_parameter
        if score is not None and occlusion is not None:
            absent = (score <= 0).to(memory.dtype)[:, None, None, None]
            memory = memory + absent * occlusion[..., None, None]
        return memory.flatten(2).transpose(1, 2)

    def self_attended(self, top: Tensor) -> Tensor | None:
        """What both attentions need of target images ``(B, C, h, w)`` whatever the object; None where it is no gain.

        Returns:
            ``(B, h * w, C)``; its rows, picked for N tracks, may be passed to :meth:`view_features` and
            :meth:`memory_features`.
        """
        if self.training or top.device.type != "cpu":
            return None
        return first_self_attention(self.sam.memory_attention, top, self._image_position(top))

    def view_features(self, top: Tensor, query_memory: Tensor, attended: Tensor | None = None) -> Tensor:
        """F_view: the target attends to the query's current frame.

        Args:
            top: target features ``(N, C, h, w)``.
            query_memory: ``(N, h * w, 64)``.
            attended: :meth:`self_attended` of ``top``, ``(N, h * w, C)``, if it is at hand.

        Returns:
            ``(N, C, h, w)``.
        """
        position = self._memory_position(query_memory).expand(-1, top.shape[0], -1)
        return self._attend(top, query_memory.transpose(0, 1), position, 0, attended)

    def memory_features(
        self,
        top: Tensor,
        query_bank: Sequence[Tensor],
        target_bank: Sequence[Tensor],
        pointers: Tensor | None = None,
        distances: Tensor | None = None,
        pointer_span: int = 15,
        attended: Tensor | None = None,
    ) -> Tensor | None:
        """F_mem: the target attends to both banks, then to past object pointers.

        Args:
            top: target features ``(N, C, h, w)``.
            query_bank: entries ``(N, h * w, 64)``, oldest first.
            target_bank: likewise.
            pointers: ``(N, P, C)``.
            distances: ``(N, P)`` how many frames ago each was.
            pointer_span: distance that counts as 1 in the pointers' position encoding.
            attended: :meth:`self_attended` of ``top``, ``(N, h * w, C)``, if it is at hand.

        Returns:
            ``(N, C, h, w)``, or None where there is nothing to attend to.
        """
        memories, positions = [], []
        # In training the released code, too, counts from the newest.
        newest = self.training or self.config.temporal_index == "newest"
        for bank, used in ((query_bank, self.config.query_memory), (target_bank, self.config.target_memory)):
            if not used:
                continue
            for slot, entry in enumerate(bank):
                index = (len(bank) if newest else self.config.bank_size) - 1 - slot
                memories.append(entry.transpose(0, 1))
                position = self._memory_position(entry) + self.sam.memory_temporal_positional_encoding[index]
                positions.append(position.expand(-1, entry.shape[0], -1))
        if not memories:
            return None
        tokens = 0
        if self.config.pointers and pointers is not None and distances is not None and pointers.shape[1]:
            split, position = self._pointer_tokens(pointers, distances, pointer_span)
            memories.append(split)
            positions.append(position)
            tokens = split.shape[0]
        return self._attend(top, torch.cat(memories), torch.cat(positions), tokens, attended)

    def fuse(self, memory: Tensor | None, view: Tensor | None, top: Tensor) -> Tensor:
        """F_tar: F_mem and F_view joined.

        Args:
            memory: F_mem ``(N, C, h, w)``, or None without.
            view: F_view ``(N, C, h, w)``, or None without.
            top: target features ``(N, C, h, w)``, to which SAM 2's empty memory is added if there is neither.

        Returns:
            ``(N, C, h, w)``.
        """
        if memory is not None and view is not None:
            return self.fusion(memory, view)
        if memory is not None:
            return memory
        if view is not None:
            return view
        return top + self.sam.no_memory_embedding.view(1, -1, 1, 1)

    def decode(
        self, feature: Tensor, images: ImageFeatures, query_masks: Tensor | None = None, query_extra: Any = None
    ) -> Decoded:
        """Decode masks.

        Args:
            feature: F_tar, ``(N, C, h, w)``.
            images: the target images of the N tracks.
            query_masks: ``(N, S, S)``, used with ``config.dense_prompt == "mask"`` and by :meth:`decoder_input`.
            query_extra: :attr:`ImageFeatures.extra` of the N tracks' query images, for :meth:`decoder_input`.
        """
        count, sam = feature.shape[0], self.sam
        # As in SAM 2, an empty prompt is two points that are none.
        points = torch.zeros(count, 1, 1, 2, device=feature.device)
        labels = -torch.ones(count, 1, 1, dtype=torch.int64, device=feature.device)
        sparse, dense = sam.prompt_encoder(points, labels, None, None)
        if self.config.dense_prompt == "none":
            dense = torch.zeros(1, device=feature.device)
        elif self.config.dense_prompt == "mask" and query_masks is not None:
            side = 4 * self.config.grid
            small = functional.interpolate(
                query_masks[:, None].float(), size=(side, side), mode="bilinear", align_corners=False, antialias=True
            )
            _, dense = sam.prompt_encoder(None, None, None, small)
        inputs = self.decoder_input(feature, images, query_masks, query_extra)
        masks, ious, tokens, score = sam.mask_decoder(
            image_embeddings=inputs.feature,
            image_positional_embeddings=sam.get_image_wide_positional_embeddings().expand(count, -1, -1, -1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=self.config.multimask,
            high_resolution_features=[inputs.quarter, inputs.half],
        )
        masks, ious, tokens = masks[:, 0].float(), ious[:, 0].float(), tokens[:, 0]
        if inputs.mask_offset is not None:
            masks = masks + inputs.mask_offset.float()
        score = score.reshape(count).float()
        best = ious.argmax(dim=1)
        rows = torch.arange(count, device=feature.device)
        logits = masks[rows, best]
        present = (score > 0)[:, None]
        logits = torch.where(present[..., None], logits, NO_OBJECT_LOGIT)
        pointer = sam.object_pointer_proj(tokens[rows, best])
        pointer = torch.where(present, pointer, sam.no_object_pointer.to(pointer.dtype))
        return Decoded(logits, masks, ious, score, pointer, best)

    # -- inside -------------------------------------------------------------------------------------------------

    def _attend(
        self, top: Tensor, memory: Tensor, positions: Tensor, pointer_tokens: int, attended: Tensor | None
    ) -> Tensor:
        # SAM 2 keeps the sequence first: (h*w, N, C) attends to (L, N, 64).
        count, channels, height, width = top.shape
        attended = self.self_attended(top) if attended is None else attended
        if attended is not None:
            memory, positions = memory.to(attended.dtype), positions.to(attended.dtype)
            result = attend(self.sam.memory_attention, attended, memory, positions, pointer_tokens)
            return result.transpose(1, 2).reshape(count, channels, height, width)
        result = self.sam.memory_attention(
            current_vision_features=top.flatten(2).permute(2, 0, 1),
            memory=memory.to(top.dtype),
            current_vision_position_embeddings=self._image_position(top),
            memory_posision_embeddings=positions.to(top.dtype),
            num_object_pointer_tokens=pointer_tokens,
        )
        return result[0].transpose(1, 2).reshape(count, channels, height, width)

    def _memory_position(self, memory: Tensor) -> Tensor:
        """Position encoding of a stored memory, ``(h * w, 1, 64)``: where in the image, not when."""
        cached = self._memory_position_cache
        if cached is None or cached.device != memory.device:
            grid = self.config.grid
            encoding = self.sam.memory_encoder.position_encoding(
                torch.Size((1, memory.shape[-1], grid, grid)), memory.device, torch.float32
            )
            cached = self._memory_position_cache = encoding.flatten(2).permute(2, 0, 1)
        return cached

    def _image_position(self, top: Tensor) -> Tensor:
        """Position encoding of an image, ``(h * w, 1, C)``."""
        encoding = self.sam.vision_encoder.neck.position_encoding(
            torch.Size((1, *top.shape[1:])), top.device, torch.float32
        )
        return encoding.flatten(2).permute(2, 0, 1).to(top.dtype)

    def _pointer_tokens(self, pointers: Tensor, distances: Tensor, span: int) -> tuple[Tensor, Tensor]:
        """Pointers as tokens ``(4 P, N, 64)`` for C = 256, newest first, and their positions of the same shape."""
        count, number, channels = pointers.shape
        projection = self.sam.temporal_positional_encoding_projection_layer
        width = projection.out_features
        splits = channels // width
        sine = _sine_encoding(distances.float() / max(span, 1), channels).to(pointers.dtype)
        positions = projection(sine)  # (N, P, 64)
        tokens = pointers.reshape(count, number * splits, width).transpose(0, 1)
        return tokens, positions.repeat_interleave(splits, dim=1).transpose(0, 1)


def _sine_encoding(values: Tensor, channels: int, temperature: float = 10000.0) -> Tensor:
    """SAM 2's sine encoding of numbers ``(...)`` to ``(..., channels)``."""
    half = channels // 2
    exponent = torch.arange(half, dtype=torch.float32, device=values.device)
    angles = values[..., None] / temperature ** (2 * torch.div(exponent, 2, rounding_mode="floor") / half)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
