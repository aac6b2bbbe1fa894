"""Weights of others: the released LM-EEC checkpoints, and SAM 2.1 as transformers has it.

Nothing is ever unpickled beyond plain tensors: safetensors, or ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from counterview.config import load_config
from counterview.errors import CheckpointError, WeightsError
from counterview.guard import is_folder, library_errors, reason
from counterview.hub import transformers_class
from counterview.lmeec.config import BACKBONES, LMEECConfig
from counterview.nn.checkpoint import WEIGHTS_NAME
from counterview.nn.network_folder import check_network_folder
from counterview.nn.weights import check_finite, read_released

_POINTS = re.compile(r"^sam_prompt_encoder\.point_embeddings\.(\d)\.weight$")

# SAM 2's names on the left, transformers' on the right; applied in this order.
_NAMES = {
    "maskmem_tpos_enc": "memory_temporal_positional_encoding",
    "no_mem_embed": "no_memory_embedding",
    "no_mem_pos_enc": "no_memory_positional_encoding",
    "no_obj_ptr": "no_object_pointer",
    "no_obj_embed_spatial": "occlusion_spatial_embedding_parameter",
    "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (
        "prompt_encoder.shared_embedding.positional_embedding"
    ),
}
_PREFIXES = {
    "image_encoder.trunk.": "vision_encoder.backbone.",
    "image_encoder.neck.": "vision_encoder.neck.",
    "sam_prompt_encoder.": "prompt_encoder.",
    "sam_mask_decoder.": "mask_decoder.",
    "obj_ptr_tpos_proj.": "temporal_positional_encoding_projection_layer.",
    "obj_ptr_proj.": "object_pointer_proj.",
}
_PATTERNS: tuple[tuple[str, str, str], ...] = (
    # (beginning of the name, pattern, replacement)
    ("vision_encoder.backbone.", r"patch_embed\.proj\.", "patch_embed.projection."),
    ("vision_encoder.backbone.", r"\.norm(\d)\.", r".layer_norm\1."),
    ("vision_encoder.backbone.", r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    ("vision_encoder.backbone.", r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    ("vision_encoder.neck.", r"\.conv\.", "."),
    ("memory_attention.", r"\.out_proj\.", ".o_proj."),
    ("memory_attention.", r"\.norm(\d)\.", r".layer_norm\1."),
    ("memory_attention.norm.", r"\.norm\.", ".layer_norm."),
    ("memory_encoder.", r"\.pix_feat_proj\.", ".feature_projection."),
    ("memory_encoder.out_proj.", r"\.out_proj\.", ".projection."),
    ("memory_encoder.", r"\.fuser\.", ".memory_fuser."),
    ("memory_encoder.", r"\.dwconv\.", ".depthwise_conv."),
    ("memory_encoder.", r"\.pwconv(\d)\.", r".pointwise_conv\1."),
    ("memory_encoder.memory_fuser.", r"\.norm\.", ".layer_norm."),
    ("memory_encoder.memory_fuser.", r"\.gamma$", ".scale"),
    ("memory_encoder.", r"\.mask_downsampler\.encoder\.12\.", ".mask_downsampler.final_conv."),
    ("prompt_encoder.mask_downscaling.", r"mask_downscaling\.0\.", "mask_embed.conv1."),
    ("prompt_encoder.mask_downscaling.", r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    ("prompt_encoder.mask_downscaling.", r"mask_downscaling\.3\.", "mask_embed.conv2."),
    ("prompt_encoder.mask_downscaling.", r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    ("prompt_encoder.mask_downscaling.", r"mask_downscaling\.6\.", "mask_embed.conv3."),
    ("mask_decoder.", r"\.out_proj\.", ".o_proj."),
    ("mask_decoder.transformer.layers.", r"\.norm(\d)\.", r".layer_norm\1."),
    ("mask_decoder.transformer.", r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    ("mask_decoder.transformer.", r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    ("mask_decoder.transformer.", r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    ("mask_decoder.output_upscaling.", r"output_upscaling\.0\.", "upscale_conv1."),
    ("mask_decoder.output_upscaling.", r"output_upscaling\.1\.", "upscale_layer_norm."),
    ("mask_decoder.output_upscaling.", r"output_upscaling\.3\.", "upscale_conv2."),
)
_THREE_LAYERS = re.compile(
    r"^(object_pointer_proj|mask_decoder\.(?:iou_prediction_head|pred_obj_score_head|output_hypernetworks_mlps\.\d))"
    r"\.layers\.([012])\."
)
_DOWNSAMPLER = re.compile(r"\.mask_downsampler\.encoder\.(\d+)\.")


def sam2_name(name: str) -> str:
    """transformers' name of a weight of SAM 2's own checkpoints (``sam2.1_hiera_*.pt``)."""
    if name in _NAMES:
        return _NAMES[name]
    for old, new in _PREFIXES.items():
        if name.startswith(old):
            name = new + name[len(old) :]
            break
    for scope, pattern, replacement in _PATTERNS:
        if name.startswith(scope):
            name = re.sub(pattern, replacement, name)
    name = _THREE_LAYERS.sub(lambda m: f"{m[1]}.{('proj_in', 'layers.0', 'proj_out')[int(m[2])]}.", name)
    # The downsampler is convolution, norm, activation four times over.
    return _DOWNSAMPLER.sub(
        lambda m: f".mask_downsampler.layers.{int(m[1]) // 3}.{('conv', 'layer_norm', 'activation')[int(m[1]) % 3]}.",
        name,
    )


def convert_released(
    weights: str | os.PathLike[str] | Mapping[str, Any],
    *,
    backbone: str = "hiera-b+",
    image_size: int = 480,
    behaviour: str = "released",
    config_class: type[LMEECConfig] = LMEECConfig,
    **settings: Any,
) -> tuple[LMEECConfig, dict[str, Tensor]]:
    """Configuration and state dict of :class:`~counterview.lmeec.model.LMEEC` from a released LM-EEC checkpoint.

    Whether the weights are those of the configuration, by names and shapes, is checked where they are loaded.

    Args:
        weights: a ``.pt``, ``.pth`` or ``.safetensors`` file, or a state dict; names of SAM 2.1 plus ``MV_MoE.*``.
        backbone: ``hiera-t``, ``hiera-s``, ``hiera-b+`` or ``hiera-l``.
        image_size: side of the square image that the weights were trained on.
        behaviour: ``released``; ``paper`` runs the released weights as the paper describes.
        config_class: :class:`LMEECConfig`, or a subclass.
        settings: other fields of the configuration.

    Returns:
        The configuration, and tensors by the model's names.

    Raises:
        CheckpointError: the file is not readable, or the weights are of another image encoder.
        ConfigError: settings that contradict each other.
    """
    values = {"behaviour": behaviour, "backbone": backbone, "image_size": image_size, **settings}
    config = load_config(config_class, values)
    path = None if isinstance(weights, Mapping) else os.fspath(weights)
    source = weights if isinstance(weights, Mapping) else read_released(weights)
    encoder = released_backbone(source, path)
    if encoder != backbone:
        raise CheckpointError(
            "the weights are of another image encoder",
            path=path,
            found=encoder,
            expected=backbone,
            fix=f'Give backbone="{encoder}".',
        )
    state: dict[str, Tensor] = {}
    points: dict[int, Tensor] = {}
    for name, value in source.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{name!r} is not a tensor", path=path, found=type(value).__name__)
        match = _POINTS.match(name)
        if match:
            points[int(match[1])] = value
        elif name.startswith("MV_MoE."):
            state["fusion." + name.removeprefix("MV_MoE.")] = value
        else:
            state["sam." + sam2_name(name)] = value
    if sorted(points) == [0, 1, 2, 3] and len({p.shape for p in points.values()}) == 1:
        state["sam.prompt_encoder.point_embed.weight"] = torch.cat([points[i] for i in range(4)])
    shared = state.get("sam.prompt_encoder.shared_embedding.positional_embedding")
    if shared is not None:
        # One matrix in SAM 2, two copies in transformers.
        state["sam.shared_image_embedding.positional_embedding"] = shared
    state["visibility_scale"], state["visibility_bias"] = torch.ones(()), torch.zeros(())
    return config, state


def released_backbone(state: Mapping[str, Any], path: str | os.PathLike[str] | None = None) -> str:
    """Name of the image encoder in a released state dict, by its width and number of blocks.

    Raises:
        CheckpointError: not one of SAM 2.1's.
    """
    patch = state.get("image_encoder.trunk.patch_embed.proj.weight")
    blocks = {name.split(".")[3] for name in state if name.startswith("image_encoder.trunk.blocks.")}
    for name, hiera in BACKBONES.items():
        if isinstance(patch, Tensor) and patch.shape[:1] == (hiera.hidden,) and len(blocks) == sum(hiera.blocks):
            return name
    raise CheckpointError(
        "holds no image encoder of SAM 2",
        path=path,
        found=f"{len(blocks)} blocks",
        expected=", ".join(f"{sum(h.blocks)} ({n})" for n, h in BACKBONES.items()),
    )


def load_sam2(sam: nn.Module, source: str | os.PathLike[str], backbone: object = "") -> None:
    """Load a SAM 2.1 video checkpoint of transformers.

    Args:
        sam: ``Sam2VideoModel``, changed in place.
        source: a folder, or a Hub id such as ``facebook/sam2.1-hiera-base-plus``.
        backbone: what the image encoder of ``sam`` is called, for the error.

    Raises:
        CheckpointError: the checkpoint has another architecture.
        WeightsError: the Hub cannot be reached, or has no such repository.
    """
    folder = Path(source)
    if is_folder(folder) and not any((folder / name).exists() for name in (WEIGHTS_NAME, "pytorch_model.bin")):
        raise CheckpointError("holds no weights", path=source, expected=WEIGHTS_NAME)
    if is_folder(folder):
        with library_errors(CheckpointError, "is not a SAM 2.1 video checkpoint", path=source):
            check_network_folder(folder)
    model: Any = sam
    try:
        # The check below reports shapes and names in our own words.
        loaded: Any = transformers_class("Sam2VideoModel").from_pretrained(
            os.fspath(source), config=model.config, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:
        raise WeightsError(
            "SAM 2.1 weights not found",
            path=source,
            found=reason(error, 200),
            fix="Give a folder, or a Hub id such as facebook/sam2.1-hiera-base-plus while online.",
        ) from None
    pretrained, report = loaded
    wrong = sorted({*report["missing_keys"], *(m[0] for m in report["mismatched_keys"])})
    extra = sorted(report["unexpected_keys"])
    if wrong or extra:
        raise CheckpointError(
            f"is not a SAM 2.1 video checkpoint of backbone {backbone}",
            path=source,
            found=f"{len(wrong)} weights missing or of another shape, {len(extra)} unknown ({(wrong + extra)[0]})",
        )
    check_finite(dict(pretrained.named_parameters()), source)
    model.load_state_dict(pretrained.state_dict())
