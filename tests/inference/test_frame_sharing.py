"""Frames of one camera: what did not change is kept, what did is made anew, and what is saved goes on to the bit."""

import numpy as np
import pytest
from torch.nn import functional

import counterview
from counterview.inference import frame_sharing
from counterview.inference.cross_view import MatcherViews
from counterview.inference.follow_journal import step_to_json
from counterview.inference.follow_step import FollowStep
from counterview.inference.frame_sharing import RENEWED_EVERY, renewed
from counterview.masks.geometry import iou
from counterview.tracking.state_file import read_state, write_state
from counterview.tracking.tracker_config import TrackerConfig
from counterview.types import ObjectMask

BOXES = {(200, 30, 30): (20, 20, 50, 30), (30, 60, 200): (100, 30, 30, 45), (30, 160, 60): (200, 20, 40, 30),
         (220, 200, 40): (30, 110, 45, 40)}  # fmt: skip
MOVING = (230, 230, 230)


def image(x_px, seed=0, sigma=1.5, size_hw=(180, 280)):
    """Boxes that stand still, and a white one at a column, under noise: ``(H, W, 3)`` and the white one's mask."""
    rng = np.random.default_rng(seed)
    pixels = np.full((*size_hw, 3), 90, np.float64)
    for colour, (x, y, w, h) in BOXES.items():
        pixels[y : y + h, x : x + w] = colour
    white = np.zeros(size_hw, bool)
    white[130:155, x_px : x_px + 22] = True
    pixels[white] = MOVING
    noisy = (pixels + rng.normal(0, sigma, pixels.shape)).clip(0, 255).astype(np.uint8)
    return noisy, ObjectMask.from_array(white)


@pytest.fixture(scope="module")
def knn():
    return counterview.load("knn", proposals="graph")


@pytest.fixture(scope="module")
def tiny():
    return counterview.load("tiny-match", proposals="graph")


def test_of_an_image_like_the_one_before_everything_is_kept(tiny, monkeypatch):
    _, kept = renewed(tiny, image(150, 1)[0], None)
    monkeypatch.setattr(type(tiny.proposer), "__call__", None)  # not asked again
    later = image(150, 2)[0]
    encoding, after = renewed(tiny, later, kept)
    assert encoding.proposals.masks == kept.proposals.masks
    assert np.array_equal(encoding.proposals.scores, kept.proposals.scores)
    width = frame_sharing.crop_width(tiny)
    assert width
    assert np.array_equal(encoding.descriptors[:, :width], kept.descriptors[:, :width])
    # What is kept is what would be made now, up to the noise of the image.
    described = tiny.matcher.describe(tiny.backbone, encoding.features, encoding.proposals.masks)
    cosine = functional.cosine_similarity(described[:, :width], encoding.descriptors[:, :width])
    assert float(cosine.min()) > 0.9
    assert np.allclose(described[:, width:], encoding.descriptors[:, width:], atol=1e-5)
    assert after.age == 1
    assert np.array_equal(after.pixels, kept.pixels)


@pytest.mark.parametrize("name", ["knn", "tiny"])
def test_what_moved_is_proposed_anew_and_the_rest_is_kept(name, request):
    model = request.getfixturevalue(name)
    first, kept = renewed(model, image(150, 1)[0], None)
    later, white = image(170, 2)
    encoding, after = renewed(model, later, kept)
    assert after.age == 1
    assert max(iou(mask, white) for mask in encoding.proposals.masks) > 0.9
    assert max(iou(mask, white) for mask in first.proposals.masks) < 0.5
    for x, y, w, h in BOXES.values():
        box = np.zeros(later.shape[:2], bool)
        box[y : y + h, x : x + w] = True
        best = max(first.proposals.masks, key=lambda mask, box=box: iou(mask, ObjectMask.from_array(box)))
        assert best in encoding.proposals.masks
    assert encoding.descriptors.shape == (len(encoding.proposals), kept.descriptors.shape[1])
    anew = model.matcher.describe(model.backbone, encoding.features, encoding.proposals.masks)
    assert float(functional.cosine_similarity(anew, encoding.descriptors).min()) > 0.9


def test_where_everything_changed_the_result_is_that_of_the_image_alone(tiny):
    _, kept = renewed(tiny, image(150, 1)[0], None)
    other = np.ascontiguousarray(image(150, 2)[0][::-1, ::-1])
    encoding, after = renewed(tiny, other, kept)
    alone = tiny.encode(other)
    assert encoding.proposals == alone.proposals
    assert np.array_equal(encoding.descriptors, alone.descriptors)
    assert after.age == 0


def test_everything_is_computed_again_from_time_to_time(knn, monkeypatch):
    kept, ages = None, []
    for step in range(RENEWED_EVERY + 2):
        _, kept = renewed(knn, image(150, step)[0], kept)
        ages.append(kept.age)
    assert ages == [*range(RENEWED_EVERY), 0, 1]


def test_slow_changes_add_up(knn):
    """Each image differs little from the one before; what is kept is compared with the image it was made from."""
    _, kept = renewed(knn, image(150, 0)[0], None)
    made_anew = []
    for step in range(1, 6):
        pixels = image(150, step)[0].astype(np.int16)
        pixels[20:50, 200:240] += 4 * step
        _, kept = renewed(knn, pixels.clip(0, 255).astype(np.uint8), kept)
        made_anew.append(float(kept.pixels[30, 210, 0]))
    assert made_anew[-1] > 40


def test_a_run_that_is_saved_and_goes_on_ends_in_the_same_bytes(knn, tmp_path):
    config = TrackerConfig(share_frames=True, keep_alignments=True)

    def steps(engine, numbers):
        found = []
        for k in numbers:
            ego, white = image(150 + 6 * k, k)
            cam = np.ascontiguousarray(image(100 + 6 * k, 100 + k)[0][:, ::-1])
            prompts = {"ego": {"white": white}} if k == 0 else {}
            seen = engine.step({"ego": ego, "cam": cam}, float(k), prompts)
            found.append(step_to_json(FollowStep(float(k), {}, seen, dict(engine.motions))))
        return found

    whole = knn.make_engine(["ego", "cam"], config)
    expected = steps(whole, range(4))
    first = knn.make_engine(["ego", "cam"], config)
    start = steps(first, range(2))
    write_state(tmp_path / "state.bin", first.state())
    second = knn.make_engine(["ego", "cam"], config)
    second.restore(read_state(tmp_path / "state.bin"))
    assert start + steps(second, range(2, 4)) == expected
    assert any(kept.age for kept in whole._clip._kept.values())


def test_views_of_a_clip_know_their_number(knn):
    clip = MatcherViews(knn).clip(share_frames=True, keep_alignments=True)
    views = [clip.encode(image(150, k)[0], "ego") for k in range(2)]
    assert [view.handle.clip.number for view in views] == [0, 1]
    assert MatcherViews(knn).clip().encode(image(150)[0], "ego").handle.clip is None
