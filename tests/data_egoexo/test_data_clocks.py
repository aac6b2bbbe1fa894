"""Cameras with clocks of their own: the image at the time of the annotated frame, or none, never another one."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import pytest

from counterview.data.clips import clip_sources
from counterview.data.clock import TakeClock, VideoClock
from counterview.data.formats.release import ReleaseTake
from counterview.data.open import open_dataset
from counterview.data.pairs import enumerate_pairs
from counterview.data.prepare.prepare import prepare_release
from counterview.data.prepare.report import TakeReport
from counterview.errors import VideoError
from counterview.media.encode import write_video as encode
from counterview.media.images import read_image
from tests.data_egoexo.release_maker import (
    EGO,
    EXO,
    PORTRAIT,
    SIZES,
    TakeSpec,
    make_release,
    numbered,
    read_number,
    write_video,
)

FRAMES = (0, 30, 60, 90)


def video_of(release: Path, camera: str) -> Path:
    return release / "takes" / "n" / "frame_aligned_videos" / f"{camera}.mp4"


def replace(release: Path, camera: str, frames: int, fps: float) -> None:
    """Another video for a camera; its images carry their own numbers."""
    images = (numbered(number, SIZES[camera]) for number in range(frames))
    assert encode(video_of(release, camera), images, fps) == frames


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """One take of 91 frames, 3.03 seconds, annotated at 0, 1, 2 and 3 seconds."""
    return make_release(tmp_path / "release", [TakeSpec("u", "n", absent={})])


def prepared(release: Path, **settings: object) -> tuple[TakeReport, Path]:
    out = release.parent / "out"
    return prepare_release(release, out, splits=["val"], **settings).takes[0], out  # type: ignore[arg-type]


def images_of(out: Path, camera: str) -> dict[int, int]:
    """The number that each prepared image carries, by the number that it is filed under."""
    return {int(path.stem): read_number(read_image(path)) for path in sorted((out / "u" / camera).glob("*.jpg"))}


def test_each_camera_is_read_at_the_time_of_the_annotation(release: Path) -> None:
    """60 and 15 frames a second beside 30: frame 30 is the time of 1 s, so image 60 of one and 15 of the other."""
    replace(release, EXO, 182, 60)
    replace(release, PORTRAIT, 46, 15)
    take = open_dataset(release, "val").takes[0]
    assert {frame: read_number(take.frame(EXO, frame)) for frame in FRAMES} == {0: 0, 30: 60, 60: 120, 90: 180}
    assert {frame: read_number(take.frame(PORTRAIT, frame)) for frame in FRAMES} == {0: 0, 30: 15, 60: 30, 90: 45}
    assert [read_number(take.frame(EGO, frame)) for frame in FRAMES] == list(FRAMES)
    # Between the annotated frames: exact where the rates divide, else the nearest image, the earlier one of two.
    assert [read_number(take.frame(EXO, frame)) for frame in (1, 31, 45)] == [2, 62, 90]
    assert [read_number(take.frame(PORTRAIT, frame)) for frame in (31, 32, 33)] == [15, 16, 16]

    report, out = prepared(release)
    assert images_of(out, EXO) == {0: 0, 30: 60, 60: 120, 90: 180}
    assert images_of(out, PORTRAIT) == {0: 0, 30: 15, 60: 30, 90: 45}
    assert report.status == "prepared"
    facts = {camera: (c.fps, c.found_by, c.start_s, c.duration_s) for camera, c in report.cameras.items()}
    assert facts == {
        EGO: (30.0, "number", 0.0, 3.0333),
        EXO: (60.0, "time", 0.0, 3.0333),
        PORTRAIT: (15.0, "time", 0.0, 3.0667),
    }
    assert f"camera {EXO}: the video has 60 frames/s: frame n of the annotation is its image at n/30 s" in report.notes
    for direction in ("ego2exo", "exo2ego"):
        assert len(enumerate_pairs(open_dataset(out), direction)) == len(enumerate_pairs([take], direction)) == 16


@pytest.mark.parametrize(("fps", "expected"), [(25, [0, 25, 50, 75]), (24, [0, 24, 48, 72]), (50, [0, 50, 100, 150])])
def test_rates_that_do_not_divide(release: Path, fps: int, expected: list[int]) -> None:
    replace(release, EXO, round(91 / 30 * fps) + 1, fps)
    take = open_dataset(release, "val").takes[0]
    assert [read_number(take.frame(EXO, frame)) for frame in FRAMES] == expected
    assert read_number(take.frame(EXO, 31)) == round(31 * fps / 30)
    _, out = prepared(release)
    assert list(images_of(out, EXO).values()) == expected


def test_an_ego_camera_of_another_rate(release: Path) -> None:
    """The rate of the annotation is the reference, whichever camera has it; one image per second is 30 frames apart."""
    replace(release, EGO, 182, 60)
    report, out = prepared(release, every_second=True)
    assert images_of(out, EGO) == {0: 0, 30: 60, 60: 120, 90: 180}
    assert images_of(out, EXO) == {0: 0, 30: 30, 60: 60, 90: 90}
    assert json.loads((out / "u" / "annotation.json").read_text())["subsample_idx"] == list(FRAMES)
    assert (report.status, report.cameras[EGO].found_by) == ("prepared", "time")


def test_another_rate_and_another_duration_cannot_be_reconciled(release: Path) -> None:
    """As many images as the others at twice the rate: the same images, or half of the time? Neither is assumed."""
    replace(release, EXO, 91, 60)
    take = open_dataset(release, "val").takes[0]
    assert not any(take.has_frame(EXO, frame) for frame in FRAMES)
    assert all(take.has_frame(camera, frame) for camera in (EGO, PORTRAIT) for frame in FRAMES)
    reason = f"the video has 60 frames/s for 1.517 s, that of {EGO} 30 frames/s for 3.033 s"
    with pytest.raises(VideoError, match=reason):
        take.frame(EXO, 30)
    assert any(reason in line for line in take.problems)
    assert {p.target_camera for p in enumerate_pairs([take], "ego2exo")} == {PORTRAIT}
    assert {s.target_camera for s in clip_sources([take], "ego2exo", length=2)} == {PORTRAIT}

    report, out = prepared(release)
    assert (report.status, report.cameras[EXO].status, report.cameras[EXO].frames) == ("partial", "skipped", 0)
    assert reason in report.cameras[EXO].problems[0]
    assert images_of(out, EXO) == {}
    assert images_of(out, PORTRAIT) == {0: 0, 30: 30, 60: 60, 90: 90}
    assert {p.target_camera for p in enumerate_pairs(open_dataset(out), "ego2exo")} == {PORTRAIT}
    assert prepare_release(release, out, splits=["val"]).done_before == 1


def test_an_ego_camera_that_cannot_be_reconciled_leaves_no_pairs(release: Path) -> None:
    replace(release, EGO, 91, 60)
    take = open_dataset(release, "val").takes[0]
    assert len(enumerate_pairs([take], "ego2exo")) == 0
    report, out = prepared(release)
    assert report.status == "damaged"
    assert f"that of {EXO} 30 frames/s for 3.033 s" in report.cameras[EGO].problems[0]
    assert not (out / "u" / "annotation.json").exists()


@pytest.mark.parametrize("rate", [30, 60])
def test_another_start_cannot_be_reconciled(release: Path, rate: int) -> None:
    """The first image is shown 2.5 seconds after those of the others."""
    write_video(video_of(release, EXO), 91 * rate // 30, SIZES[EXO], rate=rate, start=75 * rate // 30)
    take = open_dataset(release, "val").takes[0]
    assert not any(take.has_frame(EXO, frame) for frame in FRAMES)
    with pytest.raises(VideoError, match=f"the video starts at 2.5 s, that of {EGO} at 0 s"):
        take.frame(EXO, 0)
    report, out = prepared(release)
    assert (report.cameras[EXO].status, report.cameras[EXO].start_s, images_of(out, EXO)) == ("skipped", 2.5, {})


def test_reordered_images_are_no_late_start(release: Path) -> None:
    """Matroska keeps the two frames by which an encoder of B-frames delays the first image."""
    for camera, start in ((EGO, 0), (EXO, 2)):
        write_video(video_of(release, camera), 91, SIZES[camera], options={"bf": "3"}, start=start)
    take = open_dataset(release, "val").takes[0]
    assert [read_number(take.frame(EXO, frame)) for frame in FRAMES] == list(FRAMES)


def test_a_shorter_video_of_the_same_rate_keeps_what_it_has(release: Path) -> None:
    """The frames before its end agree in rate and start; those after it are reported, by time as well."""
    replace(release, EXO, 50, 30)
    report, out = prepared(release)
    assert (images_of(out, EXO), report.cameras[EXO].beyond_end) == ({0: 0, 30: 30}, [60, 90])
    assert any("30 frames/s for 1.667 s" in note for note in report.notes)
    replace(release, EXO, 176, 60)  # 0.1 s shorter than the others: within the tolerance
    report, out = prepared(release)
    assert images_of(out, EXO) == {0: 0, 30: 60, 60: 120}
    assert report.cameras[EXO].beyond_end == [90]
    assert "the video ends at frame 87: 1 of 4 frames are after it" in report.cameras[EXO].problems[0]


def test_a_variable_rate_is_read_by_time(release: Path) -> None:
    """128 images at irregular times. The image of each annotated frame is the one shown at its time."""
    steps = [20, 17, 33, 25]
    times = [sum(steps[k % 4] for k in range(n)) for n in range(128)]  # 0 to 3.01 s
    write_video(video_of(release, EXO), 128, SIZES[EXO], times_ms=times)
    expected = {f: min(range(128), key=lambda n: abs(times[n] - f * 1000 / 30)) for f in FRAMES}
    take = open_dataset(release, "val").takes[0]
    assert {f: read_number(take.frame(EXO, f)) for f in FRAMES} == expected
    assert max(abs(times[n] - f * 1000 / 30) for f, n in expected.items()) <= 1000 / 60
    report, out = prepared(release)
    assert images_of(out, EXO) == expected
    assert report.cameras[EXO].variable_rate
    assert any("a variable rate of 42.12 frames/s" in note for note in report.notes)


def test_a_time_without_an_image_is_left_out(release: Path) -> None:
    """The video shows nothing between 0.9 and 1.5 seconds."""
    times = [t for t in range(0, 3040, 40) if not 900 < t < 1500]
    times = [t + 13 * (k % 3) for k, t in enumerate(times)]  # a variable rate
    write_video(video_of(release, EXO), len(times), SIZES[EXO], times_ms=times)
    take = open_dataset(release, "val").takes[0]
    assert [frame for frame in FRAMES if take.has_frame(EXO, frame)] == [0, 60, 90]
    with pytest.raises(VideoError, match="no image at the time of frame 30"):
        take.frame(EXO, 30)
    report, out = prepared(release)
    assert (sorted(images_of(out, EXO)), report.cameras[EXO].damaged_frames) == ([0, 60, 90], [30])


def test_no_camera_has_the_rate_of_the_annotation(release: Path) -> None:
    """By the release's convention frame 30 is one second; other data say so."""
    for camera in (EGO, EXO, PORTRAIT):
        replace(release, camera, 76, 25)
    report, out = prepared(release)
    assert images_of(out, EXO) == {0: 0, 30: 25, 60: 50, 90: 75}
    assert any("give their rate as the annotation's" in note for note in report.notes)
    prepare_release(release, release.parent / "own", splits=["val"], annotation_fps=25)
    assert images_of(release.parent / "own", EXO) == {0: 0, 30: 30, 60: 60}
    take = open_dataset(release, "val", annotation_fps=25).takes[0]
    assert read_number(take.frame(EXO, 30)) == 30


ALL = {"aria01_214-1": VideoClock(30, 0, 600)}


@pytest.mark.parametrize(
    ("clock", "lookup"),
    [
        (VideoClock(30, 0, 600), "number"),
        (VideoClock(30, 0.07, 600), "number"),
        (VideoClock(30, 0.2, 600), None),
        (VideoClock(30, 0, 300), "number"),  # ends early
        (VideoClock(30000 / 1001, 0, 600.6), "number"),  # the same 18,000 frames, called 29.97
        (VideoClock(30000 / 1001, 0, 600.0), "time"),  # the same ten minutes
        (VideoClock(60, 0, 600.3), "time"),
        (VideoClock(60, 0, 601), None),
        (VideoClock(15, 0, 600), "time"),
        (VideoClock(31, 0, 600, is_variable=True), "time"),
        (VideoClock(31, 0, 500, is_variable=True), None),
    ],
)
def test_how_frames_are_found(clock: VideoClock, lookup: str | None) -> None:
    take = TakeClock({**ALL, "cam01": clock})
    assert take.lookup("aria01_214-1") == "number"
    assert take.lookup("cam01") == lookup
    assert ("cam01" in take.problems) == (lookup is None)


def test_all_cameras_at_29_97() -> None:
    """A take of the same slightly different rate everywhere is read by number: nothing drifts."""
    take = TakeClock({camera: VideoClock(30000 / 1001, 0, 600.6) for camera in ("aria01_214-1", "cam01", "cam02")})
    assert {take.lookup(camera) for camera in take.clocks} == {"number"}
    assert (take.problems, take.notes) == ({}, {})
    assert Fraction(30) == take.fps


def test_images_that_an_earlier_version_found_by_number_are_replaced(release: Path) -> None:
    replace(release, EXO, 182, 60)
    _, out = prepared(release)
    record_path = out / ".counterview" / "takes" / "u.json"
    record = json.loads(record_path.read_text())
    del record["clocks"]
    for camera in record["report"]["cameras"].values():
        for key in ("fps", "start_s", "duration_s", "found_by", "notes"):
            camera.pop(key, None)
    record_path.write_text(json.dumps(record))
    shutil.copy(out / "u" / EXO / "0.jpg", out / "u" / EXO / "30.jpg")
    before = (out / "u" / EGO / "30.jpg").stat().st_mtime_ns
    prepared(release)
    assert images_of(out, EXO) == {0: 0, 30: 60, 60: 120, 90: 180}
    assert (out / "u" / EGO / "30.jpg").stat().st_mtime_ns == before  # found by number in every version


def test_takes_of_an_earlier_version_outlive_their_videos(release: Path) -> None:
    """Nothing is known of the clocks of videos that are gone: their images stay."""
    _, out = prepared(release)
    path = out / ".counterview" / "takes" / "u.json"
    record = json.loads(path.read_text())
    del record["clocks"]
    for camera in record["report"]["cameras"].values():
        for key in ("fps", "start_s", "duration_s", "found_by"):
            camera.pop(key)
    path.write_text(json.dumps(record))
    shutil.rmtree(release / "takes")
    report = prepare_release(release, out, splits=["val"], height="full").takes[0]
    assert (report.status, images_of(out, EXO)) == ("prepared", {0: 0, 30: 30, 60: 60, 90: 90})
    assert prepare_release(release, out, splits=["val"], height="full").done_before == 1


def test_clocks_of_deleted_videos_are_remembered(release: Path) -> None:
    """The videos of the exo cameras were deleted; then the ego video is replaced by one that does not fit them."""
    replace(release, EXO, 182, 60)
    _, out = prepared(release)
    for camera in (EXO, PORTRAIT):
        video_of(release, camera).unlink()
    assert prepare_release(release, out, splits=["val"]).done_before == 1
    write_video(video_of(release, EGO), 91, SIZES[EGO], first=7)
    report, _ = prepared(release)
    assert (report.status, report.cameras[EXO].fps, report.cameras[EXO].found_by) == ("prepared", 60.0, "time")
    assert images_of(out, EXO) == {0: 0, 30: 60, 60: 120, 90: 180}
    replace(release, EGO, 91, 60)
    report, _ = prepared(release)
    assert report.cameras[EGO].status == "skipped"


def test_more_cameras_than_stay_open(tmp_path: Path) -> None:
    """A reader that is handed out must not have been closed to make room for the others."""
    cameras = (EGO, *(f"cam{n:02d}" for n in range(8)))
    entry = {"take_name": "n", "object_masks": {"cup": {camera: {"annotation": {}} for camera in cameras}}}
    for camera in cameras:
        path = tmp_path / "takes" / "n" / "frame_aligned_videos" / f"{camera}.mp4"
        write_video(path, 4, SIZES[EXO])
    take = ReleaseTake(tmp_path, tmp_path / "x.json", "u", entry)
    assert [read_number(take.frame(camera, 3)) for camera in cameras] == [3] * 9
    assert all(take.has_frame(camera, 3) and not take.has_frame(camera, 4) for camera in cameras)
