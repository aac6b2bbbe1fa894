"""The whole predictor in released behaviour against the official one, and the reading of its weights."""

import numpy as np
import pytest
import torch
from torch import nn

from counterview.errors import CheckpointError, ConfigError
from counterview.lmeec.fusion import Sum
from counterview.lmeec.model import LMEEC
from counterview.lmeec.released import convert_released
from counterview.lmeec.session import Session

TOLERANCE = 5e-4


def run(session, encoded, first, last):
    views, masks = encoded
    return [session.step(views[t][0], {"disc": masks[t]}, views[t][1])["disc"] for t in range(first, last)]


@pytest.fixture(scope="module")
def followed(released, encoded, tmp_path_factory):
    """Results of all ten frames, the banks that each used, and the session as it stood before frame 7."""
    session = released.session(frames=10)
    results, banks = [], []
    path = tmp_path_factory.mktemp("session") / "before7.safetensors"
    for t in range(10):
        if t == 7:
            session.save(path)
        if t:
            track = session.tracks["disc", ""]
            banks.append([torch.stack(b.read(t))[..., 0].clone() for b in (track.query, track.target)])
        else:
            banks.append([None, None])
        results += run(session, encoded, t, t + 1)
        results[-1] = (results[-1], session.tracks["disc", ""].pointers.pointers[-1][1].clone())
    return results, banks, path


def test_all_ten_frames_equal_the_official_predictor(reference, followed):
    description, arrays = reference
    for t, (result, pointer) in enumerate(followed[0]):
        expected = description["per_frame"][t]
        assert np.abs(result.low_res_logits - arrays[f"frame{t}/low_res_logits"]).max() < TOLERANCE
        assert np.abs(pointer.numpy() - arrays[f"frame{t}/obj_ptr"]).max() < 1e-3
        assert result.low_res_logits.shape == (120, 120)
        assert result.low_res_logits.dtype == np.float32
        assert abs(result.object_score - expected["object_score_logit"]) < 1e-4
        assert (result.object_score > 0) == (expected["object_score_logit"] > 0)
        assert abs(result.predicted_iou - expected["iou"]) < 1e-4
        assert result.mask.shape == (480, 480)
        assert abs(result.mask_rle.area - expected["positive_pixels_480"]) <= 5


def test_banks_hold_what_the_official_predictor_attends_to(reference, followed):
    description, arrays = reference
    for t in range(1, 10):
        for name, bank in zip(("ego", "exo"), followed[1][t], strict=True):
            expected = arrays[f"frame{t}/{name}_bank_used_channel0"]
            assert len(bank) == description["per_frame"][t]["bank_entries"][0] == len(expected)
            assert np.abs(bank.numpy() - expected).max() < 1e-3


DEVIATIONS = {
    "dense_prompt_added_in_decoder": ({"dense_prompt": "mask"}, 2),
    "gt_mask_scaled_to_logits_before_sigmoid": ({"query_mask_logits": "scaled"}, 2),
    "multimask_true": ({"multimask": True}, 2),
    "tpos_as_in_training": ({"temporal_index": "newest"}, 3),
}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_each_deviation_changes_the_logits_by_what_was_measured(reference, released, encoded, followed, name):
    settings, frames = DEVIATIONS[name]
    session = released.with_settings(**settings).session(frames=10)
    for t, result in enumerate(run(session, encoded, 0, frames)):
        change = np.abs(result.low_res_logits - reference[1][f"frame{t}/low_res_logits"]).max()
        assert change == pytest.approx(reference[0]["sensitivity"][name][f"frame{t}"], rel=0.02, abs=TOLERANCE)


def test_averaging_changes_the_logits_by_what_was_measured(reference, released, encoded, followed, monkeypatch):
    # Up to frame 6 nothing is compressed, so the session may go on from there.
    model = released.with_settings(compression="merge")
    monkeypatch.setattr(model, "fingerprints", released.fingerprints)
    session = Session.load(model, followed[2])
    # In the released convention frame 6 waits to be banked; it is banked at frame 7 by the model that reads it.
    for t, result in enumerate(run(session, encoded, 7, 10), start=7):
        change = np.abs(result.low_res_logits - reference[1][f"frame{t}/low_res_logits"]).max()
        measured = reference[0]["sensitivity"]["compression_averages"][f"frame{t}"]
        assert change == pytest.approx(measured, rel=0.02, abs=TOLERANCE)


def test_plain_sum_changes_the_logits_by_what_was_measured(reference, released, encoded):
    model = released.with_settings()
    model.fusion = Sum()
    for t, result in enumerate(run(model.session(frames=10), encoded, 0, 2)):
        change = np.abs(result.low_res_logits - reference[1][f"frame{t}/low_res_logits"]).max()
        measured = reference[0]["sensitivity"]["moe_replaced_by_plain_sum"][f"frame{t}"]
        assert change == pytest.approx(measured, rel=0.02, abs=TOLERANCE)


def test_weights_are_read_strictly(released_state):
    def convert(change, **settings):
        state = dict(released_state)
        change(state)
        return LMEEC.from_released(state, **{"backbone": "hiera-t", **settings})

    with pytest.raises(CheckpointError, match=r": sam.no_object_pointer is missing$"):
        convert(lambda s: s.pop("no_obj_ptr"))
    with pytest.raises(CheckpointError, match=r": sam.prompt_encoder.point_embed.weight is missing$"):
        convert(lambda s: s.pop("sam_prompt_encoder.point_embeddings.2.weight"))
    with pytest.raises(CheckpointError, match=r": sam.extra is unknown$"):
        convert(lambda s: s.update(extra=torch.zeros(1)))
    with pytest.raises(CheckpointError, match=r"no_object_pointer is \(1, 255\), expected \(1, 256\)"):
        convert(lambda s: s.update(no_obj_ptr=torch.zeros(1, 255)))
    with pytest.raises(CheckpointError, match=r"not finite: sam\.no_object_pointer"):
        convert(lambda s: s.update(no_obj_ptr=torch.full((1, 256), float("nan"))))
    with pytest.raises(CheckpointError, match="is not a tensor"):
        convert(lambda s: s.update(epoch=3))
    with pytest.raises(
        CheckpointError, match=r"another image encoder; found hiera-t; expected hiera-b\+. Give backbone"
    ):
        convert(lambda s: None, backbone="hiera-b+")
    with pytest.raises(CheckpointError, match="no image encoder of SAM 2; found 0 blocks"):
        convert_released({"weight": torch.zeros(1)})
    with pytest.raises(ConfigError, match="nearest: 480"):
        convert(lambda s: None, image_size=470)
    config, state = convert_released(released_state, backbone="hiera-t", compression="weighted")
    assert (config.behaviour, config.compression, config.gaps) == ("released", "weighted", "released")
    assert sum(v.numel() for v in state.values()) == 41_716_546 + 2 + 2 * 256


def test_a_file_is_read_like_a_state_dict_and_never_executed(released_state, tmp_path):
    torch.save({"model": released_state, "epoch": 60}, tmp_path / "weights.pt")
    model = LMEEC.from_released(tmp_path / "weights.pt", backbone="hiera-t")
    name = "image_encoder.trunk.blocks.3.attn.qkv.weight"
    assert torch.equal(model.sam.vision_encoder.backbone.blocks[3].attn.qkv.weight, released_state[name])
    assert not model.training

    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "object.pt")
    with pytest.raises(CheckpointError, match=r"object.pt: cannot be read as plain tensors"):
        LMEEC.from_released(tmp_path / "object.pt")
    (tmp_path / "noise.pt").write_bytes(b"not a checkpoint at all")
    with pytest.raises(CheckpointError, match="cannot be read as plain tensors"):
        LMEEC.from_released(tmp_path / "noise.pt")
    (tmp_path / "noise.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(CheckpointError, match="is not a readable file of weights"):
        LMEEC.from_released(tmp_path / "noise.safetensors")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(CheckpointError, match="no state dict"):
        LMEEC.from_released(tmp_path / "tensor.pt")
    with pytest.raises(CheckpointError, match="no such file"):
        LMEEC.from_released(tmp_path / "missing.pt")
