"""Learning rate and weight decay of every parameter, as SAM 2's training sets them."""

from __future__ import annotations

from typing import Any

from torch import nn

from counterview.lmeec.training.recipe import OptimConfig

ENCODER = "sam.vision_encoder."
BACKBONE = "sam.vision_encoder.backbone."


def parameter_groups(
    model: nn.Module, optim: OptimConfig, blocks: int, base_lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups of a model's parameters as ``torch.optim`` takes them, each with a ``name``.

    Args:
        model: an LM-EEC.
        optim: factors and rules.
        blocks: of its image encoder.
        base_lr: of what is not in the image encoder.
        weight_decay: of the parameters that decay.
    """
    undecayed = undecayed_names(model, optim)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = lr_scale(name, optim, blocks)
        decay = 0.0 if name in undecayed else weight_decay
        label = f"lr x {scale:.4g}, {'decay' if decay else 'no decay'}"
        group = groups.setdefault(
            (scale, decay), {"name": label, "params": [], "lr": base_lr * scale, "weight_decay": decay}
        )
        group["params"].append(parameter)
    return list(groups.values())


def lr_scale(name: str, optim: OptimConfig, blocks: int) -> float:
    """Learning rate of a parameter, as a factor of the base rate."""
    if not name.startswith(ENCODER):
        return 1.0
    rest = name.removeprefix(BACKBONE)
    if rest == name or (rest.startswith("pos_embed") and not optim.position_lr_decay):
        return optim.encoder_lr_scale  # the neck is above the last block
    # Patch and position embeddings are below the first block.
    depth = int(rest.split(".")[1]) + 1 if rest.startswith("blocks.") else 0
    return optim.encoder_lr_scale * optim.layer_decay ** (blocks + 1 - depth)


def undecayed_names(model: nn.Module, optim: OptimConfig) -> set[str]:
    """Names of the parameters without weight decay.

    ``sam2`` is the rule of SAM 2's training: every name with ``bias`` in it, and modules that are
    ``torch.nn.LayerNorm`` itself. SAM 2's norms over the channels of a map are another class there, as they are in
    transformers, so their weights decay, and so do layer scales and all embeddings.
    """
    if optim.no_decay == "vectors":
        return {name for name, p in model.named_parameters() if p.ndim < 2 or name.endswith("bias")}
    norms = {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if type(module) is nn.LayerNorm  # not a subclass
        for own, _ in module.named_parameters(recurse=False)
    }
    return norms | {name for name, _ in model.named_parameters() if "bias" in name}
