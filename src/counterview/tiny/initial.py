"""First weights of tiny-follow, for training from scratch.

transformers draws every weight of SAM 2 with a standard deviation of 0.02, which is meant to be overwritten by a
checkpoint. The mask is a product of three such layers on either side: its logits begin at 0.000, the encoder's
gradient at 1/300 of the decoder's, and training ends in empty masks. Here variances are kept from layer to layer
(Glorot and Bengio 2010, He et al. 2015), the decoder's tokens differ from each other, and attention to memories begins
as a comparison of appearances, which is what it has to become.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from counterview.lmeec.config import MEMORY_CHANNELS
from counterview.tiny.conv_encoder import ConvBackbone

if TYPE_CHECKING:
    from counterview.tiny.follow import TinyFollow

SMALL = 0.02
"""Standard deviation of embeddings that are added to something, as in SAM 2."""

FUSER_SCALE = 0.1
"""Layer scale of the memory encoder's blocks; SAM 2's is 1e-6, at which they hardly learn in a short run."""

FIRST_WEIGHT = 0.02
"""Weight of untrained convolutions in the maps at the start."""


@torch.no_grad()
def initialise(model: TinyFollow) -> None:
    """Draw all weights of ``model`` again, for training from scratch, from torch's random state."""
    sam: Any = model.sam
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.ConvTranspose2d):  # kernel and stride are equal: no output is reached twice
            nn.init.normal_(module.weight, std=module.in_channels**-0.5)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for name in (
        "memory_temporal_positional_encoding",
        "no_object_pointer",
        "occlusion_spatial_embedding_parameter",
        "no_memory_embedding",
        "vision_encoder.backbone.pos_embed",
        "vision_encoder.backbone.pos_embed_window",
    ):
        parent, _, leaf = name.rpartition(".")
        value = getattr(_at(sam, parent), leaf, None) if parent else getattr(sam, leaf, None)
        if isinstance(value, Tensor):
            nn.init.trunc_normal_(value, std=SMALL)
    for convolution in sam.vision_encoder.neck.convs:
        nn.init.normal_(convolution.weight, std=convolution.in_channels**-0.5)
    if isinstance(sam.vision_encoder.backbone, ConvBackbone):
        _begin_with_colours(model)
    _compare_appearances(model)
    if model.appearance is not None:
        _begin_with_likeness(model)


def _begin_with_colours(model: TinyFollow) -> None:
    """The maps begin as the palette's colours, with little of what the convolutions make of the image."""
    encoder: Any = model.sam.vision_encoder
    encoder.backbone.palette.initialise()
    colours = encoder.backbone.palette.conv.out_channels
    for convolution in encoder.neck.convs:
        convolution.weight[:, :-colours] *= FIRST_WEIGHT
        convolution.weight[:, -colours:, 0, 0] = torch.eye(convolution.out_channels, colours)
    encoder.neck.convs[0].weight.mul_(FIRST_WEIGHT)  # of the coarsest map, which is added to the one above it


def _begin_with_likeness(model: TinyFollow) -> None:
    """Masks begin as the cells that look like the query object."""
    prompt: Any = model.appearance
    nn.init.zeros_(prompt.fine.weight)
    width = prompt.fine.out_channels - 1
    prompt.fine.weight[:width, :, 0, 0] = torch.eye(width, prompt.fine.in_channels)
    prompt.coarse.weight.mul_(FIRST_WEIGHT)
    prompt.to_mask.weight.fill_(0.5)
    prompt.to_mask.bias.fill_(-1.5)
    for head in model.sam.mask_decoder.output_hypernetworks_mlps:
        cast(Any, head).proj_out.weight.mul_(0.2)


def _compare_appearances(model: TinyFollow) -> None:
    """Memories begin as what the image looks like, and queries and keys of the attention as the same projection."""
    sam: Any = model.sam
    encoder, channels = sam.memory_encoder, model.config.channels
    nn.init.dirac_(encoder.feature_projection.weight)
    nn.init.orthogonal_(encoder.projection.weight)
    for block in encoder.memory_fuser.layers:
        nn.init.constant_(block.scale, FUSER_SCALE)
    shrink = encoder.projection.weight.reshape(MEMORY_CHANNELS, channels)
    for layer in sam.memory_attention.layers:
        attention = layer.cross_attn_image
        nn.init.orthogonal_(attention.k_proj.weight)
        attention.q_proj.weight.copy_(attention.k_proj.weight @ shrink)


def _at(module: nn.Module, path: str) -> nn.Module:
    for name in path.split("."):
        module = getattr(module, name)
    return module
