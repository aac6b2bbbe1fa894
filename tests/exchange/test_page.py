"""The page on exchange: its code and its commands run on tracks of two small videos."""

import re
import shlex
from pathlib import Path

from counterview.cli.main import main
from counterview.exchange import read
from counterview.exchange.tracks import TrackedCamera, TrackedMask, Tracks, write_tracks
from counterview.media.images import image_size
from tests.data_egoexo.release_maker import write_video
from tests.exchange.samples import blob

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "exchange.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    size = (48, 64)
    cameras = {name: TrackedCamera(f"{name}.mp4", size, 30.0) for name in ("ego", "cam01")}
    for camera in cameras.values():
        write_video(Path(camera.path), 7, size)
    mug = {name: [TrackedMask(f / 30, f, blob(size, f), 0.9, "matched") for f in (0, 3, 6)] for name in cameras}
    write_tracks("tracks.json", Tracks(cameras, {"mug": mug}))

    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), {})
    assert read("out/cvat") == read("tracks.json")
    assert sorted(p.as_posix() for p in Path("out/images").rglob("*.jpg")) == [
        f"out/images/{name}/{frame:06d}.jpg" for name in ("cam01", "ego") for frame in (0, 3, 6)
    ]
    assert image_size("out/images/ego/000003.jpg") == size
    Path("out/coco.json").rename("instances.json")
    commands = re.findall(r"^counterview (evaluate .*)$", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        capsys.readouterr()
        assert main(shlex.split(command)) == 0
        assert "1.0000" in (printed := capsys.readouterr().out) or '"balanced_accuracy": 1.0' in printed
