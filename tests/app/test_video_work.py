"""Work with videos without a browser. Oracles: rectangles of known colours, and what ``counterview follow`` does."""

import json
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from counterview.app.limits import PageLimits
from counterview.app.video_results import VideoResults, VisibleSpan, visible_spans
from counterview.app.video_work import VideoWork
from counterview.app.work_archive import read_archive, work_files, write_archive
from counterview.errors import AnnotationError, ConfigError, CounterviewError, InputError, VideoError
from counterview.exchange.tracks import TrackedCamera, TrackedMask, read_tracks
from counterview.inference.prompts import Prompt
from counterview.masks.geometry import iou
from counterview.types import ObjectMask
from tests.inference.coloured_videos import ColourPredictor, cam_images, ego_images, write_two
from tests.tracking.coloured import mask_of

LIMITS = PageLimits()


def quiet(text, fraction=None):
    """Stands for a page that shows progress."""


def follow(work, predictor, *, report=quiet, stop_after=None):
    start = predictor.steps
    should_stop = lambda: stop_after is not None and predictor.steps - start >= stop_after  # noqa: E731
    return work.follow(predictor, report=report, should_stop=should_stop)


def write_long(path, seconds, frames=3):
    """A video of few images that lasts long."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.time_base = 64, 48, "yuv420p", Fraction(1, 1)
        for n in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * n, np.uint8), format="rgb24")
            frame.pts, frame.time_base = n * seconds // (frames - 1), Fraction(1, 1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def predictor():
    return ColourPredictor()


@pytest.fixture
def work(tmp_path):
    """Both videos, and a click on red."""
    ego, cam = write_two(tmp_path / "uploads", hidden=(10, 11, 12, 13, 14))
    made = VideoWork(tmp_path / "work", LIMITS)
    assert [made.add_video(Path(p), f"../{n}.MP4") for n, p in (("ego", ego), ("cam01", cam))] == [
        "ego", "cam01",
    ]  # fmt: skip
    with made.changed():
        made.objects.add("mug")
    made.mark("mug", "ego", 0, "point", [[20, 25.00123456]])
    yield made
    made.close()


def test_scrubbing_shows_the_frames_of_a_time_with_the_clock_of_each_camera(work):
    cameras = work.cameras
    assert cameras.names == ["ego", "cam01"]
    assert [cameras.number_at(c, 1.0) for c in cameras.names] == [5, 5]
    work.find_clock("cam01", "none")
    with work.changed():
        cameras.set_clock("cam01", cameras.clock("cam01").__class__(0.4))
    assert cameras.number_at("cam01", 1.0) == 3
    assert cameras.time_of("cam01", 3) == pytest.approx(1.0)
    assert cameras.number_at("cam01", 0.1) is None
    assert np.abs(cameras.image("ego", 5).astype(int) - ego_images(6)[5]).mean() < 4
    with pytest.raises(InputError, match="the time of the first video counts"):
        cameras.set_clock("ego", cameras.clock("cam01"))
    with pytest.raises(InputError, match="there is no such camera; found cam9"):
        cameras.number_at("cam9", 0)


def test_marks_are_added_up_outlined_and_taken_back(work, predictor):
    def red(n):
        return mask_of(ego_images(n + 1)[n], "red")

    prompt = work.objects.prompts["mug", "ego", 0]
    assert iou(work.outline(predictor, "ego", 0, "mug", prompt), red(0)) > 0.9
    work.mark("mug", "ego", 0, "away", [[70, 45]])
    work.mark("mug", "ego", 0, "box", [[30, 40], [5, 15]])
    assert work.objects.prompts["mug", "ego", 0] == Prompt(
        points=[(20, 25)], background=[(70, 45)], box=(5, 15, 30, 40)
    )
    work.objects.undo()
    work.objects.undo()
    assert work.objects.prompts["mug", "ego", 0] == Prompt(points=[(20, 25)])
    work.mark("mug", "cam01", 12, "absent", [])
    assert work.objects.shown_in("cam01", 12) == {"mug": None}
    work.objects.unmark(("mug", "cam01", 12))
    assert work.objects.shown_in("cam01", 12) == {}
    for wrong, line in (
        (("cup", "ego", 0, "point", [[1, 1]]), "there is no such object; found cup; expected mug"),
        (("mug", "ego", 99, "point", [[1, 1]]), "ego has no such frame; found 99"),
        (("mug", "ego", 3, "point", [[500, 1]]), "is outside"),
        (("mug", "ego", 3, "away", [[5, 1]]), "nothing to take away from. Click the object first"),
        (("mug", "ego", 3, "point", []), "a mark has no pixel"),
        (("mug", "ego", 3, "point", [["a", None]]), "a mark has no pixel"),
        (("mug", "ego", 3, "fly", [[5, 1]]), "there is no such mark; found fly"),
    ):
        with pytest.raises(InputError, match=line):
            work.mark(*wrong)
    assert list(work.objects.prompts) == [("mug", "ego", 0)]


def test_objects_are_named_renamed_and_removed(work):
    assert work.objects.add() == "object 2"
    assert work.objects.add() == "object 3"
    assert work.objects.rename("mug", " red\n mug ") == "red mug"
    assert list(work.objects.prompts) == [("red mug", "ego", 0)]
    with pytest.raises(InputError, match="the object cannot have this name; found object 2"):
        work.objects.rename("red mug", "object 2")
    with pytest.raises(InputError, match="there is an object of this name"):
        work.objects.add("object 2")
    work.objects.remove("red mug")
    assert (work.objects.names, work.objects.prompts) == (["object 2", "object 3"], {})


def test_following_stops_and_goes_on(work, predictor):
    said = []
    outcome = follow(work, predictor, report=lambda text, part: said.append((text, part)), stop_after=4)
    assert outcome.is_stopped
    assert outcome.said == ["Stopped after step 4 of 8. Press Follow to go on from there."]
    assert said[0] == ("Pairing the videos by time", None)
    assert said[-1][0].startswith("Following: step 4 of 8, about ")
    assert said[-1][1] == 0.5
    assert not (work.out / "tracks.json").exists()
    outcome = follow(work, predictor)
    assert not outcome.is_stopped
    assert predictor.steps == 8
    assert "mug" in outcome.said
    tracks = read_tracks(work.out / "tracks.json")
    assert {name: camera.path for name, camera in tracks.cameras.items()} == {"ego": "ego.mp4", "cam01": "cam01.mp4"}
    for camera, images in (("ego", ego_images(20)), ("cam01", cam_images(20, (10, 11, 12, 13, 14)))):
        for item in tracks.objects["mug"][camera]:
            truth = mask_of(images[item.frame], "red")
            assert truth.is_empty or iou(item.mask_rle, truth) > 0.6
    assert follow(work, predictor).said == outcome.said
    assert predictor.steps == 8, "what is done is not done again"


def test_drawing_is_stopped_and_done_again(work, predictor):
    said = []
    outcome = work.follow(
        predictor,
        report=lambda text, part: said.append(text),
        should_stop=lambda: said[-1].startswith("Drawing: step 2"),
    )
    assert outcome.said == ["Stopped while the results were drawn. Press Follow to go on from there."]
    assert not (work.out / "tracks.json").exists()
    assert not follow(work, predictor).is_stopped
    assert (work.out / "overlay.mp4").exists()
    assert predictor.steps == 8


def test_a_correction_follows_again_only_what_it_is_about(work, predictor):
    with work.changed():
        work.objects.add("cup")
    work.mark("cup", "ego", 0, "point", [[70, 45]])
    follow(work, predictor)
    before, steps = read_tracks(work.out / "tracks.json"), predictor.steps
    results = VideoResults(work.out)
    assert results.names == ["mug", "cup"]
    assert set(results.visible_in("ego", 0)) == {"mug", "cup"}
    row = next(row for row in results.rows if row.object == "mug")
    work.mark("mug", row.camera, row.frame, "absent", [])
    said = []
    follow(work, predictor, report=lambda text, part: said.append(text))
    assert any(text.startswith("Following again what was changed: mug: step 1 of") for text in said)
    after = read_tracks(work.out / "tracks.json")
    assert after.objects["cup"] == before.objects["cup"]
    corrected = next(m for m in after.objects["mug"][row.camera] if m.frame == row.frame)
    assert (corrected.source, corrected.mask_rle) == ("given", None)
    assert predictor.steps - steps <= steps + 1
    # Another set of objects is another run.
    work.objects.remove("cup")
    follow(work, predictor)
    assert list(read_tracks(work.out / "tracks.json").objects) == ["mug"]


def test_what_cannot_be_followed_is_said(work, predictor, tmp_path):
    work.objects.undo()
    with pytest.raises(InputError, match=r"no object is shown\. Click an object in one of the videos"):
        follow(work, predictor)
    with pytest.raises(InputError, match="no object is shown"):
        follow(VideoWork(tmp_path / "empty", LIMITS), predictor)
    with pytest.raises(ConfigError, match="the steps a second are out of range; found 99"):
        work.set(fps=99)
    work.mark("mug", "ego", 0, "point", [[20, 25]])
    with pytest.raises(InputError, match="are being followed already"):
        follow(work, predictor, report=lambda *_: follow(work, predictor))
    follow(work, predictor)


def test_videos_beyond_the_limits_are_refused_in_a_line(tmp_path):
    long = write_long(tmp_path / "long.mp4", 660)
    limits = PageLimits(video_s=600, video_megapixels=0.02)
    work = VideoWork(tmp_path / "work", limits)
    with pytest.raises(VideoError) as error:
        work.add_video(long, "holiday.mp4")
    assert str(error.value).startswith("holiday.mp4: the video is too long; found 1")
    assert str(error.value).endswith("expected at most 10 minutes. Cut it into parts.")
    (tmp_path / "text.mp4").write_text("not a video at all")
    with pytest.raises(VideoError, match=r"text\.mp4"):
        work.add_video(tmp_path / "text.mp4", "text.mp4")
    ego, _ = write_two(tmp_path)
    with pytest.raises(VideoError, match=r"ego\.mp4: the images of the video are too large; found 120x90"):
        VideoWork(tmp_path / "small", PageLimits(video_megapixels=0.001)).add_video(Path(ego), "ego.mp4")
    assert work.cameras.names == []
    assert list((tmp_path / "work" / "videos").iterdir()) == []


def test_names_of_videos_become_names_of_files(work, tmp_path):
    names = []
    for number, name in enumerate(("a/../../b.mp4", "con.mp4", "ego.mp4", "...mp4")):
        ego, _ = write_two(tmp_path / str(number), count=2)
        names.append(work.add_video(Path(ego), name))
    assert len(set(names)) == 4
    inside = {p.name for p in (work.folder / "videos").iterdir()}
    assert inside == {"ego.mp4", "cam01.mp4", *(f"{name}.mp4" for name in names)}
    with pytest.raises(InputError, match="there are 6 videos already"):
        work.add_video(tmp_path / "x.mp4", "x.mp4")


def test_a_folder_of_work_is_taken_away_and_opened_again(work, predictor, tmp_path):
    work.find_clock("cam01", "none")
    work.mark("mug", "ego", 0, "away", [[70, 45]])
    work.set(fps=2.5, formats=["coco"])
    work.mark("mug", "cam01", 3, "box", [[80.123456, 10], [110.2, 40]])
    follow(work, predictor, stop_after=3)
    archive = write_archive(tmp_path / "work.zip", work.folder, work_files(work.folder))
    read_archive(archive, tmp_path / "again", 10**8)
    again = VideoWork(tmp_path / "again", LIMITS)
    assert again.cameras.names == work.cameras.names
    assert again.objects.names == work.objects.names
    with again.changed():  # written again, it is the same
        pass
    for name in ("prompts.json", "work.json"):
        assert (again.folder / name).read_bytes() == (work.folder / name).read_bytes()
    assert (again.settings, again.cameras.clocks()) == (work.settings, work.cameras.clocks())
    other = ColourPredictor()
    outcome = follow(again, other)
    assert not outcome.is_stopped
    assert predictor.steps + other.steps == len(VideoResults(again.out).times), "it goes on where it was stopped"
    assert (again.out / "coco" / "coco.json").exists()


def test_other_archives_are_refused_and_leave_nothing_outside(work, tmp_path):
    def made(**files):
        path = tmp_path / "evil.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in {"work.json": "{}", **files}.items():
                archive.writestr(name, text)
        return path

    for number, (files, kind, line) in enumerate((
        ({"../evil.json": "x"}, CounterviewError, "the name '..' cannot be used"),
        ({"/tmp/evil.json": "x"}, CounterviewError, "cannot be used"),
        ({"videos/run.py": "x"}, InputError, "holds a file that no work has"),
        ({"big.json": "0" * 10_001_000}, InputError, "is too large unpacked"),
    )):  # fmt: skip
        with pytest.raises(kind, match=line):
            read_archive(made(**files), tmp_path / f"out{number}", 10_000_000)
    assert not (tmp_path / "evil.json").exists()
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(AnnotationError, match="is not a ZIP archive"):
        read_archive(tmp_path / "text.zip", tmp_path / "out", 10**6)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.json", "{}")
    with pytest.raises(AnnotationError, match="is not a folder of work"):
        read_archive(tmp_path / "other.zip", tmp_path / "out", 10**6)
    for text, line in (
        ('{"version": 9}', "is of another version; found 9"),
        ('{"cameras": {"ego": "../../etc/passwd"}}', "cannot be used"),
        ('{"cameras": {"ego": "none.mp4"}}', "no such file"),
        ('{"camera": 1}', "camera"),
        ("[", "work.json"),
    ):
        folder = tmp_path / f"w{hash(text)}"
        read_archive(made(**{"work.json": text}), folder, 10**6)
        with pytest.raises(InputError, match=line):
            VideoWork(folder, LIMITS)


def test_when_an_object_is_visible():
    mask = ObjectMask.from_array(np.ones((4, 6), bool))
    items = [
        TrackedMask(0.0, 0, mask, 1.0, "given"), TrackedMask(0.5, 5, mask, 0.9, "followed"),
        TrackedMask(1.0, 10, None, 0.1, "followed"), TrackedMask(1.5, 15, None, None, "unknown"),
    ]  # fmt: skip
    spans = visible_spans(items, TrackedCamera(None, (4, 6), offset_s=2.0), 4.0)
    assert spans == [
        VisibleSpan(2.0, 3.0, "visible"),
        VisibleSpan(3.0, 3.5, "not visible"),
        VisibleSpan(3.5, 4.0, "unknown"),
    ]
    assert visible_spans([], TrackedCamera(None, (4, 6)), 4.0) == []


def test_the_saved_prompts_are_a_file_of_corrections(work):
    content = json.loads((work.folder / "prompts.json").read_text())
    assert content == {"corrections": [{"object": "mug", "camera": "ego", "frame": 0, "point": [20.0, 25.0]}]}
