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
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from counterview.config import to_dict
from counterview.hub import transformers_class
from counterview.lmeec.architecture import sam2_config
from counterview.lmeec.config import LMEECConfig
from counterview.lmeec.fusion import build_fusion
from counterview.lmeec.sam2_parts import (
    MASK_BIAS,
    MASK_SCALE,
    Decoded,
    ExtraFeatures,
    ImageFeatures,
    attend_to_memory,
    decode_masks,
    encode_memory,
    image_features,
    mask_values,
    memory_position,
    neck_maps,
    no_prompt,
    pointer_tokens,
    self_attended,
)
from counterview.lmeec.window_inputs import PLACE_NUMBERS, WindowInputs
from counterview.nn.weights import weights_fingerprint

AREA_THRESHOLD = 0.001
"""Fraction of the image above which the released code reports an object as visible."""


@dataclass
class DecoderInput:
    """What the mask decoder is given for N tracks, and what is added to what it gives.

    Attributes:
        feature: F_tar, ``(N, C, h, w)``.
        half: ``(N, C / 4, 2h, 2w)``.
        quarter: ``(N, C / 8, 4h, 4w)``.
        mask_offset: ``(N, 1, 4h, 4w)``, added to the mask logits; ``None`` for nothing.
        score_offset: ``(N,)``, added to the object score; ``None`` for nothing.
    """

    feature: Tensor
    half: Tensor
    quarter: Tensor
    mask_offset: Tensor | None = None
    score_offset: Tensor | None = None


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
        self.window_embedding = nn.Linear(PLACE_NUMBERS, config.channels) if config.window_position else None
        if self.window_embedding is not None:  # windows begin as images of their own
            nn.init.zeros_(self.window_embedding.weight)
            nn.init.zeros_(self.window_embedding.bias)
        # Visibility is sigmoid(scale * score + bias); calibration on validation data sets the two.
        self.register_buffer("visibility_scale", torch.ones(()))
        self.register_buffer("visibility_bias", torch.zeros(()))
        self._memory_position_cache: Tensor | None = None

    # -- for subclasses -----------------------------------------------------------------------------------------

    def build_sam(self) -> Any:
        """transformers' ``Sam2VideoModel`` with the image encoder of ``self.config``."""
        return transformers_class("Sam2VideoModel")(sam2_config(self.config))

    def image_maps(self, pixels: Tensor, windows: WindowInputs | None) -> Sequence[Tensor]:
        """The neck's maps, ``(B, C, 4h, 4w)``, ``(B, C, 2h, 2w)`` and ``(B, C, h, w)``.

        Args:
            pixels: normalised images ``(B, 3, S, S)``.
            windows: what is known of them where they are windows.
        """
        return neck_maps(self.sam, pixels)

    def dense_prompts(self, dense: Tensor, windows: WindowInputs) -> Tensor:
        """The dense prompts ``(N, C, h, w)`` of windows: SAM 2's embedding of the mask prompt where there is one.

        Args:
            dense: ``(N, C, h, w)``, or what broadcasts to it, of windows without a mask prompt.
            windows: N target windows.
        """
        side = 4 * self.config.grid
        small = functional.interpolate(windows.prompts[:, None], size=(side, side), mode="area")
        _, prompted = self.sam.prompt_encoder(None, None, None, small * MASK_SCALE + MASK_BIAS)
        return torch.where(windows.prompted[:, None, None, None], prompted, dense.to(prompted.dtype))

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
        if not values["window_position"]:  # what earlier versions had not; their sessions are still this model's
            del values["window_position"]
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

    def encode_images(self, pixels: Tensor, windows: WindowInputs | None = None) -> ImageFeatures:
        """Encode normalised images ``(B, 3, S, S)``.

        Args:
            pixels: the images.
            windows: what is known of them where they are windows.
        """
        maps = self.image_maps(pixels, windows)
        if windows is not None and self.window_embedding is not None:
            place = self.window_embedding(windows.places)[..., None, None]
            maps = (*maps[:2], maps[2] + place.to(maps[2].dtype))
        features = image_features(self.sam, maps, self.extra_features(maps))
        features.windows = windows
        return features

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
        return encode_memory(self.sam, top, mask_values(logits, self.config.image_size), score)

    def self_attended(self, top: Tensor) -> Tensor | None:
        """What both attentions need of target images ``(B, C, h, w)`` whatever the object; None where it is no gain.

        Returns:
            ``(B, h * w, C)``; its rows, picked for N tracks, may be passed to :meth:`view_features` and
            :meth:`memory_features`.
        """
        return None if self.training else self_attended(self.sam, top)

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
            split, position = pointer_tokens(self.sam, pointers, distances, pointer_span)
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
        sam = self.sam
        sparse, dense = no_prompt(sam, feature.shape[0], feature.device)
        if self.config.dense_prompt == "none":
            dense = torch.zeros(1, device=feature.device)
        elif self.config.dense_prompt == "mask" and query_masks is not None:
            side = 4 * self.config.grid
            small = functional.interpolate(
                query_masks[:, None].float(), size=(side, side), mode="bilinear", align_corners=False, antialias=True
            )
            _, dense = sam.prompt_encoder(None, None, None, small)
        if images.windows is not None:
            dense = self.dense_prompts(dense, images.windows)
        inputs = self.decoder_input(feature, images, query_masks, query_extra)
        seen = ImageFeatures(inputs.feature, inputs.half, inputs.quarter)
        return decode_masks(sam, seen, sparse, dense, self.config.multimask, inputs.mask_offset, inputs.score_offset)

    # -- inside -------------------------------------------------------------------------------------------------

    def _attend(self, top: Tensor, memory: Tensor, positions: Tensor, tokens: int, attended: Tensor | None) -> Tensor:
        attended = self.self_attended(top) if attended is None else attended
        return attend_to_memory(self.sam, top, memory, positions, tokens, attended)

    def _memory_position(self, memory: Tensor) -> Tensor:
        """Position encoding of a stored memory, ``(h * w, 1, 64)``: where in the image, not when."""
        cached = self._memory_position_cache
        if cached is None or cached.device != memory.device:
            cached = memory_position(self.sam, memory.shape[-1], self.config.grid, memory.device)
            self._memory_position_cache = cached
        return cached
