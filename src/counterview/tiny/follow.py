"""tiny-follow: an LM-EEC with an appearance prompt and a convolutional encoder, for training from scratch.

The network is LM-EEC's. What is ours are two parts that a small model without SAM 2's weights cannot do without: an
encoder that learns from few images (:mod:`counterview.tiny.conv_encoder`) and a prompt that hands the query object on
at a quarter of the image's resolution (:mod:`counterview.tiny.appearance`). Either can be left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from counterview.errors import CheckpointError
from counterview.hub import transformers_class
from counterview.lmeec.architecture import sam2_config
from counterview.lmeec.model import LMEEC
from counterview.lmeec.network import DecoderInput
from counterview.lmeec.sam2_parts import ImageFeatures
from counterview.nn.checkpoint import Header
from counterview.tiny.appearance import AppearancePrompt, FineMaps
from counterview.tiny.conv_encoder import ConvBackbone
from counterview.tiny.follow_config import TinyFollowConfig


class TinyFollow(LMEEC):
    """An LM-EEC with an appearance prompt and a convolutional encoder, for training from scratch.

    Weights are random; :func:`counterview.tiny.initial.initialise` draws those that training can begin with.

    Args:
        config: architecture and behaviour.
    """

    method: ClassVar[str] = "tiny-follow"
    config_class: ClassVar[type[TinyFollowConfig]] = TinyFollowConfig
    about: ClassVar[tuple[str, str, str]] = (
        "tiny-follow",
        "ours: LM-EEC (NeurIPS 2025, arXiv 2510.11417) with an appearance prompt and a convolutional encoder",
        "Finds an object that masks show in one camera in another camera of the same scene, frame by frame, with a\n"
        "memory bank for each view. Small enough to be trained from scratch on a CPU.",
    )
    card_settings: ClassVar[tuple[str, ...]] = ("appearance", *LMEEC.card_settings)
    further_channels: ClassVar[int] = 0
    """Channels of the encoder's input behind red, green and blue."""

    def __init__(self, config: TinyFollowConfig | None = None) -> None:
        super().__init__(config)
        width = self.config.appearance
        self.appearance = AppearancePrompt(self.config.channels, width) if width else None

    def build_sam(self) -> Any:
        """transformers' ``Sam2VideoModel`` with the image encoder of ``self.config``."""
        encoder = self.config.convolutions
        if encoder is None:
            return super().build_sam()
        sam = transformers_class("Sam2VideoModel")(
            sam2_config(self.config, [n + encoder.palette for n in encoder.channels])
        )
        sam.vision_encoder.backbone = ConvBackbone(encoder, self.further_channels)
        return sam

    def extra_features(self, maps: Sequence[Tensor]) -> FineMaps | None:
        """Fine features of images ``(B, appearance + 1, 4h, 4w)``, for the appearance prompt.

        Args:
            maps: of SAM 2's neck, ``(B, C, 4h, 4w)``, ``(B, C, 2h, 2w)`` and ``(B, C, h, w)``.
        """
        return None if self.appearance is None else FineMaps.of(self.appearance.features(maps[0], maps[2]))

    def decoder_input(
        self, feature: Tensor, images: ImageFeatures, query_masks: Tensor | None, query_extra: FineMaps | None
    ) -> DecoderInput:
        """What the mask decoder sees, with the appearance prompt where there is a query mask.

        Arguments as for :meth:`~counterview.lmeec.network.LMEECNetwork.decode`.
        """
        inputs = super().decoder_input(feature, images, query_masks, query_extra)
        if self.appearance is None or query_masks is None or query_extra is None:
            return inputs
        comparison = self.appearance.compare(query_extra, query_masks, images.extra)
        offset = self.appearance.to_mask(comparison)
        at_top, at_half, at_quarter = self.appearance.prompts(comparison.to(feature.dtype))
        return DecoderInput(inputs.feature + at_top, inputs.half + at_half, inputs.quarter + at_quarter, offset)

    @classmethod
    def upgraded(cls, header: Header) -> Header:
        """The header of an earlier format as one of today. An LM-EEC is a tiny-follow without the prompt.

        Raises:
            CheckpointError: of another method.
        """
        if header.method == LMEEC.method:
            header = header.with_model(cls.method, header.model)
        return super().upgraded(header)


def follow_class(header: Header) -> type[LMEEC]:
    """The class of a checkpoint of ``lmeec`` or ``tiny-follow``, which the first version did not tell apart.

    Args:
        header: what its ``config.json`` says.

    Raises:
        CheckpointError: a checkpoint of another method.
    """
    if header.method != TinyFollow.method:
        try:
            LMEEC.upgraded(header)
        except CheckpointError:
            TinyFollow.upgraded(header)
        else:
            return LMEEC
    return TinyFollow
