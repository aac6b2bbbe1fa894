"""The memory attention for CPUs against transformers' own."""

import pytest
import torch

from counterview.lmeec import attention, sam2_parts
from counterview.lmeec.sam2_parts import image_position
from tests.lmeec.lmeec_fill import fill, small_model


@pytest.fixture(scope="module")
def two_layers():
    return small_model(attention_layers=2)


def theirs(model, top, memory, positions, pointers):
    """transformers' forward pass over the same weights."""
    out = model.sam.memory_attention(
        current_vision_features=top.flatten(2).permute(2, 0, 1),
        memory=memory,
        current_vision_position_embeddings=image_position(model.sam, top),
        memory_posision_embeddings=positions,
        num_object_pointer_tokens=pointers,
    )
    return out[0]


@pytest.mark.parametrize("pointers", [0, 5])
@pytest.mark.parametrize("frames", [1, 3])
def test_it_equals_transformers_forward_pass(two_layers, pointers, frames):
    top = fill("top", (3, 64, 4, 4))
    length = 16 * frames + pointers
    memory, positions = fill("memory", (length, 3, 64), 2), fill("positions", (length, 3, 64))
    module = two_layers.sam.memory_attention
    with torch.no_grad():
        attended = attention.first_self_attention(module, top, image_position(two_layers.sam, top))
        ours = attention.attend(module, attended, memory, positions, pointers)
        expected = theirs(two_layers, top, memory, positions, pointers)
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-6)
    # The comparison can fail: with the features of another image, or a cell taken for a pointer, it does.
    with torch.no_grad():
        assert (attention.attend(module, attended.flip(0), memory, positions, pointers) - expected).abs().max() > 1e-3
        if frames > 1:
            wrong = attention.attend(module, attended, memory, positions, pointers + 16)
            assert (wrong - expected).abs().max() > 1e-4


def test_more_queries_than_a_chunk_holds(two_layers, monkeypatch):
    top, memory, positions = fill("top", (2, 64, 4, 4)), fill("m", (32, 2, 64)), fill("p", (32, 2, 64))
    module = two_layers.sam.memory_attention
    with torch.no_grad():
        attended = attention.first_self_attention(module, top, image_position(two_layers.sam, top))
        whole = attention.attend(module, attended, memory, positions, 0)
        monkeypatch.setattr(attention, "CHUNK", 5)
        torch.testing.assert_close(attention.attend(module, attended, memory, positions, 0), whole, rtol=0, atol=1e-6)


def test_rotation_equals_transformers(two_layers):
    from transformers.models.sam2_video.modeling_sam2_video import apply_rotary_pos_emb_2d

    module = two_layers.sam.memory_attention
    query, key = fill("q", (2, 1, 16, 64)), fill("k", (2, 1, 37, 64))
    cosine, sine = module.rotary_emb(query, module.position_ids)
    expected = apply_rotary_pos_emb_2d(query, key, cosine, sine, num_k_exclude_rope=5, repeat_freqs_k=True)
    turns = attention.rotations(module, query)
    torch.testing.assert_close(attention.rotate(query, turns), expected[0], rtol=0, atol=1e-6)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 0.02)):
        turned = key[0, 0].to(dtype).clone()
        attention.turn_frames(turned[:32], turns)
        torch.testing.assert_close(turned.float(), expected[1][0, 0], rtol=0, atol=tolerance)


def test_the_first_self_attention_of_an_image_serves_all_its_objects(two_layers):
    top = fill("top", (1, 64, 4, 4))
    entries = [fill(f"m{i}", (3, 16, 64)) for i in range(2)]
    with torch.no_grad():
        attended = two_layers.self_attended(top)
        shared = two_layers.memory_features(
            top.expand(3, -1, -1, -1), entries[:1], entries[1:], attended=attended.expand(3, -1, -1)
        )
        alone = two_layers.memory_features(top.expand(3, -1, -1, -1), entries[:1], entries[1:])
        view = two_layers.view_features(top.expand(3, -1, -1, -1), entries[0], attended.expand(3, -1, -1))
        torch.testing.assert_close(view, two_layers.view_features(top.expand(3, -1, -1, -1), entries[0]))
    torch.testing.assert_close(shared, alone)


def test_training_takes_transformers_own(two_layers, monkeypatch):
    monkeypatch.setattr(sam2_parts, "attend", lambda *_: pytest.fail("dropout would be lost"))
    top, entry = fill("top", (1, 64, 4, 4)), fill("m", (1, 16, 64))
    two_layers.train()
    try:
        assert two_layers.self_attended(top) is None
        assert two_layers.view_features(top, entry).requires_grad
    finally:
        two_layers.eval()
