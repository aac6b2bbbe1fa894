"""Containers and their metadata. The oracle is burned into the images: each carries its own frame number."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterview.errors import VideoError
from counterview.media.encode import write_video as write_faststart
from counterview.media.images import TURNS
from counterview.media.video import VideoReader
from tests.data_egoexo.release_maker import numbered, read_number, write_video

SIZE = (96, 192)
OPEN_GOP = {"bf": "3", "x264-params": "open-gop=1:keyint=24:b-pyramid=normal:log-level=none"}
CONTAINERS = {
    "mpeg2.ts": ("mpeg2video", {"g": "12", "bf": "2"}),
    "h264.ts": ("libx264", {"g": "30", "bf": "2"}),
    "open.m2ts": ("libx264", OPEN_GOP),
    "hevc.ts": ("libx265", {"x265-params": "keyint=24:open-gop=1:bframes=4:log-level=none"}),
    "mpeg1.mpg": ("mpeg1video", {"g": "12", "bf": "2"}),
    "mpeg2.mpg": ("mpeg2video", {"g": "12", "bf": "2"}),
    "mpeg2.vob": ("mpeg2video", {"g": "12", "bf": "2"}),
    "h264.mpg": ("libx264", {"g": "30", "bf": "2"}),
    "part4.avi": ("mpeg4", {"g": "12", "bf": "2", "q": "2"}),
    "mpeg2.mkv": ("mpeg2video", {"g": "12", "bf": "2"}),
    "vp8.ogg": ("libvpx", {"g": "20"}),
}


@pytest.mark.parametrize(("frames", "noise"), [(130, 0), (200, 90)])
@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_is_read_exactly(tmp_path: Path, name: str, frames: int, noise: int) -> None:
    codec, options = CONTAINERS[name]
    write_video(tmp_path / name, frames, SIZE, codec=codec, options=options, noise=noise)
    with VideoReader(tmp_path / name) as video:
        assert (video.frame_count, video.fps, video.size_hw, video.is_variable) == (frames, 30, SIZE, False)
        assert {n: read_number(image) for n, image in video.read(range(frames))} == {n: n for n in range(frames)}
        for some in ([frames - 1], [3, 60, 61], [0], [97]):  # back and forth
            assert {n: read_number(image) for n, image in video.read(some)} == {n: n for n in some}
        assert video.frame(7).flags.writeable
        assert video.frame(7).flags.c_contiguous
        with pytest.raises(VideoError, match=f"has no frame {frames}; found {frames} frames"):
            video.frame(frames)


@pytest.mark.parametrize("name", ["h264.mpg", "mpeg2.mpg"])
def test_damage_in_a_file_without_times_is_an_error(tmp_path: Path, name: str) -> None:
    codec, options = CONTAINERS[name]
    write_video(tmp_path / name, 130, SIZE, codec=codec, options=options, noise=60)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
    with VideoReader(tmp_path / name) as video:
        found = dict(video.read(range(130)))
    read = [n for n, image in found.items() if not isinstance(image, VideoError)]
    assert 15 < len(read) < 110
    assert all(read_number(found[n]) == n for n in read)


@pytest.mark.parametrize("b_frames", ["0", "2"])
@pytest.mark.parametrize("skipped", [15, 1, 30, 47])
def test_images_before_an_edit_list_are_not_counted(tmp_path: Path, b_frames: str, skipped: int) -> None:
    path = tmp_path / "edited.mp4"
    write_video(path, 90, SIZE, options={"g": "30", "bf": b_frames})
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    duration, start = struct.unpack_from(">Ii", data, at)
    struct.pack_into(">Ii", data, at, duration * (90 - skipped) // 90, start + skipped * 512)  # 15360 units a second
    path.write_bytes(data)
    with VideoReader(path) as video:
        assert (video.frame_count, video.start_s) == (90 - skipped, 0)
        assert [read_number(image) for _, image in sorted(video.read(range(90 - skipped)))] == [*range(skipped, 90)]


def test_a_cut_faststart_file_yields_errors(tmp_path: Path) -> None:
    write_faststart(tmp_path / "whole.mp4", [numbered(n, SIZE) for n in range(100)], 30)
    data = (tmp_path / "whole.mp4").read_bytes()
    start = data.index(b"mdat")
    for length in (start + 4, start + 40, start + 900, len(data) // 2, len(data) - 20):
        path = tmp_path / "cut.mp4"
        path.write_bytes(data[:length])
        with VideoReader(path) as video:
            assert (video.frame_count, video.size_hw) == (100, SIZE)
            found = dict(video.read(range(100)))
        failed = [n for n, image in found.items() if isinstance(image, VideoError)]
        assert failed
        assert all("cut.mp4" in str(found[n]) for n in failed)
        assert all(read_number(found[n]) == n for n in set(found) - set(failed))
        assert length < len(data) - 20 or len(failed) < 10


def with_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """Write a display matrix into the ``tkhd`` box: ``x' = a x + c y``, ``y' = b x + d y``."""
    data = bytearray(path.read_bytes())
    content = data.index(b"tkhd") + 4
    at = content + (52 if data[content] else 40)
    fixed = [round(v * 65536) for v in (a, b, c, d)]
    struct.pack_into(">9i", data, at, fixed[0], fixed[1], 0, fixed[2], fixed[3], 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("swap", "sx", "sy"), list(itertools.product((False, True), (1, -1), (1, -1))))
def test_all_eight_display_matrices(tmp_path: Path, swap: bool, sx: int, sy: int) -> None:
    write_video(tmp_path / "plain.mp4", 3, SIZE)
    write_video(tmp_path / "turned.mp4", 3, SIZE)
    matrix = (0, sy, sx, 0) if swap else (sx, 0, 0, sy)
    with (
        VideoReader(tmp_path / "plain.mp4") as plain,
        VideoReader(with_matrix(tmp_path / "turned.mp4", *matrix)) as video,
    ):
        stored, turned = plain.frame(2), video.frame(2)
    # Each pixel of the stored image is moved by the matrix.
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    new_x, new_y = matrix[0] * x + matrix[2] * y, matrix[1] * x + matrix[3] * y
    expected = np.zeros((SIZE[1], SIZE[0], 3) if swap else (*SIZE, 3), np.uint8)
    expected[new_y - new_y.min(), new_x - new_x.min()] = stored
    assert video.size_hw == expected.shape[:2]
    assert np.array_equal(turned, expected)
    assert turned.flags.writeable
    assert turned.flags.c_contiguous


@pytest.mark.parametrize("matrix", [(0.866, 0.5, -0.5, 0.866), (0.707, 0.707, -0.707, 0.707), (1, 0.3, 0, 1)])
def test_other_angles_are_refused(tmp_path: Path, matrix: tuple[float, ...]) -> None:
    write_video(tmp_path / "a.mp4", 3, SIZE)
    with pytest.raises(VideoError, match=r"a\.mp4: its display matrix .* no multiple of 90 degrees; found .*ffmpeg"):
        VideoReader(with_matrix(tmp_path / "a.mp4", *matrix))


def test_the_turns_are_those_of_exif() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(4, 6)
    stored = Image.fromarray(image)
    assert np.array_equal(TURNS[6](image), np.asarray(stored.transpose(Image.Transpose.ROTATE_270)))
    assert np.array_equal(TURNS[8](image), np.asarray(stored.transpose(Image.Transpose.ROTATE_90)))
