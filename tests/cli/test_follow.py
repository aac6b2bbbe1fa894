"""``counterview follow`` on small videos of coloured rectangles, whose masks are known."""

import csv
import json
import os
import signal

import numpy as np
import pytest

from counterview.cli.main import main
from counterview.exchange import read
from counterview.exchange.tracks import read_tracks
from counterview.inference import follow_folder, loading
from counterview.masks.geometry import iou
from counterview.masks.png import write_mask_png
from counterview.media.encode import write_video
from counterview.media.images import write_image
from counterview.media.video import VideoReader
from counterview.types import ObjectMask
from tests.inference.coloured_videos import ColourPredictor, cam_images, ego_images, write_two
from tests.tracking.coloured import mask_of

TWO = ["--point", "20,25", "--name", "mug", "--point", "70,45@1.2", "--name", "cup"]


@pytest.fixture
def predictor(monkeypatch):
    """Stands for the model, and counts its steps."""
    made = ColourPredictor()
    monkeypatch.setattr(loading, "load", lambda *_, **__: made)
    return made


@pytest.fixture
def two(tmp_path):
    return write_two(tmp_path)


def run(capsys, *arguments):
    code = main(["follow", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def tracks_json(out):
    return json.loads((out / "tracks.json").read_text())


def test_one_click_is_followed_in_both_cameras(predictor, two, tmp_path, capsys):
    out = tmp_path / "out"
    code, said, err = run(capsys, *two, *TWO, "--out", out, "--format", "coco,davis", "--format", "yolo")
    assert (code, err) == (0, "")
    assert "mug\n  ego    visible in 100 % of 9 frames, 0:00.00 to 0:03.40" in said
    names = {p.name for p in out.iterdir() if not p.name.startswith(".")}
    assert names == {
        "tracks.json", "overlay.mp4", "contact.jpg", "review.csv", "review.jpg", "coco", "davis", "yolo"
    }  # fmt: skip
    tracks = read_tracks(out / "tracks.json")
    images = {"ego": ego_images(20), "cam01": cam_images(20)}
    for name, colour in (("mug", "red"), ("cup", "blue")):
        for camera, masks in tracks.objects[name].items():
            assert masks[0].frame == (0 if name == "mug" else 6)
            for item in masks:
                assert iou(item.mask_rle, mask_of(images[camera][item.frame], colour)) > 0.6, (name, camera, item)
                assert item.time_s == pytest.approx(item.frame / 5)
    assert tracks.objects["cup"]["ego"][0].source == "given"
    assert tracks.cameras["cam01"].path == two[1]
    assert tracks.settings["request"]["fps"] == 2.0
    assert read(out / "coco" / "coco.json").objects.keys() == tracks.objects.keys()
    with VideoReader(out / "overlay.mp4") as video:
        assert video.duration_s == pytest.approx(3.9, abs=0.15)  # the last image stands for a step
    with (out / "review.csv").open() as handle:
        assert next(csv.reader(handle))[0] == "time_s"


def test_a_finished_run_is_not_repeated_and_files_that_are_missing_are_written(predictor, two, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = (*two, *TWO, "--out", out)
    run(capsys, *arguments)
    before = {name: (out / name).read_bytes() for name in ("tracks.json", "overlay.mp4", "review.jpg")}
    changed = (out / "overlay.mp4").stat().st_mtime_ns
    code, said, _ = run(capsys, *arguments)
    assert (code, predictor.steps) == (0, 9)
    assert said.startswith("finished already")
    assert "mug\n  ego" in said
    assert (out / "overlay.mp4").stat().st_mtime_ns == changed
    (out / "review.jpg").unlink()
    code, said, _ = run(capsys, *arguments, "--format", "coco")
    assert (code, predictor.steps) == (0, 9)
    assert "finished already" not in said
    assert {name: (out / name).read_bytes() for name in before} == before
    assert (out / "coco" / "coco.json").exists()
    code, said, err = run(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    assert json.loads(said) == tracks_json(out)
    code, _, err = run(capsys, *arguments, "--fps", "3")
    assert code == 2
    assert "holds a run of other settings" in err
    assert "--overwrite" in err
    code, said, _ = run(capsys, *arguments, "--fps", "5", "--overwrite")
    assert code == 0
    assert "of 20 frames" in said


def test_corrections_change_what_they_name_and_nothing_else(predictor, two, tmp_path, capsys):
    out, file = tmp_path / "out", tmp_path / "corrections.json"
    arguments = (*two, *TWO, "--out", out, "--corrections", file)
    file.write_text(json.dumps({"corrections": []}))
    assert run(capsys, *arguments)[0] == 0
    before = {o["name"]: o["tracks"] for o in tracks_json(out)["objects"]}
    # In the other camera the cup is what was taken for nothing: green, from 2.3 s on, a time that is no step so far.
    green = mask_of(cam_images(20)[11], "green")
    x, y, w, h = green.box_xywh
    correction = {"object": "cup", "camera": "cam01", "time_s": 2.3, "point": [x + w // 2, y + h // 2]}
    file.write_text(json.dumps({"corrections": [correction]}))
    code, _, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    after = {o["name"]: o["tracks"] for o in tracks_json(out)["objects"]}
    assert json.dumps(after["mug"]) == json.dumps(before["mug"])
    corrected = next(m for m in after["cup"]["cam01"] if m["frame"] == 11)
    assert corrected["source"] == "given"
    assert iou(read_tracks(out / "tracks.json").objects["cup"]["cam01"][3].mask_rle, green) > 0.6
    assert 11 not in [m["frame"] for m in after["mug"]["cam01"]]
    steps = predictor.steps
    assert run(capsys, *arguments)[0] == 0
    assert predictor.steps == steps  # nothing was left to do
    # Taken back, and the mug corrected: both are followed again, from what was shown.
    file.write_text(json.dumps({"corrections": [{"object": "mug", "camera": "ego", "frame": 10, "absent": True}]}))
    assert run(capsys, *arguments)[0] == 0
    last = {o["name"]: o["tracks"] for o in tracks_json(out)["objects"]}
    assert [m["frame"] for m in last["cup"]["ego"] if m["frame"] in (6, 7, 10)] == [6, 7, 10]
    mug = {m["frame"]: m for m in last["mug"]["ego"]}
    assert (mug[10]["mask"], mug[10]["visibility"], mug[10]["source"]) == (None, 0.0, "given")


def test_objects_that_are_not_corrected_keep_their_places(predictor, two, tmp_path, capsys):
    """The mug is corrected to what the cup is: the cup, which is given then, keeps it."""
    out, file = tmp_path / "out", tmp_path / "corrections.json"
    arguments = (*two, "--point", "20,25", "--name", "mug", "--point", "70,45", "--name", "cup", "--out", out)
    run(capsys, *arguments)
    before = {o["name"]: o["tracks"] for o in tracks_json(out)["objects"]}
    file.write_text(json.dumps({"corrections": [{"object": "mug", "camera": "ego", "time_s": 0, "point": "72,50"}]}))
    assert run(capsys, *arguments, "--corrections", file)[0] == 0
    tracks = read_tracks(out / "tracks.json")
    assert json.dumps({o["name"]: o["tracks"] for o in tracks_json(out)["objects"]}["cup"]) == json.dumps(before["cup"])
    cup = {item.frame: item.mask_rle for item in tracks.objects["cup"]["cam01"]}
    shared = [
        iou(item.mask_rle, cup[item.frame]) for item in tracks.objects["mug"]["cam01"] if item.mask_rle is not None
    ]
    assert sum(value > 0.5 for value in shared) <= 1  # both look the same: the other one's place is taken


def test_every_frame(predictor, two, tmp_path, capsys):
    out = tmp_path / "out"
    code, said, err = run(capsys, *two, *TWO, "--out", out, "--every-frame")
    assert (code, err, predictor.steps) == (0, "", 9)
    assert "of 20 frames" in said
    tracks = read_tracks(out / "tracks.json")
    mug = tracks.objects["mug"]["ego"]
    assert [item.frame for item in mug] == list(range(20))
    assert {item.source for item in mug} == {"given", "followed", "propagated"}
    images = ego_images(20)
    known = [(iou(m.mask_rle, mask_of(images[m.frame], "red")), m.frame) for m in mug if m.mask_rle is not None]
    assert min(known)[0] > 0.5
    assert len(known) >= 15
    with VideoReader(out / "overlay.mp4") as video:
        assert video.duration_s == pytest.approx(4.0, abs=0.2)
    assert run(capsys, *two, *TWO, "--out", out)[0] == 0  # back to the steps alone, without following again
    assert predictor.steps == 9
    assert len(read_tracks(out / "tracks.json").objects["mug"]["ego"]) == 9


def test_masks_annotations_and_prompts_at_several_times(predictor, two, tmp_path, capsys):
    images = ego_images(20)
    write_mask_png(tmp_path / "pan.png", mask_of(images[5], "green"))
    code, _, err = run(
        capsys, *two, "--mask", f"{tmp_path / 'pan.png'}@1", "--box", "55,35,95,65@0.4", "--point", "20,25",
        "--point", "25,25@2", "--name", "pan", "--name", "mug", "--name", "mug", "--out", tmp_path / "a",
    )  # fmt: skip
    assert (code, err) == (0, "")
    tracks = read_tracks(tmp_path / "a" / "tracks.json")
    assert {name: by["ego"][0].frame for name, by in tracks.objects.items()} == {"pan": 5, "mug": 0, "box": 2}
    assert [m.frame for m in tracks.objects["mug"]["ego"] if m.source == "given"] == [0, 10]
    code, _, err = run(capsys, *two, *TWO, "--out", tmp_path / "b", "--format", "cvat", "--end", "1.5")
    assert code == 0
    file = tmp_path / "b" / "cvat" / "ego.xml"
    code, _, err = run(capsys, *two, "--mask", file, "--out", tmp_path / "c")
    assert (code, err) == (0, "")
    again = read_tracks(tmp_path / "c" / "tracks.json")
    first = read_tracks(tmp_path / "b" / "tracks.json")
    for name, by_camera in first.objects.items():
        there = {m.frame: m for m in again.objects[name]["ego"]}
        for item in by_camera["ego"]:
            assert there[item.frame].source == "given"
            assert there[item.frame].mask_rle == item.mask_rle
    assert read(file).cameras.keys() == {"ego"}


def test_cameras_of_one_name_get_that_of_their_folder(predictor, tmp_path, capsys):
    ego, one = write_two(tmp_path / "left")
    _, other = write_two(tmp_path / "right")
    write_image(tmp_path / "frames" / "1.png", ego_images(1)[0])
    code, said, err = run(
        capsys, ego, one, other, f"{tmp_path / 'frames'}@5", "--point", "20,25", "--out", tmp_path / "out",
        "--offset", "left-cam01=-0.4",
    )  # fmt: skip
    assert (code, err) == (0, "")
    cameras = tracks_json(tmp_path / "out")["cameras"]
    assert list(cameras) == ["ego", "left-cam01", "right-cam01", "frames"]
    assert cameras["left-cam01"]["offset_s"] == -0.4
    assert "frames: no frame at the time of 7 frames of ego" in said


def test_ctrl_c_leaves_what_is_done(predictor, two, tmp_path, capsys, monkeypatch):
    out, calls = tmp_path / "out", []
    follow_plan = follow_folder.follow_plan

    def interrupted(*arguments, progress, **options):
        def told(done, total):
            progress(done, total)
            calls.append(done)
            if done == 4:
                os.kill(os.getpid(), signal.SIGINT)

        return follow_plan(*arguments, progress=told, **options)

    monkeypatch.setattr(follow_folder, "follow_plan", interrupted)
    code, said, err = run(capsys, *two, *TWO, "--out", out)
    assert (code, said) == (130, "")
    assert err == "counterview: stopped after step 4 of 9. Run the same command again to go on.\n"
    monkeypatch.undo()
    monkeypatch.setattr(loading, "load", lambda *_, **__: predictor)
    code, _, err = run(capsys, *two, *TWO, "--out", out)
    assert (code, err, predictor.steps) == (0, "", 9)


def test_unreadable_stretches_and_missing_partners_are_counted(predictor, tmp_path, capsys):
    folder = tmp_path / "cam01"
    for number, image in enumerate(cam_images(20)):
        if not 5 <= number < 8:
            write_image(folder / f"{number}.png", image)
    for number in (10, 12):
        (folder / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    ego, _ = write_two(tmp_path)
    code, said, _ = run(capsys, ego, f"{folder}@5", *TWO, "--fps", "5", "--out", tmp_path / "out", "--end", "3")
    assert code == 0
    assert "cam01: 2 frames cannot be read, and nothing is known of them" in said
    assert "cam01: no frame at the time of" in said
    track = {m["frame"]: m for m in tracks_json(tmp_path / "out")["objects"][0]["tracks"]["cam01"]}
    assert (track[10]["source"], track[10]["visibility"]) == ("unknown", None)
    assert 6 not in track


def _errors(tmp_path):
    """Arguments after the videos, and what the one line says."""
    write_image(tmp_path / "one.png", np.zeros((8, 8, 3), np.uint8))
    write_mask_png(tmp_path / "small.png", ObjectMask.from_array(np.ones((4, 4), bool)))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "c.json").write_text(
        '{"corrections": [{"object": "jar", "camera": "ego", "time_s": 0, "absent": true}]}'
    )
    point = ["--point", "20,25"]
    return {
        "no object": ([], "no object was given"),
        "outside": (["--point", "500,20"], "outside the query image"),
        "no frame": (["--point", "20,25@77"], "without a frame"),
        "before the start": (["--point", "20,25", "--start", "2"], "outside what is followed"),
        "negative time": (["--point", "20,25@-1"], "not a time"),
        "twice": ([*point, "--point", "70,45", "--name", "a", "--name", "a"], "twice at one time"),
        "beyond the end": ([*point, "--offset", "cam01=100"], "offset lies beyond the end"),
        "no common time": ([*point, "--offset", "cam01=3", "--end", "1"], "no time in common"),
        "unknown camera": ([*point, "--offset", "cam=1"], "of no target"),
        "offset": ([*point, "--offset", "cam01"], "NAME=SECONDS"),
        "no sound": ([*point, "--sync", "audio"], "has no sound"),
        "too short": ([*point, "--sync", "motion"], "cam01.mp4"),
        "sync": ([*point, "--sync", "magic"], "no such way to synchronise"),
        "format": ([*point, "--format", "coco,cocoa"], "there is no format 'cocoa'"),
        "fps": ([*point, "--fps", "0"], "--fps is out of range"),
        "mask size": (["--mask", str(tmp_path / "small.png")], "does not fit"),
        "names": ([*point, "--name", "a", "--name", "b"], "--name is given too often"),
        "other output": ([*point, "--out", str(tmp_path / "full")], "not an output of counterview follow"),
        "correction": ([*point, "--corrections", str(tmp_path / "c.json")], "no such object"),
        "corrections": ([*point, "--corrections", str(tmp_path / "no.json")], "no.json"),
    }


def test_errors_are_one_line(predictor, two, tmp_path, capsys):
    for what, (arguments, part) in _errors(tmp_path).items():
        out = [] if "--out" in arguments else ["--out", tmp_path / "out"]
        code, said, err = run(capsys, *two, *arguments, *out)
        assert (code, said) == (2, ""), what
        assert err.startswith("counterview: "), what
        assert err.count("\n") == 1, err
        assert part in err, (what, err)
        assert not (tmp_path / "out").exists(), what
    ego, cam = two
    (tmp_path / "text.mp4").write_text("no video")
    write_video(tmp_path / "short.mp4", cam_images(2), 5)
    for target, part in (
        (ego, "is the query"), (tmp_path / "text.mp4", "text.mp4"), (tmp_path / "one.png", "is one image"),
        (tmp_path / "none.mp4", "neither a video"), (tmp_path / "full", "without images"),
    ):  # fmt: skip
        code, _, err = run(capsys, ego, target, "--point", "20,25", "--out", tmp_path / "out")
        assert (code, err.count("\n")) == (2, 1), err
        assert part in err
    code, _, err = run(capsys, ego, cam, cam, "--point", "20,25", "--out", tmp_path / "out")
    assert code == 2
    assert "is another target" in err
    assert predictor.steps == 0


def test_sharing_frames_is_part_of_what_a_run_is_of(predictor, two, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(capsys, *two, *TWO, "--out", out, "--share-frames")[0] == 0
    tracker = json.loads((out / ".follow" / "finished" / "run.json").read_text())["key"]["engine"]["tracker"]
    assert tracker["share_frames"] is True
    assert tracker["keep_alignments"] is True
    code, _, err = run(capsys, *two, *TWO, "--out", out)
    assert code != 0
    assert "a run of other settings" in err


def test_refining_is_asked_of_the_model(two, tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(loading, "load", lambda *_, **options: asked.append(options["refine"]) or ColourPredictor())
    assert run(capsys, *two, *TWO, "--refine", "auto", "--out", tmp_path / "out")[0] == 0
    assert run(capsys, *two, *TWO, "--out", tmp_path / "other")[0] == 0
    assert asked == ["auto", "none"]
