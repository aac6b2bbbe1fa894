"""SAM 2's memory attention for inference on a CPU: the same numbers with two thirds of the work.

Per object, nearly all of a frame's cost is the attention from the image's cells to the banks. Three things save work
and change nothing but rounding:

* Values are a linear map of the 64 channels of a memory and carry no rotary position, so the attention takes its mean
  of memories, and the map to C channels (256) is applied to that mean.
* The first self-attention sees only the image. It is computed once an image, for all objects and for both F_view
  and F_mem (:func:`first_self_attention`).
* Rotary positions are applied as one complex product, not by turning and adding copies.

Training, where dropout acts on the attention's weights, and GPUs, where fused kernels do better, use transformers'
own forward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from counterview.lmeec.constants import constant

CHUNK = 256
"""Queries whose weights over all keys are held at a time, so that they stay in the processor's cache."""

POSITION_WEIGHT = 0.1
"""SAM 2 adds this fraction of the image's position encoding before the first layer."""


def first_self_attention(module: Any, top: Tensor, position: Tensor) -> Tensor:
    """What the first layer's self-attention makes of images, before any memory comes in.

    Args:
        module: ``Sam2VideoMemoryAttention``, in eval mode.
        top: features ``(B, C, h, w)``.
        position: position encoding ``(h * w, 1, C)``.

    Returns:
        ``(B, h * w, C)``.
    """
    values = top.flatten(2).transpose(1, 2) + POSITION_WEIGHT * position.transpose(0, 1)
    return _self_attention(module.layers[0], values, rotations(module, values))


def attend(module: Any, attended: Tensor, memory: Tensor, positions: Tensor, pointer_tokens: int) -> Tensor:
    """The memory attention after :func:`first_self_attention`.

    Args:
        module: ``Sam2VideoMemoryAttention``, in eval mode.
        attended: :func:`first_self_attention` of the images of N tracks, ``(N, h * w, C)``.
        memory: ``(L, N, 64)``; the last ``pointer_tokens`` are pointers, which have no position in the image.
        positions: position encoding of ``memory``, ``(L, N, 64)``.
        pointer_tokens: see above.

    Returns:
        ``(N, h * w, C)``.
    """
    turns = rotations(module, attended)
    # Keys of one object fill the cache already; those of all at once would go to main memory and back.
    rows = [
        _attend_one(module, attended[n : n + 1], memory[:, n], positions[:, n], pointer_tokens, turns)
        for n in range(attended.shape[0])
    ]
    return module.layer_norm(torch.cat(rows))


def _attend_one(
    module: Any, values: Tensor, memory: Tensor, positions: Tensor, pointer_tokens: int, turns: Tensor
) -> Tensor:
    keys = memory + positions
    cells = memory.shape[0] - pointer_tokens
    for index, layer in enumerate(module.layers):
        if index:
            values = _self_attention(layer, values, turns)
        attention = layer.cross_attn_image
        query = rotate(attention.q_proj(layer.layer_norm2(values)), turns)[0]
        key = attention.k_proj(keys)
        turn_frames(key[:cells], turns)
        mean = _mean_of_memories(query, key, memory, attention.scaling)
        values = values + attention.o_proj(attention.v_proj(mean))
        hidden = layer.linear1(layer.layer_norm3(values))
        values = values + layer.linear2(layer.activation(hidden))
    return values


def rotations(module: Any, values: Tensor) -> Tensor:
    """Rotary positions of the image's cells as complex numbers ``(h * w, C / 2)``, for ``values`` ``(N, h * w, C)``."""

    def compute() -> Tensor:
        cosine, sine = module.rotary_emb(values, module.position_ids)
        # transformers repeats each number for both halves of a pair.
        return torch.complex(cosine[0, :, ::2].float(), sine[0, :, ::2].float())

    weights = [module.position_ids, *module.rotary_emb.buffers()]
    return constant(module, f"rotations in {values.dtype}", weights, compute)


def rotate(values: Tensor, turns: Tensor) -> Tensor:
    """Turn each pair of channels of ``(..., L, C)`` by ``(L, C / 2)``, in float32."""
    pairs = torch.view_as_complex(values.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns).flatten(-2).to(values.dtype)


def turn_frames(keys: Tensor, turns: Tensor) -> None:
    """:func:`rotate` the cells of frames one after the other, ``(T * h * w, C)``, in place."""
    frames = keys.view(-1, turns.shape[0], keys.shape[-1])
    if keys.dtype == torch.float32:
        torch.view_as_complex(frames.unflatten(-1, (-1, 2))).mul_(turns)
    else:
        frames.copy_(rotate(frames, turns))


def _self_attention(layer: Any, values: Tensor, turns: Tensor) -> Tensor:
    attention = layer.self_attn
    normed = layer.layer_norm1(values)
    query, key = rotate(attention.q_proj(normed), turns), rotate(attention.k_proj(normed), turns)
    mixed = functional.scaled_dot_product_attention(
        query[:, None], key[:, None], attention.v_proj(normed)[:, None], scale=attention.scaling
    )
    return values + attention.o_proj(mixed[:, 0])


def _mean_of_memories(query: Tensor, key: Tensor, memory: Tensor, scale: float) -> Tensor:
    """Attention of ``(Q, C)`` to keys ``(L, C)``: weighted means ``(Q, 64)`` of the memories ``(L, 64)``."""
    keys = key.transpose(0, 1)
    parts = []
    for part in (query * scale).split(CHUNK):
        weights = torch.softmax(part @ keys, dim=-1, dtype=torch.float32)
        parts.append(weights.to(memory.dtype) @ memory)
    return torch.cat(parts)
