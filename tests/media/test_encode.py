import numpy as np
import pytest

from counterview.errors import CounterviewError, ImageError, InputError
from counterview.media.encode import VideoWriter, write_video
from counterview.media.video import VideoReader
from counterview.types import View


def ramp(count, size_hw=(48, 64)):
    """Flat images whose brightness tells their number."""
    return [np.full((*size_hw, 3), 20 + 20 * i, np.uint8) for i in range(count)]


@pytest.mark.parametrize("size_hw", [(48, 64), (47, 65), (47, 64), (48, 65)])
def test_what_is_written_is_what_is_read(tmp_path, size_hw):
    frames = ramp(9, size_hw)
    assert write_video(tmp_path / "a" / "x.mp4", iter(frames), 5) == 9
    with VideoReader(tmp_path / "a" / "x.mp4") as video:
        assert video.frame_count == 9
        assert video.fps == 5
        assert video.size_hw == (size_hw[0] + size_hw[0] % 2, size_hw[1] + size_hw[1] % 2)
        for number, image in video.read(range(9)):
            assert abs(float(image[:40, :60].mean()) - (20 + 20 * number)) < 4
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.mp4"]


@pytest.mark.parametrize("size_hw", [(47, 64), (48, 65)])
def test_an_odd_side_is_padded_with_white_and_nothing_is_scaled(tmp_path, size_hw):
    height, width = size_hw
    write_video(tmp_path / "x.mp4", [np.full((*size_hw, 3), 40, np.uint8)])
    with VideoReader(tmp_path / "x.mp4") as video:
        image = video.frame(0)
    assert (image[:height, :width] < 100).all()
    assert (image[height:] > 160).all()
    assert (image[:, width:] > 160).all()


def test_the_same_images_give_the_same_bytes(tmp_path):
    write_video(tmp_path / "a.mp4", ramp(4), 30)
    write_video(tmp_path / "b.mp4", map(View, ramp(4)), 30)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_the_bytes_do_not_hang_on_what_was_in_memory(tmp_path):
    """x264 reads memory that it has not set, unless told not to."""
    frames, random = [], np.random.default_rng(0)
    for i in range(20):
        image = np.full((96, 208, 3), 90, np.uint8)
        image[2:26, i : i + 41] = (200, 30, 40)
        frames.append(image)
    versions = set()
    for _ in range(60):
        held = [random.bytes(int(size)) for size in random.integers(1_000, 200_000, 5)]
        write_video(tmp_path / "x.mp4", frames)
        versions.add((tmp_path / "x.mp4").read_bytes())
        del held
    assert len(versions) == 1


def test_bad_input_leaves_nothing(tmp_path):
    path = tmp_path / "x.mp4"
    for frames, error, part in (
        ([], InputError, "needs at least one frame"),
        ([*ramp(2), *ramp(1, (20, 20))], InputError, "differ in size"),
        ([np.zeros((4, 4), np.uint8)], ImageError, "not an RGB array"),
    ):
        with pytest.raises(error, match=part):
            write_video(path, frames)
    for options in ({"fps": 0}, {"fps": 30, "crf": 99}):
        with pytest.raises(InputError, match="out of range"):
            write_video(path, ramp(1), **options)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_writing_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((CounterviewError, OSError)):
        write_video(tmp_path / "file" / "x.mp4", ramp(1))

    def broken():
        yield ramp(1)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "y.mp4", broken())
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_image_by_image_gives_the_same_video_and_an_image_may_stand_for_several_frames(tmp_path):
    frames = list(ramp(4))
    write_video(tmp_path / "a.mp4", [f for f in frames for _ in range(3)], 12)
    with VideoWriter(tmp_path / "b.mp4", 12) as video:
        for frame in frames:
            video.add(frame, 3)
    assert video.count == 12
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_video_that_is_not_closed_leaves_what_was_there(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"earlier")
    with pytest.raises(ZeroDivisionError), VideoWriter(tmp_path / "a.mp4", 12) as video:
        video.add(next(iter(ramp(1))))
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"earlier"
