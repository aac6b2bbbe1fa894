"""The prepared layout to the letter, going on after a kill, and the report on a broken release."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from counterview.data.formats.takes_json import TakeFacts
from counterview.data.open import open_dataset
from counterview.data.pairs import enumerate_pairs
from counterview.data.prepare import images as prepare_images
from counterview.data.prepare.images import image_size
from counterview.data.prepare.prepare import _run, prepare_release
from counterview.data.prepare.settings import PrepareSettings
from counterview.data.prepare.stored import Places
from counterview.data.prepare.take import TakeJob, WriteError
from counterview.errors import ConfigError, InputError, VideoError
from counterview.jobs.engine import JobEngine
from counterview.media.jsonstream import index_object
from counterview.media.video import VideoReader
from tests.data_egoexo.release_maker import (
    EGO,
    EXO,
    PORTRAIT,
    SIZES,
    Deadly,
    TakeSpec,
    disc,
    make_release,
    read_number,
    write_video,
)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    specs = [TakeSpec("uid-b", "cook_2"), TakeSpec("uid-a", "cook_1", frames=121), TakeSpec("uid-t", "t", split="test")]
    return make_release(tmp_path_factory.mktemp("release"), specs)


@pytest.fixture
def copy(release: Path, tmp_path: Path) -> Path:
    shutil.copytree(release, tmp_path / "release")
    return tmp_path / "release"


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file, those of our own records among them; the lock holds nothing."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "lock"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def edit(release: Path, change, split: str = "val") -> None:
    path = release / "annotations" / f"relations_{split}.json"
    content = json.loads(path.read_text())
    change(content["annotations"])
    path.write_text(json.dumps(content))


def test_layout_to_the_letter(release: Path, tmp_path: Path) -> None:
    report = prepare_release(release, tmp_path / "out", splits=["val"])
    out = tmp_path / "out"
    assert report.is_complete
    assert report.counts == {"prepared": 2}
    assert json.loads((out / "split.json").read_text()) == {"train": [], "val": ["uid-b", "uid-a"], "test": []}
    shown = {p.name for p in out.iterdir() if not p.name.startswith(".")}
    lists = {"val_egoexo_pairs.json", "val_exoego_pairs.json"}
    assert shown == {"uid-a", "uid-b", "split.json", "takes.json", "prepare-report.json", *lists}
    assert {p.name for p in (out / "uid-a").iterdir()} == {EGO, EXO, PORTRAIT, "annotation.json"}
    frames = [0, 30, 60, 90, 120]
    assert {p.name for p in (out / "uid-a" / PORTRAIT).iterdir()} == {f"{f}.jpg" for f in frames}
    for camera in (EGO, EXO, PORTRAIT):
        for frame in frames:
            image = np.asarray(Image.open(out / "uid-a" / camera / f"{frame}.jpg"))
            assert image.shape[:2] == SIZES[camera]
            assert read_number(image) == frame

    annotation = json.loads((out / "uid-a" / "annotation.json").read_text())
    assert list(annotation) == ["masks", "subsample_idx", "annotated_frames"]
    assert annotation["subsample_idx"] == frames
    assert list(annotation["masks"]) == ["mug 0", "bolt/nut_0"]
    assert list(annotation["masks"]["bolt/nut_0"]) == [EGO, EXO, PORTRAIT]
    assert list(annotation["masks"]["bolt/nut_0"][EXO]) == ["0", "30", "90", "120"]
    assert annotation["annotated_frames"]["mug 0"][EXO] == frames
    mask = annotation["masks"]["mug 0"][PORTRAIT]["90"]
    assert mask["size"] == [192, 108]
    assert np.array_equal(coco.decode(mask).astype(bool), disc((192, 108), 90).to_array())

    pairs = json.loads((out / "val_exoego_pairs.json").read_text())
    assert len(pairs) == report.pairs["val_exoego_pairs.json"] == 2 * (4 + 3) + 2 * (5 + 4)
    root = (tmp_path / "out").as_posix()
    assert pairs[0] == [f"{root}//uid-b//{c}//mug 0//{kind}//0" for c in (EGO, EXO) for kind in ("rgb", "mask")]
    assert json.loads((out / "takes.json").read_text())[0] == {
        "take_uid": "uid-b",
        "take_name": "cook_2",
        "scenario": "Making tea",
    }


def test_release_and_prepared_folder_are_one_data_set(release: Path, tmp_path: Path) -> None:
    prepare_release(release, tmp_path / "out", splits=["val", "test"], workers=2)
    raw, done = open_dataset(release), open_dataset(tmp_path / "out")
    assert raw.uids == done.uids == ("uid-b", "uid-a", "uid-t")
    for uid in raw.uids:
        a, b = raw.take(uid), done.take(uid)
        assert (a.name, a.scenario, a.cameras, a.objects, a.frames) == (
            b.name,
            b.scenario,
            b.cameras,
            b.objects,
            b.frames,
        )
        for name in a.objects:
            for camera in a.cameras_of(name):
                assert a.track(name, camera) == b.track(name, camera)
        for camera in a.cameras:
            assert a.native_size(camera) == b.native_size(camera)
            assert read_number(a.frame(camera, 30)) == read_number(b.frame(camera, 30)) == 30
    for direction in ("ego2exo", "exo2ego"):
        assert list(enumerate_pairs(raw, direction)) == list(enumerate_pairs(done, direction))


def test_official_image_sizes() -> None:
    sizes = {(1408, 1408, True): (704, 704), (2160, 3840, False): (540, 960), (3840, 2160, False): (960, 540)}
    sizes |= {(448, 448, True): (448, 448), (448, 796, False): (448, 796), (1080, 1920, False): (540, 960)}
    assert {key: image_size(key[:2], key[2]) for key in sizes} == sizes


def test_full_size_videos_are_halved_and_quartered(tmp_path: Path) -> None:
    release = make_release(tmp_path / "release", [TakeSpec("u", "n", frames=1, cameras=(EGO, EXO))])
    videos = release / "takes" / "n" / "frame_aligned_videos"
    write_video(videos / f"{EGO}.mp4", 2, (1408, 1408))
    write_video(videos / f"{EXO}.mp4", 2, (2160, 3840))
    report = prepare_release(release, tmp_path / "out", splits=["val"])
    assert {c: r.image_hw for c, r in report.takes[0].cameras.items()} == {EGO: [704, 704], EXO: [540, 960]}
    take = open_dataset(tmp_path / "out").takes[0]
    assert [read_number(take.frame(c, 0)) for c in (EGO, EXO)] == [0, 0]
    assert take.native_size(EXO) == SIZES[EXO]


def test_videos_of_another_aspect_than_their_masks_are_noted(copy: Path, tmp_path: Path) -> None:
    """Masks are 108 by 192: a video 1 % narrower fits, one 6 % narrower does not."""
    for name, width in (("cook_1", 180), ("cook_2", 190)):
        write_video(copy / "takes" / name / "frame_aligned_videos" / f"{EXO}.mp4", 121, (108, width))
    report = prepare_release(copy, tmp_path / "out", splits=["val"])
    takes = {take.take_name: take for take in report.takes}
    assert takes["cook_2"].problems == []
    assert takes["cook_1"].problems == [
        f"take uid-a, camera '{EXO}': 8 of 8 masks are left out: they are 108 x 192 px, its images 108 x 180 px "
        "(height x width), of another aspect ratio",
        f"camera {EXO}: none of its masks fits the video; its images are left out",
    ]


def test_448p_release(tmp_path: Path) -> None:
    release = make_release(tmp_path / "release", [TakeSpec("u", "n", cameras=(EGO, EXO))], height="448")
    assert prepare_release(release, tmp_path / "a", splits=["val"]).height == "448"
    report = prepare_release(release, tmp_path / "b", splits=["val"], height="full")
    assert report.counts == {"missing": 1}
    assert "use height 448" in report.takes[0].cameras[EGO].problems[0]
    assert not (tmp_path / "b" / "u").exists()


def test_stopped_at_every_step(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop before the k-th file is written, for every k, going on each time: the same bytes in the end."""
    monkeypatch.chdir(tmp_path)
    prepare_release(release, "whole", splits=["val"])
    (tmp_path / "many").mkdir()
    shutil.move("whole", "expected")
    written = stops = 0
    write = prepare_images.write_image

    def failing(*args, **kwargs) -> None:
        nonlocal written
        if written >= 1:
            args[0].parent.mkdir(parents=True, exist_ok=True)
            (args[0].parent / f".{stops}.jpg.12.ab.part").write_bytes(b"half")  # what a kill leaves in each folder
            whole = tmp_path / "whole"
            for place in (whole, whole / ".counterview", whole / ".counterview" / "takes", args[0].parent.parent):
                (place / f".x.json.{stops}.part").write_bytes(b"half")
            raise KeyboardInterrupt
        written += 1
        write(*args, **kwargs)

    monkeypatch.setattr(prepare_images, "write_image", failing)
    while True:
        written = 0
        try:
            prepare_release(release, "whole", splits=["val"])
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 26  # one image a run
    assert contents(tmp_path / "whole") == contents(tmp_path / "expected")


def test_killed_at_random_moments(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    prepare_release(release, "out", splits=["val", "test"])
    unbroken_s = time.monotonic() - started
    expected = contents(tmp_path / "out")
    (tmp_path / "again").mkdir()
    code = (
        "import sys; from counterview.data.prepare.prepare import prepare_release; import cv2, av\n"
        "print('on', flush=True);"
        "prepare_release(sys.argv[1], 'out', splits=['val', 'test'])"
    )
    draw = random.Random(11)
    killed = 0
    for _ in range(10):
        run = subprocess.Popen([sys.executable, "-c", code, str(release)], cwd="again", stdout=subprocess.PIPE)
        assert run.stdout is not None
        run.stdout.readline()
        time.sleep(draw.uniform(0, unbroken_s / 4))
        run.kill()
        run.communicate()
        killed += run.returncode != 0
    assert killed >= 3
    subprocess.run([sys.executable, "-c", code, str(release)], cwd="again", check=True, stdout=subprocess.DEVNULL)
    assert contents(tmp_path / "again" / "out") == expected


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks up child processes in /proc")
def test_workers_end_with_a_killed_run(release: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from counterview.data.prepare.prepare import _run, prepare_release\n"
        "def tell(total, report):\n    if report: print('on', flush=True)\n"
        "if __name__ == '__main__': prepare_release(sys.argv[1], sys.argv[2], splits=['val'], workers=2, progress=tell)"
    )
    (tmp_path / "run.py").write_text(code)
    arguments = [sys.executable, tmp_path / "run.py", release, tmp_path / "out"]
    run = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    assert run.stdout is not None
    run.stdout.readline()
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    run.kill()
    run.communicate()
    deadline = time.monotonic() + 20
    while any(_alive(int(pid)) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert prepare_release(release, tmp_path / "out", splits=["val"]).is_complete


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_report_on_a_broken_release(tmp_path: Path) -> None:
    ego2 = "aria02_214-1"
    specs = [
        TakeSpec("fine", "fine"),
        TakeSpec("no-ego", "no_ego"),
        TakeSpec("short-exo", "short_exo"),
        TakeSpec("two-egos", "two_egos", cameras=(EGO, ego2, EXO), absent={}),
        TakeSpec("null-mask", "null_mask", absent={}),
        TakeSpec("not-on-disk", "not_on_disk"),
        TakeSpec("withdrawn", "withdrawn"),
        TakeSpec("bad-ego", "bad_ego"),
        TakeSpec("no-mapping", "no_mapping"),
    ]
    release = make_release(tmp_path / "release", specs)
    videos = {spec.uid: release / "takes" / spec.name / "frame_aligned_videos" for spec in specs}
    (videos["no-ego"] / f"{EGO}.mp4").unlink()
    write_video(videos["short-exo"] / f"{EXO}.mp4", 50, SIZES[EXO])
    shutil.rmtree(release / "takes" / "not_on_disk")
    shutil.rmtree(release / "takes" / "withdrawn")
    (videos["bad-ego"] / f"{EGO}.mp4").write_bytes(b"not a video")
    (release / "takes" / "never_annotated").mkdir()
    listed = json.loads((release / "takes.json").read_text())
    (release / "takes.json").write_text(json.dumps([t for t in listed if t["take_uid"] != "withdrawn"]))

    def spoil(takes: dict) -> None:
        masks = takes["null-mask"]["object_masks"]
        masks["mug 0"][EGO]["annotation"]["30"] = None
        masks["mug 0"][EXO]["annotation"]["60"]["encodedMask"] = None
        masks["bolt/nut_0"][EGO]["annotation"]["0"]["encodedMask"] = "~~~"
        masks["bolt/nut_0"][EXO]["annotation"]["0"]["width"] = -4
        takes["no-mapping"] = ["nothing"]
        takes["../../escape"] = takes["fine"]

    edit(release, spoil)
    report = prepare_release(release, tmp_path / "out", splits=["val"])
    takes = {take.take_uid: take for take in report.takes}
    assert {uid: take.status for uid, take in takes.items()} == {
        "fine": "prepared",
        "no-ego": "missing",
        "short-exo": "partial",
        "two-egos": "prepared",
        "null-mask": "partial",
        "not-on-disk": "missing",
        "withdrawn": "redacted",
        "bad-ego": "damaged",
        "no-mapping": "damaged",
        "../../escape": "skipped",
    }
    assert not report.is_complete
    assert takes["fine"].notes == [f"camera {PORTRAIT} is portrait (192 high, 108 wide)"]
    assert takes["no-ego"].problems[0].startswith(f"no ego camera: no video of {EGO}")
    assert not (tmp_path / "out" / "no-ego").exists()
    assert takes["short-exo"].cameras[EXO].beyond_end == [60, 90]
    assert takes["short-exo"].cameras[EXO].frames == 2
    assert "the video ends at frame 49: 2 of 4 frames are after it" in takes["short-exo"].problems[0]
    assert f"2 ego cameras: {EGO}, {ego2}" in takes["two-egos"].notes
    assert takes["null-mask"].masks_left_out == 4
    assert [p.split(": ", 1)[0].split(", ", 1)[1] for p in takes["null-mask"].problems] == [
        f"object 'mug 0', camera '{EGO}', frame 30",
        f"object 'mug 0', camera '{EXO}', frame 60",
        f"object 'bolt/nut_0', camera '{EGO}', frame 0",
        f"object 'bolt/nut_0', camera '{EXO}', frame 0",
    ]
    annotation = json.loads((tmp_path / "out" / "null-mask" / "annotation.json").read_text())
    assert "30" not in annotation["masks"]["mug 0"][EGO]
    assert 30 not in annotation["annotated_frames"]["mug 0"][EGO]  # unknown, which is not "not visible"
    assert "not on disk: no folder takes/not_on_disk" in takes["not-on-disk"].problems[0]
    assert "no image of an ego camera can be read" in takes["bad-ego"].problems[0]
    assert report.not_annotated == ["never_annotated"]
    assert report.pairs_left_out == {"val_egoexo_pairs.json": 4, "val_exoego_pairs.json": 2}

    assert json.loads((tmp_path / "out" / "prepare-report.json").read_text()) == report.to_dict()
    dataset = open_dataset(tmp_path / "out", "val")
    assert dataset.uids == ("fine", "short-exo", "two-egos", "null-mask")
    assert {p.object for p in enumerate_pairs(dataset, "ego2exo")} == {"mug 0", "bolt/nut_0"}
    short = [p.frame for p in enumerate_pairs([dataset.take("short-exo")], "ego2exo") if p.target_camera == EXO]
    assert short == [0, 30, 0, 30]
    assert not (tmp_path.parent / "escape").exists()


def test_what_was_missing_is_fetched_later(copy: Path, tmp_path: Path) -> None:
    video = copy / "takes" / "cook_1" / "frame_aligned_videos" / f"{EXO}.mp4"
    video.rename(tmp_path / "kept.mp4")
    report = prepare_release(copy, tmp_path / "out", splits=["val"])
    assert report.counts == {"prepared": 1, "partial": 1}
    before = (tmp_path / "out" / "uid-a" / EGO / "0.jpg").stat().st_mtime_ns
    (tmp_path / "kept.mp4").rename(video)
    report = prepare_release(copy, tmp_path / "out", splits=["val"])
    assert (report.counts, report.done_before) == ({"prepared": 2}, 1)
    assert (tmp_path / "out" / "uid-a" / EGO / "0.jpg").stat().st_mtime_ns == before
    prepare_release(copy, tmp_path / "fresh", splits=["val"])
    expected = contents(tmp_path / "fresh")
    ours = contents(tmp_path / "out")
    assert {k: v for k, v in ours.items() if "pairs" not in k} == {
        k: v for k, v in expected.items() if "pairs" not in k
    }


def test_what_could_not_be_read_is_tried_again(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network drive that fails for a moment: the video is the same, but the next run reads it."""

    class Unreadable(VideoReader):
        def read(self, frames):
            for number, image in super().read(frames):
                yield number, VideoError("gone", path=self.path) if number == 60 else image

    with monkeypatch.context() as patch:
        patch.setattr(prepare_images, "VideoReader", Unreadable)
        report = prepare_release(copy, tmp_path / "out", splits=["val"])
    assert report.counts == {"partial": 2}
    assert report.takes[0].cameras[EGO].damaged_frames == [60]
    assert 60 not in json.loads((tmp_path / "out" / "uid-b" / "annotation.json").read_text())["subsample_idx"]
    report = prepare_release(copy, tmp_path / "out", splits=["val"])
    assert (report.counts, report.done_before) == ({"prepared": 2}, 0)
    assert prepare_release(copy, tmp_path / "out", splits=["val"]).done_before == 2


def test_finished_takes_outlive_their_videos(copy: Path, tmp_path: Path) -> None:
    prepare_release(copy, tmp_path / "out", splits=["val"])
    before = contents(tmp_path / "out")
    shutil.rmtree(copy / "takes")
    report = prepare_release(copy, tmp_path / "out", splits=["val"], height="full")
    assert report.done_before == 2
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("lost", [f"uid-a/{EXO}/30.jpg", "uid-a/annotation.json", "uid-a"])
def test_what_was_lost_is_made_again(release: Path, tmp_path: Path, lost: str) -> None:
    prepare_release(release, tmp_path / "out", splits=["val"])
    before = contents(tmp_path / "out")
    path = tmp_path / "out" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert prepare_release(release, tmp_path / "out", splits=["val"]).done_before == 1
    assert contents(tmp_path / "out") == before


def test_a_replaced_video_is_read_again(copy: Path, tmp_path: Path) -> None:
    prepare_release(copy, tmp_path / "out", splits=["val"])
    video = copy / "takes" / "cook_1" / "frame_aligned_videos" / f"{EXO}.mp4"
    write_video(video, 121, (216, 384))
    prepare_release(copy, tmp_path / "out", splits=["val"])
    assert open_dataset(tmp_path / "out").take("uid-a").frame(EXO, 30).shape == (216, 384, 3)


def test_splits_add_up(copy: Path, tmp_path: Path) -> None:
    prepare_release(copy, tmp_path / "out", splits=["test"])
    prepare_release(copy, tmp_path / "out", splits=["val"])
    prepare_release(copy, tmp_path / "once", splits=["val", "test"])
    split = json.loads((tmp_path / "out" / "split.json").read_text())
    assert split == json.loads((tmp_path / "once" / "split.json").read_text())
    assert (tmp_path / "out" / "test_egoexo_pairs.json").exists()


def test_split_file_rules(copy: Path, tmp_path: Path) -> None:
    """The baselines' split.json: its order, and takes that it alone, or the annotation alone, holds."""
    (copy / "annotations" / "split.json").write_text(json.dumps({"val": ["gone", "uid-a"], "train": [], "test": []}))
    report = prepare_release(copy, tmp_path / "out", splits=["val"])
    assert [(t.take_uid, t.status) for t in report.takes] == [
        ("gone", "redacted"),
        ("uid-a", "prepared"),
        ("uid-b", "skipped"),
    ]
    assert open_dataset(tmp_path / "out", "val").uids == ("uid-a",)


def test_every_second(copy: Path, tmp_path: Path) -> None:
    """Annotated frames alone by default; with ``every_second`` those of the official preparation too."""

    def thin(takes: dict) -> None:
        for cameras in takes["uid-a"]["object_masks"].values():
            for entry in cameras.values():
                entry["annotation"] = {k: v for k, v in entry["annotation"].items() if k in ("0", "90")}
                entry["annotated_frames"] = [0, 90]

    edit(copy, thin)
    prepare_release(copy, tmp_path / "few", splits=["val"])
    prepare_release(copy, tmp_path / "all", splits=["val"], every_second=True)
    assert open_dataset(tmp_path / "few").take("uid-a").frames == (0, 90)
    assert open_dataset(tmp_path / "all").take("uid-a").frames == (0, 30, 60, 90, 120)
    assert open_dataset(tmp_path / "all").take("uid-a").has_frame(EXO, 120)


def test_other_settings_and_other_folders_are_refused(copy: Path, tmp_path: Path) -> None:
    prepare_release(copy, tmp_path / "out", splits=["val"], takes=["uid-a"])
    with pytest.raises(ConfigError, match="quality 95 instead of 80"):
        prepare_release(copy, tmp_path / "out", splits=["val"], quality=80)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(InputError, match="not empty"):
        prepare_release(copy, tmp_path / "mine", splits=["val"])
    with pytest.raises(InputError, match="relations_train"):
        prepare_release(copy, tmp_path / "out", splits=["train"])
    with pytest.raises(InputError, match="in none of the splits; found uid-x"):
        prepare_release(copy, tmp_path / "out", splits=["val"], takes=["uid-x"])
    with pytest.raises(InputError, match="is not an Ego-Exo4D release"):
        prepare_release(tmp_path, tmp_path / "out2", splits=["val"])
    assert not (tmp_path / "out2").exists()


def test_a_full_disk_stops_the_run_and_loses_nothing(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *args, **kwargs) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(prepare_images, "write_image", full)
        with pytest.raises(WriteError, match="No space left on device"):
            prepare_release(release, tmp_path / "out", splits=["val"])
    assert prepare_release(release, tmp_path / "out", splits=["val"]).is_complete


def test_a_take_that_kills_its_process_costs_no_other(release: Path, tmp_path: Path) -> None:
    source = release / "annotations" / "relations_val.json"
    places = index_object(source)
    jobs = [
        TakeJob(uid, "val", release, tmp_path, source, places[uid], facts, True, PrepareSettings())
        for uid, facts in (("uid-a", Deadly()), ("uid-b", TakeFacts("cook_2", "takes/cook_2")))
    ]
    seen = []
    found = _run(
        jobs, JobEngine(workers=2), lambda _, report: seen.append(report and report.take_uid), Places(release, tmp_path)
    )
    assert {uid: report.status for uid, (report, _) in found.items()} == {"uid-a": "damaged", "uid-b": "prepared"}
    assert "its process died" in found["uid-a"][0].problems[0]
    assert sorted(seen[1:]) == ["uid-a", "uid-b"]


def test_two_runs_at_once_are_kept_apart(release: Path, tmp_path: Path) -> None:
    def second(total: int, report: object) -> None:
        with pytest.raises(InputError, match="another run is writing here"):
            prepare_release(release, tmp_path / "out", splits=["val"])

    assert prepare_release(release, tmp_path / "out", splits=["val"], progress=second).is_complete


@pytest.mark.parametrize("spoilt", ["{", "null", '{"version": 1, "videos": {}, "report": {"x": 1}}'])
def test_a_spoilt_record_means_starting_again(release: Path, tmp_path: Path, spoilt: str) -> None:
    prepare_release(release, tmp_path / "out", splits=["val"])
    before = contents(tmp_path / "out")
    (tmp_path / "out" / ".counterview" / "takes" / "uid-a.json").write_text(spoilt)
    prepare_release(release, tmp_path / "out", splits=["val"])
    assert contents(tmp_path / "out") == before
