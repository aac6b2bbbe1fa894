"""SAM 2's memory attention for inference on a CPU: the same numbers with two thirds of the work.

Per object, nearly all of a frame's cost is the attention from the picture's cells to the banks. Three things save work
and change nothing but rounding:

* Values are a linear map of the 64 channels of a memory and carry no rotary position, so the attention takes its mean
  of memories, and the map to C channels (256) is applied to that mean.
* The first self-attention sees only the picture. It is computed once a picture, for all objects and for both F_view
  and F_mem (:func:`first_look`).
* Rotary positions are applied as one complex product, not by turning and adding copies.

Training, where dropout acts on the attention's weights, and GPUs, where fused kernels do better, use transformers' own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 128
"""Queries whose weights over all keys are held at a time, so that they stay in the processor's cache."""

POSITION_SHARE = 0.1
"""Share of the picture's position encoding that SAM 2 adds before the first layer."""


def first_look(module: Any, top: Tensor, place: Tensor) -> Tensor:
    """What the first layer's self-attention makes of pictures, before any memory comes in.

    Args:
        module: ``Sam2VideoMemoryAttention``, in eval mode.
        top: features ``(B, C, h, w)``.
        place: position encoding ``(h * w, 1, C)``.

    Returns:
        ``(B, h * w, C)``.
    """
    values = top.flatten(2).transpose(1, 2) + POSITION_SHARE * place.transpose(0, 1)
    return _self_attention(module.layers[0], values, rotations(module, values))


def attend(module: Any, look: Tensor, memory: Tensor, positions: Tensor, pointer_tokens: int) -> Tensor:
    """The memory attention after :func:`first_look`.

    Args:
        module: ``Sam2VideoMemoryAttention``, in eval mode.
        look: ``(N, h * w, C)``.
        memory: ``(L, N, 64)``; the last ``pointer_tokens`` are pointers, which have no place in the picture.
        positions: ``(L, N, 64)``.
        pointer_tokens: see above.

    Returns:
        ``(N, h * w, C)``.
    """
    turns = rotations(module, look)
    memory = memory.transpose(0, 1)
    keyed = memory + positions.transpose(0, 1)
    values = look
    for index, layer in enumerate(module.layers):
        if index:
            values = _self_attention(layer, values, turns)
        attention = layer.cross_attn_image
        query = rotate(attention.q_proj(layer.layer_norm2(values)), turns)
        key = _rotate_frames(attention.k_proj(keyed), turns, pointer_tokens)
        mean = _mean_of_memories(query, key, memory, attention.scaling)
        values = values + attention.o_proj(attention.v_proj(mean))
        hidden = layer.linear1(layer.layer_norm3(values))
        values = values + layer.linear2(layer.activation(hidden))
    return module.layer_norm(values)


def rotations(module: Any, values: Tensor) -> Tensor:
    """Rotary positions of the picture's cells as complex numbers ``(h * w, C / 2)``."""
    cosine, sine = module.rotary_emb(values, module.position_ids)
    # transformers repeats each number for both halves of a pair.
    return torch.complex(cosine[0, :, ::2].float(), sine[0, :, ::2].float())


def rotate(values: Tensor, turns: Tensor) -> Tensor:
    """Turn each pair of channels of ``(..., L, C)`` by ``(L, C / 2)``, in float32."""
    pairs = torch.view_as_complex(values.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns).flatten(-2).to(values.dtype)


def _rotate_frames(keys: Tensor, turns: Tensor, pointer_tokens: int) -> Tensor:
    count, length, channels = keys.shape
    cells = length - pointer_tokens
    frames = keys[:, :cells].reshape(count, -1, turns.shape[0], channels)
    turned = rotate(frames, turns).reshape(count, cells, channels)
    return torch.cat([turned, keys[:, cells:]], dim=1) if pointer_tokens else turned


def _self_attention(layer: Any, values: Tensor, turns: Tensor) -> Tensor:
    attention = layer.self_attn
    normed = layer.layer_norm1(values)
    query, key = rotate(attention.q_proj(normed), turns), rotate(attention.k_proj(normed), turns)
    mixed = functional.scaled_dot_product_attention(
        query[:, None], key[:, None], attention.v_proj(normed)[:, None], scale=attention.scaling
    )
    return values + attention.o_proj(mixed[:, 0])


def _mean_of_memories(query: Tensor, key: Tensor, memory: Tensor, scale: float) -> Tensor:
    """Attention of ``(N, Q, C)`` to keys ``(N, L, C)``, of which it takes the memories ``(N, L, 64)``."""
    result = query.new_empty(*query.shape[:2], memory.shape[2])
    for row in range(query.shape[0]):
        keys = key[row].transpose(0, 1)
        for start in range(0, query.shape[1], CHUNK):
            part = slice(start, start + CHUNK)
            weights = torch.softmax((query[row, part] * scale) @ keys, dim=-1, dtype=torch.float32)
            result[row, part] = weights.to(memory.dtype) @ memory[row]
    return result
