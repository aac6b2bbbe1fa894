"""The page served in a thread of this process, and a browser that looks at it."""

import contextlib
import shutil
import socket
import threading
import time

import uvicorn
from playwright.sync_api import sync_playwright

from counterview.app.context import PageContext
from counterview.app.limits import PageLimits
from counterview.app.server import make_app

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REASON = "no chromium: the page is NOT tested in a browser (apt-get install chromium)"


@contextlib.contextmanager
def served(predictor, limits=None, **options):
    """Address and context of a running page."""
    context = PageContext(predictor, "test", limits or PageLimits(), **options)
    app = make_app(context)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.02)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/", context
        finally:
            server.should_exit = True
            thread.join(10)
            context.close()


@contextlib.contextmanager
def browser():
    """Debian's chromium."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


def open_page(started, address, tab, width=1280):
    """A page of its own session, with a tab open. What it says on its console as an error fails the test."""
    context = started.new_context(viewport={"width": width, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on(
        "request", lambda r: page.faults.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None
    )
    page.goto(address)
    page.wait_for_selector("html[data-session=ready]")
    page.get_by_role("tab", name=tab).click()
    return page
