"""The page on two videos: its commands and its code run as they stand there."""

import json
import re
import shlex
from pathlib import Path

import pytest

import counterview
from counterview.cli.main import main
from counterview.exchange.tracks import read_tracks
from counterview.inference import loading
from counterview.inference.examples import load_take
from counterview.masks.geometry import iou
from counterview.media.encode import write_video
from counterview.media.video import VideoReader
from tests.inference.coloured_videos import ColourPredictor, shift
from tests.tracking.coloured import draw

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "two-videos.md").read_text(encoding="utf-8")
PROGRAM = re.findall(r"^```python\n(.*?)^```", TEXT[TEXT.index("## In a program") : TEXT.index("## Time")], re.M | re.S)


def commands(heading):
    """The commands of the first block below a heading."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", TEXT[TEXT.index(heading) :], re.MULTILINE | re.DOTALL)
    block = next(lines for language, lines in blocks if not language)
    return [shlex.split(line)[1:] for line in block.splitlines()]


@pytest.fixture
def coloured(tmp_path, monkeypatch):
    """A folder with ``ego.mp4`` and ``cam01.mp4``, in which what the page clicks on is red."""
    boxes = {"red": (140, 120, 70, 60), "blue": (230, 20, 40, 50)}
    for name, moves in (("ego", 2), ("cam01", -3)):
        write_video(tmp_path / f"{name}.mp4", [draw(shift(boxes, moves * n), (240, 320)) for n in range(20)], 5, crf=4)
    monkeypatch.chdir(tmp_path)
    predictor = ColourPredictor()
    monkeypatch.setattr(counterview, "load", lambda *_, **__: predictor)  # first: it is looked up in the next
    monkeypatch.setattr(loading, "load", lambda *_, **__: predictor)
    return tmp_path


def test_the_commands_and_corrections(coloured, capsys):
    (first,) = commands("# Follow through two videos")
    assert main(first) == 0
    (corrected,) = commands("## Check, and correct")
    text = re.search(r"^```json\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)[1]
    assert {c["object"] for c in json.loads(text)["corrections"]} == {"bowl"}
    # The videos of this test are shorter than the page's.
    (coloured / "corrections.json").write_text(
        text.replace('"frame": 150', '"frame": 15').replace("[300, 140]", "[160, 140]")
    )
    assert main(corrected) == 0, capsys.readouterr().err
    tracks = read_tracks(coloured / "counterview-follow" / "tracks.json")
    assert {m.frame: m.source for m in tracks.objects["bowl"]["cam01"]}[15] == "given"
    assert {m.frame: m.mask_rle for m in tracks.objects["bowl"]["ego"]}[15] is None


def test_the_programs(coloured, capsys):
    for block in PROGRAM:
        exec(compile(block, "two-videos.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 + 4 + 1
    assert all(line.endswith("True") for line in lines[:8])
    assert float(lines[-1]) > 0.5
    assert (coloured / "bowl.state").exists()


@pytest.mark.slow
def test_the_first_command_with_the_bundled_model(tmp_path, monkeypatch, capsys):
    """Two seconds of the bundled videos, in which the bowl is at the pixel of the page."""
    take = load_take()
    (ego,), (cam01, _) = take.ego_cameras, take.exo_cameras
    for name, camera in (("ego", ego), ("cam01", cam01)):
        with VideoReader(take.video(camera).path) as video:
            write_video(tmp_path / f"{name}.mp4", [video.frame(n) for n in range(0, 45, 3)], 10, crf=10)
    monkeypatch.chdir(tmp_path)
    (first,) = commands("# Follow through two videos")
    assert main(first) == 0, capsys.readouterr().err
    tracks = read_tracks(tmp_path / "counterview-follow" / "tracks.json")
    for camera, name in ((ego, "ego"), (cam01, "cam01")):
        shown = tracks.objects["bowl"][name][0]
        assert shown.frame == 0
        assert shown.mask_rle is not None, camera
        assert iou(shown.mask_rle, take.mask("navy rings bowl_0", camera, 0)) > 0.5, camera
    with VideoReader(tmp_path / "counterview-follow" / "overlay.mp4") as video:
        assert video.duration_s > 1
