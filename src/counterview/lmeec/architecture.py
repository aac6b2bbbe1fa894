"""SAM 2's sub-modules in the sizes that a configuration asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from counterview.lmeec.config import MEMORY_CHANNELS, LMEECConfig

if TYPE_CHECKING:
    from transformers import Sam2VideoConfig


def sam2_config(config: LMEECConfig, encoder_channels: Sequence[int] | None = None) -> Sam2VideoConfig:
    """transformers' configuration of SAM 2.1 at the image size and the widths of ``config``.

    The image size stands in four places there; setting only one leaves the others at 1024.

    Args:
        config: the model's configuration.
        encoder_channels: channels of the four maps that SAM 2's neck takes, from high to low resolution; those of
            ``config.encoder`` if not given. For an encoder that is put in the place of Hiera afterwards.
    """
    from transformers import Sam2VideoConfig

    grid, channels, hiera = config.grid, config.channels, config.encoder
    stages = [hiera.hidden * 2**i for i in range(4)]
    vision: dict[str, Any] = {
        "model_type": "sam2_vision_model",
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": hiera.hidden,
            "num_attention_heads": hiera.heads,
            "blocks_per_stage": list(hiera.blocks),
            "embed_dim_per_stage": stages,
            "num_attention_heads_per_stage": [hiera.heads * 2**i for i in range(4)],
            "window_size_per_stage": list(hiera.windows),
            "global_attention_blocks": list(hiera.global_blocks),
            "window_positional_embedding_background_size": list(hiera.background),
            "image_size": [config.image_size, config.image_size],
        },
        "backbone_channel_list": list(encoder_channels or stages)[::-1],
        "backbone_feature_sizes": [[grid * k, grid * k] for k in (4, 2, 1)],
        "fpn_hidden_size": channels,
    }
    return Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={
            "hidden_size": channels,
            "image_size": config.image_size,
            "patch_size": config.cell_px,
        },
        mask_decoder_config={
            "hidden_size": channels,
            "mlp_dim": config.feed_forward,
            "iou_head_hidden_dim": channels,
            # The released code and its published numbers always take the first token (apply_postprocessing False).
            "dynamic_multimask_via_stability": False,
        },
        image_size=config.image_size,
        num_maskmem=config.bank_size + 1,
        max_object_pointers_in_encoder=config.max_pointers,
        memory_attention_hidden_size=channels,
        memory_attention_num_layers=config.attention_layers,
        memory_attention_feed_forward_hidden_size=config.feed_forward,
        memory_attention_dropout=config.dropout,
        memory_attention_rope_dropout=config.dropout,
        memory_attention_rope_feat_sizes=[grid, grid],
        memory_encoder_hidden_size=channels,
        memory_encoder_output_channels=MEMORY_CHANNELS,
        mask_downsampler_embed_dim=channels,
        mask_downsampler_total_stride=config.cell_px,
        memory_fuser_embed_dim=channels,
        memory_fuser_intermediate_dim=4 * channels,
    )
