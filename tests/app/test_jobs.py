"""Jobs wait in order, say where they are, and stop when they are told to."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from counterview.app.events import progress
from counterview.app.jobs import JobCancelled, Jobs
from counterview.app.limits import PageLimits
from counterview.app.messages import error_line, one_line, progress_line
from counterview.app.sessions import Sessions
from counterview.errors import ImageError, InputError


@pytest.fixture
def jobs():
    made = Jobs({"one": 1}, waiting=2)
    yield made
    made.close()


def test_a_job_returns_its_result_or_raises_its_error(jobs):
    assert jobs.submit("one", "me", "a", lambda job: 41 + 1).wait(10) == 42

    def fail(job):
        raise InputError("no")

    failed = jobs.submit("one", "me", "a", fail)
    with pytest.raises(InputError, match="no"):
        failed.wait(10)
    assert failed.state == "failed"


def test_jobs_wait_in_order_and_know_their_place(jobs):
    gate, order = threading.Event(), []

    def work(name):
        def run(job):
            gate.wait(10)
            order.append(name)

        return run

    made = [jobs.submit("one", f"owner {i}", "a", work(i)) for i in range(4)]
    until = time.monotonic() + 10
    while made[0].state != "running" and time.monotonic() < until:
        time.sleep(0.01)
    assert [jobs.place(job) for job in made] == [0, 0, 1, 2]
    assert "2 jobs ahead" in progress_line(made[3], jobs.place(made[3]))
    gate.set()
    for job in made:
        job.wait(10)
    assert order == [0, 1, 2, 3]


def test_a_running_job_stops_at_its_next_step_and_a_waiting_one_never_begins(jobs):
    began, steps, never = threading.Event(), [], []

    def work(job):
        while True:
            steps.append(time.monotonic())
            began.set()
            job.report("working", 0.5)
            time.sleep(0.01)

    running = jobs.submit("one", "me", "a", work)
    waiting = jobs.submit("one", "me", "b", never.append)
    assert began.wait(10)
    assert jobs.cancel("you") == 0
    assert jobs.cancel("me") == 2
    for job in (running, waiting):
        with pytest.raises(JobCancelled):
            job.wait(10)
        assert job.state == "cancelled"
    count = len(steps)
    time.sleep(0.1)
    assert len(steps) == count
    assert never == []
    assert not jobs.running("me")
    assert jobs.submit("one", "me", "a", lambda job: 1).wait(10) == 1


def test_a_job_of_the_same_purpose_replaces_the_earlier_one(jobs):
    def work(job):
        while True:
            job.check()
            time.sleep(0.01)

    first = jobs.submit("one", "me", "a", work)
    other = jobs.submit("one", "you", "a", lambda job: 1)
    second = jobs.submit("one", "me", "a", lambda job: 2)
    assert second.wait(10) == 2
    assert first.state == "cancelled"
    assert [job.is_replaced for job in (first, second, other)] == [True, False, False]


def test_nothing_is_said_of_a_job_that_was_replaced(jobs):
    context, session = SimpleNamespace(jobs=jobs), SimpleNamespace(use=lambda: None)
    gate = threading.Event()

    def work(job):
        job.report("the first")
        gate.wait(10)
        job.check()

    async def watch():
        said = []
        first = jobs.submit("one", session, "a", work)
        async for line in progress(context, session, first):
            said.append(line)
            if "the first" in line:
                second = jobs.submit("one", session, "a", lambda job: "done")
                gate.set()
        return said, first, second.wait(10)

    with ThreadPoolExecutor(1) as threads:  # a browser of other tests runs a loop in this thread
        said, first, result = threads.submit(asyncio.run, watch()).result()
    assert "the first" in said[-1], "nor that it is stopping"
    assert (first.state, first.is_replaced, result) == ("cancelled", True, "done")


def test_an_owner_cannot_fill_the_queue(jobs):
    gate, began = threading.Event(), threading.Event()
    jobs.submit("one", "me", "0", lambda job: [began.set(), gate.wait(10)])
    assert began.wait(10)
    for number in (1, 2):
        jobs.submit("one", "me", str(number), lambda job: gate.wait(10))
    with pytest.raises(InputError, match="too many jobs"):
        jobs.submit("one", "me", "x", lambda job: 1)
    jobs.submit("one", "you", "x", lambda job: 1)
    gate.set()


def test_progress_does_not_hide_that_a_job_is_stopping(jobs):
    gate = threading.Event()

    def work(job):
        job.report("step 3", 0.4)
        gate.wait(10)
        job.check()

    job = jobs.submit("one", "me", "a", work)

    async def watch():
        lines = []
        async for state in jobs.watch(job):
            lines.append(None if state.is_over else progress_line(state, jobs.place(state)))
            if lines[-1] is not None and "step 3" in lines[-1]:
                jobs.cancel("me")
            elif lines[-1] is not None and "Stopping" in lines[-1]:
                gate.set()
        return lines

    with ThreadPoolExecutor(1) as threads:  # a browser of other tests runs a loop in this thread
        lines = threads.submit(asyncio.run, watch()).result()
    stopping = ["Stopping after this step" in (line or "") for line in lines]
    assert any("step 3" in (line or "") for line in lines)
    assert all(stopping[stopping.index(True) : -1]), "no later line says otherwise"
    assert lines[-1] is None
    assert (job.state, job.is_stopping) == ("cancelled", False)


def test_a_page_that_watches_is_told_until_the_end(jobs):
    gate = threading.Event()

    async def watch():
        job, told = jobs.submit("one", "me", "a", lambda job: [job.report("half", 0.5), gate.wait(10)]), []
        async for state in jobs.watch(job):
            told.append((state.state, state.text))
            if state.text == "half":
                gate.set()
        return told

    with ThreadPoolExecutor(1) as threads:  # a browser's loop may be running in this one
        told = threads.submit(asyncio.run, watch()).result()
    assert ("running", "half") in told
    assert told[-1][0] == "done"


def test_errors_are_one_line_without_paths_of_the_server_and_without_markup():
    sessions = Sessions(PageLimits())
    try:
        session = sessions.of("key", "o" * 32, begin=True)
        with session.receive("mug <b>.png", "image", None) as incoming:
            incoming.write(b"x")
        path = session.uploaded(incoming.key).path
        line = one_line(ImageError("is not an image", path=path), session)
        assert line == "mug <b>.png: is not an image"
        assert "<b>" not in error_line(ImageError("is not an image", path=path), session)
        other = one_line(OSError(f"cannot open {session.folder}/x and /etc/secret/key"), session)
        assert str(session.folder) not in other
        assert "/etc/secret" not in other
        assert "\n" not in one_line(ValueError("a\nb"))
    finally:
        sessions.close()
