"""First weights of tiny-window, for training from scratch: tiny-follow's, and those of the parts that it has more."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from counterview.tiny.initial import FIRST_WEIGHT, initialise
from counterview.tiny.window import MASK_CHANNELS, TinyWindow


@torch.no_grad()
def initialise_window(model: TinyWindow) -> None:
    """Draw all weights of ``model`` again, for training from scratch, from torch's random state."""
    initialise(model)
    if model.window_embedding is not None:
        nn.init.zeros_(model.window_embedding.weight)
    # The features of both windows begin as what they look like; what a mask adds to them is learned.
    encoder: Any = model.sam.vision_encoder
    encoder.backbone.stem.conv.weight[:, -MASK_CHANNELS:] *= 0.5
    for convolution in encoder.neck.convs[1:]:
        colours = encoder.backbone.palette.conv.out_channels
        convolution.weight[:, :-colours] *= 0.3 / FIRST_WEIGHT
    model.outline.initialise()
    model.presence.initialise()
