"""Oracle: the released module's own numbers in float64, and invariants of the architecture."""

import numpy as np
import pytest
import torch

from counterview.errors import ConfigError, InputError
from counterview.omama import OMaMa, OMaMaConfig, info_nce
from counterview.omama.released import released_names
from tests.omama.omama_fill import fill

SMALL = {
    "channels": 16,
    "hidden": 24,
    "embedding": 12,
    "heads": 4,
    "query_grid_hw": (3, 5),
    "target_grid_hw": (4, 4),
    "backbone": "x",
}


def inputs(name, case, dtype=torch.float32):
    batch, number, channels = case["B"], case["N"], case["C"]
    query = fill(f"{name}/source_descriptors", (batch, 1, 2 * channels), 1.7)
    candidates = fill(f"{name}/dest_descriptors", (batch, number, 2 * channels), 1.7).numpy()
    for n in range(number):
        share = n / (number - 1)
        candidates[:, n] = np.float32(1 - share) * candidates[:, n] + np.float32(share) * query[:, 0].numpy()
    maps = [
        fill(f"{name}/{end}_dense", (batch, channels, *case[f"{end}_grid"]), 1.7).to(dtype)
        for end in ("source", "dest")
    ]
    return query.to(dtype), torch.from_numpy(candidates).to(dtype), *maps


@pytest.mark.parametrize("name", ["rev_b1_n7", "fwd_b1_n7"])
def test_head_equals_the_released_one(head, released, name):
    case = head["cases"][name]
    model = OMaMa.from_released(released["exo2ego" if case["reverse"] else "ego2exo"])
    assert sum(p.numel() for p in model.parameters()) - sum(
        p.numel() for p in model.visibility_head.statistics.parameters()
    ) == sum(int(np.prod(p["shape"])) for p in head["parameters"]["reverse_true"])
    expected = torch.tensor(case["similarity_f64"], dtype=torch.float64)
    with torch.no_grad():
        single = model(*inputs(name, case))
    assert (single.similarity.double() - expected).abs().max() < 1e-6

    model = model.double()
    output = model(*inputs(name, case, torch.float64))
    assert (output.similarity - expected).abs().max() < 1e-12
    assert output.similarity.shape == (1, 7)
    assert output.visibility.shape == (1,)
    assert abs(output.visibility.item() - case["confidence_f64"][0]) < 1e-12
    assert output.best.tolist() == case["best_index"]
    first = torch.tensor(case["query_embedding_first64_f64"], dtype=torch.float64)
    assert (output.query_embedding[:, :64] - first).abs().max() < 1e-12
    first = torch.tensor(case["candidate_embeddings_first64_f64"], dtype=torch.float64)
    assert (output.candidate_embeddings[..., :64] - first).abs().max() < 1e-12

    loss = info_nce(output.similarity, torch.tensor(case["gt_position"]), visible=torch.tensor(case["visible"])).mean()
    assert abs(loss.item() - case["loss_f64"]) < 1e-11
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    for old, new in released_names(OMaMa).items():
        gradient, gold = gradients[new], case["grad_f64"][old]
        if gold is None:
            assert gradient is None
            continue
        # The key's bias shifts all scores of a query alike, so its gradient is 0 up to rounding.
        scale = max(gold["l2"], 1e-3)
        assert abs(gradient.norm().item() - gold["l2"]) < 1e-9 * scale
        assert np.abs(gradient.flatten()[:4].numpy() - gold["first"]).max() < 1e-9 * scale
        assert abs(gradient.sum().item() - gold["sum"]) < 1e-7 * scale


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return OMaMa(OMaMaConfig(**SMALL)).eval().double()


def random_inputs(batch=2, queries=1, number=5, query_hw=(3, 5), target_hw=(4, 4), channels=16):
    g = torch.Generator().manual_seed(1)
    make = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    return [
        make(batch, queries, 2 * channels),
        make(batch, number, 2 * channels),
        make(batch, channels, *query_hw),
        make(batch, channels, *target_hw),
    ]


def test_several_queries_equal_one_by_one(small):
    args = random_inputs(queries=3)
    together = small(*args)
    assert together.similarity.shape == (2, 3, 5)
    assert together.visibility.shape == (2, 3)
    for q in range(3):
        alone = small(args[0][:, q : q + 1], *args[1:])
        assert torch.allclose(alone.similarity, together.similarity[:, q], atol=1e-12)
        assert torch.allclose(alone.visibility, together.visibility[:, q], atol=1e-12)
    assert small(args[0][:, :1], *args[1:], keep_queries=True).similarity.shape == (2, 1, 5)


def test_padding_changes_nothing(small):
    args = random_inputs()
    plain = small(*args)
    mask = torch.tensor([True, False, True, True, True, True, False])[None].expand(2, -1)
    filled = torch.full((2, 7, 32), 1e3, dtype=torch.float64)
    filled[mask] = args[1].flatten(0, 1)
    padded = small(args[0], filled, *args[2:], mask)
    assert torch.allclose(padded.similarity[mask].view(2, 5), plain.similarity, atol=1e-12)
    assert torch.isinf(padded.similarity[~mask]).all()
    assert torch.allclose(padded.visibility, plain.visibility, atol=1e-12)
    assert (mask.nonzero()[:, 1].view(2, 6 - 1).gather(1, plain.best[:, None])[:, 0] == padded.best).all()


@pytest.mark.parametrize("number", [0, 1, 3])
def test_without_a_candidate_the_object_is_not_visible(small, number):
    args = random_inputs(number=number)
    output = small(*args, torch.zeros(2, number, dtype=torch.bool))
    assert output.visibility.tolist() == [0.0, 0.0]
    assert output.best.tolist() == [-1, -1]


def test_any_grid_and_portrait(small):
    for grids in (((7, 9), (1, 1)), ((5, 3), (9, 4))):
        output = small(*random_inputs(query_hw=grids[0], target_hw=grids[1]))
        assert torch.isfinite(output.similarity).all()
    position = small.query_position
    assert torch.equal(position((3, 5)), position.weight.view(1, 15, 16))
    expected = torch.nn.functional.interpolate(
        position.weight.permute(2, 0, 1)[None], size=(6, 10), mode="bilinear", align_corners=False
    )
    assert torch.equal(position((6, 10)), expected.flatten(2).transpose(1, 2))


def test_attention_equals_torchs_own(small):
    attention = small.attention
    reference = torch.nn.MultiheadAttention(16, 4, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        reference.in_proj_weight.copy_(
            torch.cat([attention.query.weight, attention.key.weight, attention.value.weight])
        )
        reference.in_proj_bias.copy_(torch.cat([attention.query.bias, attention.key.bias, attention.value.bias]))
        reference.out_proj.load_state_dict(attention.project.state_dict())
        queries, tokens = torch.randn(2, 5, 16, dtype=torch.float64), torch.randn(2, 9, 16, dtype=torch.float64)
        mixed = reference(*(attention.input_norm(x) for x in (queries, tokens, tokens)), need_weights=False)[0]
        expected = mixed + attention.mlp(attention.output_norm(mixed))
    assert torch.allclose(attention(queries, tokens), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("context", "cross_attention", "parts"), [(False, False, 1), (True, False, 2), (True, True, 3)]
)
def test_modules_switch_off(context, cross_attention, parts):
    model = OMaMa(OMaMaConfig(**SMALL, context=context, cross_attention=cross_attention)).double()
    assert model.head[0].in_features == 16 * parts
    args = random_inputs()
    before = model(*args).similarity
    for index, used in ((2, cross_attention), (3, cross_attention)):
        changed = [a.clone() for a in args]
        changed[index] += 3 * torch.randn_like(changed[index])
        assert torch.equal(model(*changed).similarity, before) != used
    changed = [a.clone() for a in args]
    changed[1][..., 16:] += 1
    assert torch.equal(model(*changed).similarity, before) != context


def test_knn_is_the_cosine_of_object_descriptors():
    model = OMaMa(OMaMaConfig.knn(16))
    assert not list(model.parameters())
    args = random_inputs()
    expected = torch.nn.functional.cosine_similarity(args[0][..., :16], args[1][..., :16], dim=-1)
    output = model(*args)
    assert torch.allclose(output.similarity, expected, atol=1e-12)
    assert torch.allclose(output.visibility, expected.amax(1).sigmoid(), atol=1e-12)


def test_gradients_reach_everything_but_the_visibility_head(small):
    model = OMaMa(OMaMaConfig(**SMALL)).double()
    output = model(*random_inputs())
    output.visibility_logit.sum().backward()
    touched = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert touched == {"visibility_head"}
    model.zero_grad()
    info_nce(model(*random_inputs()).similarity, torch.tensor([0, 1])).mean().backward()
    untouched = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is None}
    assert untouched == {"visibility_head"}


@pytest.mark.parametrize(
    ("index", "shape", "name"),
    [
        (0, (2, 1, 16), "query_descriptors"),
        (1, (3, 5, 32), "candidate_descriptors"),
        (2, (2, 4, 3, 5), "query_map"),
        (3, (2, 16, 4), "target_map"),
    ],
)
def test_wrong_shapes_are_named(small, index, shape, name):
    args = random_inputs()
    args[index] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(InputError, match=name):
        small(*args)
    with pytest.raises(InputError, match="candidate_mask"):
        small(*random_inputs(), torch.ones(2, 4, dtype=torch.bool))


def test_contradictory_settings_come_all_at_once():
    with pytest.raises(ConfigError) as caught:
        OMaMaConfig(channels=10, heads=3, hidden=0)
    assert "hidden" in str(caught.value)
    assert "does not divide" in str(caught.value)
    with pytest.raises(ConfigError, match=r"context.*cross_attention.*visibility"):
        OMaMaConfig(matching_head=False)


def test_half_precision_stays_near():
    torch.manual_seed(0)
    model = OMaMa(OMaMaConfig(**SMALL)).eval()
    args = [a.float() for a in random_inputs()]
    with torch.no_grad():
        full = model(*args).similarity
        half = model.bfloat16()(*(a.bfloat16() for a in args)).similarity
    assert (half.float() - full).abs().max() < 0.05


def test_objects_described_in_other_channels_than_the_map():
    model = OMaMa(OMaMaConfig(**SMALL, object_channels=7)).double()
    g = torch.Generator().manual_seed(0)
    make = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    output = model(make(2, 1, 23), make(2, 5, 23), make(2, 16, 3, 5), make(2, 16, 4, 4))
    assert output.similarity.shape == (2, 5)
    with pytest.raises(InputError, match=r"expected \(2, Q, 23\)"):
        model(make(2, 1, 32), make(2, 5, 32), make(2, 16, 3, 5), make(2, 16, 4, 4))
    assert "attention.query_norm.weight" in model.state_dict()
    assert not any("query_norm" in name for name in OMaMa(OMaMaConfig(**SMALL)).state_dict())


def test_dropout_works_in_training_alone():
    torch.manual_seed(3)
    model = OMaMa(OMaMaConfig(**SMALL, dropout=0.5)).double()
    plain = OMaMa(OMaMaConfig(**SMALL)).double()
    plain.load_state_dict(model.state_dict())
    args = random_inputs()
    assert not torch.allclose(model(*args).similarity, model(*args).similarity)
    assert torch.equal(model.eval()(*args).similarity, plain(*args).similarity)


@pytest.mark.parametrize("cast", ["half", "bfloat16"])
def test_a_model_of_half_precision_takes_float32_features(cast):
    torch.manual_seed(0)
    model = OMaMa(OMaMaConfig(**SMALL)).eval()
    args = [a.float() for a in random_inputs()]
    with torch.no_grad():
        full = model(*args).similarity
        half = getattr(model, cast)()(*args).similarity
    assert (half.float() - full).abs().max() < 0.05
