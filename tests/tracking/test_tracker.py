"""The tracker in a world of coloured rectangles: what it must find, what it must call absent, and what it keeps."""

import pytest
import torch

from counterview.errors import InputError, MaskError
from counterview.masks.geometry import iou
from counterview.tracking.state_file import read_state, write_state
from counterview.tracking.tracker import MemoryTracker
from counterview.tracking.tracker_config import TrackerConfig
from counterview.tracking.weighing import EvidenceWeighing, WeighingConfig
from tests.tracking.coloured import ColourModel, draw, mask_of

BOXES = {"red": (10, 20, 20, 15), "blue": (60, 40, 25, 20), "green": (90, 10, 12, 18)}
MIRRORED = {"red": (90, 20, 14, 12), "blue": (30, 45, 20, 18), "green": (10, 8, 10, 16)}


def tracker(**config):
    torch.manual_seed(0)
    weighing = EvidenceWeighing(WeighingConfig())
    with torch.no_grad():  # visible if it is more alike than not: the rest of the network is untrained
        for layer in weighing.visibility:
            if hasattr(layer, "weight"):
                layer.weight.mul_(0)
                layer.bias.mul_(0)
        weighing.visibility[-1].bias.add_(2.0)
    return MemoryTracker(ColourModel(), ("ego", "cam"), weighing, TrackerConfig(**config))


def shift(boxes, dx, dy=0):
    return {name: (x + dx, y + dy, w, h) for name, (x, y, w, h) in boxes.items()}


def test_an_object_shown_once_is_found_in_both_cameras_and_followed():
    model = tracker()
    for step in range(12):
        ego, cam = draw(shift(BOXES, step % 5)), draw(shift(MIRRORED, -step))
        prompts = {"ego": {n: mask_of(ego, n) for n in ("red", "blue")}} if step == 0 else {}
        found = model.step({"ego": ego, "cam": cam}, step / 2, prompts)
        for camera, image in (("ego", ego), ("cam", cam)):
            for name in ("red", "blue"):
                assert iou(found[camera][name].mask_rle, mask_of(image, name)) == 1, (step, camera, name)
    assert found["ego"]["red"].source == "followed"
    assert found["cam"]["red"].source == "matched"
    assert model.objects == ("red", "blue")


def test_given_masks_are_given_back():
    model, ego = tracker(), draw(BOXES)
    found = model.step({"ego": ego}, 0.0, {"ego": {"red": mask_of(ego, "red"), "blue": None}})
    assert found["ego"]["red"].mask_rle == mask_of(ego, "red")
    assert (found["ego"]["red"].visibility, found["ego"]["red"].source) == (1.0, "given")
    assert (found["ego"]["blue"].mask_rle, found["ego"]["blue"].visibility) == (None, 0.0)
    assert found["cam"]["red"].visibility is None  # it had no image


def test_two_objects_never_share_a_mask():
    """Both look most like the one red area; the one that was given there keeps it."""
    model = tracker()
    ego = draw(BOXES)
    model.step({"ego": ego}, 0.0, {"ego": {"red": mask_of(ego, "red"), "green": mask_of(ego, "green")}})
    only_red = draw({"red": BOXES["red"]})
    found = model.step({"ego": only_red}, 1.0, {})
    both = [found["ego"][n].mask_rle for n in ("red", "green")]
    assert both[0] == mask_of(only_red, "red")
    assert iou(*both) < 0.5
    free = tracker(competition=False)
    free.step({"ego": ego}, 0.0, {"ego": {"red": mask_of(ego, "red")}})


def test_a_correction_in_a_target_is_remembered_there():
    model = tracker()
    ego, cam = draw({"red": BOXES["red"]}), draw(MIRRORED)
    model.step({"ego": ego, "cam": cam}, 0.0, {"ego": {"red": mask_of(ego, "red")}})
    found = model.step({"ego": ego, "cam": cam}, 1.0, {"cam": {"red": mask_of(cam, "blue")}})
    assert found["cam"]["red"].mask_rle == mask_of(cam, "blue")
    assert model._memories["red"]["cam"].bank.state()["protected"].any()


def test_a_saved_state_goes_on_to_the_bit(tmp_path):
    whole, first = tracker(), tracker()
    frames = [(draw(shift(BOXES, k)), draw(shift(MIRRORED, -k))) for k in range(10)]

    def run(model, steps):
        result = []
        for k in steps:
            ego, cam = frames[k]
            prompts = {"ego": {"red": mask_of(ego, "red")}} if k == 0 else {}
            result.append(model.step({"ego": ego, "cam": cam}, float(k), prompts))
        return result

    expected = run(whole, range(10))[6:]
    run(first, range(6))
    write_state(tmp_path / "state", first.state())
    second = tracker()
    second.restore(read_state(tmp_path / "state"))
    for ours, theirs in zip(run(second, range(6, 10)), expected, strict=True):
        for camera in ours:
            for name, observation in ours[camera].items():
                other = theirs[camera][name]
                assert observation.mask_rle == other.mask_rle
                assert observation.visibility == other.visibility
                assert observation.alternatives == other.alternatives
    with pytest.raises(InputError, match="other settings"):
        tracker(capacity=3).restore(read_state(tmp_path / "state"))


def test_memories_do_not_grow(tmp_path):
    model = tracker(capacity=4)
    sizes = []
    for step in range(60):
        ego = draw(shift(BOXES, step % 7))
        model.step(
            {"ego": ego, "cam": draw(MIRRORED)}, step, {"ego": {"red": mask_of(ego, "red")}} if step == 0 else {}
        )
        if step in (20, 59):
            write_state(tmp_path / "state", model.state())
            sizes.append((tmp_path / "state").stat().st_size)
    assert sizes[1] <= sizes[0] * 1.05


@pytest.mark.parametrize(
    ("images", "time_s", "prompts", "error", "problem"),
    [
        ({"ego": True}, -1.0, {}, InputError, "ascend"),
        ({"third": True}, 5.0, {}, InputError, "unknown camera"),
        ({"ego": True}, 5.0, {"cam": {"red": "mask"}}, InputError, "no image"),
        ({"ego": True}, 5.0, {"ego": {"red": "small"}}, MaskError, "does not fit"),
    ],
)
def test_bad_calls_are_refused(images, time_s, prompts, error, problem):
    model, ego = tracker(), draw(BOXES)
    masks = {"mask": mask_of(ego, "red"), "small": mask_of(draw(BOXES, (120, 160)), "red")}
    model.step({"ego": ego}, 0.0, {"ego": {"red": masks["mask"]}})
    given = {camera: {n: masks[v] for n, v in named.items()} for camera, named in prompts.items()}
    with pytest.raises(error, match=problem):
        model.step(dict.fromkeys(images, ego), time_s, given)


def test_cameras_have_names_that_differ():
    with pytest.raises(InputError, match="cameras have names"):
        MemoryTracker(ColourModel(), ("ego", "ego"), EvidenceWeighing(WeighingConfig()))
    assert tracker().step({"ego": draw(BOXES)}, 0.0, {}) == {"ego": {}, "cam": {}}


def test_what_is_off_is_no_part_of_the_settings():
    """So that runs that were begun before it was there go on."""
    assert not {"share_frames", "keep_alignments"} & set(tracker().settings()["tracker"])
    assert tracker(share_frames=True).settings()["tracker"]["share_frames"] is True
    state = tracker().state()
    del state["clip"]
    tracker().restore(state)
