"""tiny-match: what it adds to O-MaMa's head, each addition against O-MaMa itself."""

import dataclasses

import numpy as np
import pytest
import torch

from counterview.errors import CheckpointError, ConfigError
from counterview.nn.checkpoint import read_header
from counterview.omama import OMaMa, OMaMaConfig, info_nce
from counterview.omama.training.validation import OMaMaValidator
from counterview.tiny import TinyMatch, TinyMatchConfig
from counterview.tiny.legacy import current_header, upgrade_recipe
from counterview.tiny.model import prior_score
from tests.golden.saved import unpack
from tests.omama.test_omama_model import SMALL, random_inputs


def tiny(**values):
    return TinyMatchConfig(omama=OMaMaConfig(**SMALL), **values)


def test_similarity_with_a_descriptor_weight_is_the_weighted_mean_of_both_cosines():
    torch.manual_seed(3)
    model = TinyMatch(tiny(descriptor_weight="learned")).eval().double()
    plain = OMaMa(OMaMaConfig(**SMALL)).eval().double()
    plain.load_state_dict(model.omama.state_dict())
    knn = OMaMa(OMaMaConfig.knn(16))
    args = random_inputs()
    for value in (-1.0, 0.0, 2.0):
        with torch.no_grad():
            model.descriptor_logit.fill_(value)
        weight = torch.sigmoid(torch.tensor(value, dtype=torch.float64))
        expected = weight * knn(*args).similarity + (1 - weight) * plain(*args).similarity
        output = model(*args)
        assert torch.allclose(output.similarity, expected, atol=1e-12)
    info_nce(output.similarity, torch.tensor([0, 1])).mean().backward()
    assert model.descriptor_logit.grad is not None
    fixed = TinyMatch(tiny(descriptor_weight=0.75)).eval().double()
    fixed.load_state_dict(model.state_dict())
    expected = 0.75 * knn(*args).similarity + 0.25 * plain(*args).similarity
    output = fixed(*args)
    assert torch.allclose(output.similarity, expected, atol=1e-12)
    info_nce(output.similarity, torch.tensor([0, 1])).mean().backward()
    assert fixed.descriptor_logit.grad is None
    knn_head = OMaMaConfig.knn(16)
    for values in ({"descriptor_weight": 1.0}, {"omama": knn_head, "descriptor_weight": 0.5}):
        with pytest.raises(ConfigError, match="descriptor_weight"):
            TinyMatchConfig(**values)


def test_downscaled_attention_equals_attention_over_the_pooled_map():
    torch.manual_seed(3)
    model = TinyMatch(tiny(attention_downscale=2)).eval().double()
    plain = OMaMa(OMaMaConfig(**SMALL)).eval().double()
    plain.load_state_dict(model.omama.state_dict())
    args = random_inputs(query_hw=(5, 8), target_hw=(4, 6))
    pooled = [a[:, :, : h - h % 2].unflatten(2, (-1, 2)).mean(3) for a, h in ((args[2], 4), (args[3], 4))]
    rows = [torch.cat([pooled[0], args[2][:, :, 4:]], dim=2), pooled[1]]  # the fifth row stands alone
    halves = [r.unflatten(3, (-1, 2)).mean(4) for r in rows]
    assert torch.allclose(model(*args).similarity, plain(*args[:2], *halves).similarity, atol=1e-12)


def test_without_additions_it_is_its_head():
    torch.manual_seed(3)
    model = TinyMatch(tiny()).eval().double()
    args = random_inputs()
    ours, theirs = model(*args), model.omama(*args)
    assert torch.equal(ours.similarity, theirs.similarity)
    assert torch.equal(ours.visibility, theirs.visibility)
    assert model.calibration is model.omama.calibration


def test_visibility_compares_what_the_head_learned_and_chooses_by_the_weighted_mean():
    torch.manual_seed(3)
    model = TinyMatch(tiny(descriptor_weight=0.5)).eval().double()
    args = random_inputs()
    output = model(*args, keep_queries=True)
    queries = model.omama.embed_queries(args[0], args[3])
    candidates = model.omama.embed_candidates(args[1], args[2])
    logit = model.omama.visibility_head(queries, candidates, output.similarity)
    assert torch.allclose(output.visibility_logit, logit, atol=1e-9)


def test_a_proposers_score_helps_to_choose_and_its_scale_does_not_matter():
    similarity = np.array([[0.50, 0.45, 0.10], [0.9, 0.1, 0.2]])
    scores = np.array([0.2, 0.4, 0.4])
    score = prior_score(similarity, scores, 0.2)
    assert score.argmax(1).tolist() == [1, 0]
    assert np.allclose(score - similarity, [0.1, 0.2, 0.2])
    assert np.allclose(prior_score(similarity, 7 * scores, 0.2), score)
    assert prior_score(similarity, scores, 0.0) is similarity
    assert prior_score(similarity, np.zeros(3), 0.2) is similarity
    assert prior_score(similarity[:, :0], scores[:0], 0.2).shape == (2, 0)


def test_a_checkpoint_names_its_method(tmp_path):
    folder = TinyMatch(tiny(descriptor_weight=0.75)).save_pretrained(tmp_path / "m")
    assert read_header(folder).method == "tiny-match"
    assert TinyMatch.from_pretrained(folder).config.descriptor_weight == 0.75
    with pytest.raises(CheckpointError, match="another method; found tiny-match; expected omama"):
        OMaMa.from_pretrained(folder)
    card = (folder / "README.md").read_text()
    assert "Counterview's own, around an O-MaMa head" in card
    assert "import counterview\n" in card
    plain = OMaMa(OMaMaConfig(**SMALL)).save_pretrained(tmp_path / "plain")
    assert "| method | O-MaMa (ICCV 2025, arXiv 2506.06026) |" in (plain / "README.md").read_text()
    with pytest.raises(CheckpointError, match="another method"):
        TinyMatch.from_pretrained(plain)


def test_checkpoints_of_the_first_version_are_read_as_what_they_use(tmp_path):
    expected = {"omama": "omama", "omama-residual": "tiny-match", "tiny-match": "tiny-match", "lmeec": "lmeec",
                "tiny-follow": "tiny-follow"}  # fmt: skip
    for name, method in expected.items():
        assert current_header(read_header(unpack(name, tmp_path / name))).method == method
    with pytest.raises(CheckpointError, match="is a tiny-match, not a plain O-MaMa"):
        OMaMa.from_pretrained(tmp_path / "omama-residual")
    OMaMa.from_pretrained(tmp_path / "omama")
    saved = TinyMatch.from_pretrained(tmp_path / "tiny-match").save_pretrained(tmp_path / "again")
    first, second = (TinyMatch.from_pretrained(f) for f in (tmp_path / "tiny-match", saved))
    assert first.config == second.config
    assert first.fingerprint() == second.fingerprint()
    assert read_header(saved).version == 2


def test_recipes_of_the_first_version_lose_nothing():
    model = {"channels": 8, "residual": True, "residual_share": 0.5, "attention_pooling": 2, "learned_backbone": True,
             "backbone": "tiny", "backbone_settings": {"close_ups": 4}, "proposal_prior": 0.0,
             "scene": {"proposals": 9, "hidden": 4}}  # fmt: skip
    new = upgrade_recipe({"method": "omama-scene", "model": model, "scene": {"noise": 0.1}, "init": "x"})
    assert new["method"] == "tiny-match-reranker"
    assert new["reranker"] == {"noise": 0.1}
    assert new["model"] == {
        "omama": {"channels": 8, "backbone": "tiny"}, "network": {"close_ups": 4}, "descriptor_weight": 0.5,
        "attention_downscale": 2, "proposal_prior": 0.0, "reranker": {"proposals": 9, "hidden": 4},
    }  # fmt: skip
    plain = {"method": "omama", "model": {"channels": 8, "residual": False}}
    assert upgrade_recipe(plain) == {"method": "omama", "model": {"channels": 8}}
    current = {"method": "tiny-match-head", "model": {"omama": {}}}
    assert upgrade_recipe(current) == current


def test_validation_chooses_with_the_proposers_score_where_the_model_does(task):
    model = TinyMatch(TinyMatchConfig(omama=task.config.model)).eval()
    validator = OMaMaValidator(task.store, task.val_data, task.val_pairs[:6])
    plain = list(validator.rows(model))
    model.config = dataclasses.replace(model.config, proposal_prior=50.0)
    swayed = list(validator.rows(model))
    for row in swayed:
        pair = validator.pairs[row.number][1]
        scores = task.store.proposals(task.val_data.take(pair.take), pair.target_camera, pair.frame).scores
        if row.proposal >= 0:
            assert scores[row.proposal] == scores.max()
    assert [r.proposal for r in swayed] != [r.proposal for r in plain]
    assert [r.confidence for r in swayed] == [r.confidence for r in plain]


@pytest.mark.parametrize("cast", ["half", "bfloat16"])
def test_half_precision_is_refused_before_it_is_used(cast):
    model = TinyMatch(tiny())
    with pytest.raises(ConfigError, match=r"TinyMatch cannot be cast to .*float16; expected float32 weights"):
        getattr(model, cast)()
    with pytest.raises(ConfigError, match=r"torch\.autocast"):
        model.to(torch.float16)
    assert {p.dtype for p in model.to("cpu").parameters()} == {torch.float32}
