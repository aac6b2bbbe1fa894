"""What the tab "Two images" says when answers of the server overtake one another; in a browser it depends on luck."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from counterview.app.context import COOKIE, PageContext
from counterview.app.limits import PageLimits
from counterview.app.two_images import TwoImagesTab

REQUEST = SimpleNamespace(session_hash="page", cookies={COOKIE: "o" * 32})


@pytest.fixture
def tab(predictor):
    context = PageContext(predictor, "knn", PageLimits())
    tab = TwoImagesTab(context)
    for name in ("query", "objects", "target", "answers", "status", "downloads"):
        setattr(tab, name, name)
    yield tab
    context.close()


def run(work):
    """What a coroutine returns, in a thread of its own: the browser of other tests runs a loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def mark(tool, x, y):
    return SimpleNamespace(kind=tool, points=[[x, y]], radius=None, shown=500)


async def upload_then(tab, path, event) -> tuple[dict, dict]:
    """Upload a query image and mark it while it is looked at; the answer to the mark, and the upload's last one."""
    session = tab.context.session(REQUEST, begin=True)
    with session.receive(path.name, "image", None) as incoming:
        incoming.write(path.read_bytes())
    updates = tab.upload_query(REQUEST, SimpleNamespace(id=incoming.key, shown=500))
    await anext(updates)  # the image is shown
    answer = await tab.mark_query(REQUEST, event)
    last = [update async for update in updates][-1]
    return json.loads(answer["query"]), json.loads(last["query"])


def test_a_refusal_is_not_hidden_by_what_is_said_of_the_upload(tab, scene_files):
    answer, last = run(upload_then(tab, scene_files[0], mark("away", 80, 80)))
    assert "Nothing is marked yet" in answer["message"]
    assert last["message"] == answer["message"], "whichever comes last says the same"
    assert last["version"] == answer["version"] > 0
    assert not last["busy"]


def test_an_outline_is_not_hidden_by_what_is_said_of_the_upload(tab, scene_files):
    answer, last = run(upload_then(tab, scene_files[0], mark("point", 80, 80)))
    assert "Outlined in" in answer["message"]
    assert last["message"] == answer["message"]
    assert last["version"] == answer["version"] > 0


def test_a_refusal_goes_with_the_next_mark(tab, scene_files):
    async def visit():
        await upload_then(tab, scene_files[0], mark("away", 80, 80))
        return await tab.mark_query(REQUEST, mark("point", 80, 80))

    assert "cv-error" not in json.loads(run(visit())["query"])["message"]
    pair = tab.context.session(REQUEST).kept("two-images", None)
    assert pair.refused == {}
