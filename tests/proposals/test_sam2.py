import contextlib

import numpy as np
import pytest
import torch
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)

from counterview.errors import CheckpointError, ConfigError, WeightsError
from counterview.proposals import load_proposer
from counterview.proposals.sam2 import (
    Sam2Proposer,
    Sam2Settings,
    boxes_of,
    crop_boxes,
    point_grid,
    prepare,
    stability,
    suppress_boxes,
)

OPEN = {"min_predicted_iou": -1e9, "min_stability": 0.0, "duplicate_box_iou": 0.95}


def _tiny_config(side=64):
    backbone = Sam2HieraDetConfig(
        hidden_size=16,
        num_attention_heads=1,
        image_size=[side, side],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 4, 4, 2],
        global_attention_blocks=[3],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[side // 4] * 2, [side // 8] * 2, [side // 16] * 2],
        fpn_hidden_size=32,
    )
    return Sam2Config(
        vision_config=vision,
        prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=32, image_size=side),
        mask_decoder_config=Sam2MaskDecoderConfig(
            hidden_size=32, mlp_dim=64, num_attention_heads=2, iou_head_hidden_dim=32
        ),
    )


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    model = Sam2Model(_tiny_config()).eval()
    with torch.no_grad():  # as initialised, all logits are nearly equal and no mask has an outline
        for parameter in model.mask_decoder.parameters():
            parameter.mul_(3)
    return model


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny"
    tiny.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def random_image():
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def test_folder_goes_the_way_of_a_hub_id(tiny, folder, random_image):
    from_folder = load_proposer(f"sam2:{folder}", device="cpu", points_per_side=6, points_per_batch=7, **OPEN)
    built = Sam2Proposer(Sam2Settings(device="cpu", points_per_side=6, points_per_batch=36, **OPEN), model=tiny)
    found, expected = from_folder(random_image), built(random_image)
    assert len(found) > 3
    assert found.size_hw == (50, 70)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    # Batches of another size may round differently in the last bit, not more.
    assert len(found) == len(expected)
    assert np.allclose(found.scores, expected.scores, atol=1e-5)
    assert from_folder.settings()["weights_sha256"] == built.settings()["weights_sha256"]
    assert "device" not in built.settings()


def test_masks_are_those_of_the_models_own_forward_pass(tiny, random_image):
    proposer = Sam2Proposer(
        Sam2Settings(device="cpu", points_per_side=3, **{**OPEN, "duplicate_box_iou": 1.0}), model=tiny
    )
    found = proposer(random_image)
    with torch.no_grad():
        output = tiny(
            pixel_values=prepare(random_image, 64), input_points=point_grid(3, 64)[None, :, None], multimask_output=True
        )
    logits = torch.nn.functional.interpolate(output.pred_masks[0].flatten(0, 1)[None], (50, 70), mode="bilinear")[0]
    direct = {(mask.numpy() > 0).tobytes() for mask in logits}
    direct.discard(np.zeros((50, 70), bool).tobytes())
    own = {mask.to_array().tobytes() for mask in found}
    assert len(own & direct) >= 0.9 * len(own) > 0
    assert len(own) >= 0.5 * len(direct)  # equal boxes of unequal masks count as duplicates


def test_filters_drop_what_they_should(tiny, random_image):
    every = Sam2Proposer(Sam2Settings(device="cpu", points_per_side=5, **OPEN), model=tiny)(random_image)
    level = float(np.median(every.scores))
    good = Sam2Proposer(
        Sam2Settings(device="cpu", points_per_side=5, **{**OPEN, "min_predicted_iou": level}), model=tiny
    )(random_image)
    assert 0 < len(good) <= len(every)
    assert good.scores.min() >= level
    stable = Sam2Proposer(Sam2Settings(device="cpu", points_per_side=5, **{**OPEN, "min_stability": 1.01}), model=tiny)
    assert len(stable(random_image)) == 0
    large = Sam2Proposer(Sam2Settings(device="cpu", points_per_side=5, min_area_px=300, **OPEN), model=tiny)(
        random_image
    )
    assert all(mask.area >= 300 for mask in large)
    few = Sam2Proposer(Sam2Settings(device="cpu", points_per_side=5, max_masks=2, **OPEN), model=tiny)(random_image)
    assert few.masks == every.masks[:2]


def test_crops_add_masks_of_the_same_image(tiny, random_image):
    proposer = Sam2Proposer(Sam2Settings(device="cpu", points_per_side=6, crop_layers=1, **OPEN), model=tiny)
    found = proposer(random_image)
    assert found.size_hw == (50, 70)
    assert len(found) > 0


def test_other_image_size_keeps_the_weights(folder, random_image):
    proposer = load_proposer(f"sam2:{folder}", device="cpu", image_size=96, points_per_side=4, **OPEN)
    assert proposer.settings()["image_size"] == 96
    assert len(proposer(random_image)) > 0
    with pytest.raises(ConfigError, match="cannot be changed for a model"):
        Sam2Proposer(Sam2Settings(device="cpu", image_size=96), model=Sam2Model(_tiny_config()))


def test_published_configuration_of_base_plus(tmp_path):
    """SAM 2.1 B+ with random weights, at a smaller size so that the image takes a second."""
    backbone = Sam2HieraDetConfig(
        hidden_size=112,
        num_attention_heads=2,
        blocks_per_stage=[2, 3, 16, 3],
        embed_dim_per_stage=[112, 224, 448, 896],
        num_attention_heads_per_stage=[2, 4, 8, 16],
        window_size_per_stage=[8, 4, 14, 7],
        global_attention_blocks=[12, 16, 20],
        window_positional_embedding_background_size=[14, 14],
    )
    vision = Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=[896, 448, 224, 112])
    torch.manual_seed(0)
    model = Sam2Model(Sam2Config(vision_config=vision))
    parameters = sum(p.numel() for p in model.parameters())
    assert 72e6 < parameters < 75e6  # 80.85 million with the memory, which images do not use
    model.save_pretrained(tmp_path / "base-plus")
    del model
    proposer = load_proposer(f"sam2:{tmp_path / 'base-plus'}", device="cpu", image_size=320, points_per_side=2, **OPEN)
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    found = proposer(image)
    assert found.size_hw == (60, 90)
    assert len(found) <= 12


def test_video_checkpoints_load_whole(tmp_path, random_image):
    """The published SAM 2.1 checkpoints are those of the video model."""
    from transformers import Sam2VideoConfig, Sam2VideoModel

    tiny = _tiny_config()
    config = Sam2VideoConfig(
        vision_config=tiny.vision_config,
        prompt_encoder_config=tiny.prompt_encoder_config.to_dict(),
        mask_decoder_config=tiny.mask_decoder_config.to_dict(),
        image_size=64,
        memory_attention_hidden_size=32,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_attention_feed_forward_hidden_size=64,
        memory_encoder_hidden_size=32,
        memory_encoder_output_channels=16,
        mask_downsampler_embed_dim=32,
        memory_fuser_embed_dim=32,
        memory_fuser_intermediate_dim=64,
    )
    torch.manual_seed(1)
    video = Sam2VideoModel(config)
    video.save_pretrained(tmp_path / "video")
    proposer = load_proposer(f"sam2:{tmp_path / 'video'}", device="cpu", points_per_side=2, **OPEN)
    own, theirs = proposer._model.state_dict(), video.state_dict()
    assert all(torch.equal(own[key], theirs[key]) for key in own)
    assert proposer(random_image).size_hw == (50, 70)


def test_unreachable_hub_is_one_line_that_says_what_works(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.auth_check", _refuse)
    with pytest.raises(WeightsError, match="--proposals graph") as caught:
        load_proposer("sam2")
    assert "facebook/sam2.1-hiera-base-plus" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


def _refuse(*args, **kwargs):
    raise ConnectionError("no route")


def test_name_that_is_neither_folder_nor_repository():
    with pytest.raises(WeightsError, match="neither a folder nor"):
        load_proposer("sam2:no/such/folder/here")


def test_damaged_folders_are_named(folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_proposer(f"sam2:{tmp_path}")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_proposer(f"sam2:{copy}")
    (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        load_proposer(f"sam2:{copy}")
    assert "\n" not in str(caught.value)


def test_missing_weights_are_not_replaced_by_random_ones(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    gone = sorted(weights)[10]
    del weights[gone]
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="1 missing"):
        load_proposer(f"sam2:{tmp_path}")


def test_devices_that_are_not_available(folder):
    with pytest.raises(ConfigError, match="did you mean 'cuda'"):
        load_proposer(f"sam2:{folder}", device="cudda")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="is not available"):
            load_proposer(f"sam2:{folder}", device="cuda")


@pytest.mark.parametrize("seed", range(6))
def test_suppression_equals_the_plain_double_loop(seed):
    rng = np.random.default_rng(seed)
    count = (0, 1, 2, 40, 150, 300)[seed]
    corner = rng.integers(0, 40, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(0, 30, (count, 2))], 1).astype(np.float32)
    scores = rng.integers(0, 20, count).astype(np.float32)  # many ties
    kept = []
    for index in sorted(range(count), key=lambda i: -scores[i]):
        x0, y0, x1, y1 = boxes[index]
        free = True
        for other in kept:
            a0, b0, a1, b1 = boxes[other]
            common = max(0, min(x1, a1) - max(x0, a0)) * max(0, min(y1, b1) - max(y0, b0))
            union = (x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - common
            free &= union <= 0 or common / union <= 0.5
        if free:
            kept.append(index)
    assert suppress_boxes(torch.from_numpy(boxes), torch.from_numpy(scores), 0.5).tolist() == kept


def test_stability_equals_the_direct_computation():
    logits = torch.randn(20, 9, 11, generator=torch.Generator().manual_seed(0)) * 2
    logits[3] = -9
    logits[4] = 9
    found = stability(logits, 0.7)
    for index, field in enumerate(logits.numpy()):
        high, low = field > 0.7, field > -0.7
        expected = (high & low).sum() / (high | low).sum() if (high | low).any() else 0.0
        assert found[index].item() == pytest.approx(expected)
    assert found[3] == 0
    assert found[4] == 1


def test_boxes_grid_and_crops():
    masks = torch.zeros(3, 5, 7, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    masks[2, 4, 0] = True
    boxes, there = boxes_of(masks)
    assert boxes.tolist() == [[2, 1, 6, 3], [0, 0, 0, 0], [0, 4, 1, 5]]
    assert there.tolist() == [True, False, True]
    assert point_grid(2, 64).tolist() == [[16, 16], [48, 16], [16, 48], [48, 48]]
    crops = list(crop_boxes((90, 160), 2, 512 / 1500))
    assert [layer for layer, _ in crops] == [0] + [1] * 4 + [2] * 16
    for layer in (1, 2):
        seen = np.zeros((90, 160), int)
        for own, (x0, y0, x1, y1) in crops:
            if own == layer:
                seen[y0:y1, x0:x1] += 1
        assert seen.min() >= 1
        assert seen.max() > 1
    with contextlib.suppress(StopIteration):
        assert next(crop_boxes((1, 1), 0, 0.3)) == (0, (0, 0, 1, 1))


def test_prepared_image_is_normalised_as_sam_2_was_trained():
    image = np.zeros((10, 20, 3), np.uint8)
    image[..., 0] = 255
    values = prepare(image, 32)
    assert values.shape == (1, 3, 32, 32)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    assert torch.allclose(values[0, :, 3, 5], torch.tensor(expected), atol=1e-5)
