"""Many runs of ``counterview follow`` from a list. The oracle is what single runs write."""

import subprocess
import sys
from pathlib import Path

import pytest

from counterview.cli import loaded
from counterview.cli.follow import follow
from counterview.cli.follow_list import FollowRun, check_runs, make_follower, read_list
from counterview.cli.main import main
from counterview.errors import InputError
from counterview.inference import loading
from counterview.media.storage import ObjectFolder
from counterview.media.video import VideoReader
from tests.inference.coloured_videos import ColourPredictor, write_two
from tests.object_storage import bucket  # noqa: F401  # a fixture

CLICK = "--point 20,25 --name mug"


@pytest.fixture
def loads(monkeypatch):
    """How often the model was loaded."""
    calls = []
    monkeypatch.setattr(loading, "load", lambda *a, **k: calls.append((a, k)) or ColourPredictor())
    yield calls
    loaded._MODELS.clear()


@pytest.fixture
def two(tmp_path):
    return [str(path) for path in write_two(tmp_path)]


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def written(folder):
    """Contents by name; of the overlay its number of frames: x264 varies at so small a size."""
    found = {name: content for name, content in files(folder).items() if not name.startswith(".")}
    with VideoReader(folder / "overlay.mp4") as overlay:
        found["overlay.mp4"] = overlay.frame_count
    return found


def test_each_line_writes_what_a_single_run_writes(loads, two, tmp_path, capsys):
    (tmp_path / "runs.txt").write_text(
        f"# two runs\n{' '.join(two)} {CLICK} --out {tmp_path / 'a'}\n\n"
        f"{two[0]} --point 70,45@1.2 --out={tmp_path / 'b'}  # alone\n"
        f"{two[0]} --point 5,5 --start 900 --out {tmp_path / 'c'}\n"
    )
    assert main(["follow", "--list", str(tmp_path / "runs.txt")]) == 1
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'a'}: done\n{tmp_path / 'b'}: done\n"
    assert "follow: 1 of 3 tasks set aside, the others are done" in err
    assert f"{tmp_path / 'c'}: " in err
    assert len(loads) == 1, "the model is loaded once in each process"
    for name, arguments in (("a", [*two, *CLICK.split()]), ("b", [two[0], "--point", "70,45@1.2"])):
        assert main(["follow", *arguments, "--out", str(tmp_path / f"single-{name}")]) == 0
        assert written(tmp_path / f"single-{name}") == written(tmp_path / name)
    main(["follow", "--list", str(tmp_path / "runs.txt")])
    assert capsys.readouterr().out.count("finished already") == 2


def test_a_list_is_checked_before_the_first_run(loads, two, tmp_path, capsys):
    path = tmp_path / "runs.txt"
    good = f"{two[0]} {CLICK} --out {tmp_path / 'a'}\n"
    for line, problem in (
        (f"{two[0]} {CLICK}", "line 2: each run has a folder of its own; found 0 times --out"),
        (f"{two[0]} --pointer 3 --out x", "line 2: No such option"),
        (f"{two[0]} --fps many --out x", "line 2: Invalid value"),
        (f"{two[0]} 'open --out x", "line 2 cannot be split"),
        (f"{two[0]} --json --out x", "line 2: --json is not an option of a single run in a list"),
        (f"{two[0]} {CLICK} --out {tmp_path / 'a'}", "two tasks have the name"),
    ):
        path.write_text(good + line)
        assert main(["follow", "--list", str(path)]) == 2
        assert problem in capsys.readouterr().err
        assert not (tmp_path / "a").exists()
    path.write_text("# nothing")
    with pytest.raises(InputError, match="holds no run"):
        read_list(path)
    assert main(["follow", "--list", str(path), "--workers", "2", two[0]]) == 2
    assert "--list takes the place of QUERY" in capsys.readouterr().err
    assert main(["follow"]) == 2
    assert "QUERY is missing" in capsys.readouterr().err
    assert main(["follow", two[0], "--workers", "2"]) == 2
    assert "--engine and --workers are for --list" in capsys.readouterr().err
    assert loads == []
    check_runs(path, [FollowRun(1, ("a.mp4", "--out", "x"), "x")], follow)


def test_videos_and_results_in_object_storage(bucket, loads, two, tmp_path):  # noqa: F811
    source = ObjectFolder(f"{bucket}/in")
    for path in two:
        source.store(Path(path), path.rpartition("/")[2])
    names = [f"{source.url}/{path.rpartition('/')[2]}" for path in two]
    out = f"{bucket}/out/one"
    make_follower(follow)(FollowRun(1, (*names, *CLICK.split(), "--out", out), out))
    assert main(["follow", *two, *CLICK.split(), "--out", str(tmp_path / "local")]) == 0
    ObjectFolder(out).fetch_all(ObjectFolder(out).files(), tmp_path / "fetched")
    local, fetched = written(tmp_path / "local"), written(tmp_path / "fetched")
    assert set(fetched) == set(local)
    expected = local["tracks.json"].decode()
    for path, url in zip(two, names, strict=True):
        expected = expected.replace(path, url)
    assert fetched["tracks.json"].decode() == expected
    said = make_follower(follow)(FollowRun(1, (*names, *CLICK.split(), "--out", out), out))
    assert said.startswith("finished already")


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(two, tmp_path):
    line = f"{' '.join(two)} {CLICK} --model tiny --fps 1 --out "
    for number, workers in ((1, 1), (2, 2)):
        (tmp_path / "runs.txt").write_text("".join(f"{line}{tmp_path}/{number}-{n}\n" for n in "ab"))
        command = [sys.executable, "-m", "counterview.cli.main", "follow", "--list", str(tmp_path / "runs.txt")]
        subprocess.run([*command, "--workers", str(workers)], check=True, timeout=280)
    for n in "ab":
        assert written(tmp_path / f"1-{n}") == written(tmp_path / f"2-{n}")
