"""Sessions: streaming, batches of objects, cameras and directions, gaps, saving, and bad input."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from counterview.errors import CheckpointError, ImageError, InputError, MaskError
from counterview.lmeec.config import LMEECConfig
from counterview.lmeec.session import Session
from counterview.lmeec.session_file import saved_config
from counterview.types import View
from tests.lmeec.lmeec_fill import disc, random_images, small_model

QUERY_HW, TARGET_HW = (48, 80), (60, 40)


def mask(i, t=0):
    return disc(QUERY_HW, 20 + 12 * i + t, 20 + 3 * t, 8 + i)


@pytest.fixture(scope="module")
def clip():
    return random_images(10, QUERY_HW), random_images(10, TARGET_HW, seed=1)


def follow(session, clip, shown, frames=range(4)):
    """Logits by object of each frame; ``shown[name](t)`` is the query mask."""
    return [session.step(clip[0][t], {name: of(t) for name, of in shown.items()}, clip[1][t], frame=t) for t in frames]


def same(a, b, tolerance=2e-5):
    assert a.low_res_logits.shape == b.low_res_logits.shape
    assert np.abs(a.low_res_logits - b.low_res_logits).max() <= tolerance
    assert a.object_score == pytest.approx(b.object_score, abs=tolerance)


@pytest.mark.parametrize("behaviour", ["paper", "released"])
def test_objects_in_a_batch_equal_objects_one_at_a_time(clip, behaviour):
    model = small_model(behaviour=behaviour, bank_size=2)
    shown = {f"o{i}": (lambda t, i=i: mask(i, t) if t >= i else None) for i in range(3)}  # each begins a frame later
    together = follow(model.session(), clip, shown, range(6))
    for name, of in shown.items():
        alone = follow(model.session(), clip, {name: of}, range(6))
        for t in range(6):
            a, b = together[t][name], alone[t][name]
            if t < int(name[1]):
                assert a.passed_over
                assert b.passed_over
                assert not a.mask.any()
            else:
                same(a, b)
                assert a.mask.shape == TARGET_HW
                assert a.low_res_logits.shape == (16, 16)
                assert 0 <= a.visibility <= 1


def test_each_image_is_encoded_once(small, clip, monkeypatch):
    seen = []
    inner = small.encode_images
    monkeypatch.setattr(small, "encode_images", lambda pixels: seen.append(len(pixels)) or inner(pixels))
    shown = {f"o{i}": mask(i) for i in range(5)}
    session = small.session()
    targets = {f"cam{i}": clip[1][i] for i in range(3)}
    session.step(clip[0][0], shown, targets)
    assert sum(seen) == 4  # five objects, three cameras and the query
    # Both directions: two sessions share the encoded images.
    seen.clear()
    ego, exo = session.encode([clip[0][1], clip[1][1]])
    forth, back = small.session(), small.session()
    a = forth.step(ego, {"mug": mask(0)}, exo)["mug"]
    b = back.step(exo, {"mug": disc(TARGET_HW, 20, 20, 9)}, ego)["mug"]
    assert sum(seen) == 2
    assert a.mask.shape == TARGET_HW
    assert b.mask.shape == QUERY_HW
    same(a, small.session().step(clip[0][1], {"mug": mask(0)}, View(clip[1][1]))["mug"])


def test_several_cameras_equal_one_camera_each(small, clip):
    other = random_images(4, (30, 90), seed=5)
    session, first, second = small.session(), small.session(), small.session()
    for t in range(4):
        cameras = {"a": clip[1][t], "b": other[t]} if t != 2 else {"a": clip[1][t]}  # b fails once
        results = session.step(clip[0][t], {"mug": mask(0, t)}, cameras)["mug"]
        same(results["a"], first.step(clip[0][t], {"mug": mask(0, t)}, clip[1][t])["mug"])
        if t != 2:
            same(results["b"], second.step(clip[0][t], {"mug": mask(0, t)}, other[t], frame=t)["mug"])
            assert results["b"].mask.shape == (30, 90)
        else:
            assert "b" not in results
    assert session.cameras == ("a", "b")


def test_the_clip_matters_only_through_memory(small, clip):
    # The same frame gives another answer once there is something to remember, and the same again in a new session.
    shown = {"mug": lambda t: mask(0)}
    alone = follow(small.session(), clip, shown, [3])[0]["mug"]
    later = follow(small.session(), clip, shown, range(4))[3]["mug"]
    assert np.abs(alone.low_res_logits - later.low_res_logits).max() > 1e-3
    same(alone, follow(small.session(), clip, shown, [3])[0]["mug"], 0)


def test_frames_without_query_mask(clip):
    gap = {"mug": lambda t: None if t in (2, 3) else mask(0, t)}
    empty = {"mug": lambda t: np.zeros(QUERY_HW, bool) if t in (2, 3) else mask(0, t)}
    tracked = follow(small_model().session(), clip, gap, range(6))
    assert all(not frame["mug"].passed_over for frame in tracked)
    for a, b in zip(tracked, follow(small_model().session(), clip, empty, range(6)), strict=True):
        same(a["mug"], b["mug"], 0)  # an empty mask shows nothing
    skipped = follow(small_model(without_query="skip").session(), clip, gap, range(6))
    assert [frame["mug"].passed_over for frame in skipped] == [False, False, True, True, False, False]
    result = skipped[2]["mug"]
    assert result.object_score is None
    assert result.visibility == 0
    assert not result.mask.any()
    assert (result.low_res_logits == -1024).all()


def test_vanished_objects_return_and_forgotten_ones_begin_anew(small, clip):
    session = small.session()
    follow(session, clip, {"mug": lambda t: mask(0), "pan": lambda t: mask(1)}, range(2))
    follow(session, clip, {"pan": lambda t: mask(1)}, range(2, 4))  # the mug is not asked for
    back = follow(session, clip, {"mug": lambda t: mask(0)}, [4])[0]["mug"]
    fresh = follow(small.session(), clip, {"mug": lambda t: mask(0)}, [4])[0]["mug"]
    assert np.abs(back.low_res_logits - fresh.low_res_logits).max() > 1e-3
    session.forget("mug")
    assert session.objects == ("pan",)
    same(follow(session, clip, {"mug": lambda t: mask(0)}, [5])[0]["mug"],
         follow(small.session(), clip, {"mug": lambda t: mask(0)}, [5])[0]["mug"], 1e-6)  # fmt: skip


def test_frame_numbers_stride_and_length(small, clip):
    by_thirty, by_one = small.session(stride=30), small.session()
    for t in (0, 1, 4):  # a gap of two frames
        a = by_thirty.step(clip[0][t], {"mug": mask(0)}, clip[1][t], frame=600 + 30 * t)["mug"]
        same(a, by_one.step(clip[0][t], {"mug": mask(0)}, clip[1][t], frame=t)["mug"], 0)
    assert by_thirty.frame == 720
    by_thirty.step(clip[0][5], {"mug": mask(0)}, clip[1][5])
    assert by_thirty.frame == 750
    with pytest.raises(InputError, match=r"frames go forward; found frame 750 after frame 750"):
        by_thirty.step(clip[0][5], {}, clip[1][5], frame=750)
    with pytest.raises(InputError, match=r"not on the session's grid.*multiple of the stride, 30"):
        by_thirty.step(clip[0][5], {}, clip[1][5], frame=765)
    with pytest.raises(InputError, match="has only 2 frames"):
        small.session(frames=2).step(clip[0][0], {}, clip[1][0], frame=0) or None
        follow(small.session(frames=2), clip, {"mug": lambda t: mask(0)}, range(3))


def test_the_length_of_a_clip_counts_from_its_first_frame(small, clip):
    session = small.session(frames=3, stride=30)
    for t in range(3):
        session.step(clip[0][t], {"mug": mask(0)}, clip[1][t], frame=600 + 30 * t)
    with pytest.raises(InputError, match="has only 3 frames; found frame 690, the 4th"):
        session.step(clip[0][3], {"mug": mask(0)}, clip[1][3])


def test_visibility_by_area_is_the_fraction_of_the_target_image_that_the_mask_covers(small, clip, monkeypatch):
    model = small.with_settings(visibility="area")
    inner = model.decode

    def peak(height):
        """One cell above 0, all others a little below it: the higher, the larger the mask."""

        def decode(*arguments):
            decoded = inner(*arguments)
            decoded.logits = torch.full_like(decoded.logits, -1.0)
            decoded.logits[:, 8, 8] = height
            return decoded

        return decode

    target = np.zeros((160, 160, 3), np.uint8)
    for height, visible in ((0.2, 0.0), (3.0, 1.0)):
        monkeypatch.setattr(model, "decode", peak(height))
        result = model.session().step(clip[0][0], {"mug": mask(0)}, target)["mug"]
        assert result.mask.any()
        assert (result.mask.mean() > 0.001) == visible
        assert result.visibility == visible


def test_the_predicted_iou_is_that_of_the_mask_that_is_returned(clip, monkeypatch):
    model = small_model(multimask=True)
    with torch.no_grad():
        model.sam.mask_decoder.iou_prediction_head.proj_out.bias[2] += 9  # or the first of the three might be the best
    decoded = []
    inner = model.decode
    monkeypatch.setattr(model, "decode", lambda *arguments: decoded.append(inner(*arguments)) or decoded[-1])
    chosen = set()
    for t in range(4):
        shown = {f"o{i}": mask(i, t) for i in range(3)}
        results = model.session().step(clip[0][t], shown, clip[1][t])
        for row, result in enumerate(results.values()):
            masks, ious = decoded[-1].all_logits[row].numpy(), decoded[-1].ious[row].numpy()
            [index] = [i for i in range(3) if np.array_equal(masks[i], result.low_res_logits)]
            assert result.predicted_iou == pytest.approx(ious[index]) == pytest.approx(ious.max())
            chosen.add(index)
    assert chosen != {0}


def test_views_stand_wherever_images_do(small, clip):
    query, target = View(clip[0][0], camera="a"), View(clip[1][0], camera="b", frame=3)
    expected = small.session().step(clip[0][0], {"mug": mask(0)}, clip[1][0])["mug"]
    same(small.session().step(query, {"mug": mask(0)}, target)["mug"], expected, 0)
    same(small.session().step(query, {"mug": mask(0)}, {"b": target})["mug"]["b"], expected, 0)
    encoded = small.session().encode([query, clip[1][0], target])
    assert [image.size_hw for image in encoded] == [QUERY_HW, TARGET_HW, TARGET_HW]
    same(small.session().step(encoded[0], {"mug": mask(0)}, encoded[2])["mug"], expected)


def test_a_clip_of_one_frame_and_pointer_positions_of_short_clips(small, clip):
    shown = {"mug": lambda t: mask(0)}
    result = follow(small.session(frames=1), clip, shown, [0])[0]["mug"]
    assert np.isfinite(result.low_res_logits).all()
    # Pointer positions depend on the clip's length below 16 frames, and no longer from there on.
    at = {n: follow(small.session(frames=n), clip, shown, range(4))[3]["mug"].low_res_logits for n in (4, 16, 40)}
    unknown = follow(small.session(), clip, shown, range(4))[3]["mug"].low_res_logits
    assert np.abs(at[4] - at[16]).max() > 1e-5
    assert np.array_equal(at[16], at[40])
    assert np.array_equal(at[16], unknown)


def test_a_saved_session_goes_on_as_if_nothing_had_happened(clip, tmp_path):
    for settings in ({}, {"behaviour": "released"}, {"compression": "weighted"}):
        model = small_model(bank_size=2, **settings)
        shown = {"mug": lambda t: mask(0, t), "pan": lambda t: mask(1, t) if t != 2 else None}
        session = model.session(frames=10)
        follow(session, clip, shown, range(5))
        session.save(tmp_path / "s.safetensors")
        expected = follow(session, clip, shown, range(5, 8))
        resumed = Session.load(model, tmp_path / "s.safetensors")
        assert resumed.objects == ("mug", "pan")
        for a, b in zip(expected, follow(resumed, clip, shown, range(5, 8)), strict=True):
            for name in shown:
                same(a[name], b[name], 0)
        assert saved_config(tmp_path / "s.safetensors", LMEECConfig) == model.config


def test_a_session_of_another_model_or_a_damaged_one_is_refused(small, clip, tmp_path):
    path = tmp_path / "s.safetensors"
    session = small.session()
    follow(session, clip, {"mug": lambda t: mask(0)})
    session.save(path)
    with pytest.raises(CheckpointError, match="saved by another model"):
        Session.load(small_model(seed=1), path)
    with pytest.raises(CheckpointError, match="saved by another model"):
        Session.load(small_model(compression="fifo"), path)

    tensors = load_file(path)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as handle:
        header = json.loads(handle.metadata()["session"])

    def refused(change_header=None, change_tensors=None, match="damaged"):
        h, t = copy.deepcopy(header), dict(tensors)
        if change_header:
            change_header(h)
        if change_tensors:
            change_tensors(t)
        save_file(t, tmp_path / "bad.safetensors", metadata={"session": json.dumps(h)})
        with pytest.raises(CheckpointError, match=match):
            Session.load(small, tmp_path / "bad.safetensors")

    refused(lambda h: h["tracks"].append(h["tracks"][0]), match="stands there twice")
    refused(lambda h: h["tracks"][0]["query"]["numbers"].extend(range(50)), match="too long")
    refused(lambda h: h.update(tracks="all"))
    refused(lambda h: h.update(frames=-3))
    refused(lambda h: h.update(autocast="no_grad"))
    refused(lambda h: h.pop("stride"))
    refused(lambda h: h.update(format="other"), match="not a saved session")
    refused(None, lambda t: t.pop("0.query.0"))
    refused(None, lambda t: t.update({"0.query.0": torch.zeros(3, 64)}), match="is not a memory")
    refused(None, lambda t: t.update({"0.target.1": t["0.target.1"] * float("nan")}), match="is not a memory")
    (tmp_path / "noise.safetensors").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match="not a saved session"):
        Session.load(small, tmp_path / "noise.safetensors")
    with pytest.raises(CheckpointError, match="no such file"):
        Session.load(small, tmp_path / "missing.safetensors")


BAD = {
    "mask of another size": (lambda c: (c[0][4], {"mug": mask(0), "pan": np.ones((48, 81), bool)}, c[1][4]), MaskError),
    "mask of whole numbers": (lambda c: (c[0][4], {"mug": np.ones(QUERY_HW, int)}, c[1][4]), MaskError),
    "image of floats": (lambda c: (c[0][4], {"mug": mask(0)}, c[1][4] / 255), ImageError),
    "a frame that did not decode": (lambda c: (c[0][4], {"mug": mask(0)}, None), ImageError),
    "query that did not decode": (lambda c: (None, {"mug": mask(0)}, c[1][4]), ImageError),
    "no camera": (lambda c: (c[0][4], {"mug": mask(0)}, {}), InputError),
    "a number as a name": (lambda c: (c[0][4], {7: mask(0)}, c[1][4]), InputError),
    "one bad camera of two": (lambda c: (c[0][4], {"mug": mask(0)}, {"a": c[1][4], "b": c[1][4][..., :1]}), ImageError),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_and_leaves_the_session_as_it_was(small, clip, name):
    arguments, error = BAD[name]
    session, untouched = small.session(), small.session()
    for s in (session, untouched):
        follow(s, clip, {"mug": lambda t: mask(0, t)})
    with pytest.raises(error):
        session.step(*arguments(clip))
    assert session.frame == 3
    a, b = (follow(s, clip, {"mug": lambda t: mask(0, t)}, [4])[0]["mug"] for s in (session, untouched))
    same(a, b, 0)


def test_encoded_images_of_another_model_are_refused(small, clip):
    other = small_model(image_size=96)
    view = other.session().encode([clip[0][0]])[0]
    with pytest.raises(ImageError, match="another model; found 96; expected 64"):
        small.session().step(view, {"mug": mask(0)}, clip[1][0])


@pytest.mark.parametrize("settings", [{"frames": 0}, {"stride": 0}, {"frames": 2.5}, {"autocast": torch.int8}])
def test_sessions_are_checked(small, settings):
    with pytest.raises(InputError):
        small.session(**settings)


def test_portrait_and_tiny_images(small):
    result = small.session().step(
        np.zeros((90, 30, 3), np.uint8), {"mug": disc((90, 30), 15, 40, 9)}, np.zeros((1, 7, 3), np.uint8)
    )["mug"]
    assert result.mask.shape == (1, 7)


def test_half_precision_stays_close(small, clip):
    shown = {"mug": lambda t: mask(0)}
    exact = follow(small.session(), clip, shown)[-1]["mug"]
    half = follow(small.session(autocast=torch.bfloat16), clip, shown)[-1]["mug"]
    scale = np.abs(exact.low_res_logits).max()
    assert half.low_res_logits.dtype == np.float32
    assert np.abs(half.low_res_logits - exact.low_res_logits).max() < 0.15 * scale


@pytest.mark.parametrize("compression", ["merge", "drop", "fifo", "weighted"])
def test_memory_does_not_grow(clip, compression):
    model = small_model(bank_size=3, max_pointers=4, compression=compression)
    session = model.session()

    def held():
        total = 0
        seen = set()
        for track in session.tracks.values():
            tensors = [p for _, p in track.pointers.pointers]
            for bank in (track.query, track.target):
                tensors += [*bank.entries, *bank.counts]
            for tensor in tensors:
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in seen:
                    seen.add(storage.data_ptr())
                    total += storage.nbytes()
        return total

    sizes = []
    for t in range(16):
        session.step(clip[0][t % 10], {"mug": mask(0), "pan": mask(1)}, {"a": clip[1][t % 10], "b": clip[1][0]})
        sizes.append(held())
    assert sizes[5] > sizes[0]
    assert len(set(sizes[5:])) == 1
