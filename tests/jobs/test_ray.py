"""The same rules on Ray: a local cluster of two workers. Skipped loudly without the extra."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from counterview.data.prepare.prepare import prepare_release
from counterview.errors import InputError
from counterview.jobs.engine import JobEngine
from counterview.jobs.manifest import JobTask, Manifest
from counterview.jobs.ray_pool import ClusterError, RayTaskRunner
from counterview.jobs.run import WorkerError, run
from tests.data_egoexo.release_maker import EGO, EXO, TakeSpec, make_release
from tests.jobs.faults import make_faulty, make_nothing, make_pid

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed: jobs on Ray are NOT tested")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster():
    """A cluster of this process, whose workers import what this process imports."""
    before = dict(os.environ)
    os.environ |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *(p for p in sys.path if p)]), "RAY_AUTH_MODE": "disabled",
        "RAY_DISABLE_IMPORT_WARNING": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    os.environ.pop("RAY_ADDRESS", None)
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", object_store_memory=80_000_000
    )
    yield
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)


def test_what_dies_hangs_or_raises_is_tried_again_and_then_set_aside(cluster, tmp_path):
    whats = {"a": "fine", "b": "die once", "c": "hang once", "d": "raise", "e": "die", "f": "malformed", "g": "slow"}
    tasks = Manifest("test", tuple(JobTask(key, (key, what)) for key, what in whats.items()))
    steps: list[int] = []
    engine = JobEngine("ray", workers=2, timeout_s=4)
    outcomes = {o.task.key: o for o in run(make_faulty, (tmp_path,), tasks, engine=engine, on_steps=steps.append)}
    assert {key for key, outcome in outcomes.items() if outcome.error is None} == set("abcg")
    assert {key: o.attempts for key, o in outcomes.items()} == {
        "a": 1, "b": 2, "c": 2, "d": 2, "e": 2, "f": 1, "g": 1
    }  # fmt: skip
    assert isinstance(outcomes["e"].error, WorkerError)
    assert str(outcomes["d"].error) == "d failed"
    assert isinstance(outcomes["f"].error, InputError)
    assert 0 < sum(steps) <= 4 * 3 + 8  # those of the last moment of a task may be missed


def test_a_worker_that_is_killed_is_replaced(cluster, tmp_path):
    killed = []

    def kill() -> None:
        while not killed:
            for path in tmp_path.glob("*"):
                text = path.read_text()
                if text and int(text) != os.getpid():
                    killed.append(int(text))
                    os.kill(int(text), signal.SIGKILL)
                    return
            time.sleep(0.02)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    engine = JobEngine("ray", workers=2)
    outcomes = list(run(make_pid, (tmp_path,), Manifest.of("test", range(40)), engine=engine))
    assert sorted(o.result() for o in outcomes) == [n * n for n in range(40)]
    pids = {int(p.read_text()) for p in tmp_path.glob("*")}
    assert killed
    assert len(pids) == 3
    assert os.getpid() not in pids


def test_a_worker_that_cannot_be_made_ends_the_run(cluster):
    with pytest.raises(ValueError, match="no model"):
        list(run(make_nothing, ("no model",), Manifest.of("test", range(3)), engine=JobEngine("ray", workers=2)))


def test_takes_are_prepared_to_the_same_bytes(cluster, tmp_path):
    specs = [TakeSpec(u, f"cook_{u}", cameras=(EGO, EXO)) for u in "abcd"]
    release = make_release(tmp_path / "release", specs)
    reports = [
        prepare_release(release, tmp_path / name, splits=["val"], engine=engine)
        for name, engine in (("here", None), ("ray", JobEngine("ray", workers=2)))
    ]
    assert reports[0].to_dict() == reports[1].to_dict()
    here, there = (
        {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in (tmp_path / "here", tmp_path / "ray")
    )
    pairs = {name for name in here if name.endswith("pairs.json")}  # they name the folder
    assert {name for name in {*here, *there} if here.get(name) != there.get(name)} == pairs
    for name in pairs:
        assert there[name].decode().replace("/ray//", "/here//") == here[name].decode()


def test_another_version_is_refused():
    reply = RayTaskRunner(make_pid, (Path(),), 0, "0.0.1", str(Path.cwd())).process(1)
    assert reply.kind == "unusable"
    assert "another version of counterview" in str(reply.value)


def test_an_address_without_a_cluster_is_one_line(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ClusterError, match=r"no Ray cluster can be reached; found 127.0.0.1:1: .*Start it with"):
        list(run(make_pid, (Path(),), Manifest.of("test", [1]), engine=JobEngine("ray", "127.0.0.1:1")))


def test_a_lost_cluster_ends_the_run_and_the_next_run_goes_on(tmp_path):
    """The whole cluster is killed in the middle and started again; what is done is not done again."""
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *(p for p in sys.path if p)]),
        "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "JOBS_TEST": str(tmp_path),
    }  # fmt: skip
    environment.pop("RAY_ADDRESS", None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start() -> subprocess.Popen[bytes]:
        command = [
            Path(sys.executable).with_name("ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=2",
            "--include-dashboard=false", "--object-store-memory=80000000", "--disable-usage-stats",
        ]  # fmt: skip
        head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            time.sleep(0.3)
        return head

    def kill(head: subprocess.Popen[bytes]) -> None:
        mark = f"JOBS_TEST={tmp_path}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                name, content = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
                if mark in content and b"JOBS_DRIVER" not in content and name:
                    os.kill(int(folder.name), signal.SIGKILL)
            except OSError:
                continue
        head.wait(timeout=30)

    out = tmp_path / "out"
    out.mkdir()
    code = (
        "import sys\nfrom pathlib import Path\nfrom counterview.errors import CounterviewError\n"
        "from counterview.jobs.engine import JobEngine\nfrom counterview.jobs.manifest import Manifest\n"
        "from counterview.jobs.run import run\nfrom tests.jobs.faults import make_pid\n"
        f"out = Path({str(out)!r})\nleft = [n for n in range(60) if not (out / str(n)).exists()]\n"
        f"engine = JobEngine('ray', '127.0.0.1:{port}', workers=2)\n"
        "try:\n    done = [o.result() for o in run(make_pid, (out,), Manifest.of('t', left), engine=engine)]\n"
        "except CounterviewError as error:\n    sys.exit(str(error))\nprint('DONE', len(done))\n"
    )
    command = [sys.executable, "-c", code]
    head = start()
    try:
        driver = subprocess.Popen(
            command, env={**environment, "JOBS_DRIVER": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 120
        while not list(out.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        kill(head)
        _, said = driver.communicate(timeout=120)
        assert driver.returncode != 0
        done = len(list(out.iterdir()))
        assert 0 < done < 60
        head = start()
        again = subprocess.run(
            command, env={**environment, "JOBS_DRIVER": "1"}, capture_output=True, text=True, timeout=200
        )
        assert again.stdout.strip() == f"DONE {60 - done}", (said[-500:], again.stderr[-500:])
    finally:
        kill(head)
    assert sorted(int(p.name) for p in out.iterdir()) == list(range(60))
