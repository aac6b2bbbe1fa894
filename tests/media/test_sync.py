"""Clocks from sound and from motion. The oracle is what the recordings were made with."""

from __future__ import annotations

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest

from benchmarks.sync_sounds import RATE, activity, recorded
from counterview.errors import ConfigError, InputError, VideoError
from counterview.media import sound as sound_module
from counterview.media.encode import write_video
from counterview.media.sound import Sound, read_sound
from counterview.media.sound_offset import find_offset
from counterview.media.sources import ArrayFrames, VideoFrames
from counterview.media.sync import SyncResult, synchronise
from counterview.media.timeline import Clock, plan_times

SIZE = (32, 48)
LATE, DRIFT = 1.37, 100.0


def _walk():
    """Where a hand is, 15 times a second: it moves at random and rests in between."""
    rng = np.random.default_rng(0)
    speed = np.convolve(rng.normal(0, 1, 900), np.hanning(9), "same") * np.repeat(rng.random(90) > 0.4, 10)
    return 18 + 14 * np.sin(np.cumsum(speed) / 4)


WALK = _walk()


def scene(time: float) -> np.ndarray:
    """A square in the hand, seen at a time."""
    image = np.full((*SIZE, 3), 90, np.uint8)
    place = round(float(np.interp(time * 15, np.arange(len(WALK)), WALK)))
    image[10:20, place : place + 9] = 230
    return image


SAME_CLOCK = Clock()


def film(path, seconds, fps, *, clock=SAME_CLOCK, sound=None, snr_db=5.0, seed=0, see=scene):
    """A video of the scene by a camera with a clock of its own, with its sound if there is one."""
    images = (see(clock.query_time(float(n / Fraction(fps)))) for n in range(int(seconds * fps)))
    audio = None
    if sound is not None:
        heard = recorded(sound, seconds, snr_db, seed, late_s=clock.offset_s, drift_ppm=clock.drift_ppm)
        audio = heard, RATE
    write_video(path, images, fps, crf=30, audio=audio)
    return path


@pytest.fixture(scope="module")
def table():
    return activity(45, 7)


@pytest.mark.parametrize("snr_db", [15.0, 0.0])
def test_offset_and_drift_of_two_rates_within_20_ms(tmp_path, table, snr_db):
    film(tmp_path / "q.mp4", 40, 30, sound=table, snr_db=snr_db, seed=1)
    film(tmp_path / "t.mp4", 36, Fraction(24000, 1001), clock=Clock(LATE, DRIFT), sound=table, snr_db=snr_db, seed=2)
    with VideoFrames(tmp_path / "q.mp4") as q, VideoFrames(tmp_path / "t.mp4") as t:
        result = synchronise(q, t, "audio")
        for time in (0.0, 18.0, 36.0):
            assert result.clock.query_time(time) == pytest.approx(Clock(LATE, DRIFT).query_time(time), abs=0.002)
        assert result.drift_ppm == pytest.approx(DRIFT, abs=20)
        assert result.confidence > 0.4
        assert result.method == "audio"
        assert sum(window.agrees for window in result.windows) >= 0.8 * len(result.windows) > 8
        assert str(result).startswith("offset +1.370 s, drift +")
        back = synchronise(t, q, "auto")
        assert back.offset_s == pytest.approx(Clock(LATE, DRIFT).own_time(0.0), abs=0.002)
        steps = plan_times(q, {"t": t}, {"t": result.clock}, fps=1).steps
        assert [step.frames["t"] for step in steps[:4]] == [None, None, 15, 39]  # 0.63 s and 1.63 s at 23.976


def test_sounds_that_do_not_belong_together_are_refused(tmp_path, table):
    film(tmp_path / "q.mp4", 20, 5, sound=table, seed=1)
    film(tmp_path / "wrong.mp4", 20, 5, sound=activity(25, 8), seed=2)
    film(tmp_path / "none.mp4", 20, 5)
    film(tmp_path / "silent.mp4", 20, 5, sound=table * 0, seed=3, snr_db=1e3)
    with VideoFrames(tmp_path / "q.mp4") as q:
        for name, error, message in (
            ("wrong", InputError, "the sounds of wrong and q do not belong together"),
            ("silent", InputError, "the sounds of silent and q do not belong together"),
            ("none", VideoError, "none has no sound. Use --sync motion, or --offset"),
        ):
            with VideoFrames(tmp_path / f"{name}.mp4") as t, pytest.raises(error) as caught:
                synchronise(q, t, "audio")
            assert message in str(caught.value)
            assert "\n" not in str(caught.value)


def as_sound(samples):
    return Sound((samples[::2] * 32000).astype(np.int16), 0.0)


@pytest.mark.parametrize(
    ("q_late", "q_length", "t_late", "t_length", "drift"),
    [(0, 40, 24, 20, 0), (12, 15, 0, 45, -300), (20, 22, 0, 40, 400), (0, 9, 1.3, 8, 100), (0, 6, 0.5, 6, 0)],
)
def test_parts_of_one_sound(table, q_late, q_length, t_late, t_length, drift):
    """The target earlier, later, inside or around the query, and short sounds."""
    q = as_sound(recorded(table, q_length, 5, 1, late_s=q_late))
    t = as_sound(recorded(table, t_length, 5, 2, late_s=t_late, drift_ppm=drift))
    line = find_offset(q, t)
    for time in (0, t_length):
        wanted = t_late - q_late + time * (1 + drift / 1e6)
        assert line.offset_s + time * (1 + line.drift_ppm / 1e6) == pytest.approx(wanted, abs=0.002)
    assert line.confidence > 0.3


def test_no_wrong_pair_is_sure():
    sounds = [activity(14, 30 + n) for n in range(5)]
    for a, b in itertools.combinations(range(5), 2):
        line = find_offset(as_sound(recorded(sounds[a], 12, 20, a)), as_sound(recorded(sounds[b], 12, 20, 9 + b)))
        assert line.confidence < 0.02


def test_a_sound_that_repeats_itself_is_not_sure():
    """A metronome fits at every beat."""
    beat = np.random.default_rng(0).normal(0, 1, 800) * np.exp(-np.arange(800) / 80)
    ticks = np.zeros(30 * RATE)
    for start in range(0, len(ticks) - 800, RATE // 2):
        ticks[start : start + 800] += beat
    line = find_offset(as_sound(recorded(ticks, 25, 30, 1)), as_sound(recorded(ticks, 25, 30, 2, late_s=1.3)))
    assert line.confidence < 0.1


def test_motion_where_there_is_no_sound(tmp_path):
    film(tmp_path / "q.mp4", 40, 15)
    film(tmp_path / "t.mp4", 30, 12, clock=Clock(4.3))
    with VideoFrames(tmp_path / "q.mp4") as q, VideoFrames(tmp_path / "t.mp4") as t:
        result = synchronise(q, t)
        assert (result.method, result.drift_ppm, result.windows) == ("motion", 0.0, ())
        assert result.offset_s == pytest.approx(4.3, abs=0.1)
        assert synchronise(t, q, "motion").offset_s == pytest.approx(-4.3, abs=0.1)
        assert "from motion" in str(result)


def test_auto_refuses_what_neither_sound_nor_motion_tells(tmp_path, table):
    rng = np.random.default_rng(3)

    def other(time):
        image = np.full((*SIZE, 3), 90, np.uint8)
        x, y = rng.integers(0, 38), rng.integers(0, 20)
        image[y : y + 9, x : x + 9] = 230
        return image

    still = [scene(0.0)] * 200
    film(tmp_path / "q.mp4", 20, 10, sound=table, seed=1)
    film(tmp_path / "t.mp4", 20, 10, sound=activity(25, 8), seed=2, see=other)
    with VideoFrames(tmp_path / "q.mp4") as q, VideoFrames(tmp_path / "t.mp4") as t:
        with pytest.raises(InputError) as caught:
            synchronise(q, t)
        assert "t cannot be synchronised with q; found by sound: the sounds of t and q do not belong" in str(
            caught.value
        )
        assert str(caught.value).endswith(
            "Give --offset t=SECONDS, or --sync none if the files begin at the same time."
        )
        with pytest.raises(InputError, match=r"does not tell their offset; found confidence 0\.00"):
            synchronise(q, ArrayFrames(still, 10, "still"), "motion")
        assert synchronise(q, t, "none") == SyncResult(0.0, 0.0, None, "none")
        assert str(synchronise(q, t, "none")) == "times as the files have them"
        with pytest.raises(ConfigError, match="expected none or auto or audio or motion"):
            synchronise(q, t, "sound")


# ---------------------------------------------------------------------------------------------------- reading sound


def clicks(seconds, rate, at):
    sound = np.random.default_rng(0).normal(0, 0.001, int(seconds * rate))
    sound[[round(time * rate) for time in at]] = 0.9
    return sound


def loud(sound, count):
    """The times of the loudest samples, 5 ms apart, in seconds."""
    values, times = np.abs(sound.samples.astype(int)), []
    for _ in range(count):
        place = int(values.argmax())
        times.append(place / sound_module.RATE + sound.start_s)
        values[max(0, place - 40) : place + 40] = 0
    return sorted(times)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_a_click_is_where_it_was(tmp_path, rate):
    sound = clicks(3, rate, (0.5, 2.25))
    write_video(tmp_path / "a.mp4", [scene(0)] * 30, 10, audio=(np.stack([sound, sound], 1), rate))
    write_video(tmp_path / "b.mp4", [scene(0)] * 30, 10, audio=(sound, rate))
    for name in ("a.mp4", "b.mp4"):
        found = read_sound(tmp_path / name)
        assert found.duration_s == pytest.approx(3, abs=0.15)
        assert loud(found, 2) == pytest.approx([0.5, 2.25], abs=0.0005)
        assert loud(read_sound(tmp_path / name, origin_s=0.5), 2) == pytest.approx([0.0, 1.75], abs=0.0005)


def test_sound_that_begins_late_and_has_a_gap_keeps_its_times(tmp_path):
    """Images from 0.5 s on, sound from 0.8 s on, one second of it missing."""
    with av.open(str(tmp_path / "x.mkv"), "w") as out:
        video, audio = out.add_stream("libx264", rate=10), out.add_stream("pcm_s16le", rate=16000)
        video.height, video.width, video.pix_fmt = *SIZE, "yuv420p"
        audio.codec_context.layout = "mono"
        sound = clicks(4, 16000, (0.3, 2.7))
        for n in range(30):
            frame = av.VideoFrame.from_ndarray(scene(0), format="rgb24")
            frame.pts = n + 5
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for start in range(0, len(sound), 1600):
            if not 16000 <= start < 32000:
                block = (sound[None, start : start + 1600] * 32000).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 16000, start + 12800, Fraction(1, 16000)
                out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
    with VideoFrames(tmp_path / "x.mkv") as source:
        found = read_sound(*source.sound)
    assert found.start_s == pytest.approx(0.3, abs=0.002)
    assert loud(found, 2) == pytest.approx([0.6, 3.0], abs=0.002)
    middle = found.samples[round(1.2 * sound_module.RATE) : round(1.8 * sound_module.RATE)]
    assert not middle.any()


def test_how_much_sound_is_read_is_bounded(tmp_path, monkeypatch, caplog):
    write_video(tmp_path / "a.mp4", [scene(0)] * 30, 10, audio=(clicks(3, 16000, (0.5,)), 16000))
    monkeypatch.setattr(sound_module, "MAX_SOUND_S", 1)
    found = read_sound(tmp_path / "a.mp4")
    assert 0.9 < found.duration_s <= 1
    assert "of its sound the first 1 s are used" in caplog.text
    monkeypatch.setattr(sound_module, "SOURCE_RATES", (44100, 48000))
    with pytest.raises(VideoError, match=r"its sound has a form that is not read; found 1 channels at 16000/s"):
        read_sound(tmp_path / "a.mp4")
    write_video(tmp_path / "b.mp4", [scene(0)])
    assert read_sound(tmp_path / "b.mp4") is None
    with pytest.raises(VideoError, match="no such file"):
        read_sound(tmp_path / "none.mp4")


def test_a_video_with_sound_has_the_same_bytes_each_time(tmp_path):
    sound = clicks(2, 48000, (0.5,))
    images = [scene(n / 10).repeat(2, 0).repeat(2, 1) for n in range(20)]  # x264 itself varies with images of 32 x 48
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, images, 10, audio=(sound, 48000))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    with av.open(str(tmp_path / "a.mp4")) as container:
        kinds = [packet.stream.type for packet in container.demux() if packet.size]
        assert [s.codec_context.name for s in container.streams] == ["h264", "aac"]
    assert kinds.index("audio") < 15, "sound lies between the images, not behind them"


@pytest.mark.parametrize(
    "audio",
    [(np.zeros(0), 48000), (np.zeros(9, np.int16), 48000), (np.zeros((9, 3)), 48000), (np.zeros(9), 12345),
     (np.full(9, np.nan), 48000)],
)  # fmt: skip
def test_what_is_not_a_sound_track_is_refused(tmp_path, audio):
    with pytest.raises(InputError, match="the audio is not a sound track"):
        write_video(tmp_path / "a.mp4", [scene(0)], 10, audio=audio)
    assert list(tmp_path.iterdir()) == []
