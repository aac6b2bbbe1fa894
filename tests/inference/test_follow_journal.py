"""A run that is killed anywhere goes on, and ends in the same bytes as one that was not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from counterview.cli.main import main
from counterview.errors import AnnotationError, InputError
from counterview.geometry.homography import Homography
from counterview.inference import follow_journal, loading
from counterview.inference.follow_journal import FollowJournal, read_steps, step_from_json, step_to_json
from counterview.inference.follow_step import FollowStep
from counterview.tracking.base import UNKNOWN, Observation
from counterview.types import ObjectMask
from tests.inference.coloured_videos import ColourPredictor, write_two

ROOT = Path(__file__).parents[2]
OBJECTS = ["--point", "20,25", "--name", "mug", "--point", "70,45@1.2", "--name", "cup"]
KEY = {"request": {"fps": 2}, "engine": {"a": 1}, "objects": {"mug": [{"frame": 0}], "cup": [{"frame": 3}]}}


def mask(x):
    array = np.zeros((8, 10), dtype=bool)
    array[2:5, x : x + 3] = True
    return ObjectMask.from_array(array)


def step(time_s=0.1, **changes):
    seen = Observation(mask(1), 0.1 + 0.2, "matched", ((mask(1), -1e-17), (mask(4), -np.inf)), {"way_back": 1 / 3})
    observations = {"ego": {"mug": seen, "cup": UNKNOWN}, "cam": {"mug": Observation(mask(4), 1.0, "given")}}
    motions = {"ego": Homography(np.eye(3) / 3, 9.1, 0.7), "cam": None}
    values = {"frames": {"ego": (3, 0.1), "cam": (7, 0.1 + 1e-9)}, "unreadable": ("cam",), **changes}
    return FollowStep(time_s, values["frames"], observations, motions, values["unreadable"])


def test_a_step_comes_back_exactly():
    one = step()
    text = json.dumps(step_to_json(one))
    back = step_from_json(json.loads(text))
    assert (back.time_s, back.frames, back.observations, back.unreadable) == (
        one.time_s, one.frames, one.observations, one.unreadable,
    )  # fmt: skip
    assert np.array_equal(back.motions["ego"].query_to_target, one.motions["ego"].query_to_target)
    assert back.motions["cam"] is None
    assert len(json.loads(text)["masks"]) == 2  # each once
    final = step_from_json(step_to_json(one, is_final=True))
    assert final["ego"]["mug"].alternatives == ()
    assert final["ego"]["mug"].doubts == {"way_back": 1 / 3}


def test_steps_behind_the_saved_state_are_dropped(tmp_path):
    journal = FollowJournal(tmp_path)
    assert journal.begin(KEY, {})
    assert journal.resume() == (0, None)
    journal.append(step(0.1))
    journal.save({"memory": np.arange(3)})
    journal.append(step(0.2))
    journal.close()
    again = FollowJournal(tmp_path)
    assert again.begin(KEY, {})
    done, state = again.resume()
    assert done == 1
    assert state["memory"].tolist() == [0, 1, 2]
    again.append(step(0.3))
    assert [s.time_s for s in again.steps()] == [0.1, 0.3]


def test_what_there_is_to_do(tmp_path):
    journal = FollowJournal(tmp_path)
    assert journal.notes(KEY["request"]) is None
    assert journal.begin(KEY, {"sync": "none"})
    assert journal.changed is None
    assert journal.notes(KEY["request"]) == {"sync": "none"}
    with pytest.raises(InputError, match=r"unfinished run of other settings.*--overwrite"):
        FollowJournal(tmp_path).begin({**KEY, "engine": {"a": 2}}, {})
    journal.resume()
    journal.finish([step()])
    assert not FollowJournal(tmp_path).begin(KEY, {})
    with pytest.raises(InputError, match="a run of other settings, videos or objects"):
        FollowJournal(tmp_path).begin({**KEY, "request": {"fps": 3}}, {})
    with pytest.raises(InputError, match="other settings"):  # another object is another run
        FollowJournal(tmp_path).begin({**KEY, "objects": {**KEY["objects"], "pan": []}}, {})
    corrected = {**KEY, "objects": {**KEY["objects"], "cup": [{"frame": 3}, {"frame": 9}]}}
    journal = FollowJournal(tmp_path)
    assert journal.begin(corrected, {})
    assert journal.changed == {"cup"}
    (base,) = journal.base()
    assert set(base["ego"]) == {"mug"}
    assert FollowJournal(tmp_path).begin(corrected, {})  # killed: it goes on
    assert not FollowJournal(tmp_path).begin(KEY, {})  # back to what is there
    assert FollowJournal(tmp_path).begin({**KEY, "engine": {}}, {}, overwrite=True)
    assert not (tmp_path / ".follow" / "finished").exists()


def test_a_kill_between_the_results_and_their_place(tmp_path, monkeypatch):
    journal = FollowJournal(tmp_path)
    journal.begin(KEY, {})
    journal.resume()
    monkeypatch.setattr(FollowJournal, "_finish", lambda self: None)
    journal.finish([step()])
    monkeypatch.undo()
    again = FollowJournal(tmp_path)
    assert not again.begin(KEY, {})
    assert [s.time_s for s in again.results()] == [0.1]


def test_damage_is_said_in_a_line(tmp_path):
    path = tmp_path / "steps.jsonl"
    path.write_text(json.dumps(step_to_json(step())) + '\n{"time_s": 1}\n')
    with pytest.raises(AnnotationError, match="line 2 is damaged"):
        list(read_steps(path))
    journal = FollowJournal(tmp_path)
    journal.begin(KEY, {})
    journal.resume()
    journal.append(step())
    journal.save({})
    journal.close()
    (tmp_path / ".follow" / "unfinished" / follow_journal._STATE).write_bytes(b"nothing")
    assert FollowJournal(tmp_path).begin(KEY, {})
    assert journal.resume() == (0, None)  # anew
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".follow").symlink_to(tmp_path)
    with pytest.raises(InputError):
        FollowJournal(tmp_path / "other").begin(KEY, {}, overwrite=True)


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Two videos, the arguments that follow through them, and the files of a run that nobody killed."""
    place = tmp_path_factory.mktemp("unbroken")
    arguments = [*write_two(place), *OBJECTS, "--every-frame", "--format", "coco"]
    patch = pytest.MonkeyPatch()
    patch.setattr(loading, "load", lambda *_, **__: ColourPredictor())
    assert main(["follow", *arguments, "--out", str(place / "out")]) == 0
    patch.undo()
    return arguments, files_of(place / "out")


KILLS = {"unsaved": 9, "saved": 4, "torn": 5, "smoothing": 0, "every-frame": 0, "drawing": 0}
"""Where a run is killed, and the steps of nine that are left to follow."""


@pytest.fixture(scope="module")
def killed(unbroken, tmp_path_factory):
    """The output folders of runs that were killed, each at one place; all at once, since they mostly start up."""
    folders = {where: tmp_path_factory.mktemp("killed") / "out" for where in KILLS}
    command = [sys.executable, "-m", "tests.inference.killed_follow"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    runs = {
        where: subprocess.Popen(
            [*command, where, *unbroken[0], "--out", str(out)], cwd=ROOT, env=environment, stderr=subprocess.PIPE
        )
        for where, out in folders.items()
    }
    for where, run in runs.items():
        _, said = run.communicate(timeout=300)
        assert run.returncode == -signal.SIGKILL, (where, said)
    return folders


@pytest.mark.parametrize("where", KILLS)
def test_a_killed_run_ends_in_the_same_bytes(unbroken, killed, where, monkeypatch, capsys):
    arguments, expected = unbroken
    predictor = ColourPredictor()
    monkeypatch.setattr(loading, "load", lambda *_, **__: predictor)
    assert main(["follow", *arguments, "--out", str(killed[where])]) == 0
    found = files_of(killed[where])
    assert set(found) == set(expected)
    assert {name for name in expected if found[name] != expected[name]} == set()
    assert predictor.steps == KILLS[where]
    assert "finished already" not in capsys.readouterr().out
