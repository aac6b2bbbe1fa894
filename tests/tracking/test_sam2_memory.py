"""SAM 2.1's video memory: our frame loop against transformers' own, batches, bounds, and loading."""

import numpy as np
import pytest
import torch
from transformers import Sam2VideoConfig, Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from counterview.errors import CheckpointError, ConfigError, InputError
from counterview.lmeec.architecture import sam2_config
from counterview.lmeec.config import LMEECConfig
from counterview.lmeec.preprocess import to_pixels
from counterview.tracking.sam2_memory import ConditioningFrame, ObjectMemory, VideoMemoryNetwork, load_video_memory
from tests.lmeec.lmeec_fill import disc, random_images
from tests.tracking.sam2_models import sam2_of, small_sam2

torch.set_num_threads(1)
SIDE = 64
MASKS = [disc((SIDE, SIDE), 20, 24, 9), disc((SIDE, SIDE), 45, 40, 12)]


@pytest.fixture(scope="module")
def sam():
    return small_sam2()


@pytest.fixture(scope="module")
def clip():
    return random_images(10, (SIDE, SIDE))


def start(network, image, masks=MASKS, step=0):
    frames, pointers = network.condition(network.encode(image), masks)
    return [
        ObjectMemory([ConditioningFrame(step, frame, pointer, True)])
        for frame, pointer in zip(frames, pointers, strict=True)
    ]


def follow(network, clip, memories, steps):
    """Logits, scores and pointers of each object at each step."""
    results = []
    for step in steps:
        row = [None] * len(memories)
        features = network.encode(clip[step])
        for group, decoded, frame in network.propagate(step, [features], [0] * len(memories), memories):
            for place, index in enumerate(group):
                row[index] = (decoded.logits[place], decoded.score[place], decoded.pointer[place])
                network.remember(memories[index], step, frame[place], decoded.pointer[place])
        results.append(row)
    return results


def transformers_own(sam, clip, masks, steps):
    session = Sam2VideoInferenceSession(video_height=SIDE, video_width=SIDE, dtype=torch.float32)
    for number, mask in enumerate(masks):
        index = session.obj_id_to_idx(number)
        session.add_mask_inputs(index, 0, torch.from_numpy(mask)[None, None].float())
        session.obj_with_new_inputs.append(number)
    results = []
    for step in (0, *steps):
        with torch.inference_mode():
            out = sam(session, frame=to_pixels(clip[step], SIDE))
        results.append((out.pred_masks[:, 0], out.object_score_logits.flatten()))
    first = [session.output_dict_per_obj[i]["cond_frame_outputs"][0] for i in range(len(masks))]
    return results[1:], first


@pytest.mark.parametrize("steps", [3, 9])
def test_the_frame_loop_equals_transformers_own(sam, clip, steps):
    network = VideoMemoryNetwork(sam, pointer_multimask=True)
    memories = start(network, clip[0])
    expected, first = transformers_own(sam, clip, MASKS, range(1, steps + 1))
    for memory, theirs in zip(memories, first, strict=True):
        torch.testing.assert_close(
            memory.conditioning[0].memory, theirs["maskmem_features"][:, 0], atol=1e-2, rtol=1e-2
        )
        torch.testing.assert_close(
            memory.conditioning[0].pointer, theirs["object_pointer"][0].flatten(), atol=1e-5, rtol=0
        )
    ours = follow(network, clip, memories, range(1, steps + 1))
    for step, (row, (logits, scores)) in enumerate(zip(ours, expected, strict=True)):
        for index, (own, score, _) in enumerate(row):
            difference = (own - logits[index]).abs().max().item()
            print(f"step {step + 1}, object {index}: {difference:.1e} of {logits[index].abs().max():.1f}")
            assert difference < 1e-4 * max(1.0, logits[index].abs().max().item())
            assert score.item() == pytest.approx(scores[index].item(), abs=1e-4)
            assert score > 0
    # The comparison can fail: another object's memory gives other masks.
    other = follow(network, clip, start(network, clip[0])[::-1], [1])[0]
    assert (other[0][0] - expected[0][0][0]).abs().max() > 1e-2


def test_the_pointer_of_a_prompted_frame_is_the_original_codes(sam, clip):
    """The first of four mask tokens, where transformers takes the best of the other three."""
    ours, theirs = (start(VideoMemoryNetwork(sam, pointer_multimask=m), clip[0])[0] for m in (False, True))
    assert torch.equal(ours.conditioning[0].memory, theirs.conditioning[0].memory)
    assert (ours.conditioning[0].pointer - theirs.conditioning[0].pointer).abs().max() > 1e-3
    with torch.inference_mode():
        features = sam.get_image_features(to_pixels(clip[0], SIDE)[None], return_dict=True).fpn_hidden_states
        maps = [m.permute(1, 2, 0).reshape(1, -1, int(len(m) ** 0.5), int(len(m) ** 0.5)) for m in features]
        output = sam._single_frame_forward(
            image_embeddings=maps,
            input_masks=sam.mask_downsample(torch.from_numpy(MASKS[0])[None, None].float()),
            multimask_output=False,
        )
    torch.testing.assert_close(ours.conditioning[0].pointer, output.object_pointer.flatten(), atol=1e-5, rtol=0)


def test_an_object_that_is_not_there_has_the_occlusion_embedding(clip):
    sam = small_sam2(score=-5.0)
    network = VideoMemoryNetwork(sam, pointer_multimask=True)
    expected, _ = transformers_own(sam, clip, MASKS, range(1, 4))
    ours = follow(network, clip, start(network, clip[0]), range(1, 4))
    for row, (logits, scores) in zip(ours, expected, strict=True):
        for index, (own, score, pointer) in enumerate(row):
            assert (own == -1024).all()
            assert torch.equal(own, logits[index])
            assert score.item() == pytest.approx(scores[index].item(), abs=1e-4)
            torch.testing.assert_close(pointer, sam.no_object_pointer[0])


def test_objects_in_a_batch_equal_objects_one_at_a_time(sam, clip):
    network = VideoMemoryNetwork(sam)
    together = follow(network, clip, start(network, clip[0]), range(1, 4))
    for index, mask in enumerate(MASKS):
        alone = follow(network, clip, start(network, clip[0], [mask]), range(1, 4))
        for both, one in zip(together, alone, strict=True):
            torch.testing.assert_close(both[index][0], one[0][0], atol=2e-3, rtol=1e-3)


def test_memory_is_bounded_and_what_users_gave_stays(sam, clip):
    network = VideoMemoryNetwork(sam, max_conditioning=3)
    (memory,) = start(network, clip[0], MASKS[:1])
    follow(network, clip, [memory], range(1, 10))
    assert [n for n, _ in memory.recent] == [4, 5, 6, 7, 8, 9]
    assert [n for n, _ in memory.pointers] == list(range(1, 10))
    pointer, frame = memory.conditioning[0].pointer, memory.conditioning[0].memory
    for step, given in ((10, False), (11, True), (12, False), (13, False), (14, True), (15, True)):
        memory.condition(ConditioningFrame(step, frame, pointer, given), 3)
    assert [f.step for f in memory.conditioning] == [11, 14, 15]  # matched ones first, then the oldest
    follow(network, clip * 4, [memory], range(30, 32))
    assert [n for n, _ in memory.recent] == [30, 31]  # what lies more than six frames back is gone
    follow(network, clip * 6, [memory], range(32, 55))
    assert (len(memory.recent), len(memory.pointers)) == (6, 15)


def test_a_folder_goes_the_way_of_a_hub_id(sam, clip, tmp_path):
    sam.save_pretrained(tmp_path / "sam")
    loaded = load_video_memory(str(tmp_path / "sam"), "cpu")
    assert loaded.side == SIDE
    built = VideoMemoryNetwork(sam, source=str(tmp_path / "sam"))
    assert loaded.settings() == built.settings()
    (a,), (b,) = (follow(n, clip, start(n, clip[0], MASKS[:1]), [1])[0] for n in (loaded, built))
    print(f"folder against model: {(a[0] - b[0]).abs().max():.1e}")
    torch.testing.assert_close(a[0], b[0], atol=1e-5, rtol=1e-5)
    # Another image size: weights unchanged, all four places of the size changed.
    larger = load_video_memory(str(tmp_path / "sam"), "cpu", image_size=96)
    assert (larger.side, larger.cells) == (96, 36)
    ((logits, _, _),) = follow(larger, clip, start(larger, clip[0], MASKS[:1]), [1])[0]
    assert logits.shape == (24, 24)
    assert larger.settings()["weights"] == built.settings()["weights"]
    native = VideoMemoryNetwork(_of_size(sam, 96))
    ((expected, _, _),) = follow(native, clip, start(native, clip[0], MASKS[:1]), [1])[0]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def _of_size(sam, side):
    """The same weights in a model that was built for another image size."""
    other = small_sam2(side=side)
    other.load_state_dict(sam.state_dict(), strict=False)
    return other.eval()


def test_errors_are_one_line(sam, tmp_path):
    for size in (-32, 100, 8224):
        with pytest.raises(ConfigError, match="multiple of 32"):
            load_video_memory("facebook/sam2.1-hiera-tiny", "cpu", image_size=size)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        (tmp_path / "empty").mkdir()
        load_video_memory(str(tmp_path / "empty"), "cpu")
    with pytest.raises(InputError, match="max_conditioning"):
        VideoMemoryNetwork(sam, max_conditioning=0)
    with pytest.raises(InputError, match="autocast"):
        VideoMemoryNetwork(sam, autocast=torch.float64)
    older = small_sam2()
    older.config.enable_temporal_pos_encoding_for_object_pointers = False
    with pytest.raises(ConfigError, match=r"not a SAM 2\.1"):
        VideoMemoryNetwork(older)


def test_half_precision_is_close(sam, clip):
    full, half = VideoMemoryNetwork(sam), VideoMemoryNetwork(sam, autocast=torch.bfloat16)
    (a,), (b,) = (follow(n, clip, start(n, clip[0], MASKS[:1]), [1])[0] for n in (full, half))
    assert half.settings()["autocast"] == "bfloat16"
    assert b[0].dtype == torch.float32
    assert 0 < (a[0] - b[0]).abs().max() < 0.2 * a[0].abs().max()


@pytest.mark.slow
def test_the_published_configuration_at_480(tmp_path):
    """SAM 2.1 B+ with random weights, saved at 1024 as it is published, loaded at 480."""
    published = sam2_config(LMEECConfig(image_size=1024))
    assert isinstance(published, Sam2VideoConfig)
    sam = sam2_of(published)
    assert sum(p.numel() for p in sam.parameters()) / 1e6 == pytest.approx(80.85, abs=0.1)
    sam.save_pretrained(tmp_path)
    del sam
    network = load_video_memory(str(tmp_path), "cpu", image_size=480)
    assert isinstance(network.sam, Sam2VideoModel)
    clip = random_images(2, (270, 480))
    masks = [disc((270, 480), 200, 120, 60), disc((270, 480), 300, 100, 30)]
    memories = start(network, clip[0], masks)
    assert memories[0].conditioning[0].memory.shape == (900, 64)
    (row,) = follow(network, clip, memories, [1])
    for logits, _, pointer in row:
        assert logits.shape == (120, 120)
        assert pointer.shape == (256,)
        assert np.isfinite(logits.numpy()).all()
