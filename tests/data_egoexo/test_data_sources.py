"""Cameras of takes by time, and what a user types for a source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterview.data.open import open_dataset
from counterview.data.prepare.prepare import prepare_release
from counterview.data.sources import find_take, open_source, take_source
from counterview.errors import InputError, VideoError
from counterview.media.sources import ArrayFrames, FolderFrames, VideoFrames
from counterview.media.timeline import plan_times
from tests.data_egoexo.release_maker import EGO, EXO, SIZES, TakeSpec, make_release, numbered, read_number, write_video


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "release"
    return make_release(root, [TakeSpec("u-1", "tea_1", 70), TakeSpec("u-2", "tea_2", 40)])


@pytest.fixture(scope="module")
def prepared(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepare_release(release, out, splits=("val",))
    return out


@pytest.mark.parametrize("place", ["takes/tea_1", "tea_1", "u-1"])
def test_a_camera_of_a_release_has_all_frames_of_its_video(release, place):
    with open_source(f"{release}/{place}:{EXO}") as source:
        assert (source.name, source.fps, source.frame_count, source.size_hw) == (EXO, 30.0, 70, SIZES[EXO])
        assert source.sound == (release / "takes/tea_1/frame_aligned_videos" / f"{EXO}.mp4", 0.0)
        found = [(f.number, read_number(f.image)) for _, f in source.read([0.0, 1.0, 1.02, 2.3]) if f is not None]
        assert found == [(0, 0), (30, 30), (31, 31), (69, 69)]
        assert [source.frame_at(t) for t in (-0.02, 2.35)] == [None, None]
        assert source.frame_at(1.0).time_s == 1.0


def test_a_video_of_another_rate_is_read_by_the_clock_of_the_take(release, tmp_path):
    root = make_release(tmp_path / "r", [TakeSpec("u", "t", 91)])
    write_video(root / "takes/t/frame_aligned_videos" / f"{EXO}.mp4", 45, SIZES[EXO], rate=15)
    take = open_dataset(root).takes[0]
    with take_source(take, EGO) as query, take_source(take, EXO, name="left") as target:
        assert (target.name, target.fps) == ("left", 30.0)
        timeline = plan_times(query, {"left": target}, fps=2)
        both = 0
        for step, images in timeline.read({query.name: query, "left": target}):
            assert read_number(images[query.name].image) == round(30 * step.time_s)
            if images["left"] is not None:
                assert abs(read_number(images["left"].image) - 15 * step.time_s) <= 0.5
                assert images["left"].number == images[query.name].number
                both += 1
        assert both == 6  # at 3 s it has ended
        assert [(n, read_number(f.image)) for n, f in target.read_numbers([10, 11, 12])] == [(10, 5), (11, 5), (12, 6)]


def test_a_prepared_take_has_the_images_that_were_prepared(prepared):
    with open_source(f"{prepared}/u-1:{EGO}") as source:
        assert list(source.numbers) == [0, 30, 60]
        assert [None if f is None else f.number for _, f in source.read([0.0, 0.4, 0.6, 2.0, 2.4, 2.6])] == [
            0, 0, 30, 60, 60, None,
        ]  # fmt: skip
        assert (source.time_of(60), source.sound) == (2.0, None)
        assert source.frame_at(1.0).image.shape == (*source.size_hw, 3)
    assert find_take(f"{prepared}/tea_2").uid == "u-2"
    assert take_source(find_take(f"{prepared}/u-1"), EXO).name == EXO


def test_what_is_no_source_is_one_line(release, prepared, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no video")
    Image.fromarray(numbered(0, (48, 96))).save(tmp_path / "a.png")
    for text, error, message in (
        (tmp_path / "none.mp4", InputError, "is neither a video, nor a folder of images, nor TAKE:camera; found"),
        (tmp_path / "empty", InputError, "is a folder without images; expected a video, a folder of images, or"),
        (tmp_path / "text.txt", VideoError, "cannot be opened as a video"),
        (tmp_path / "a.png", VideoError, "is one image"),
        (f"{tmp_path}/a/b/c/none:cam01", InputError, "is not a take; expected a data set"),
        (f"{release}:cam01", InputError, "which take?; found 2 takes; expected u-1, u-2"),
        (release, InputError, "is a folder without images"),
        (f"{release}/takes/tea_1", InputError, f"is take u-1: which camera?; expected {release}/takes/tea_1:{EGO}"),
        (f"{release}/tea_3:cam01", InputError, "no take 'tea_3'. Did you mean 'tea_"),
        (f"{release}/tea_1:cam09", InputError, f"take u-1 has no camera 'cam09'; expected {EGO}, {EXO}, gp02"),
        (f"{prepared}/u-1", InputError, "is take u-1: which camera?"),
        (f"{release}/tea_1:", InputError, "is neither a video"),
    ):  # fmt: skip
        with pytest.raises(error) as caught:
            open_source(text)
        assert message in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)


def test_two_takes_of_one_name_are_not_guessed(tmp_path):
    root = make_release(tmp_path / "r", [TakeSpec("u-1", "a", 31), TakeSpec("u-2", "b", 31)])
    listed = json.loads((root / "takes.json").read_text())
    listed[1]["take_name"] = "a"
    (root / "takes.json").write_text(json.dumps(listed))
    with pytest.raises(InputError, match=r"2 takes have the name 'a'; found u-1, u-2\. Write the uid"):
        open_source(f"{root}/a:{EXO}")
    assert find_take(f"{root}/u-1").uid == "u-1"


def test_a_data_set_with_one_take_needs_no_name_of_it(tmp_path, monkeypatch):
    make_release(tmp_path / "r", [TakeSpec("u-1", "a", 31)])
    monkeypatch.chdir(tmp_path)
    with open_source(f"r:{EXO}") as source:
        assert source.frame_count == 31
    with pytest.raises(InputError, match="is take u-1: which camera"):
        open_source("r")


def test_what_exists_decides(tmp_path):
    write_video(tmp_path / "a:b.mp4", 3, (48, 96))
    (tmp_path / "frames").mkdir()
    Image.fromarray(numbered(0, (48, 96))).save(tmp_path / "frames" / "1.png")
    arrays = ArrayFrames(np.zeros((2, 8, 8, 3), np.uint8), 5)
    assert isinstance(open_source(tmp_path / "a:b.mp4"), VideoFrames)
    assert isinstance(open_source(f"{tmp_path}/frames@5"), FolderFrames)
    assert open_source(tmp_path / "frames", fps=4, name="left").name == "left"
    assert open_source(arrays) is arrays
    with pytest.raises(InputError, match="a rate in frames a second"):
        open_source(tmp_path / "frames")
