"""The model: configuration, what of transformers it stands on, weights in and out, ablations."""

import numpy as np
import pytest
import torch
from transformers import Sam2VideoModel

from counterview.config import dump_yaml, load_config, to_dict
from counterview.errors import CheckpointError, ConfigError, WeightsError
from counterview.lmeec.architecture import sam2_config
from counterview.lmeec.config import BACKBONES, HieraConfig, LMEECConfig, governed_settings
from counterview.lmeec.model import LMEEC
from counterview.lmeec.sam2_parts import NO_OBJECT_LOGIT, image_position, pointer_tokens
from tests.lmeec.lmeec_fill import disc, fill, random_images, small_config, small_model

# ---------------------------------------------------------------------------------------- configuration


def test_behaviour_sets_every_governed_setting_and_single_ones_override():
    paper, released = LMEECConfig(), LMEECConfig(behaviour="released")
    for name, values in governed_settings().items():
        assert (getattr(paper, name), getattr(released, name)) == values
    mixed = LMEECConfig(behaviour="released", compression="merge")
    assert (mixed.compression, mixed.gaps) == ("merge", "released")
    assert mixed.with_behaviour("paper") == paper
    assert paper.with_behaviour("released") == released


def test_config_survives_yaml_and_json(tmp_path):
    for config in (LMEECConfig(), small_config(behaviour="released", fusion="concat")):
        (tmp_path / "c.yaml").write_text(dump_yaml(config))
        assert load_config(LMEECConfig, tmp_path / "c.yaml") == config
        assert load_config(LMEECConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 470}, "multiple of 32 .nearest: 480"),
        ({"backbone": "hiera-b"}, "hiera-b"),
        ({"channels": 100}, "multiple of 64"),
        ({"bank_size": 0}, "bank_size is 0"),
        ({"key_frames": 6}, "expected 0 to 5"),
        ({"cross_view_prompt": False, "query_memory": False, "target_memory": False}, "nothing tells which object"),
        ({"behaviour": "realeased"}, "released"),
        ({"fusion": "sum"}, "moe, add, concat"),
        ({"backbone": {"global_blocks": [3]}}, "first block of a stage"),
        ({"backbone": {"hidden": 97, "heads": 2}}, "divide the channels"),
        ({"backbone": {"global_blocks": [12]}}, "expected 0 to 11"),
        ({"compresion": "merge"}, "did you mean 'compression'"),
        ({"image_size": 96, "backbone": {"windows": [14, 4, 14, 7], "background": [7, 7]}}, "do not fill"),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_config(LMEECConfig, settings)


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_have_the_published_sizes(name):
    millions = {"hiera-t": 38.9, "hiera-s": 46.0, "hiera-b+": 80.85, "hiera-l": 224.4}
    with torch.device("meta"):
        sam = Sam2VideoModel(sam2_config(LMEECConfig(backbone=name)))
    if name in millions:
        assert sum(p.numel() for p in sam.parameters()) / 1e6 == pytest.approx(millions[name], abs=0.1)


# ------------------------------------------------------------------- what of transformers is relied upon


def test_seam_vision_encoder_gives_three_levels_and_heads_that_project_them(small):
    out = small.sam.vision_encoder(torch.zeros(2, 3, 64, 64)).fpn_hidden_states
    assert [tuple(m.shape) for m in out] == [(2, 64, 16, 16), (2, 64, 8, 8), (2, 64, 4, 4)]
    features = small.encode_images(torch.zeros(2, 3, 64, 64))
    assert [tuple(m.shape) for m in (features.top, features.half, features.quarter)] == [
        (2, 64, 4, 4), (2, 16, 8, 8), (2, 8, 16, 16),
    ]  # fmt: skip
    # The public method gives the same maps, sequence first.
    public = small.sam.get_image_features(torch.zeros(2, 3, 64, 64), return_dict=True)
    for ours, theirs in zip((features.quarter, features.half, features.top), public.fpn_hidden_states, strict=True):
        assert torch.equal(ours.flatten(2).permute(2, 0, 1), theirs)
    for place, theirs in zip([image_position(small.sam, features.top)], public.fpn_position_encoding[2:], strict=True):
        assert torch.equal(place.expand_as(theirs), theirs)


def test_seam_memory_encoder_and_its_positions(small):
    top, masks = fill("top", (3, 64, 4, 4)), fill("masks", (3, 1, 64, 64))
    memory, place = small.sam.memory_encoder(top, masks)
    assert memory.shape == (3, 64, 4, 4)
    assert torch.equal(place[:1].flatten(2).permute(2, 0, 1), small._memory_position(memory.flatten(2).transpose(1, 2)))
    # SAM 2's own routine for a frame's memory, which stores bfloat16.
    logits = fill("logits", (3, 1, 64, 64), 5)
    score = torch.tensor([[2.0], [-1.0], [0.0]])[..., None]
    theirs, _ = small.sam._encode_new_memory(top.flatten(2).permute(2, 0, 1), logits, score, False)
    ours = small.encode_memory(top, logits[:, 0], score.flatten())
    torch.testing.assert_close(ours.transpose(0, 1).to(torch.bfloat16).float(), theirs.float(), atol=0.05, rtol=0.02)


def test_seam_memory_attention_rotates_spatial_keys_only(small):
    top = fill("top", (2, 64, 4, 4))
    entries = [fill(f"m{i}", (2, 16, 64)) for i in range(3)]
    pointers, distances = fill("p", (2, 3, 64)), torch.tensor([[1, 2, 3], [1, 3, 5]])
    out = small.memory_features(top, entries[:2], entries[2:], pointers, distances)
    assert out.shape == (2, 64, 4, 4)
    # Object tokens are a set: their order means nothing, and that is how those without rotation are told apart.
    again = small.memory_features(top, entries[:2], entries[2:], pointers.flip(1), distances.flip(1))
    torch.testing.assert_close(out, again)
    mixed = small.memory_features(top, entries[:2], entries[2:], pointers.flip(1), distances)
    assert (out - mixed).abs().max() > 1e-4
    # Tracks in a batch do not see each other.
    one = small.memory_features(top[1:], [e[1:] for e in entries[:2]], [entries[2][1:]], pointers[1:], distances[1:])
    torch.testing.assert_close(out[1:], one)


def test_seam_pointer_tokens_equal_sam2s_own(small):
    pointers = [fill(f"p{i}", (2, 128)) for i in range(3)]
    model = small_model(channels=128)
    theirs, places = model.sam._process_object_pointers([1, 2, 5], pointers, 8, 2, 128, torch.device("cpu"))
    ours, position = pointer_tokens(model.sam, torch.stack(pointers, 1), torch.tensor([[1, 2, 5]] * 2), 7)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(position, places)
    assert ours.shape == (6, 2, 64)


def test_seam_prompt_encoder_and_mask_decoder(small):
    sam = small.sam
    points, labels = torch.zeros(2, 1, 1, 2), -torch.ones(2, 1, 1, dtype=torch.int64)
    sparse, dense = sam.prompt_encoder(points, labels, None, None)
    assert torch.equal(sparse, sam.prompt_encoder.not_a_point_embed.weight.expand(2, 1, 2, 64))
    assert torch.equal(dense[:, :, 0, 0], sam.prompt_encoder.no_mask_embed.weight.expand(2, 64))
    features = small.encode_images(torch.zeros(2, 3, 64, 64))
    # The public path over one image, with the empty prompt and the empty memory.
    ours = small.decode(small.fuse(None, None, features.top), features)
    theirs = sam._single_frame_forward(
        image_embeddings=[features.quarter, features.half, small.fuse(None, None, features.top)],
        multimask_output=False,
    )
    torch.testing.assert_close(ours.logits, theirs.pred_masks.reshape(2, 16, 16))
    torch.testing.assert_close(ours.ious, theirs.iou_scores.reshape(2, 1))
    torch.testing.assert_close(ours.pointer, theirs.object_pointer.reshape(2, -1))
    torch.testing.assert_close(ours.score, theirs.object_score_logits.flatten())
    assert sam.temporal_positional_encoding_projection_layer.out_features == 64
    assert sam.memory_temporal_positional_encoding.shape == (7, 1, 1, 64)
    assert sam.no_object_pointer.shape == (1, 64)
    assert sam.occlusion_spatial_embedding_parameter.shape == (1, 64)


def test_seam_an_absent_object_has_no_mask_and_the_empty_pointer(small):
    model = small.with_settings()
    with torch.no_grad():
        model.sam.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(-50)
    features = model.encode_images(torch.zeros(1, 3, 64, 64))
    out = model.decode(features.top, features)
    assert (out.logits == NO_OBJECT_LOGIT).all()
    assert (out.all_logits != NO_OBJECT_LOGIT).any()
    assert torch.equal(out.pointer, model.sam.no_object_pointer)


# ------------------------------------------------------------------------------------------- ablations


def last_logits(model, frames=3):
    query, target = random_images(frames, (48, 80)), random_images(frames, (60, 40), seed=1)
    session = model.session()
    for t in range(frames):
        result = session.step(query[t], {"mug": disc((48, 80), 30 + t, 20, 9)}, target[t])["mug"]
    return result.low_res_logits, session


@pytest.mark.parametrize(
    "settings",
    [
        {"cross_view_prompt": False},
        {"query_memory": False},
        {"target_memory": False},
        {"query_memory": False, "target_memory": False},
        {"pointers": False},
        {"temporal_index": "oldest"},
        {"query_mask_logits": "raw"},
        {"dense_prompt": "none"},
        {"dense_prompt": "mask"},
        {"multimask": True},
        {"compression": "fifo", "bank_size": 6},
    ],
)
def test_each_setting_runs_and_only_those_without_effect_yet_change_nothing(small, settings):
    reference, _ = last_logits(small)
    changed, _ = last_logits(small.with_settings(**settings))
    assert np.isfinite(changed).all()
    differs = np.abs(reference - changed).max() > 1e-4
    assert differs == ("compression" not in settings)  # nothing is compressed in three frames


@pytest.mark.parametrize("how", ["merge", "drop", "fifo", "weighted"])
def test_compressions_differ_once_a_bank_is_full(how):
    model = small_model(bank_size=2, compression=how)
    others = [last_logits(model.with_settings(compression=h), 6)[0] for h in ("merge", "drop", "fifo", "weighted")]
    mine, session = last_logits(model, 6)
    assert sum(np.abs(mine - o).max() < 1e-6 for o in others) == 1
    assert len(session.tracks["mug", ""].target.entries) == 2


@pytest.mark.parametrize("fusion", ["moe", "add", "concat"])
@pytest.mark.parametrize("size", [64, 96])
def test_fusions_and_image_sizes(fusion, size):
    logits, _ = last_logits(small_model(fusion=fusion, image_size=size))
    assert logits.shape == (size // 4, size // 4)


# --------------------------------------------------------------------------------------------- weights


def test_save_and_load_give_the_same_model(small, tmp_path):
    small.save_pretrained(tmp_path / "m")
    again = LMEEC.from_pretrained(tmp_path / "m")
    assert again.config == small.config
    assert again.fingerprint() == small.fingerprint()
    assert np.array_equal(last_logits(again)[0], last_logits(small)[0])
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    # Another behaviour in the file changes everything that it governs.
    config = tmp_path / "m" / "config.json"
    config.write_text(config.read_text().replace('"behaviour": "paper"', '"behaviour": "released"'))
    assert LMEEC.from_pretrained(tmp_path / "m").config == small.config.with_behaviour("released")
    other = small.with_settings()
    with torch.no_grad():
        other.visibility_bias += 1
    assert other.fingerprint() != small.fingerprint()


def test_damaged_folders_are_refused(small, tmp_path):
    folder = small.save_pretrained(tmp_path / "m")
    config = folder / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"image_size": 64', '"image_size": 65'))
    with pytest.raises(CheckpointError, match="multiple of 32"):
        LMEEC.from_pretrained(folder)
    config.write_text(text.replace('"attention_layers": 1', '"attention_layers": 2'))
    with pytest.raises(CheckpointError, match=r"sam.memory_attention.layers.1.*is missing"):
        LMEEC.from_pretrained(folder)
    config.write_text('{"model_type": "sam2"}')
    with pytest.raises(CheckpointError, match="is not a checkpoint of Counterview"):
        LMEEC.from_pretrained(folder)
    config.write_text(text)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="is not a readable file of weights"):
        LMEEC.from_pretrained(folder)
    with pytest.raises(WeightsError, match=r"are not available|cannot be reached|not the name of a repository"):
        LMEEC.from_pretrained("someone/lm-eec-that-is-not-there")


def test_sam2_weights_initialise_everything_but_the_fusion(tmp_path):
    torch.manual_seed(3)
    sam = Sam2VideoModel(sam2_config(small_config(image_size=96)))  # other image size, same weights
    sam.save_pretrained(tmp_path / "sam2")
    model = LMEEC.from_sam2(tmp_path / "sam2", small_config())
    expected = sam.state_dict()
    for name, value in model.sam.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert model.sam.vision_encoder.config.backbone_feature_sizes[-1] == [4, 4]
    last_logits(model.eval(), 1)
    with pytest.raises(CheckpointError, match=r"not a SAM 2\.1 video checkpoint of backbone"):
        LMEEC.from_sam2(tmp_path / "sam2", small_config(attention_layers=2))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no weights"):
        LMEEC.from_sam2(tmp_path / "empty", small_config())
    with pytest.raises(WeightsError, match="not found"):
        LMEEC.from_sam2("facebook/sam2.1-hiera-nothing", small_config())


def test_settings_that_change_the_architecture_are_refused(small):
    with pytest.raises(ConfigError, match="change the architecture"):
        small.with_settings(backbone=HieraConfig())


def test_visibility_is_calibrated_score_or_area(small):
    score = torch.tensor([-2.0, 0.0, 3.0])
    model = small.with_settings()
    torch.testing.assert_close(model.visibility(score), torch.sigmoid(score))
    model.visibility_scale.fill_(2.0)
    model.visibility_bias.fill_(-1.0)
    torch.testing.assert_close(model.visibility(score), torch.sigmoid(2 * score - 1))
    by_area = small.with_settings(visibility="area")
    assert by_area.visibility(score, torch.tensor([0.002, 0.0005, 0.001])).tolist() == [1, 0, 0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_base_plus_at_480_runs_ten_frames():
    torch.manual_seed(0)
    model = LMEEC(LMEECConfig()).eval()
    assert sum(p.numel() for p in model.sam.parameters()) == pytest.approx(80.85e6, rel=1e-3)
    query, target = random_images(2, (704, 704)), random_images(2, (540, 960), seed=1)
    session = model.session(frames=10)
    views = [session.encode(list(pair)) for pair in zip(query, target, strict=True)]
    for t in range(10):  # the encoder takes most of the time, so the images take turns
        mask = disc((704, 704), 300 + 10 * t, 350, 80)
        result = session.step(views[t % 2][0], {"mug": mask}, views[t % 2][1])["mug"]
        assert result.low_res_logits.shape == (120, 120)
        assert np.isfinite(result.low_res_logits).all()
        assert result.mask.shape == (540, 960)
    track = session.tracks["mug", ""]
    assert [len(b.entries) for b in (track.query, track.target)] == [6, 6]
    assert len(track.pointers.pointers) == 10


@pytest.mark.parametrize("cast", ["half", "bfloat16"])
def test_half_precision_is_refused_before_it_is_used(cast):
    model = LMEEC(small_config())
    with pytest.raises(ConfigError, match=r"LMEEC cannot be cast to .*float16; expected float32 weights"):
        getattr(model, cast)()
    with pytest.raises(ConfigError, match=r"torch\.autocast"):
        model.to(torch.float16)
    assert {p.dtype for p in model.to("cpu").parameters()} == {torch.float32}
