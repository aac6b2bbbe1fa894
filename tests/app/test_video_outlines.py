"""What is marked while a video is outlined: one outline at a time, and no mark is passed over."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from counterview.app import video_outlines
from counterview.app.jobs import Jobs
from counterview.app.video_outlines import VideoOutlines
from counterview.errors import ProposalError, VideoError


class View:
    """Marks by camera and frame; each is outlined once it is looked at."""

    def __init__(self):
        self.first, self.other, self.work = "ego", "cam", object()
        self.outlining, self.refused, self.version = set(), {}, 0
        self.frames, self.missing, self.seen = {"ego": 0, "cam": 0}, set(), []
        self.during = lambda: None

    def number(self, camera):
        return self.frames[camera]

    def lacks_outline(self, camera):
        return any(mark[:2] == (camera, self.frames[camera]) for mark in self.missing)

    def outline(self, predictor, camera, number):
        now = {mark for mark in self.missing if mark[:2] == (camera, number)}
        self.seen.append(sorted(now))
        failed = self.during()
        self.missing -= now
        return failed

    def canvas(self, camera):
        return f"canvas of {camera}"


@pytest.fixture
def outlines(monkeypatch):
    monkeypatch.setattr(video_outlines, "objects_value", lambda view: "objects")
    jobs = Jobs({"images": 1})
    yield VideoOutlines(SimpleNamespace(jobs=jobs, predictor=None), "first", "second", "list")
    jobs.close()


def session():
    return SimpleNamespace(
        use=lambda: None, lock=threading.RLock(), ended=False, uploads={}, folder="/its/folder", token="its token"
    )


def run(work):
    """What a coroutine returns, in a thread of its own: the browser of other tests runs a loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


async def every(updates):
    return [update async for update in updates]


def shown(updates):
    """The values of canvases and the list, without lines of progress."""
    return [u for u in updates if "list" in u]


def test_marks_made_meanwhile_are_outlined_by_the_same_one_after_another(outlines):
    view, mine = View(), session()
    began, go_on = threading.Event(), threading.Event()

    def during():
        began.set()
        go_on.wait(10)

    async def both():
        view.missing, view.during = {("ego", 0, "mug")}, during
        first = asyncio.create_task(every(outlines.find(mine, view)))
        while not began.is_set():
            await asyncio.sleep(0.01)
        view.missing.add(("ego", 0, "cup"))
        assert await every(outlines.find(mine, view)) == [], "what is under way takes it"
        go_on.set()
        return await first

    updates = run(both())
    assert view.seen == [[("ego", 0, "mug")], [("ego", 0, "cup")]]
    assert shown(updates) == [{"list": "objects", "first": "canvas of ego"}] * 2
    assert (view.missing, view.outlining, view.refused) == (set(), set(), {})
    assert view.version == 2


def test_a_camera_that_is_no_longer_shown_does_not_take_anothers_place(outlines):
    view = View()
    view.missing = {("cam", 0, "mug")}

    def during():
        view.other, view.frames["other"] = "other", 0

    view.during = during
    updates = run(every(outlines.find(session(), view)))
    assert shown(updates) == [{"list": "objects"}]
    lines = [json.loads(u["second"])["message"] for u in updates if "second" in u]
    assert all("Looking" in line or "Waiting" in line for line in lines)


def test_videos_that_were_put_away_leave_no_error(outlines):
    view = View()
    view.missing = {("ego", 0, "mug")}

    def during():
        view.work, view.first, view.other, view.missing = object(), None, None, set()
        raise VideoError("is closed")

    view.during = during
    assert shown(run(every(outlines.find(session(), view)))) == []
    assert (view.refused, view.outlining) == ({}, set())


def test_videos_that_took_their_place_are_outlined(outlines):
    view = View()
    view.missing = {("ego", 0, "mug")}

    def during():
        view.during = lambda: None
        view.work, view.missing = object(), {("ego", 0, "mug"), ("ego", 0, "cup")}
        raise VideoError("is closed")

    view.during = during
    assert len(shown(run(every(outlines.find(session(), view))))) >= 1
    assert (view.missing, view.refused) == (set(), {})


def test_a_frame_that_cannot_be_read_is_said_and_the_next_one_is_outlined_all_the_same(outlines):
    view = View()
    view.missing = {("ego", 0, "mug")}

    def during():
        view.during = lambda: None
        view.frames["ego"] = 5
        view.missing = {("ego", 5, "mug")}
        raise VideoError("frame 0 cannot be read")

    view.during = during
    assert len(shown(run(every(outlines.find(session(), view))))) == 2
    assert view.missing == set()
    assert "frame 0 cannot be read" in view.refused["ego"].lower()


def test_a_frame_that_cannot_be_read_is_not_tried_for_ever(outlines):
    view = View()
    view.missing = {("ego", 0, "mug")}

    def during():
        raise VideoError("frame 0 cannot be read")

    view.during = during
    assert len(shown(run(every(outlines.find(session(), view))))) == 1
    assert len(view.seen) == 1


def test_a_mark_that_means_nothing_is_said(outlines):
    view = View()
    view.missing = {("ego", 0, "mug")}
    view.during = lambda: ProposalError("nothing is there")
    run(every(outlines.find(session(), view)))
    assert "Nothing is there" in view.refused["ego"]


def test_an_ended_session_is_told_nothing(outlines):
    view, mine = View(), session()
    view.missing = {("ego", 0, "mug")}

    def during():
        mine.ended = True
        raise VideoError("its folder is gone")

    view.during = during
    assert shown(run(every(outlines.find(mine, view)))) == []
    assert (view.refused, view.outlining) == ({}, set())
