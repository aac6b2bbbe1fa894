"""LM-EEC: SAM 2 with a second view, two memory banks and a fusion of both (NeurIPS 2025, arXiv 2510.11417).

The model is stateless: it encodes images, attends to memories that it is given, and decodes masks.
:class:`counterview.lmeec.session.Session` keeps the memories of a clip; :mod:`counterview.lmeec.training.task` unrolls
clips with gradients. Both use the same methods.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from counterview.lmeec import attention
from counterview.lmeec.architecture import sam2_config
from counterview.lmeec.config import ConvConfig, LMEECConfig
from counterview.lmeec.fusion import build_fusion
from counterview.tiny.appearance import AppearancePrompt, FineMaps
from counterview.tiny.conv_encoder import ConvBackbone

if TYPE_CHECKING:
    from counterview.lmeec.session import Session

NO_OBJECT_LOGIT = -1024.0
"""Mask logit of SAM 2 where the object score says that the object is not there."""

MASK_SCALE, MASK_BIAS = 20.0, -10.0
"""Masks enter SAM 2's memory encoder as ``sigmoid(logits) * 20 - 10``."""


@dataclass
class ImageFeatures:
    """Feature maps of B images, ready for attention and mask decoder. h = w = image side / 16.

    Attributes:
        top: ``(B, C, h, w)``.
        half: ``(B, C / 4, 2h, 2w)``, projected for the mask decoder.
        quarter: ``(B, C / 8, 4h, 4w)``, projected for the mask decoder.
        fine: fine features, ``(B, config.appearance + 1, 4h, 4w)``, of the appearance prompt where there is one.
    """

    top: Tensor
    half: Tensor
    quarter: Tensor
    fine: FineMaps | None = None

    def pick(self, index: Tensor | Sequence[int]) -> ImageFeatures:
        """The images of ``index`` ``(N,)``, repeated as it says."""
        index = torch.as_tensor(index, device=self.top.device)
        fine = None if self.fine is None else self.fine.pick(index)
        return ImageFeatures(self.top[index], self.half[index], self.quarter[index], fine)

    @staticmethod
    def join(parts: Sequence[ImageFeatures]) -> ImageFeatures:
        """The images of all ``parts``, one after the other."""
        fine = [p.fine for p in parts if p.fine is not None]
        return ImageFeatures(
            torch.cat([p.top for p in parts]),
            torch.cat([p.half for p in parts]),
            torch.cat([p.quarter for p in parts]),
            FineMaps.join(fine) if fine else None,
        )


@dataclass
class Decoded:
    """What the mask decoder says of N tracks in one frame.

    Attributes:
        logits: ``(N, 4h, 4w)`` mask logits; all :data:`NO_OBJECT_LOGIT` in eval mode where the score is not above 0.
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


class LMEEC(nn.Module):
    """The model of LM-EEC on the sub-modules of transformers' SAM 2.

    Args:
        config: architecture and behaviour.

    Weights are random; see :meth:`from_pretrained`, :meth:`from_sam2` and :meth:`from_released` for others.
    """

    visibility_scale: Tensor
    visibility_bias: Tensor

    def __init__(self, config: LMEECConfig | None = None) -> None:
        super().__init__()
        from transformers import Sam2VideoModel

        self.config = config or LMEECConfig()
        self.sam = Sam2VideoModel(sam2_config(self.config))
        if isinstance(self.config.encoder, ConvConfig):
            self.sam.vision_encoder.backbone = ConvBackbone(self.config.encoder)
        self.fusion = build_fusion(self.config.fusion, self.config.channels)
        width = self.config.appearance
        self.appearance = AppearancePrompt(self.config.channels, width) if width else None
        # Visibility is sigmoid(scale * score + bias); calibration on validation data sets the two.
        self.register_buffer("visibility_scale", torch.ones(()))
        self.register_buffer("visibility_bias", torch.zeros(()))
        self._place_embedding: Tensor | None = None

    # -- weights ------------------------------------------------------------------------------------------------

    @classmethod
    def from_released(
        cls,
        weights: str | os.PathLike[str] | Mapping[str, Any],
        backbone: str = "hiera-b+",
        image_size: int = 480,
        **settings: Any,
    ) -> LMEEC:
        """The model with the weights of the released LM-EEC, in released behaviour.

        Args:
            weights: a ``.pt``, ``.pth`` or ``.safetensors`` file, or a state dict, with the released names. Files
                are read without executing anything that they contain.
            backbone: the image encoder of the weights.
            image_size: side of the square image that they were trained on.
            settings: other fields of :class:`LMEECConfig`, for instance ``compression="merge"``.

        Raises:
            CheckpointError: a weight is missing, superfluous, or of another shape; or the file cannot be read safely.
        """
        from counterview.lmeec.weights import convert_released

        config, state = convert_released(weights, backbone=backbone, image_size=image_size, **settings)
        model = cls(config)
        model.load_state_dict(state)
        return model.eval()

    @classmethod
    def from_sam2(cls, source: str | os.PathLike[str], config: LMEECConfig | None = None) -> LMEEC:
        """The model with the weights of a SAM 2.1 video checkpoint; the fusion starts at random.

        Args:
            source: a folder, or a Hub id such as ``facebook/sam2.1-hiera-base-plus``.
            config: its backbone must be that of the checkpoint; the image size may differ.

        Raises:
            CheckpointError: the checkpoint has another architecture.
            WeightsError: the Hub cannot be reached, or has no such repository.
        """
        from counterview.lmeec.weights import load_sam2

        model = cls(config)
        load_sam2(model, source)
        return model

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], revision: str | None = None) -> LMEEC:
        """The model of a folder or Hub id with ``config.json`` and ``model.safetensors``, in eval mode.

        Raises:
            CheckpointError: files are missing or damaged, or do not fit each other.
            WeightsError: the Hub cannot be reached, or has no such repository.
        """
        from counterview.lmeec.weights import read_pretrained

        config, state = read_pretrained(source, revision)
        model = cls(config)
        model.load_state_dict(state)
        return model.eval()

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``config.json`` and ``model.safetensors`` into ``folder`` and return it."""
        from counterview.lmeec.weights import write_pretrained

        return write_pretrained(self, folder)

    def fingerprint(self) -> str:
        """SHA-256 over configuration and weights: sessions are bound to the model that made them."""
        from counterview.lmeec.weights import fingerprint

        return fingerprint(self)

    # -- use ----------------------------------------------------------------------------------------------------

    def session(self, frames: int | None = None, stride: int = 1, autocast: torch.dtype | None = None) -> Session:
        """Begin to follow objects through a clip. See :class:`counterview.lmeec.session.Session`."""
        from counterview.lmeec.session import Session

        return Session(self, frames=frames, stride=stride, autocast=autocast)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.visibility_scale.device

    def visibility(self, score: Tensor, area_fraction: Tensor | None = None) -> Tensor:
        """Probability that the object can be seen, from object scores and mask areas, both ``(N,)``.

        With ``config.visibility == "area"`` it is 1 where the mask covers more than 0.1 % of the image, else 0, as
        the released code reports it.
        """
        if self.config.visibility == "area" and area_fraction is not None:
            return (area_fraction > 0.001).to(score.dtype)
        return torch.sigmoid(self.visibility_scale * score + self.visibility_bias)

    # -- parts --------------------------------------------------------------------------------------------------

    def encode_images(self, pixels: Tensor) -> ImageFeatures:
        """Encode normalised images ``(B, 3, S, S)``."""
        maps = self.sam.vision_encoder(pixels).fpn_hidden_states  # from high to low resolution, (B, C, side, side)
        decoder = self.sam.mask_decoder
        fine = None if self.appearance is None else FineMaps.of(self.appearance.features(maps[0], maps[2]))
        return ImageFeatures(maps[2], decoder.conv_s1(maps[1]), decoder.conv_s0(maps[0]), fine)

    def query_logits(self, masks: Tensor) -> Tensor:
        """Query masks ``(..., S, S)``, 0 or 1, as the logits that the memory encoder is given."""
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

    def look(self, top: Tensor) -> Tensor | None:
        """What both attentions need of target images ``(B, C, h, w)`` whatever the object; None where it is no gain.

        ``(B, h * w, C)``; its rows, picked for N tracks, may be given to :meth:`view_features` and
        :meth:`memory_features`.
        """
        if self.training or top.device.type != "cpu":
            return None
        return attention.first_look(self.sam.memory_attention, top, self._image_place(top))

    def view_features(self, top: Tensor, query_memory: Tensor, look: Tensor | None = None) -> Tensor:
        """F_view: the target attends to the query's current frame.

        Args:
            top: target features ``(N, C, h, w)``.
            query_memory: ``(N, h * w, 64)``.
            look: :meth:`look` of ``top``, if it is at hand.

        Returns:
            ``(N, C, h, w)``.
        """
        place = self._place(query_memory)
        return self._attend(top, query_memory.transpose(0, 1), place.expand(-1, top.shape[0], -1), 0, look)

    def memory_features(
        self,
        top: Tensor,
        query_bank: Sequence[Tensor],
        target_bank: Sequence[Tensor],
        pointers: Tensor | None = None,
        distances: Tensor | None = None,
        pointer_span: int = 15,
        look: Tensor | None = None,
    ) -> Tensor | None:
        """F_mem: the target attends to both banks, then to past object pointers.

        Args:
            top: target features ``(N, C, h, w)``.
            query_bank: entries ``(N, h * w, 64)``, oldest first.
            target_bank: likewise.
            pointers: ``(N, P, C)``.
            distances: ``(N, P)`` how many frames ago each was.
            pointer_span: distance that counts as 1 in the pointers' position encoding.
            look: :meth:`look` of ``top``, if it is at hand.

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
                place = self._place(entry) + self.sam.memory_temporal_positional_encoding[index]
                positions.append(place.expand(-1, entry.shape[0], -1))
        if not memories:
            return None
        tokens = 0
        if self.config.pointers and pointers is not None and distances is not None and pointers.shape[1]:
            split, position = self._pointer_tokens(pointers, distances, pointer_span)
            memories.append(split)
            positions.append(position)
            tokens = split.shape[0]
        return self._attend(top, torch.cat(memories), torch.cat(positions), tokens, look)

    def fuse(self, memory: Tensor | None, view: Tensor | None, top: Tensor) -> Tensor:
        """F_tar ``(N, C, h, w)`` from whatever of F_mem and F_view there is; SAM 2's empty memory if neither."""
        if memory is not None and view is not None:
            return self.fusion(memory, view)
        if memory is not None:
            return memory
        if view is not None:
            return view
        return top + self.sam.no_memory_embedding.view(1, -1, 1, 1)

    def decode(
        self,
        feature: Tensor,
        images: ImageFeatures,
        query_masks: Tensor | None = None,
        query_fine: FineMaps | None = None,
    ) -> Decoded:
        """Decode masks.

        Args:
            feature: F_tar, ``(N, C, h, w)``.
            images: the target images of the N tracks.
            query_masks: ``(N, S, S)``, used only with ``config.dense_prompt == "mask"`` and by the appearance prompt.
            query_fine: ``ImageFeatures.fine`` of the N tracks' query images, if there is an appearance prompt.
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
        quarter, half, alike = images.quarter, images.half, None
        if self.appearance is not None and query_masks is not None and query_fine is not None:
            assert images.fine is not None
            comparison = self.appearance.compare(query_fine, query_masks, images.fine)
            alike = self.appearance.to_mask(comparison)
            at_top, at_half, at_quarter = self.appearance.prompts(comparison.to(feature.dtype))
            feature, half, quarter = feature + at_top, half + at_half, quarter + at_quarter
        masks, ious, tokens, score = sam.mask_decoder(
            image_embeddings=feature,
            image_positional_embeddings=sam.get_image_wide_positional_embeddings().expand(count, -1, -1, -1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=self.config.multimask,
            high_resolution_features=[quarter, half],
        )
        masks, ious, tokens = masks[:, 0].float(), ious[:, 0].float(), tokens[:, 0]
        if alike is not None:
            masks = masks + alike.float()
        score = score.reshape(count).float()
        best = ious.argmax(dim=1)
        rows = torch.arange(count, device=feature.device)
        logits = masks[rows, best]
        here = (score > 0)[:, None]
        logits = torch.where(here[..., None], logits, NO_OBJECT_LOGIT)
        pointer = sam.object_pointer_proj(tokens[rows, best])
        pointer = torch.where(here, pointer, sam.no_object_pointer.to(pointer.dtype))
        return Decoded(logits, masks, ious, score, pointer, best)

    # -- inside -------------------------------------------------------------------------------------------------

    def _attend(
        self, top: Tensor, memory: Tensor, positions: Tensor, pointer_tokens: int, look: Tensor | None
    ) -> Tensor:
        # SAM 2 keeps the sequence first: (h*w, N, C) attends to (L, N, 64).
        count, channels, height, width = top.shape
        look = self.look(top) if look is None else look
        if look is not None:
            seen = attention.attend(
                self.sam.memory_attention, look, memory.to(look.dtype), positions.to(look.dtype), pointer_tokens
            )
            return seen.transpose(1, 2).reshape(count, channels, height, width)
        place = self._image_place(top)
        result = self.sam.memory_attention(
            current_vision_features=top.flatten(2).permute(2, 0, 1),
            memory=memory.to(top.dtype),
            current_vision_position_embeddings=place,
            memory_posision_embeddings=positions.to(top.dtype),
            num_object_pointer_tokens=pointer_tokens,
        )
        return result[0].transpose(1, 2).reshape(count, channels, height, width)

    def _place(self, memory: Tensor) -> Tensor:
        """Position encoding of a stored memory, ``(h * w, 1, 64)``: where in the image, not when."""
        if self._place_embedding is None or self._place_embedding.device != memory.device:
            grid = self.config.grid
            encoding = self.sam.memory_encoder.position_encoding(
                torch.Size((1, memory.shape[-1], grid, grid)), memory.device, torch.float32
            )
            self._place_embedding = encoding.flatten(2).permute(2, 0, 1)
        return self._place_embedding

    def _image_place(self, top: Tensor) -> Tensor:
        encoding = self.sam.vision_encoder.neck.position_encoding(
            torch.Size((1, *top.shape[1:])), top.device, torch.float32
        )
        return encoding.flatten(2).permute(2, 0, 1).to(top.dtype)

    def _pointer_tokens(self, pointers: Tensor, distances: Tensor, span: int) -> tuple[Tensor, Tensor]:
        """Pointers as tokens ``(4 P, N, 64)`` for C = 256, newest first, and their positions."""
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
