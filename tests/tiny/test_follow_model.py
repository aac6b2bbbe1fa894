"""tiny-follow: its encoder, its configuration, weights in and out, and sessions with the appearance prompt."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from counterview.config import load_config, to_dict
from counterview.errors import CheckpointError, ConfigError
from counterview.lmeec.config import LMEECConfig
from counterview.lmeec.model import LMEEC
from counterview.lmeec.sam2_parts import ImageFeatures
from counterview.lmeec.session import Session
from counterview.lmeec.session_file import saved_config
from counterview.lmeec.training.unroll import unroll
from counterview.nn.checkpoint import read_header
from counterview.tiny.appearance import FineMaps
from counterview.tiny.conv_encoder import OPPONENT, PALETTE_WIDTH
from counterview.tiny.follow import TinyFollow, follow_class
from counterview.tiny.follow_config import CONVOLUTIONS, ConvConfig, TinyFollowConfig
from tests.golden.saved import SAVED, unpack
from tests.lmeec.lmeec_fill import disc, fill, random_images, small_model
from tests.tiny.follow_scratch import SIDE, coloured, scratch

# ------------------------------------------------------------------------------------------ convolutions


def test_a_convolutional_encoder_gives_what_the_neck_takes():
    model = scratch()
    encoder = CONVOLUTIONS["conv-tiny"]
    maps = model.sam.vision_encoder.backbone(torch.zeros(2, 3, SIDE, SIDE))
    assert [tuple(m.shape) for m in maps.intermediate_hidden_states] == [
        (2, SIDE // 2 ** (i + 2), SIDE // 2 ** (i + 2), c + encoder.palette) for i, c in enumerate(encoder.channels)
    ]
    features = model.encode_images(torch.zeros(2, 3, SIDE, SIDE))
    assert features.top.shape == (2, 64, 4, 4)
    assert features.quarter.shape == (2, 8, 16, 16)
    assert features.extra.maps.shape == (2, 17, 16, 16)
    torch.testing.assert_close(features.extra.maps[:, :-1].norm(dim=1), torch.ones(2, 16, 16))
    # Images do not depend on each other, in training neither.
    both = fill("pixels", (2, 3, SIDE, SIDE), 2)
    for mode in (model.train(), model.eval()):
        torch.testing.assert_close(mode.encode_images(both).extra.maps[1:], mode.encode_images(both[1:]).extra.maps)


def test_the_palette_is_a_histogram_of_colours_far_apart():
    palette = scratch().sam.vision_encoder.backbone.palette
    with torch.no_grad():
        shares = palette(fill("pixels", (1, 3, 8, 8), 2))
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(1, 8, 8))
    # What the convolution and softmax give is a share by squared distance in opponent colours.
    opponent = torch.tensor(OPPONENT)
    centres = (palette.conv.weight[:, :, 0, 0] @ torch.linalg.inv(opponent)) * PALETTE_WIDTH**2
    pixel = fill("pixels", (1, 3, 8, 8), 2)[0, :, 3, 4] @ opponent.T
    near = torch.softmax(-((pixel - centres) ** 2).sum(dim=1) / (2 * PALETTE_WIDTH**2), dim=0)
    torch.testing.assert_close(shares[0, :, 3, 4], near, atol=1e-4, rtol=1e-3)
    gaps = torch.cdist(centres, centres) + 100 * torch.eye(len(centres))
    assert gaps.min() > 0.5


# ------------------------------------------------------------------------------------- configuration, weights


def test_sizes_are_checked():
    for bad in ({"channels": (24, 32, 64, 128)}, {"blocks": (1, 0, 1, 1)}, {"palette": 0}):
        with pytest.raises(ConfigError, match="multiples of 16"):
            ConvConfig(**bad)
    with pytest.raises(ConfigError, match="appearance is -1"):
        TinyFollowConfig(appearance=-1)


def test_only_tiny_follow_knows_its_encoders_and_its_prompt():
    for values in ({"backbone": "conv-tiny"}, {"backbone": "hiera-nano"}, {"appearance": 8}):
        with pytest.raises(ConfigError):
            load_config(LMEECConfig, values)
        config = load_config(TinyFollowConfig, {"image_size": 64, **values})
        assert load_config(TinyFollowConfig, to_dict(config)) == config


def test_it_is_saved_and_read(tmp_path):
    model = scratch()
    again = TinyFollow.from_pretrained(model.save_pretrained(tmp_path))
    assert again.fingerprint() == model.fingerprint()
    values = json.loads((tmp_path / "config.json").read_text())
    assert (values["format"], values["method"], values["model"]["compression"]) == ("counterview", "tiny-follow", None)
    assert follow_class(read_header(tmp_path)) is TinyFollow
    assert "| appearance | 16 |" in (tmp_path / "README.md").read_text()
    with pytest.raises(CheckpointError, match="another method; found tiny-follow; expected lmeec"):
        LMEEC.from_pretrained(tmp_path)


def test_an_lmeec_is_a_tiny_follow_without_a_prompt(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    assert follow_class(read_header(tmp_path)) is LMEEC
    same = TinyFollow.from_pretrained(tmp_path)
    assert (same.config.appearance, same.appearance) == (0, None)
    results = []
    for one in (model, same):
        session = one.session()
        for query, target in zip(random_images(2), random_images(2, seed=1), strict=True):
            result = session.step(query, {"mug": disc((48, 80), 30, 20, 9)}, target)["mug"]
        results.append(result.low_res_logits)
    np.testing.assert_array_equal(*results)


def test_folders_of_the_first_version_have_the_class_that_they_need(tmp_path):
    ours, papers = (unpack(name, tmp_path / name) for name in ("tiny-follow", "lmeec"))
    assert follow_class(read_header(ours)) is TinyFollow
    assert follow_class(read_header(papers)) is LMEEC
    assert TinyFollow.from_pretrained(ours).config.appearance == 8
    assert TinyFollow.from_pretrained(papers).config.appearance == 0
    assert "appearance" not in LMEEC.from_pretrained(papers).header()["model"]
    with pytest.raises(CheckpointError, match=r"describes a tiny-follow.*counterview\.tiny\.follow\.TinyFollow"):
        LMEEC.from_pretrained(ours)
    other = read_header(ours).with_model("omama", {})
    with pytest.raises(CheckpointError, match="another method; found omama"):
        follow_class(other)


def test_sessions_of_the_first_version_tell_which_model_they_are_of(tmp_path):
    for name, config_class in (("tiny-follow", TinyFollowConfig), ("lmeec", LMEECConfig)):
        model = follow_class(read_header(unpack(name, tmp_path / name))).from_pretrained(tmp_path / name)
        path = SAVED / f"{name}.session.safetensors"
        assert saved_config(path, config_class) == model.config
        Session.load(model, path).save(tmp_path / "again.safetensors")
        assert Session.load(model, tmp_path / "again.safetensors").objects == Session.load(model, path).objects
    with pytest.raises(CheckpointError, match="describes a tiny-follow"):
        saved_config(SAVED / "tiny-follow.session.safetensors", LMEECConfig)


def test_settings_that_change_the_architecture_are_refused():
    model = scratch()
    with pytest.raises(ConfigError, match="change the architecture"):
        model.with_settings(appearance=8)
    with pytest.raises(ConfigError, match="change the architecture"):
        model.with_settings(backbone=model.config.encoder)  # the placeholder is not the convolutional encoder
    assert model.with_settings(compression="fifo").config.compression == "fifo"


# ------------------------------------------------------------------------------------------- with a prompt


def test_features_are_joined_and_picked_with_and_without_extra_ones():
    parts = [
        ImageFeatures(*(fill(f"{n}{i}", (1, 2, 2, 2)) for n in "thq"), FineMaps.of(fill(f"f{i}", (1, 2, 2, 2))))
        for i in range(2)
    ]
    picked = ImageFeatures.join(parts).pick([1]).extra
    assert torch.equal(picked.maps[picked.rows], parts[1].extra.maps)
    bare = [replace(p, extra=None) for p in parts]
    assert ImageFeatures.join(bare).pick([0]).extra is None


def test_a_training_clip_equals_a_session_with_the_prompt():
    model = scratch()
    batch = coloured(count=2, frames=4)
    session = model.session(frames=4)
    with torch.no_grad():
        outs = unroll(model, batch)
    for t in range(3):
        masks = {name: batch.query_masks[n, t].numpy() for n, name in enumerate("ab")}
        results = session.step(batch.query_images[0, t].numpy(), masks, batch.target_images[0, t].numpy())
        for n, name in enumerate("ab"):
            here = outs[t].logits[n].numpy()
            np.testing.assert_allclose(here, results[name].low_res_logits, atol=1e-3)
    # Without a query mask there is no prompt, and the object is still followed.
    result = session.step(random_images(1, (SIDE, SIDE))[0], {"a": None}, random_images(1, (SIDE, SIDE))[0])["a"]
    assert not result.passed_over
