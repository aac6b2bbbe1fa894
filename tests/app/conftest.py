"""A page that is served in a thread, and a browser to look at it."""

import os
import shutil
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs the extra [app]")

from counterview.app.context import PageContext
from counterview.app.limits import PageLimits
from counterview.app.server import make_app
from counterview.inference.loading import load

CHROMIUM = os.environ.get("COUNTERVIEW_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
RED, BLUE = (200, 30, 30), (30, 60, 200)


def scene() -> np.ndarray:
    """Two things on a table, ``(240, 320, 3)`` uint8."""
    image = np.full((240, 320, 3), 90, dtype=np.uint8)
    image[40:120, 40:120], image[110:200, 190:280] = RED, BLUE
    return image


@pytest.fixture
def scene_files(tmp_path):
    """The scene and its mirror image as files."""
    near, far = tmp_path / "near.png", tmp_path / "far.png"
    Image.fromarray(scene()).save(near)
    Image.fromarray(np.ascontiguousarray(scene()[:, ::-1])).save(far)
    return near, far


@pytest.fixture(scope="session")
def predictor():
    """A model without weights, in which clicks choose among the same masks."""
    return load("knn", proposals="graph")


class Served:
    """A page that is being served.

    Attributes:
        context: of the page.
        address: where it is.
    """

    def __init__(self, context, address):
        self.context, self.address = context, address


@contextmanager
def serving(predictor, limits=None, about=None, **options):
    """Serve a page in a thread of this process."""
    import uvicorn

    context = PageContext(predictor, "knn", limits or PageLimits(), **(about or {}))
    server = uvicorn.Server(uvicorn.Config(make_app(context, **options), port=0, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server ended before it listened"
        thread.join(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(context, f"http://127.0.0.1:{port}/")
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(20)
        context.close()


def wait_until(page, is_so, timeout_s=60):
    """Wait until something is so, at the server or on the page, whose parts are not drawn all at once."""
    until = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < until, "it did not come to be so"
        page.wait_for_timeout(50)


@pytest.fixture(scope="session")
def served(predictor):
    with serving(predictor, PageLimits(image_mb=1, image_megapixels=2)) as page:
        yield page


@pytest.fixture(scope="session")
def browser():
    """Debian's chromium through Playwright, which brings no browser of its own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="tests of the page need playwright")
    if CHROMIUM is None:
        pytest.skip("NO TEST OF THE PAGE WAS RUN: no chromium here. As root on Debian: apt-get install chromium")
    with playwright.sync_playwright() as tool:
        chromium = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """Open pages, each as a visitor of its own."""
    contexts = []

    def open_page(served, width=1280, height=900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.requested, page.failures = [], []
        page.on("request", lambda request: page.requested.append(request.url))
        page.on("pageerror", lambda error: page.failures.append(str(error)))
        page.goto(served.address)
        page.wait_for_selector("html[data-session]")
        return page

    yield open_page
    for context in contexts:
        context.close()
