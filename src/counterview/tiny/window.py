"""tiny-window: an LM-EEC that draws one object in a window, where tiny-match says that it is.

Attention between the views, memory banks, MV-MoE and SAM 2's decoder are those of LM-EEC; the appearance prompt and the
kind of encoder are tiny-follow's. What is its own: the encoder sees the mask that is meant in either window (the object
in the query's, a proposal in the target's) as channels beside the colours and has maps twice as fine; a convolutional
decoder draws the outline; and the object's score hears what the drawn mask looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from counterview.errors import InputError
from counterview.lmeec.model import LMEEC
from counterview.lmeec.network import DecoderInput
from counterview.lmeec.sam2_parts import ImageFeatures, neck_maps
from counterview.lmeec.window_inputs import WindowInputs
from counterview.nn.checkpoint import Header
from counterview.tiny.appearance import FineMaps, mean_under
from counterview.tiny.follow import TinyFollow
from counterview.tiny.window_config import TinyWindowConfig
from counterview.tiny.window_parts import OutlineDecoder, PresenceHead
from counterview.tiny.window_session import WindowSession

MASK_CHANNELS = 3
"""Channels of a window behind its colours: its mask, whether there is one, and what lies in the image."""


class TinyWindow(TinyFollow):
    """An LM-EEC that draws an object in a window of the target, shown in a window of the query.

    Weights are random; :func:`counterview.tiny.window_initial.initialise_window` draws those that training can begin
    with.

    Args:
        config: architecture and behaviour.
    """

    method: ClassVar[str] = "tiny-window"
    config_class: ClassVar[type[TinyWindowConfig]] = TinyWindowConfig
    config: TinyWindowConfig
    about: ClassVar[tuple[str, str, str]] = (
        "tiny-window",
        "ours: LM-EEC (NeurIPS 2025, arXiv 2510.11417) in windows, with a convolutional encoder and decoder",
        "Draws an object that a mask shows in one camera in another camera of the same scene, in a window around the\n"
        "place where it is expected, frame by frame, with a memory bank for each view.",
    )
    usage: ClassVar[str] = (
        "from counterview.geometry.windows import query_window, target_window\n"
        "from counterview.tiny.window import TinyWindow\n"
        "from counterview.tiny.window_session import WindowView\n\n"
        'model = TinyWindow.from_pretrained("{name}").eval()\n'
        "query = query_window(mask, 128)  # around the object; the target's around the place where it is expected\n"
        "target = target_window((412.5, 230.0), expected_px=60, query_px=45, query=query)\n"
        "view = WindowView(query_image, mask, query, target_image, target)\n"
        'result = model.window_session().step({{"mug": view}})["mug"]\n'
        "result.mask, result.visibility  # (H, W) bool, probability"
    )
    card_settings: ClassVar[tuple[str, ...]] = ("drawing", *TinyFollow.card_settings)
    further_channels: ClassVar[int] = MASK_CHANNELS

    def __init__(self, config: TinyWindowConfig | None = None) -> None:
        super().__init__(config)
        self.outline = OutlineDecoder(self.config.channels, self.config.drawing)
        self.presence = PresenceHead(self.config.channels, self.config.appearance)

    def image_maps(self, pixels: Tensor, windows: WindowInputs | None) -> Sequence[Tensor]:
        """The neck's maps of windows, ``(B, C, 4h, 4w)``, ``(B, C, 2h, 2w)`` and ``(B, C, h, w)``.

        Args:
            pixels: normalised windows ``(B, 3, S, S)``.
            windows: what is known of them.

        Raises:
            InputError: whole images, which it does not take.
        """
        if windows is None:
            raise InputError(
                "tiny-window draws in windows and not in whole images", fix="Use window_session() of the model."
            )
        given = windows.prompted[:, None, None].to(pixels.dtype).expand_as(windows.prompts)
        further = [2 * windows.prompts - given, given, windows.inside.to(pixels.dtype)]
        return neck_maps(self.sam, torch.cat([pixels, torch.stack(further, dim=1)], dim=1))

    def dense_prompts(self, dense: Tensor, windows: WindowInputs) -> Tensor:
        """The dense prompts as they are ``(N, C, h, w)``: the encoder has seen the proposed mask.

        Args:
            dense: ``(N, C, h, w)``, or what broadcasts to it.
            windows: N target windows.
        """
        return dense

    def decoder_input(
        self, feature: Tensor, images: ImageFeatures, query_masks: Tensor | None, query_extra: FineMaps | None
    ) -> DecoderInput:
        """What the mask decoder sees, what is drawn beside it, and what is added to the score.

        Arguments as for :meth:`~counterview.lmeec.network.LMEECNetwork.decode`.
        """
        assert self.appearance is not None
        assert images.windows is not None
        windows, side = images.windows, images.extra.side
        if query_masks is None or query_extra is None:  # predicted from memory: nothing to compare with
            comparison = feature.new_zeros(len(feature), 2, side, side, dtype=torch.float32)
            query = comparison.new_zeros(len(feature), self.config.appearance)
            inputs = DecoderInput(feature, images.half, images.quarter, comparison.new_zeros(()))
        else:
            query = mean_under(query_extra, query_masks)
            comparison = self.appearance.compare(query_extra, query_masks, images.extra)
            at_top, at_half, at_quarter = self.appearance.prompts(comparison.to(feature.dtype))
            inputs = DecoderInput(
                feature + at_top,
                images.half + at_half,
                images.quarter + at_quarter,
                self.appearance.to_mask(comparison),
            )
        prompt = functional.interpolate(windows.prompts[:, None], size=(side, side), mode="area")
        given = windows.prompted[:, None, None, None].to(prompt.dtype).expand_as(prompt)
        hints = torch.cat([comparison, 2 * prompt - given, given], dim=1)
        assert inputs.mask_offset is not None
        drawn = self.outline(inputs.feature, inputs.half, inputs.quarter, hints).float() + inputs.mask_offset.float()
        inputs.mask_offset = drawn
        probability = drawn.detach().sigmoid()
        target = functional.normalize(images.extra.under(probability[:, 0])[:, :-1].float(), dim=1)
        inputs.score_offset = self.presence(inputs.feature, query, target, probability)
        return inputs

    def window_session(
        self, frames: int | None = None, stride: int = 1, autocast: torch.dtype | None = None
    ) -> WindowSession:
        """Begin to follow objects through a clip. See :class:`counterview.tiny.window_session.WindowSession`."""
        return WindowSession(self, frames=frames, stride=stride, autocast=autocast)

    @classmethod
    def upgraded(cls, header: Header) -> Header:
        """The header as it is: earlier versions had no tiny-window.

        Raises:
            CheckpointError: of another method.
        """
        return super(LMEEC, cls).upgraded(header)
