"""Frames by number. The oracle is burned into the images: each carries its own frame number."""

from __future__ import annotations

import random
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from counterview.errors import InputError, VideoError
from counterview.media.encode import write_video as encode_video
from counterview.media.video import VideoReader
from tests.data_egoexo.release_maker import read_number, write_video

SIZE = (96, 192)
FORMATS = {
    "closed.mp4": ("libx264", {"preset": "ultrafast", "g": "30"}),
    "b_frames.mp4": ("libx264", {"g": "30", "bf": "3"}),
    "long.mp4": ("libx264", {"g": "250", "bf": "2"}),
    "open.mp4": ("libx264", {"bf": "3", "x264-params": "open-gop=1:keyint=24:b-pyramid=normal:log-level=none"}),
    "refresh.mp4": ("libx264", {"tune": "zerolatency", "x264-params": "intra-refresh=1:keyint=30:log-level=none"}),
    "hevc.mp4": ("libx265", {"x265-params": "keyint=30:open-gop=0:log-level=none"}),
    "hevc_open.mp4": ("libx265", {"x265-params": "keyint=24:open-gop=1:bframes=4:log-level=none"}),
    "part4.mp4": ("mpeg4", {"g": "12", "bf": "2", "q": "2"}),
    "matroska.mkv": ("libx264", {"g": "30", "bf": "2"}),
    "old.avi": ("mpeg4", {"g": "12", "q": "2"}),
    "stream.ts": ("libx264", {"g": "30", "bf": "2"}),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, (codec, options) in FORMATS.items():
        write_video(folder / name, 130, SIZE, codec=codec, options=options)
    return folder


@pytest.mark.parametrize("name", FORMATS)
def test_every_frame_is_the_one_asked_for(videos: Path, name: str) -> None:
    with VideoReader(videos / name) as video:
        assert (video.frame_count, video.fps, video.size_hw) == (130, 30, SIZE)
        found = dict(video.read(range(130)))
        assert sorted(found) == list(range(130))
        assert {n: read_number(image) for n, image in found.items()} == {n: n for n in range(130)}
        draw = random.Random(4)
        for _ in range(12):
            some = draw.sample(range(130), draw.choice([1, 2, 5]))
            assert {n: read_number(image) for n, image in video.read(some)} == {n: n for n in some}


@pytest.mark.parametrize("name", ["b_frames.mp4", "open.mp4", "matroska.mkv"])
def test_a_dropped_frame_shifts_nothing(tmp_path: Path, name: str) -> None:
    codec, options = FORMATS[name]
    write_video(tmp_path / name, 130, SIZE, codec=codec, options=options, drop=[40, 41, 77])
    with VideoReader(tmp_path / name) as video:
        for number, image in video.read(range(130)):
            if number in (40, 41, 77):
                assert isinstance(image, VideoError)
                assert "no image at its time" in str(image)
            else:
                assert read_number(image) == number


@pytest.mark.parametrize("name", ["closed.mp4", "b_frames.mp4", "open.mp4", "matroska.mkv"])
def test_a_variable_rate_loses_nothing(tmp_path: Path, name: str) -> None:
    """128 images in ten seconds, most of them 0.1 seconds apart: numbers are those of the images, not of tenths."""
    codec, options = FORMATS[name]
    times = np.cumsum([0, *(100 if n % 3 else 37 for n in range(127))]).tolist()
    write_video(tmp_path / name, 128, SIZE, codec=codec, options=options, times_ms=times)
    with VideoReader(tmp_path / name) as video:
        assert (video.frame_count, video.is_variable, 127 in video, 128 in video) == (128, True, True, False)
        assert {n: read_number(image) for n, image in video.read(range(128))} == {n: n for n in range(128)}
        assert {n: read_number(image) for n, image in video.read([127, 3, 64])} == {n: n for n in (3, 64, 127)}
        assert video.duration_s == pytest.approx((times[-1] / 127 + times[-1]) / 1000, abs=0.001)
        assert [video.number_at(s) for s in (0, 0.036, 0.087, 0.088, 1.0)] == [0, 1, 1, 2, 13]
        assert [times[n] for n in (1, 2, 13)] == [37, 137, 985]
        with pytest.raises(VideoError, match="has no frame 128; found 128 frames"):
            video.frame(128)


def test_no_image_is_near_a_gap_of_a_variable_rate(tmp_path: Path) -> None:
    times = [0, 33, 70, 100, 3000, 3020, 3060]
    write_video(tmp_path / "gap.mp4", 7, SIZE, times_ms=times)
    with VideoReader(tmp_path / "gap.mp4") as video:
        assert [read_number(image) for _, image in video.read(range(7))] == list(range(7))
        assert [video.number_at(s) for s in (0.1, 0.11, 0.2, 1.5, 2.99, 3.0)] == [3, 3, None, None, 4, 4]
        assert video.number_at(0.2, within_s=0.101) == 3


def test_a_constant_rate_that_the_file_calls_another(tmp_path: Path) -> None:
    """Every interval is rounded to 33 ms: 1000 / 33 frames a second, which drifts away from 30."""
    write_video(tmp_path / "rounded.mkv", 130, SIZE, times_ms=range(0, 33 * 130, 33), drop=[40])
    with VideoReader(tmp_path / "rounded.mkv") as video:
        assert (video.fps, video.is_variable, video.frame_count) == (Fraction(1000, 33), False, 130)
        found = dict(video.read(range(130)))
        assert isinstance(found.pop(40), VideoError)
        assert {n: read_number(image) for n, image in found.items()} == {n: n for n in range(130) if n != 40}


def test_images_by_time_at_a_constant_rate(tmp_path: Path) -> None:
    write_video(tmp_path / "slow.mp4", 20, SIZE, rate=15, drop=[7])
    with VideoReader(tmp_path / "slow.mp4") as video:
        assert (video.fps, video.is_variable, video.start_s, video.frame_count) == (15, False, 0, 20)
        assert [video.number_at(Fraction(n, 30)) for n in (0, 1, 2, 3, 38, 39, 40)] == [0, 0, 1, 1, 19, 19, None]
        with pytest.raises(VideoError, match="no image at its time"):
            video.frame(7)


def test_frames_count_from_the_first_image(tmp_path: Path) -> None:
    """A video whose clock does not start at zero: frame 0 is the first image all the same."""
    write_video(tmp_path / "late.mkv", 40, SIZE, start=75)
    with VideoReader(tmp_path / "late.mkv") as video:
        assert (video.frame_count, video.start_s) == (40, 2.5)
        assert [read_number(video.frame(n)) for n in (0, 1, 30, 39)] == [0, 1, 30, 39]


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_turned_videos_are_shown_upright(tmp_path: Path, degrees: int) -> None:
    write_video(tmp_path / "plain.mp4", 3, SIZE)
    write_video(tmp_path / "turned.mp4", 3, SIZE, rotation=degrees)
    with VideoReader(tmp_path / "plain.mp4") as plain, VideoReader(tmp_path / "turned.mp4") as turned:
        # A positive display rotation is counter-clockwise, as numpy's rot90 is.
        expected = np.rot90(plain.frame(2), degrees // 90)
        assert turned.size_hw == expected.shape[:2]
        assert np.array_equal(turned.frame(2), expected)


def test_beyond_the_end(videos: Path) -> None:
    with VideoReader(videos / "closed.mp4") as video:
        assert 129 in video
        assert 130 not in video
        assert "x" not in video
        with pytest.raises(VideoError, match=r"has no frame 130; found 130 frames"):
            video.frame(130)
        good = [n for n, image in video.read([500, 0, 129]) if not isinstance(image, VideoError)]
        assert good == [0, 129]
        for bad in (-1, 1.5, True, "3"):
            with pytest.raises(InputError, match="integers of 0 or more"):
                list(video.read([bad]))


@pytest.mark.parametrize("name", FORMATS)
def test_images_are_those_of_a_plain_decoding(videos: Path, name: str) -> None:
    """Bit for bit, whatever was skipped on the way."""
    import av

    with av.open(str(videos / name)) as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with VideoReader(videos / name) as video:
        for step in (1, 7, 30):
            for number, image in video.read(range(0, 130, step)):
                assert np.array_equal(image, plain[number]), (step, number)


def test_same_bytes_every_time(videos: Path) -> None:
    with VideoReader(videos / "long.mp4", threads=1) as one, VideoReader(videos / "long.mp4", threads=4) as many:
        first = {n: image.tobytes() for n, image in one.read(range(0, 130, 13))}
        again = {n: image.tobytes() for n, image in many.read(range(129, -1, -1))}
    assert all(again[n] == image for n, image in first.items())


def test_damage_is_reported_and_costs_no_other_frame(tmp_path: Path, videos: Path) -> None:
    """Overwrite the packet of frame 45 (groups 0-29, 30-59, …): 0 to 44 and 60 on stay good, 45 is reported."""
    import av

    with av.open(str(videos / "closed.mp4")) as container:
        packets = {round(p.pts * p.time_base * 30): (p.pos, p.size) for p in container.demux(video=0) if p.size}
    path = tmp_path / "damaged.mp4"
    shutil.copy(videos / "closed.mp4", path)
    position, size = packets[45]
    with path.open("r+b") as handle:
        handle.seek(position + 4)
        handle.write(b"\x00" * (size - 4))
    with VideoReader(path) as video:
        found = dict(video.read(range(130)))
    for number in [*range(45), *range(60, 130)]:
        assert not isinstance(found[number], VideoError), found[number]
        assert read_number(found[number]) == number
    assert isinstance(found[45], VideoError)
    assert "damaged" in str(found[45])


def test_damage_that_decoders_conceal_is_reported_too(tmp_path: Path, videos: Path) -> None:
    """Spoil the second half of one image's data. By default FFmpeg conceals that and reports nothing."""
    import av

    def packet(container: av.container.InputContainer) -> tuple[int, int]:
        return next((p.pos, p.size) for p in container.demux(video=0) if round(p.pts * p.time_base * 30) == 60)

    path = tmp_path / "spoilt.mp4"
    shutil.copy(videos / "closed.mp4", path)
    with av.open(str(path)) as container:
        position, size = packet(container)
    with path.open("r+b") as handle:
        handle.seek(position + size // 2)
        handle.write(bytes(7 * i % 251 + 1 for i in range(size // 3)))
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 130
    with VideoReader(path) as video:
        found = dict(video.read(range(130)))
    # The frames up to the next keyframe build on it, and would be shown with its damage.
    assert {n for n, image in found.items() if isinstance(image, VideoError)} == set(range(60, 90))
    assert all(read_number(found[n]) == n for n in [*range(60), *range(90, 130)])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes in /proc")
@pytest.mark.parametrize("b_frames", ["0", "2"])
def test_only_the_requested_groups_are_read(tmp_path: Path, b_frames: str) -> None:
    """One group of six is wanted, and of it the keyframe alone."""

    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])

    path = tmp_path / "noisy.mp4"
    write_video(path, 180, (180, 320), options={"preset": "ultrafast", "g": "30", "bf": b_frames}, noise=60)
    size = path.stat().st_size
    assert size > 2_000_000
    with VideoReader(path) as video:
        before = bytes_read()
        assert read_number(video.frame(120)) == 120
        assert bytes_read() - before < size / 40


def test_cut_off_video(tmp_path: Path) -> None:
    """Matroska can be read as far as it goes; MP4 without its index cannot be opened."""
    for name in ("cut.mkv", "cut.mp4"):
        write_video(tmp_path / name, 130, SIZE)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    with VideoReader(tmp_path / "cut.mkv") as video:
        assert 20 < video.frame_count < 110
        assert read_number(video.frame(15)) == 15
    with pytest.raises(VideoError, match=r"cut\.mp4: cannot be opened as a video"):
        VideoReader(tmp_path / "cut.mp4")


def test_what_is_not_a_video(tmp_path: Path, videos: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    # Playlists would make the decoder open other files and addresses.
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{videos / 'closed.mp4'}'\n")
    (tmp_path / "stream.mp4").write_text("#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:5,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
    for name in ("empty.mp4", "text.mp4", "list.mp4", "stream.mp4"):
        with pytest.raises(VideoError, match=f"{name}: cannot be opened as a video"):
            VideoReader(tmp_path / name)
    with pytest.raises(VideoError, match="no such file"):
        VideoReader(tmp_path / "missing.mp4")
    with pytest.raises(VideoError, match="is a folder"):
        VideoReader(tmp_path)


def test_sound_alone(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="has no images"):
        VideoReader(tmp_path / "sound.mp4")


def test_versions_of_pyav_without_metadata_errors_open_files_too(tmp_path, monkeypatch):
    """PyAV 19 has no such argument any more."""
    path = tmp_path / "v.mp4"
    encode_video(path, [np.full((32, 48, 3), 40 * k, np.uint8) for k in range(4)], 10)
    original = av.open

    def newer(file, *, options=None, mode="r"):
        return original(file, options=options, mode=mode)

    monkeypatch.setattr("counterview.media.video_source.av.open", newer)
    with VideoReader(path) as video:
        assert video.frame_count == 4
