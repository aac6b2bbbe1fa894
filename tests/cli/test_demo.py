"""The demo with small models in the place of the bundled ones, so that it takes seconds."""

import json

import pytest

from counterview.cli import demo
from counterview.cli.main import main
from counterview.exchange.tracks import read_tracks
from counterview.media.images import read_image
from counterview.media.video import VideoReader
from counterview.nn import bundled
from tests.inference.small_models import small_lmeec


def run(capsys, *arguments):
    code = main(["demo", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_demo_with_the_bundled_model(with_bundled, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bundled, "DEFAULT_MODEL", "tiny")
    code, out, err = run(capsys, "--out", tmp_path, "--what", "both")
    assert (code, err) == (0, "")
    for part in ("ego -> exo: tiny (graph, classical)", "exo -> ego", "match, a rendered take",
                 "navy can_0", "mean over all frames", "balanced accuracy"):  # fmt: skip
        assert part in out, part
    names = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert {"ego_to_exo/overlay.png", "exo_to_ego/match.json", "take/match.mp4", "take/match.jpg"} <= names  # fmt: skip
    assert not any("follow" in name for name in names)  # of the bundled models none follows well enough to be shown
    with VideoReader(tmp_path / "take" / "match.mp4") as video:
        assert video.frame_count == 10
        assert video.size_hw[1] > 2 * video.size_hw[0]
    assert read_image(tmp_path / "take" / "match.jpg").shape[1] > 1000
    result = json.loads((tmp_path / "ego_to_exo" / "match.json").read_text())
    assert result["settings"]["matcher"]["source"] == "tiny-match"


def test_the_demo_follows_one_click_through_three_videos(with_bundled, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "FOLLOW_END_S", 1.0)
    code, out, err = run(capsys, "--out", tmp_path, "--what", "follow", "--model", "tiny")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("follow, 1 seconds of three videos, from one click at 178,154 in the first image")
    assert [line.split()[0] for line in lines[1:4]] == ["aria05_214-1", "cam01", "cam02"]
    assert float(lines[1].split()[2]) > 0.3  # half of its frames are the click's own mask
    tracks = read_tracks(tmp_path / "follow" / "tracks.json")
    assert [m.frame for m in tracks.objects["bowl"]["cam02"]] == [0, 30]
    with VideoReader(tmp_path / "follow" / "overlay.mp4") as video:
        assert video.frame_count == 20
    assert (tmp_path / "follow" / "review.csv").exists()


def test_the_demo_follows_with_a_model_of_the_user(without_bundled, tmp_path, capsys):
    code, out, err = run(capsys, "--out", tmp_path / "d", "--what", "take", "--model", small_lmeec(tmp_path / "m"))
    assert code == 0
    assert "follow, a rendered take" in out
    assert err == ""
    code, _, err = run(capsys, "--model", "tiny", "--out", tmp_path / "d")
    assert code == 1
    assert "not part of this installation" in err
    code, _, err = run(capsys, "--what", "nothing", "--out", tmp_path)
    assert code == 2
    assert "pair, take, both, follow or all" in err


@pytest.mark.slow
def test_the_demo_without_weights(without_bundled, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bundled, "DEFAULT_MODEL", "knn")
    code, out, err = run(capsys, "--out", tmp_path)
    assert code == 0
    assert err == ""
    means = [float(line.split()[-1]) for line in out.splitlines() if line.startswith("  mean   ")]
    assert min(means) > 0.7, "the README has this number"
