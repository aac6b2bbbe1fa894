"""Weights in and out: released LM-EEC checkpoints, SAM 2.1 checkpoints, and our own folders.

Nothing is ever unpickled beyond plain tensors: safetensors, or ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from counterview.config import load_config, to_dict
from counterview.errors import CheckpointError, ConfigError, WeightsError
from counterview.hub import ADVICE, fetch_folder
from counterview.lmeec.config import BACKBONES, HieraConfig, LMEECConfig, governed_settings
from counterview.media.files import atomic_write, read_json, write_json
from counterview.nn.checkpoint import weights_fingerprint

if TYPE_CHECKING:
    from counterview.lmeec.model import LMEEC

FORMAT = "counterview-lmeec"
CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"

_POINTS = re.compile(r"^sam_prompt_encoder\.point_embeddings\.(\d)\.weight$")

# SAM 2's names on the left, transformers' on the right; applied in this order.
_WHOLE = {
    "maskmem_tpos_enc": "memory_temporal_positional_encoding",
    "no_mem_embed": "no_memory_embedding",
    "no_mem_pos_enc": "no_memory_positional_encoding",
    "no_obj_ptr": "no_object_pointer",
    "no_obj_embed_spatial": "occlusion_spatial_embedding_parameter",
    "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (
        "prompt_encoder.shared_embedding.positional_embedding"
    ),
}
_HEADS = {
    "image_encoder.trunk.": "vision_encoder.backbone.",
    "image_encoder.neck.": "vision_encoder.neck.",
    "sam_prompt_encoder.": "prompt_encoder.",
    "sam_mask_decoder.": "mask_decoder.",
    "obj_ptr_tpos_proj.": "temporal_positional_encoding_projection_layer.",
    "obj_ptr_proj.": "object_pointer_proj.",
}
_SCOPED: tuple[tuple[str, str, str], ...] = (
    # (names that contain this, pattern, replacement)
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
    if name in _WHOLE:
        return _WHOLE[name]
    for old, new in _HEADS.items():
        if name.startswith(old):
            name = new + name[len(old) :]
            break
    for scope, pattern, replacement in _SCOPED:
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
    **settings: Any,
) -> tuple[LMEECConfig, dict[str, Tensor]]:
    """Configuration and state dict of :class:`~counterview.lmeec.model.LMEEC` from a released LM-EEC checkpoint.

    Args:
        weights: a ``.pt``, ``.pth`` or ``.safetensors`` file, or a state dict; names of SAM 2.1 plus ``MV_MoE.*``.
        backbone: ``hiera-t``, ``hiera-s``, ``hiera-b+`` or ``hiera-l``.
        image_size: side of the square image that the weights were trained on.
        behaviour: ``released``; ``paper`` runs the released weights as the paper describes.
        settings: other fields of :class:`LMEECConfig`.

    Raises:
        CheckpointError: a weight is missing, superfluous, of another shape or no number; the file is not readable.
        ConfigError: settings that do not fit.
    """
    values = {"behaviour": behaviour, "backbone": backbone, "image_size": image_size, **settings}
    config = load_config(LMEECConfig, values)
    path = None if isinstance(weights, Mapping) else os.fspath(weights)
    source = weights if isinstance(weights, Mapping) else read_state(weights)
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
            raise CheckpointError(f"{name!r} is no tensor", path=path, found=type(value).__name__)
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
    check_state(config, state, path)
    return config, {name: value.detach().to(torch.float32).contiguous() for name, value in state.items()}


def released_backbone(state: Mapping[str, Any], path: str | os.PathLike[str] | None = None) -> str:
    """Name of the image encoder in a released state dict, by its width and number of blocks.

    Raises:
        CheckpointError: none that is known.
    """
    known = {name: encoder for name, encoder in BACKBONES.items() if isinstance(encoder, HieraConfig)}
    patch = state.get("image_encoder.trunk.patch_embed.proj.weight")
    blocks = {name.split(".")[3] for name in state if name.startswith("image_encoder.trunk.blocks.")}
    for name, hiera in known.items():
        if isinstance(patch, Tensor) and patch.shape[:1] == (hiera.hidden,) and len(blocks) == sum(hiera.blocks):
            return name
    raise CheckpointError(
        "holds no image encoder of SAM 2",
        path=path,
        found=f"{len(blocks)} blocks",
        expected=", ".join(f"{sum(h.blocks)} ({n})" for n, h in known.items()),
    )


def check_state(config: LMEECConfig, state: Mapping[str, Tensor], path: str | os.PathLike[str] | None = None) -> None:
    """Check that a state dict is exactly that of a model with ``config``: names, shapes, finite numbers.

    Raises:
        CheckpointError: naming the first differences.
    """
    from counterview.lmeec.model import LMEEC

    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in LMEEC(config).state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    problems = []
    if missing := sorted(expected.keys() - found.keys()):
        problems.append(f"{len(missing)} missing ({', '.join(missing[:3])})")
    if extra := sorted(found.keys() - expected.keys()):
        problems.append(f"{len(extra)} unknown ({', '.join(extra[:3])})")
    if shapes := [n for n in sorted(expected.keys() & found.keys()) if expected[n] != found[n]]:
        first = shapes[0]
        problems.append(f"{len(shapes)} of another shape ({first}: {found[first]}, expected {expected[first]})")
    if problems:
        raise CheckpointError(
            "the weights do not fit the model: " + "; ".join(problems),
            path=path,
            fix="Check backbone and image_size, and that the file holds the model's weights.",
        )
    for name, value in state.items():
        if not value.is_floating_point() or not torch.isfinite(value).all():
            raise CheckpointError(f"{name!r} holds values that are no finite numbers", path=path)


def read_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Tensors of a safetensors or torch file, without running anything in it.

    A torch file may hold the state dict itself, or under ``model`` or ``state_dict``.

    Raises:
        CheckpointError: missing, damaged, or holding more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("no such file", path=path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError("is no safetensors file", path=path, found=str(error).split("\n")[0]) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            "cannot be read as plain tensors",
            path=path,
            found=type(error).__name__,
            fix="Save the state dict alone (torch.save(model.state_dict(), ...)), or as safetensors.",
        ) from None
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError("holds no state dict", path=path, found=type(content).__name__)
    return {str(name): value for name, value in content.items()}


def load_sam2(model: LMEEC, source: str | os.PathLike[str]) -> None:
    """Load a SAM 2.1 video checkpoint of transformers into ``model.sam``; see :meth:`LMEEC.from_sam2`."""
    from transformers import Sam2VideoModel

    _check_folder(source)
    try:
        # The check below reports shapes and names in our own words.
        loaded: Any = Sam2VideoModel.from_pretrained(
            os.fspath(source), config=model.sam.config, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError) as error:
        raise WeightsError(
            "SAM 2.1 weights cannot be had",
            path=source,
            found=str(error).split("\n")[0][:200],
            fix="Give a folder, or a Hub id such as facebook/sam2.1-hiera-base-plus while online.",
        ) from None
    sam, report = loaded
    wrong = sorted({*report["missing_keys"], *(m[0] for m in report["mismatched_keys"])})
    extra = sorted(report["unexpected_keys"])
    if wrong or extra:
        raise CheckpointError(
            f"is no SAM 2.1 video checkpoint of backbone {model.config.backbone}",
            path=source,
            found=f"{len(wrong)} weights missing or of another shape, {len(extra)} unknown ({(wrong + extra)[0]})",
        )
    model.sam.load_state_dict(sam.state_dict())


def write_pretrained(model: LMEEC, folder: str | os.PathLike[str]) -> Path:
    """Write ``config.json`` and ``model.safetensors``; see :meth:`LMEEC.save_pretrained`."""
    from safetensors.torch import save

    folder = Path(folder)
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with atomic_write(folder / WEIGHTS_NAME) as handle:
        handle.write(save(state, metadata={"format": "pt"}))
    write_json(folder / CONFIG_NAME, model_config(model))
    return folder


def model_config(model: LMEEC) -> dict[str, Any]:
    """Content of ``config.json``.

    Settings that are as ``behaviour`` has them stand there as null, so that another ``behaviour`` changes them.
    """
    values = to_dict(model.config)
    for name, (paper, released) in governed_settings().items():
        if values[name] == (released if model.config.behaviour == "released" else paper):
            values[name] = None
    return {"format": FORMAT, "version": 1, "model": values}


def read_pretrained(
    source: str | os.PathLike[str], revision: str | None = None
) -> tuple[LMEECConfig, dict[str, Tensor]]:
    """Configuration and checked weights of a folder or Hub id; see :meth:`LMEEC.from_pretrained`."""
    folder = Path(source)
    if not folder.is_dir():
        folder = fetch_folder(os.fspath(source), (CONFIG_NAME, WEIGHTS_NAME), ADVICE, revision=revision)
    values = read_json(folder / CONFIG_NAME)
    if not isinstance(values, dict) or values.get("format") != FORMAT or not isinstance(values.get("model"), dict):
        raise CheckpointError(
            "is no configuration of LM-EEC", path=folder / CONFIG_NAME, expected=f'"format": "{FORMAT}" and "model"'
        )
    try:
        config = load_config(LMEECConfig, values["model"])
    except ConfigError as error:
        raise CheckpointError(error.problem, path=folder / CONFIG_NAME) from None
    state = read_state(folder / WEIGHTS_NAME)
    check_state(config, state, folder / WEIGHTS_NAME)
    return config, state


def fingerprint(model: LMEEC) -> str:
    """SHA-256 over configuration and weights, whatever the device."""
    config = json.dumps(to_dict(model.config), sort_keys=True)
    return hashlib.sha256(f"{config} {weights_fingerprint(model)}".encode()).hexdigest()


def with_settings(model: LMEEC, **settings: Any) -> LMEEC:
    """The same weights under other settings, sharing no memory with ``model``.

    Raises:
        ConfigError: settings that change the architecture, or contradict each other.
    """
    from counterview.lmeec.config import architecture

    config = replace(model.config, **settings)
    if architecture(config) != architecture(model.config):
        raise ConfigError("these settings change the architecture, which weights do not follow", found=settings)
    other = copy.deepcopy(model)
    other.config = config
    return other


def _check_folder(source: str | os.PathLike[str]) -> None:
    if Path(source).is_dir() and not any((Path(source) / n).exists() for n in (WEIGHTS_NAME, "pytorch_model.bin")):
        raise CheckpointError("holds no weights", path=source, expected=WEIGHTS_NAME)
