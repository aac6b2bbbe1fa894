"""Images by time. The oracle is burned into the images: each carries its own frame number."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from counterview.errors import ImageError, InputError, VideoError
from counterview.media import frame_source
from counterview.media.sources import (
    ArrayFrames,
    FolderFrames,
    VideoFrames,
    media_source,
    natural_key,
    split_rate,
)
from counterview.media.video import VideoReader
from tests.data_egoexo.release_maker import numbered, read_number, write_video

SIZE = (48, 96)


def shown(source, times):
    """The burned-in numbers at several times; ``None`` where there is no image, ``"error"`` for unreadable ones."""
    out = []
    for time, frame in source.read(times):
        if isinstance(frame, Exception):
            out.append("error")
        else:
            out.append(None if frame is None else read_number(frame.image))
            assert frame is None or frame.number == source.number_at(time)
    return out


def folder(path: Path, names: list[str], size_hw=SIZE) -> Path:
    path.mkdir()
    for place, name in enumerate(names):
        Image.fromarray(numbered(place, size_hw)).save(path / name)
    return path


def test_a_reader_by_time(tmp_path):
    write_video(tmp_path / "a.mp4", 20, SIZE, rate=10, drop=[7])
    with VideoReader(tmp_path / "a.mp4") as video:
        frame = video.frame_at(0.52)
        assert frame is not None
        assert (frame.number, frame.time_s, read_number(frame.image)) == (5, 0.5, 5)
        assert [video.frame_at(t) for t in (-0.06, 0.7, 1.96, 50.0)] == [None] * 4
        assert [video.time_of(n) for n in (0, 19)] == [0.0, 1.9]
        with pytest.raises(VideoError, match="has no frame 20"):
            video.time_of(20)
        with pytest.raises(InputError, match="is not a time"):
            video.frame_at(float("nan"))


def test_a_variable_rate_has_the_times_of_its_images(tmp_path):
    times = [0, 33, 70, 100, 3000, 3020, 3060]
    write_video(tmp_path / "gap.mp4", 7, SIZE, times_ms=times)
    with VideoFrames(tmp_path / "gap.mp4") as source:
        assert [round(source.time_of(n) * 1000) for n in source.numbers] == times
        assert shown(source, [0.0, 0.04, 0.1, 1.5, 3.0, 3.05]) == [0, 1, 3, None, 4, 6]


def test_frames_come_in_order_each_once(tmp_path):
    """Reordered images, groups of 12: a dropped frame and times in any order change nothing."""
    write_video(tmp_path / "b.mp4", 80, SIZE, options={"g": "12", "bf": "3"}, drop=[13, 50])
    with VideoFrames(tmp_path / "b.mp4") as source:
        assert (source.name, source.fps, source.frame_count, source.size_hw) == ("b", 30.0, 80, SIZE)
        numbers = [
            (n, None if frame is None else read_number(frame.image)) for n, frame in source.read_numbers(range(80))
        ]
        assert numbers == [(n, None if n in (13, 50) else n) for n in range(80)]
        found = list(source.read([1.0, 0.1, 0.101, -3.0, 0.1]))
        assert [time for time, _ in found] == [-3.0, 0.1, 0.1, 0.101, 1.0]
        assert found[0][1] is None
        assert found[1][1] is found[2][1] is found[3][1] is not None
        assert source.unreadable == 0
        assert source.skipped() is None


@pytest.mark.parametrize(
    "options", [{"g": "12", "bf": "3"}, {"g": "250", "bf": "2"}, {"preset": "ultrafast", "g": "30"}]
)
def test_each_group_is_decoded_once(tmp_path, monkeypatch, options):
    """In order, and with no more images in memory than a decoder itself holds."""
    write_video(tmp_path / "b.mp4", 300, SIZE, options=options)
    decoded = []
    real = VideoReader._decode
    monkeypatch.setattr(
        VideoReader,
        "_decode",
        lambda self, source, first, *rest: (decoded.append(first), real(self, source, first, *rest))[1],
    )
    with VideoFrames(tmp_path / "b.mp4") as source:
        decoded.clear()
        held = [n for n, image in source._images(range(300)) if not isinstance(image, Exception)]
        assert held == list(range(300))
        assert len(decoded) == len(set(decoded))


def test_an_unreadable_stretch_is_skipped_counted_and_said(tmp_path, caplog):
    write_video(tmp_path / "good.mp4", 90, SIZE, noise=30)
    with av.open(str(tmp_path / "good.mp4")) as container:
        packets = {round(p.pts * p.time_base * 30): (p.pos, p.size) for p in container.demux(video=0) if p.size}
    shutil.copy(tmp_path / "good.mp4", tmp_path / "bad.mp4")
    with (tmp_path / "bad.mp4").open("r+b") as handle:
        for number in range(40, 46):
            position, size = packets[number]
            handle.seek(position + 4)
            handle.write(b"\x00" * (size - 4))
    with VideoFrames(tmp_path / "bad.mp4") as source:
        found = shown(source, [n / 30 for n in range(90)])
        assert found[:40] == list(range(40))
        assert found[60:] == list(range(60, 90))
        bad = [n for n, value in enumerate(found) if value == "error"]
        assert bad[0] == 40
        assert set(bad) <= set(range(40, 60))
        assert source.unreadable == len(bad) >= 6
        assert source.skipped() == f"bad: {len(bad)} frames between 1.333 and {bad[-1] / 30:.3f} s cannot be read"
        with pytest.raises(VideoError, match="frame 40 is damaged"):
            source.frame_at(40 / 30)
    assert sum("is skipped" in line for line in caplog.messages) == 2  # once for the stretch, once for the last line
    assert any(f"frames 40 to {bad[-1]} cannot be read and are skipped" in line for line in caplog.messages)


def test_a_missing_frame_does_not_hold_back_a_whole_group():
    images = ((n, numbered(n, SIZE)) for n in range(1, 100))
    found = []
    for number, image in frame_source._ascending(range(100), images):
        found.append(number)
        if number == 0:
            assert image is None
            assert next(images)[0] <= frame_source.REORDERED + 2
    assert found == list(range(100))


def test_a_folder_of_images(tmp_path):
    place = folder(tmp_path / "frames", [f"f{n}.png" for n in range(12)])
    (place / "notes.txt").write_text("x")
    (place / ".hidden.png").write_bytes(b"x")
    with FolderFrames(place, 4) as source:
        assert (source.name, source.path, source.size_hw, source.fps) == ("frames", place, SIZE, 4.0)
        assert (source.frame_count, source.duration_s, source.sound) == (12, 3.0, None)
        assert shown(source, [0.0, 0.12, 0.13, 2.5, 2.75, 2.9, -0.2]) == [None, 0, 0, 1, 10, 11, None]
        assert source.image_path(10).name == "f10.png"


def test_missing_numbers_are_dropped_frames(tmp_path, caplog):
    place = folder(tmp_path / "x", ["frame_0001.jpg", "frame_0002.jpg", "frame_0005.jpg"])
    source = FolderFrames(place, 10)
    assert (list(source.numbers), source.frame_count, source.duration_s) == ([0, 1, 4], 5, 0.5)
    assert shown(source, [0.0, 0.1, 0.2, 0.3, 0.4]) == [0, 1, None, None, 2]
    assert list(source.read_numbers([2])) == [(2, None)]
    assert "3 images numbered from frame_0001.jpg to frame_0005.jpg" in caplog.text
    named = FolderFrames(folder(tmp_path / "y", ["a.png", "b7.png", "c.png"]), 10)
    assert list(named.numbers) == [0, 1, 2]


def test_an_image_that_cannot_be_read_is_skipped(tmp_path):
    place = folder(tmp_path / "x", [f"{n}.png" for n in range(5)])
    (place / "2.png").write_bytes(b"no image")
    Image.fromarray(numbered(3, (50, 96))).save(place / "3.png")
    source = FolderFrames(place, 1)
    found = dict(source.read_numbers(range(5)))
    assert [n for n, frame in found.items() if isinstance(frame, ImageError)] == [2, 3]
    assert "has another size than the first" in str(found[3])
    assert source.skipped() == "x: 2 frames between 2.000 and 3.000 s cannot be read"


def test_a_folder_that_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    place = folder(tmp_path / "x", ["1.png", "01.png"])
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "a.png").write_bytes(b"x")
    for path, fps, error, part in (
        (tmp_path / "empty", 5, ImageError, "has no images"), (tmp_path / "none", 5, InputError, "no such folder"),
        (place, 5, InputError, "two images have the same number; found 01.png and 1.png"),
        (place, None, InputError, r"expected a rate in frames a second. Write it behind the folder, as in frames@30"),
        (place, 0, InputError, "the rate is not positive"),
        (place, float("nan"), InputError, "the rate is not positive"),
        (damaged, 5, ImageError, "none of its images can be read"),
    ):  # fmt: skip
        with pytest.raises(error, match=part):
            FolderFrames(path, fps)


def test_arrays(tmp_path):
    images = [numbered(n, SIZE) for n in range(6)]
    for given in (images, np.stack(images), iter(images), [Image.fromarray(image) for image in images]):
        source = ArrayFrames(given, Fraction(24000, 1001), "query")
        assert (source.frame_count, source.path, source.size_hw) == (6, None, SIZE)
        assert shown(source, [0.0, 1 / 24, 5 / 24, 0.25]) == [0, 1, 5, None]
    with pytest.raises(InputError, match="a source of images is empty"):
        ArrayFrames([], 5)
    with pytest.raises(ImageError):
        ArrayFrames([np.zeros((3, 3))], 5)


def test_what_a_path_stands_for(tmp_path):
    write_video(tmp_path / "a.mp4", 3, SIZE)
    place = folder(tmp_path / "x", ["1.png", "2.png"])
    odd = folder(tmp_path / "y@3", ["1.png"])
    assert isinstance(media_source(tmp_path / "a.mp4"), VideoFrames)
    assert media_source(f"{place}@15/2").fps == 7.5
    assert media_source(odd, fps=2).fps == 2
    assert media_source(place, fps=2, name="left").name == "left"
    assert split_rate(str(odd)) == (str(odd), None)
    for path, options, part in (
        (place, {}, "a rate in frames a second"), (tmp_path / "a.mp4", {"fps": 5}, "a video has a rate of its own"),
        (tmp_path / "no.mp4", {}, "no such file"), (f"{place}@0", {}, "not positive"),
        (f"{place}@1/0", {}, "not positive"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=part):
            media_source(path, **options)
    assert sorted(["2.png", "10.png", "1.png"], key=natural_key) == ["1.png", "2.png", "10.png"]
