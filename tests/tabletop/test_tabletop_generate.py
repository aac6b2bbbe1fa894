"""The released layout, read back without Counterview; the same bytes for any number of workers and after a kill."""

import errno
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import av
import numpy as np
import pytest
from pycocotools import mask as coco

from tests.object_storage import bucket  # noqa: F401  # a fixture
from tests.tabletop.tabletop_lz import decompress

pytest.importorskip("embreex")

from counterview.errors import ConfigError, InputError, OutputError
from counterview.masks.rle import to_lzstring
from counterview.media.storage import ObjectFolder
from counterview.tabletop import take as takes
from counterview.tabletop.config import preset
from counterview.tabletop.generate import generate, share_out
from counterview.tabletop.objects.catalogue import KINDS, NOVEL_KINDS, draw_things, seeded
from counterview.tabletop.stored import generate_stored
from counterview.tabletop.write import _annotated_seconds
from counterview.types import ObjectMask

TINY = {"size": 96, "seconds": 3, "cameras": 2}
COUNTS = {"train": 1, "test": 1, "test_novel": 1}


def tiny():
    return preset("standard", **TINY)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tabletop") / "data"
    generate(out, COUNTS, tiny(), seed=5)
    return out


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]


def test_the_release_layout_reads_back_without_our_code(data_set):
    listed = {t["take_uid"]: t for t in json.loads((data_set / "takes.json").read_text())}
    split = json.loads((data_set / "split.json").read_text())
    masks = hidden = 0
    assert {p.name for p in (data_set / "annotations").iterdir()} == {f"relations_{s}.json" for s in COUNTS}
    for name, uids in ((n, u) for n, u in split.items() if u):
        relations = json.loads((data_set / "annotations" / f"relations_{name}.json").read_text())["annotations"]
        assert list(relations) == uids
        for uid in uids:
            uuid.UUID(uid)
            folder = data_set / "takes" / listed[uid]["take_name"]
            assert relations[uid]["take_name"] == listed[uid]["take_name"]
            videos = {p.stem: frames_of(p) for p in (folder / "frame_aligned_videos").glob("*.mp4")}
            assert sum("aria" in v for v in videos) == 1
            for camera, frames in videos.items():
                small = folder / "frame_aligned_videos" / "downscaled" / "448" / f"{camera}.mp4"
                assert len(frames) == len(frames_of(small)) == 90
                # Held between annotated seconds: what is encoded as unchanged decodes as nearly unchanged.
                assert np.abs(frames[30].astype(int) - frames[59]).mean() < 1.5
            for cameras in relations[uid]["object_masks"].values():
                assert set(cameras) == set(videos)
                for camera, view in cameras.items():
                    assert set(view["annotated_frames"]) <= {0, 30, 60}
                    assert {int(f) for f in view["annotation"]} <= set(view["annotated_frames"])
                    hidden += len(view["annotated_frames"]) - len(view["annotation"])
                    for frame, entry in view["annotation"].items():
                        height, width = videos[camera][int(frame)].shape[:2]
                        assert (entry["height"], entry["width"]) == (height, width)
                        counts = decompress(entry["encodedMask"]).encode()
                        mask = coco.decode({"size": [height, width], "counts": counts})
                        assert mask.shape == (height, width)
                        assert mask.sum() == coco.area({"size": [height, width], "counts": counts}) >= 6
                        masks += 1
    assert masks > 50
    assert hidden > 0


def test_masks_are_the_renderers_labels(data_set):
    """Modal masks of one second are disjoint, and equal a fresh rendering of that second."""
    record = json.loads(next((data_set / "takes").glob("tabletop_train*/tabletop.json")).read_text())
    stage = takes.Stage(tiny(), 5, "train", 0)
    stage.renderer.pose(stage.poses(1.0))
    for camera in stage.rig.exo:
        labels = stage.renderer.render(camera).labels
        for number, name in enumerate(stage.scene.names):
            entry = (
                record["annotation"]["object_masks"].get(name, {}).get(camera.name, {"annotation": {}})["annotation"]
            )
            if "30" in entry:
                assert entry["30"]["encodedMask"] == to_lzstring(ObjectMask.from_array(labels == number))


def test_frames_show_what_was_rendered(data_set):
    """The decoded frame 30 * k is the image of second k: nearer to it than to that of any other second."""
    folder = next((data_set / "takes").glob("tabletop_train*"))
    ego = next((folder / "frame_aligned_videos").glob("aria*.mp4"))
    frames = frames_of(ego)
    images, _ = takes.render_take(takes.Stage(tiny(), 5, "train", 0), tiny(), 5, "train", 0)
    for second in range(3):
        gaps = [np.abs(frames[30 * second].astype(int) - image).mean() for image in images[ego.stem]]
        assert int(np.argmin(gaps)) == second
        assert gaps[second] < 6


def test_two_workers_give_the_same_bytes(data_set, tmp_path):
    generate(tmp_path / "two", COUNTS, tiny(), seed=5, workers=2)
    assert (tmp_path / "two" / "manifest.json").read_bytes() == (data_set / "manifest.json").read_bytes()
    for path in sorted(p for p in data_set.rglob("*") if p.is_file()):
        assert (tmp_path / "two" / path.relative_to(data_set)).read_bytes() == path.read_bytes(), path


def test_object_storage_holds_the_same_bytes(data_set, tmp_path, bucket):  # noqa: F811
    target = ObjectFolder(f"{bucket}/takes")
    assert generate_stored(target.url, COUNTS, tiny(), 5) == "s3://takes/takes/manifest.json"
    expected = {p.relative_to(data_set).as_posix(): p.read_bytes() for p in data_set.rglob("*") if p.is_file()}
    expected = {name: content for name, content in expected.items() if not name.startswith(".")}
    files = target.files()
    assert set(files) == set(expected)
    assert {name for name in expected if target.read(name) != expected[name]} == set()
    assert generate_stored(target.url, COUNTS, tiny(), 5)
    assert {n: f for n, f in target.files().items() if n.startswith("takes/")} == {
        n: f for n, f in files.items() if n.startswith("takes/")
    }
    with pytest.raises(InputError, match="other settings"):
        generate_stored(target.url, COUNTS, tiny(), 6)
    (tmp_path / "x").write_text("mine")
    ObjectFolder(f"{bucket}/mine").store(tmp_path / "x", "x")
    with pytest.raises(OutputError, match="is not empty and not an output"):
        generate_stored(f"{bucket}/mine", COUNTS, tiny(), 5)


def test_a_killed_run_continues_to_the_same_bytes(data_set, tmp_path):
    out = tmp_path / "cut"
    code = (
        "import sys; from pathlib import Path; from counterview.tabletop.generate import generate;"
        "from counterview.tabletop.config import preset;"
        f"generate(Path(sys.argv[1]), {COUNTS!r}, preset('standard', **{TINY!r}), seed=5)"
    )
    paths = os.pathsep.join(p for p in sys.path if p)
    process = subprocess.Popen([sys.executable, "-c", code, str(out)], env={**os.environ, "PYTHONPATH": paths})
    finished = out / "takes" / takes.take_name(5, "train", 0)
    deadline = time.monotonic() + 120
    while not finished.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()  # SIGKILL where there is one
    process.wait()
    assert finished.exists()
    assert not (out / "manifest.json").exists()
    before = (finished / "tabletop.json").stat().st_mtime_ns
    damaged = next((finished / "frame_aligned_videos").glob("*.mp4"))
    generate(out, COUNTS, tiny(), seed=5)
    assert (out / "manifest.json").read_bytes() == (data_set / "manifest.json").read_bytes()
    assert (finished / "tabletop.json").stat().st_mtime_ns == before, "a finished take was made again"
    assert not (out / ".partial").exists()
    damaged.write_bytes(damaged.read_bytes()[:-100])
    generate(out, COUNTS, tiny(), seed=5)
    whole = data_set / damaged.relative_to(out)
    assert damaged.read_bytes() == whole.read_bytes()


def test_a_run_killed_in_its_first_write_keeps_its_folder(data_set, tmp_path):
    out = tmp_path / "cut"
    code = (
        "import os, sys; from pathlib import Path; from counterview.media import files;"
        "from counterview.tabletop.generate import generate; from counterview.tabletop.config import preset;"
        "files.os.fsync = lambda handle: os.kill(os.getpid(), 9);"
        f"generate(Path(sys.argv[1]), {COUNTS!r}, preset('standard', **{TINY!r}), seed=5)"
    )
    paths = os.pathsep.join(p for p in sys.path if p)
    process = subprocess.run([sys.executable, "-c", code, str(out)], env={**os.environ, "PYTHONPATH": paths})
    assert process.returncode == -9
    assert any(p.name.endswith(".part") for p in out.iterdir())
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"not an output of counterview tabletop; found notes.txt"):
        generate(out, {"train": 1}, tiny(), seed=5)
    (out / "notes.txt").unlink()
    generate(out, {"train": 1}, tiny(), seed=5)
    assert not [p for p in out.rglob("*") if p.name.startswith(".")]


def test_two_runs_do_not_write_one_folder(tmp_path, monkeypatch):
    refused = []

    def make(out, *_):
        with pytest.raises(OutputError, match=f"another run is writing here.*process {os.getpid()} on"):
            generate(out, {"train": 1}, tiny(), seed=6)
        refused.append(sorted(p.name for p in out.iterdir()))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out / ".partial" / "x"))

    monkeypatch.setattr("counterview.tabletop.generate.make_take", make)
    with pytest.raises(OutputError, match=r"cannot be written, the disk is full") as caught:
        generate(tmp_path / "out", {"train": 1}, tiny(), seed=5)
    assert str(tmp_path / "out") in str(caught.value)
    assert refused == [[".counterview.lock", "tabletop.json"]]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["tabletop.json"]


def test_workers_end_with_a_killed_run(tmp_path):
    code = (
        "import sys; from pathlib import Path; from counterview.tabletop import generate as g;"
        "from counterview.tabletop.config import preset;\n"
        "if __name__ == '__main__': g.generate(Path(sys.argv[1]), {'train': 40},"
        f" preset('standard', **{TINY!r}), 5, 2)"
    )
    script = tmp_path / "go.py"
    script.write_text(code)
    paths = os.pathsep.join(p for p in sys.path if p)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "out")], env={**os.environ, "PYTHONPATH": paths}
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("children of a process are not listed here")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob("takes/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    pids = [int(pid) for pid in children.read_text().split()]
    assert len(pids) >= 2
    process.kill()
    process.wait()
    while any(_is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if _is_alive(pid)]


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_instances_of_val_and_test_never_occur_in_train_and_novel_kinds_nowhere_else(data_set):
    manifest = json.loads((data_set / "manifest.json").read_text())
    assert {t["split"] for t in manifest["takes"]} == set(COUNTS)
    pools = {s: set() for s in ("train", "val", "test", "test_novel")}
    kinds = {s: set() for s in pools}
    looks = {s: set() for s in pools}
    for split in pools:
        for number in range(9):
            for thing in draw_things(seeded(number, split), 0, split, 12):
                pools[split].add(thing.instance)
                kinds[split].add(thing.kind)
                looks[split].add((thing.mesh.vertices.tobytes(), thing.materials[0].texture.tobytes()))
    for a in pools:
        for b in pools:
            assert a == b or not pools[a] & pools[b]
            assert a == b or not looks[a] & looks[b]
    assert kinds["train"] == set(KINDS)
    assert kinds["test_novel"] == set(NOVEL_KINDS)
    assert not set(KINDS) & set(NOVEL_KINDS)


def test_other_settings_are_refused_and_more_takes_are_added(data_set, tmp_path):
    with pytest.raises(InputError, match="other settings"):
        generate(data_set, COUNTS, preset("standard", **{**TINY, "seconds": 4}), seed=5)
    with pytest.raises(InputError, match="other settings"):
        generate(data_set, COUNTS, tiny(), seed=6)
    (tmp_path / "theirs.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        generate(tmp_path, COUNTS, tiny(), seed=5)
    with pytest.raises(ConfigError, match="cameras=9"):
        preset("standard", cameras=9)
    with pytest.raises(ConfigError, match="unknown preset"):
        preset("harder")


@pytest.mark.parametrize("seconds", [1, 2, 4, 20])
@pytest.mark.parametrize("unknown", [0.0, 0.06, 0.3])
def test_the_fraction_of_unknown_frames_is_the_one_of_the_settings_however_short_the_take(seconds, unknown):
    drawn = [_annotated_seconds(np.random.default_rng([seconds, i]), seconds, unknown) for i in range(20000)]
    assert all(len(annotated) == seconds for annotated in drawn)
    assert np.mean([1 - annotated.mean() for annotated in drawn]) == pytest.approx(unknown, rel=0.12)


def test_takes_are_shared_out():
    assert share_out(30, None) == {"train": 21, "val": 3, "test": 5, "test_novel": 1}
    assert sum(share_out(1, None).values()) == 1
    assert share_out(7, "val") == {"val": 7}
    assert share_out(24, "train=20,val=4") == {"train": 20, "val": 4}
    for takes_, text in ((5, "nonsense"), (5, "train=2,val=2"), (0, None), (5, "train=x")):
        with pytest.raises(InputError):
            share_out(takes_, text)
