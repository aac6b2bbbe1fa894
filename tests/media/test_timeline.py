"""Cameras paired by time. The oracle: each image carries the time at which it was taken, in hundredths of a second."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from counterview.errors import InputError
from counterview.exchange.tracks import TrackedCamera
from counterview.media.sources import ArrayFrames, VideoFrames
from counterview.media.timeline import Clock, Timeline, plan_times
from tests.data_egoexo.release_maker import numbered, read_number

SIZE = (48, 96)


def film(path, times, *, rate=30, late=0.0, start=0.0, edit=0, **options):
    """A video of a clock: its images are shown at ``times``, and were taken ``late`` seconds after them.

    ``start`` moves all times of the file; images in the first ``edit`` seconds are cut off by an edit list.
    """
    base = Fraction(1, 90000)
    with av.open(str(path), "w", options={"movflags": "+faststart"} if path.suffix == ".mp4" else {}) as out:
        stream = out.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001), options={"g": "15", **options})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.time_base = stream.time_base = base
        for time in times:
            frame = av.VideoFrame.from_ndarray(numbered(round(100 * (time + late)), SIZE), format="rgb24")
            frame.pts, frame.time_base = round((time + start - edit) / base), base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def clocks_of(timeline: Timeline, sources, camera):
    """What the clocks in both images say at each step with both, in seconds, and the steps without a partner."""
    both, alone = [], []
    for step, images in timeline.read(sources):
        pair = images[timeline.query], images[camera]
        if all(image is not None for image in pair):
            both.append((step.time_s, *(read_number(image.image) / 100 for image in pair)))
        elif pair[0] is not None:
            alone.append(step.time_s)
    return both, alone


def grid(rate, seconds):
    return [n / rate for n in range(int(seconds * rate))]


CASES = {
    "same rate": {"times": grid(30, 4)},
    "film rate": {"times": grid(24000 / 1001, 4), "rate": 24000 / 1001},
    "slow": {"times": grid(7, 4), "rate": 7},
    "fast": {"times": grid(60, 4), "rate": 60},
    "variable": {"times": list(np.cumsum([0, *([0.03, 0.05, 0.04] * 33)])), "bf": "0"},
    "late start": {"times": grid(25, 4), "rate": 25, "start": 2.5, "suffix": ".mkv"},
    "B-frames": {"times": grid(30, 4), "bf": "3"},
    "edit list": {"times": grid(30, 4), "edit": 0.5, "bf": "0"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("fps", [2, 9, None])
def test_images_of_one_step_were_taken_at_one_time(tmp_path, case, fps):
    options = dict(CASES[case])
    suffix = options.pop("suffix", ".mp4")
    film(tmp_path / "q.mp4", grid(30, 4))
    # It began 0.8 s after the query camera. What an edit list cuts off is no part of it: so much later it begins.
    film(tmp_path / f"t{suffix}", late=0.8, **options)
    began = 0.8 + options.get("edit", 0)
    with VideoFrames(tmp_path / "q.mp4") as q, VideoFrames(tmp_path / f"t{suffix}") as t:
        timeline = plan_times(q, {"t": t}, {"t": Clock(began)}, fps=fps)
        sources = {"q": q, "t": t}
        both, alone = clocks_of(timeline, sources, "t")
        half = 0.5 / 30 + 0.5 / float(t.fps) + 0.011
        worst = max(abs(taken - target) for _, taken, target in both)
        assert worst <= half
        assert all(abs(time - taken) <= 0.0051 for time, taken, _ in both), "a step has the time of its query frame"
        rate = min(fps or 30, float(t.fps))
        assert len(both) == pytest.approx((4 - began) * rate, abs=3)
        assert (
            sum(time < began - half for time in alone)
            <= timeline.unpaired["t"]
            <= sum(time < began for time in alone) + 1
        )
        assert len(alone) == timeline.unpaired["t"] + timeline.repeated["t"]
        for camera in sources:
            numbers = timeline.numbers(camera)
            assert all(earlier < later for earlier, later in pairwise(numbers)), "each frame once, in order"
        assert all(earlier.time_s < later.time_s for earlier, later in pairwise(timeline.steps))


def test_a_dropped_frame_is_missed_where_it_is_and_shifts_nothing(tmp_path):
    film(tmp_path / "q.mp4", grid(30, 3))
    times = [time for n, time in enumerate(grid(30, 3)) if n not in (20, 21, 50)]
    film(tmp_path / "t.mp4", times)
    with VideoFrames(tmp_path / "q.mp4") as q, VideoFrames(tmp_path / "t.mp4") as t:
        both, alone = clocks_of(plan_times(q, {"t": t}), {"q": q, "t": t}, "t")
    assert [round(time * 30) for time in alone] == [20, 21, 50]
    assert all(taken == target for _, taken, target in both)
    assert len(both) == 87


def test_a_slow_camera_gives_each_frame_once_where_it_is_nearest():
    q = ArrayFrames([numbered(n, SIZE) for n in range(30)], 10, "q")
    t = ArrayFrames([numbered(n, SIZE) for n in range(3)], 1, "t")
    timeline = plan_times(q, {"t": t}, fps=5)
    assert {step.time_s: step.frames["t"] for step in timeline.steps if step.frames["t"] is not None} == {
        0: 0,
        1: 1,
        2: 2,
    }
    assert (timeline.unpaired["t"], timeline.repeated["t"]) == (2, 10)  # 2.6 and 2.8 s: its last image has ended
    slow = plan_times(t, {"q": q}, fps=5)
    assert [step.time_s for step in slow.steps if step.frames["t"] is not None] == [0.0, 1.0, 2.0]
    assert slow.numbers("q") == list(range(0, 30, 2))


def test_drift_moves_the_pairs():
    q = ArrayFrames([numbered(n, SIZE) for n in range(1000)], 10, "q")
    t = ArrayFrames([numbered(n, SIZE) for n in range(900)], 10, "t")
    timeline = plan_times(q, {"t": t}, {"t": Clock(1.0, 10_000.0)}, fps=1)
    pairs = {round(step.time_s): step.frames["t"] for step in timeline.steps}
    assert (pairs[0], pairs[1], pairs[51], pairs[90]) == (None, 0, 495, 881)


def test_a_part_of_the_video():
    q = ArrayFrames([numbered(n, SIZE) for n in range(100)], 10, "q")
    t = ArrayFrames([numbered(n, SIZE) for n in range(100)], 10, "t")
    timeline = plan_times(q, {"t": t}, {"t": Clock(1.0)}, start_s=3.0, end_s=3.5)
    assert [(step.time_s, dict(step.frames)) for step in timeline.steps] == [
        (n / 10, {"q": n, "t": n - 10}) for n in range(30, 36)
    ]
    read = list(timeline.read({"q": q, "t": t}, first=4))
    assert [(images["q"].number, images["t"].number) for _, images in read] == [(34, 24), (35, 25)]
    assert [s.time_s for s in plan_times(q, {"t": t}, fps=2, start_s=1.25, end_s=2.25).steps] == [1.2, 1.7, 2.2]


@pytest.mark.parametrize(
    ("options", "clock", "message"),
    [
        ({"start_s": 5, "end_s": 4}, Clock(), "the start is after the end; found 5 to 4 s; expected 0 to 10.000 s"),
        ({"start_s": 10}, Clock(), "the start is outside the video; found 10 s; expected 0 to 10.000 s"),
        ({"start_s": -1}, Clock(), "the start is outside the video"),
        ({"end_s": float("nan")}, Clock(), "is not a time"),
        ({"start_s": 0.01, "end_s": 0.02}, Clock(), "has no frame between the start and the end"),
        ({"fps": 0}, Clock(), "the steps a second are not positive; found 0"),
        ({"fps": float("inf")}, Clock(), "the steps a second are not positive"),
        ({"fps": 1e9}, Clock(), "there are too many steps"),
        ({}, Clock(10.5), "camera t: the offset lies beyond the end of q; found t lasts from 10.500 to 20.500 s"),
        ({}, Clock(-11.0), "camera t: the offset lies beyond the end of q"),
        ({"end_s": 2.0}, Clock(3.0), "camera t: has no time in common with q"),
        ({"query_name": "t"}, Clock(), "two cameras have the same name; found t"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_one_line(options, clock, message):
    q = ArrayFrames([numbered(0, SIZE)] * 100, 10, "q")
    t = ArrayFrames([numbered(0, SIZE)] * 100, 10, "t")
    with pytest.raises(InputError) as caught:
        plan_times(q, {"t": t}, {"t": clock}, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_clocks_are_those_of_tracks():
    with pytest.raises(InputError, match="an offset of a camera that is not there; found x"):
        q = ArrayFrames([numbered(0, SIZE)], 10, "q")
        plan_times(q, {"t": q}, {"x": Clock()})
    clock, camera = Clock(1.37, 100.0), TrackedCamera(None, SIZE, 30.0, 1.37, 100.0)
    for time in (0.0, 1.0, 3600.0):
        assert clock.query_time(time) == camera.query_time(time)
        assert clock.own_time(clock.query_time(time)) == pytest.approx(time)
    for bad in ((float("nan"), 0.0), (0.0, -1e6), (0.0, float("nan"))):
        with pytest.raises(InputError, match="a clock is out of range"):
            Clock(*bad)
