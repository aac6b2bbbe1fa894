"""Tasks whose workers die, hang or raise. The oracle is what each attempt leaves on disk."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from counterview.errors import ConfigError, InputError
from counterview.jobs import local
from counterview.jobs import run as jobs_run
from counterview.jobs.engine import JobEngine
from counterview.jobs.manifest import JobTask, Manifest, set_aside
from counterview.jobs.run import WorkerError, map_ordered, run
from tests.jobs.faults import Square, make_faulty, make_lame, make_nothing, make_pid

TWO = JobEngine(workers=2, timeout_s=2)


def manifest(**tasks: str) -> Manifest:
    return Manifest("test", tuple(JobTask(key, (key, what)) for key, what in tasks.items()))


def attempts(folder: Path) -> dict[str, int]:
    return {p.stem: int(p.read_text()) for p in sorted(folder.glob("*.attempts"))}


def test_a_dead_and_a_hanging_worker_are_replaced_and_what_fails_twice_is_set_aside(tmp_path):
    tasks = manifest(
        a="fine", b="die once", c="hang once", d="raise once", e="die", f="raise", g="malformed", h="fine", i="slow"
    )
    steps: list[int] = []
    outcomes = {o.task.key: o for o in run(make_faulty, (tmp_path,), tasks, engine=TWO, on_steps=steps.append)}
    assert set(outcomes) == set("abcdefghi")
    assert {key for key, outcome in outcomes.items() if outcome.error is None} == set("abcdhi")
    assert attempts(tmp_path) == {"a": 1, "b": 2, "c": 2, "d": 2, "e": 2, "f": 2, "g": 1, "h": 1, "i": 1}
    assert {key: o.attempts for key, o in outcomes.items()} == attempts(tmp_path)
    assert isinstance(outcomes["e"].error, WorkerError)
    assert "its process died" in str(outcomes["e"].error)
    assert str(outcomes["f"].error) == "f failed"
    assert isinstance(outcomes["g"].error, InputError)
    assert sum(steps) == 6 * 3 + 8
    assert {outcomes[key].value[1] for key in "abcdhi"} <= {0, 1}
    assert not list(tmp_path.glob("e.done"))
    error = set_aside("test", [outcomes[key] for key in "efg"], len(tasks))
    assert error.exit_code == 1
    for part in ("3 of 9 tasks set aside", "e: its process died", "f: f failed", "g: is malformed"):
        assert part in str(error)


def test_what_hangs_twice_is_set_aside(tmp_path):
    engine = JobEngine(workers=2, timeout_s=1)
    outcomes = {o.task.key: o for o in run(make_faulty, (tmp_path,), manifest(a="hang", b="fine"), engine=engine)}
    assert outcomes["b"].result()[0] == "b"
    with pytest.raises(WorkerError, match="no progress for 1 s"):
        outcomes["a"].result()
    assert attempts(tmp_path) == {"a": 2, "b": 1}


def test_the_calling_process_follows_the_same_rules(tmp_path):
    tasks = manifest(a="raise once", b="raise", c="malformed", d="fine")
    steps: list[int] = []
    outcomes = list(run(make_faulty, (tmp_path,), tasks, on_steps=steps.append))
    assert [o.task.key for o in outcomes] == ["a", "b", "c", "d"]
    assert [o.error is None for o in outcomes] == [True, False, False, True]
    assert attempts(tmp_path) == {"a": 2, "b": 2, "c": 1, "d": 1}
    assert steps == [3, 3]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_cannot_be_made_ends_the_run(workers):
    with pytest.raises(ValueError, match="no model"):
        list(run(make_nothing, ("no model",), manifest(a="", b="", c=""), engine=JobEngine(workers=workers)))


def test_workers_that_only_die_end_the_run(tmp_path):
    tasks = manifest(**{f"t{n}": "die" for n in range(40)})
    with pytest.raises(WorkerError, match="die one after the other"):
        list(run(make_faulty, (tmp_path,), tasks, engine=JobEngine(workers=3)))


@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_in_order(workers):
    assert list(map_ordered(Square(), range(11), workers, "test")) == [n * n for n in range(11)]


def test_idle_workers_that_are_killed_are_replaced(tmp_path):
    """SIGKILL at any moment, also between two tasks, loses none."""
    tasks = Manifest.of("test", range(30))
    killed = set()

    def kill() -> None:
        deadline = time.monotonic() + 30
        while len(killed) < 3 and time.monotonic() < deadline:
            for path in sorted(tmp_path.glob("*")):
                text = path.read_text()
                if text and text not in killed and len(killed) < 3:
                    killed.add(text)
                    os.kill(int(text), signal.SIGKILL)
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    outcomes = list(run(make_pid, (tmp_path,), tasks, engine=JobEngine(workers=2)))
    thread.join()
    assert sorted(o.result() for o in outcomes) == [n * n for n in range(30)]
    assert len(killed) == 3


def test_no_task_waits_for_a_worker_that_does_not_start(tmp_path, monkeypatch):
    """As on a cluster with less room than workers, or where a model cannot be loaded on one machine."""
    monkeypatch.setattr(jobs_run, "_PATIENCE_S", 1.0)
    outcomes = list(run(make_lame, (), Manifest.of("test", range(6)), engine=JobEngine(workers=2)))
    assert sorted(o.result() for o in outcomes) == [(n, 0) for n in range(6)]
    assert {o.attempts for o in outcomes} == {1}


def test_a_run_that_is_left_ends_its_workers(tmp_path):
    outcomes = run(make_faulty, (tmp_path,), manifest(a="fine", b="hang", c="hang"), engine=TWO)
    begun = time.monotonic()
    assert next(outcomes).task.key == "a"
    outcomes.close()
    assert time.monotonic() - begun < 120


def test_the_engine_of_the_option():
    assert JobEngine.parse("local", 3) == JobEngine("local", None, 3)
    assert JobEngine.parse("ray") == JobEngine("ray")
    assert JobEngine.parse("ray:10.0.0.1:6379", 2) == JobEngine("ray", "10.0.0.1:6379", 2)
    for text in ("slurm", "local:2", "ray:", ""):
        with pytest.raises(ConfigError, match="local, ray or ray:ADDRESS"):
            JobEngine.parse(text)
    for values in ({"workers": 0}, {"timeout_s": 0}, {"worker_gpus": -1}):
        with pytest.raises(ConfigError, match="out of range"):
            JobEngine(**values)


def test_two_tasks_have_two_names():
    with pytest.raises(InputError, match="two tasks have the name 'a'"):
        Manifest("test", (JobTask("a", 1), JobTask("a", 2)))


def test_processes_take_turns_on_the_gpus(monkeypatch, tmp_path):
    seen = []
    for listed, gpus in (("2,5", 0), (None, 3), (None, 1), ("", 3), ("4", 3)):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        folder = tmp_path / f"{listed}{gpus}"
        for n in range(gpus):
            (folder / str(n)).mkdir(parents=True)
        monkeypatch.setattr(local, "_NVIDIA", folder)
        if listed is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
        local._take_a_gpu(4)
        seen.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
    assert seen == ["2", "1", None, "", "4"]
