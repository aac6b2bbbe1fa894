"""Masks between key frames: shapes whose masks are known in every frame, moved over a textured background."""

import tracemalloc

import cv2
import numpy as np
import pytest

from counterview.errors import ConfigError, ImageError, InputError, MaskError
from counterview.masks.geometry import iou
from counterview.tracking.base import UNKNOWN, Observation
from counterview.tracking.dense import DenseSettings, densify
from counterview.types import ObjectMask

SIZE_HW = (240, 320)


def texture(seed: int, size_hw=SIZE_HW, sigma=3.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(*size_hw, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma)
    return np.clip(128 + 45 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def placed(angle: float, x: float, y: float, look: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A textured bar ``(H, W, 3)`` turned and moved to (2 x, 2 y), and its mask ``(H, W)``."""
    turn = cv2.getRotationMatrix2D((160, 120), angle, 1.0)
    turn[:, 2] += (2 * x - 160, 2 * y - 120)
    shape = np.zeros(SIZE_HW, np.uint8)
    shape[90:150, 116:204] = 255
    mask = cv2.warpAffine(shape, turn, SIZE_HW[::-1]) > 127
    return cv2.warpAffine(texture(look), turn, SIZE_HW[::-1], borderMode=cv2.BORDER_REFLECT), mask


def scene(path, background=None):
    """Images and masks of a bar along ``path``: (angle, x, y) for each frame, x and y in units of 2 px."""
    back = texture(0) if background is None else background
    images, masks = [], []
    for angle, x, y in path:
        look, mask = placed(angle, x, y)
        images.append(np.where(mask[..., None], look, back))
        masks.append(mask)
    return images, masks


def given(mask, visibility=1.0):
    return Observation(ObjectMask.from_array(mask) if mask is not None else None, visibility, "given")


def run(images, keys, **settings):
    out = dict(densify(enumerate(images), keys, DenseSettings(**settings)))
    assert list(out) == list(range(len(images)))
    return out


def overlaps(out, masks, name="bar"):
    return [
        iou(o[name].mask, m) if o[name].mask is not None else None for o, m in zip(out.values(), masks, strict=True)
    ]


PATHS = {
    "moves": [(0, 55 + 2 * k, 55 + k) for k in range(16)],
    "turns": [(4 * k, 80, 60) for k in range(16)],
    "moves and turns": [(-3 * k, 60 + 1.5 * k, 60) for k in range(16)],
}


@pytest.mark.parametrize("name", PATHS)
def test_a_shape_is_followed_between_two_key_frames(name):
    images, masks = scene(PATHS[name])
    out = run(images, {"bar": [(0, given(masks[0])), (15, given(masks[15], 0.8))]})
    scores = overlaps(out, masks)
    assert min(scores) > 0.85
    held = [iou(masks[0 if k < 8 else 15], masks[k]) for k in range(16)]
    assert np.mean(scores[1:15]) > np.mean(held[1:15]) + 0.1
    assert {o["bar"].source for k, o in out.items() if k not in (0, 15)} == {"propagated"}
    assert [out[k]["bar"].visibility for k in (0, 3, 15)] == pytest.approx([1.0, 0.96, 0.8])


def test_from_one_key_frame_it_goes_on_and_before_the_first_nothing_is_known():
    images, masks = scene(PATHS["moves and turns"])
    out = run(images, {"bar": [(4, given(masks[4]))]})
    assert [out[k]["bar"] for k in range(4)] == [UNKNOWN] * 4
    assert min(overlaps(out, masks)[4:]) > 0.8


def test_both_ends_are_nearer_to_the_truth_than_one():
    images, masks = scene([(3 * k, 45 + 2 * k, 60) for k in range(24)])
    one = overlaps(run(images, {"bar": [(0, given(masks[0]))]}), masks)
    both = overlaps(run(images, {"bar": [(0, given(masks[0])), (23, given(masks[23]))]}), masks)
    assert None not in both[16:]
    assert np.mean(both[16:23]) > np.mean([s or 0.0 for s in one[16:23]])


def test_what_does_not_move_keeps_its_mask_bit_for_bit_under_noise():
    rng = np.random.default_rng(3)
    images, masks = scene([(20, 80, 60)] * 20)
    noisy = [np.clip(i + rng.normal(0, 1.5, i.shape), 0, 255).astype(np.uint8) for i in images]
    out = run(noisy, {"bar": [(0, given(masks[0]))]})
    assert all((o["bar"].mask == masks[0]).all() for o in out.values())


def test_across_a_cut_nothing_is_claimed():
    images, masks = scene([(0, 60 + 2 * k, 60) for k in range(16)])
    for k in range(8, 16):
        images[k] = np.roll(texture(7), 4 * k, 1)
    out = run(images, {"bar": [(0, given(masks[0]))]})
    assert min(overlaps(out, masks)[:8]) > 0.9
    assert [out[k]["bar"] for k in range(8, 16)] == [UNKNOWN] * 8


def test_across_a_cut_each_side_tells_of_its_own_frames():
    images, masks = scene([(0, 60 + 2 * k, 60) for k in range(16)])
    after, moved = scene([(0, 90 - 2 * k, 50) for k in range(16)], texture(9))
    images[8:], masks[8:] = after[8:], moved[8:]
    out = run(images, {"bar": [(0, given(masks[0])), (15, given(masks[15]))]})
    assert min(overlaps(out, masks)) > 0.9


def occluded(covers_all=False):
    """A static bar, and a post that passes before it from left to right; visible masks of the bar."""
    images, masks = scene([(0, 80, 60)] * 24)
    post = texture(5)
    for k in range(24):
        x, wide = 16 + 12 * k, 130 if covers_all else 44
        left, right = max(0, x - wide), min(320, x)
        images[k] = images[k].copy()
        images[k][:, left:right] = post[:, 60 : 60 + right - left]
        masks[k] = masks[k].copy()
        masks[k][:, left:right] = False
    return images, masks


def test_an_occluder_is_not_followed_and_what_it_covered_is_there_again():
    images, masks = occluded()
    out = run(images, {"bar": [(0, given(masks[0]))]})
    for k in range(24):
        assert out[k]["bar"].mask is not None, k
        assert iou(out[k]["bar"].mask, masks[k]) > 0.8, k
    assert iou(out[23]["bar"].mask, masks[23]) > 0.98


def test_while_it_is_covered_nothing_is_claimed_to_be_visible():
    images, masks = occluded(covers_all=True)
    out = run(images, {"bar": [(0, given(masks[0])), (23, given(masks[23]))]})
    gone = [k for k in range(24) if not masks[k].any()]
    assert len(gone) >= 2
    assert all(out[k]["bar"].mask is None for k in gone)
    assert iou(out[22]["bar"].mask, masks[22]) > 0.9


def test_an_object_that_leaves_is_unknown_or_not_visible_and_never_elsewhere():
    images, masks = scene([(0, 80 + 6 * k, 60) for k in range(18)])
    assert not masks[-1].any()
    absent = Observation(None, 0.1, "matched")
    for later in ([], [(17, absent)]):
        out = run(images, {"bar": [(0, given(masks[0])), *later]})
        for k in range(17):
            claimed = out[k]["bar"].mask
            if claimed is not None:
                assert iou(claimed, masks[k]) > 0.6, k
        assert out[16]["bar"].mask is None


def test_ends_that_contradict_one_another_give_unknown():
    images, masks = scene([(0, 80, 60)] * 9)
    other = np.roll(masks[0], 90, axis=1)
    out = run(images, {"bar": [(0, given(masks[0])), (8, given(other))]})
    assert [out[k]["bar"] for k in range(1, 8)] == [UNKNOWN] * 7


def test_absent_at_both_ends_is_absent_between_and_unknown_stays_unknown():
    images, masks = scene([(0, 80, 60)] * 5)
    absent, less = Observation(None, 0.1, "matched"), Observation(given(masks[0]).mask_rle, 0.3, "matched")
    out = run(images, {"a": [(0, absent), (4, less)], "b": [(0, absent), (4, UNKNOWN)], "c": [(0, UNKNOWN), (4, less)]})
    assert out[1]["a"] == Observation(None, pytest.approx(0.15), "propagated")
    assert [out[2][n] for n in "bc"] == [UNKNOWN, UNKNOWN]
    assert out[4] == {"a": less, "b": UNKNOWN, "c": less}


def test_objects_with_their_own_key_frames_are_as_they_would_be_alone():
    images, masks = scene(PATHS["moves and turns"])
    back = np.zeros(SIZE_HW, bool)
    back[20:60, 220:280] = True
    keys = {
        "bar": [(0, given(masks[0])), (10, given(masks[10]))],
        "patch": [(3, given(back)), (6, given(back)), (15, given(back))],
    }
    together = run(images, keys)
    for name in keys:
        alone = run(images, {name: keys[name]})
        assert all(together[k][name] == alone[k][name] for k in together)


def test_frames_come_in_order_and_only_as_late_as_the_lookahead():
    images, masks = scene(PATHS["moves"])
    taken = []

    def frames():
        for k, image in enumerate(images):
            taken.append(k)
            yield k, image

    late = [
        taken[-1] - k
        for k, _ in densify(
            frames(), {"bar": [(0, given(masks[0])), (15, given(masks[15]))]}, DenseSettings(lookahead=5)
        )
    ]
    assert len(late) == len(images)
    assert max(late) == 5
    ready = [taken[-1] - k for k, _ in densify(frames(), {"bar": [(0, given(masks[0]))]})]
    assert max(r for r in ready) <= 16  # without a later key frame nothing waits
    taken.clear()
    assert [taken[-1] - k for k, _ in densify(frames(), {"bar": [(0, given(masks[0]))]})] == [0] * len(images)


def test_memory_does_not_grow_with_the_distance_between_key_frames():
    images, masks = scene(PATHS["moves"])
    key = given(masks[0][:120, :160])

    def peak(count):
        frames = ((k, images[k % 16][:120, :160]) for k in range(count))
        tracemalloc.start()
        for _ in densify(frames, {"bar": [(0, key), (count - 1, key)]}, DenseSettings(lookahead=8)):
            pass
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(10)
    assert peak(60) < 1.1 * peak(20)


def test_unreadable_frames_are_unknown_and_the_rest_goes_on():
    images, masks = scene(PATHS["moves"])
    images[5] = images[6] = None
    keys = {"bar": [(0, given(masks[0])), (15, given(masks[15]))]}
    out = run(images, keys)
    assert [out[5]["bar"], out[6]["bar"]] == [UNKNOWN] * 2
    scores = overlaps(out, masks)
    assert min(s for k, s in enumerate(scores) if k not in (5, 6)) > 0.85
    images[15] = None
    assert run(images, keys)[15]["bar"] == keys["bar"][1][1]


def test_a_key_frame_that_is_not_among_the_frames_is_left_out():
    images, masks = scene(PATHS["moves"])
    frames = [(k, image) for k, image in enumerate(images) if k != 8]
    keys = {"bar": [(0, given(masks[0])), (8, given(~masks[8])), (15, given(masks[15]))]}
    out = dict(densify(frames, keys))
    assert 8 not in out
    without = dict(densify(frames, {"bar": [keys["bar"][0], keys["bar"][2]]}))
    assert out == without


def test_what_is_wrong_is_said():
    images, masks = scene([(0, 80, 60)] * 3)
    key = given(masks[0])
    with pytest.raises(InputError, match="key frames do not ascend"):
        list(densify([], {"bar": [(3, key), (3, key)]}))
    with pytest.raises(InputError, match="frames do not ascend; found 1 after 1"):
        list(densify([(1, images[0]), (1, images[1])], {}))
    with pytest.raises(ImageError, match="another size"):
        list(densify([(0, images[0]), (1, images[1][:50])], {}))
    with pytest.raises(MaskError, match=r"key mask of 'bar' in frame 0"):
        list(densify([(0, images[0])], {"bar": [(0, given(masks[0][:50]))]}))
    with pytest.raises(ConfigError, match=r"longest_px=8 .*lookahead=0 .*max_growth=0.5"):
        DenseSettings(longest_px=8, lookahead=0, max_growth=0.5)
