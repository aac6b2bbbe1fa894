"""The images of the how-to page on the browser: ``python -m tools.make_page_images FOLDER``.

A page is served as ``counterview serve`` does, and Debian's chromium uses it as the how-to page says: an example, a
click, a second object, a match, and the same on a narrow screen. Nothing is retouched. Needs the extra [dev] and
chromium.
"""

from __future__ import annotations

import argparse
import io
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

import counterview
from counterview.app.context import PageContext
from counterview.app.limits import PageLimits
from counterview.app.server import make_app, run
from counterview.inference.examples import load_pair
from counterview.inference.loading import load

WIDE, NARROW = (1280, 900), (390, 844)
TAKE = Path(counterview.__file__).parent / "assets" / "take"
"""The data set that is served, so that all tabs are shown."""
LIMIT_BYTES = 150_000
"""Of one image: the documentation is read over slow connections too."""
BOWL, MUG = "white bowl_0", "teal dots mug_0"


@contextmanager
def served() -> Iterator[str]:
    """Serve the page with the bundled model and the bundled take as a data set; gives its address."""
    context = PageContext(load(), "tiny", PageLimits(), data=TAKE)
    listening, addresses = threading.Event(), []

    def ready(address: str) -> None:
        addresses.append(address)
        listening.set()

    app = make_app(context)
    threading.Thread(target=run, args=(app, "127.0.0.1", 0, ready), daemon=True).start()
    listening.wait(60)
    try:
        yield addresses[0]
    finally:
        context.close()


def click(page: Any, name: str) -> None:
    """Click an object of the bundled pair in the query image.

    Args:
        page: in a browser.
        name: of the object.
    """
    view = load_pair().near
    x, y = view.masks[name].centroid_xy or (0.0, 0.0)
    height, width = view.image.shape[:2]
    size = page.locator("#cv-query img.cv-image").bounding_box()
    at = {"x": x / width * size["width"], "y": y / height * size["height"]}
    page.locator("#cv-query .cv-stage").click(position=at)


def begin(page: Any, address: str) -> None:
    """Open the page, and wait until it is ready.

    Args:
        page: in a browser.
        address: of the page.
    """
    page.goto(address)
    page.wait_for_selector("html[data-session=ready]")
    page.wait_for_selector("#cv-examples img")


def example(page: Any) -> None:
    """Take the first example, and wait until objects can be clicked.

    Args:
        page: in a browser.
    """
    page.click("#cv-examples button >> nth=0")
    for side in ("query", "target"):
        page.wait_for_selector(f"#cv-{side} .cv-has:not(.cv-busy)")


def two_objects(page: Any) -> None:
    """Show a bowl and a mug, and name them.

    Args:
        page: in a browser.
    """
    for number, (name, text) in enumerate(((BOWL, "bowl"), (MUG, "mug")), start=1):
        if number > 1:
            page.click("#cv-objects button:text('Add an object')")
            page.wait_for_selector(f"#cv-objects li:nth-child({number}).cv-current")
        click(page, name)
        page.wait_for_selector(f"#cv-objects li:nth-child({number}) :text('pixels')")
        page.fill(f"#cv-objects li:nth-child({number}) input", text)
        page.press(f"#cv-objects li:nth-child({number}) input", "Enter")
        page.wait_for_timeout(800)


def match(page: Any) -> None:
    """Match, and wait for the answers.

    Args:
        page: in a browser.
    """
    page.click("#cv-match")
    page.wait_for_selector("#cv-answers section")
    page.wait_for_selector("#cv-downloads a")
    page.wait_for_timeout(800)


def save(page: Any, path: Path, scale: float = 0.75) -> None:
    """Write what is on the page, from its top to its end.

    Args:
        page: in a browser.
        path: of the image.
        scale: of the image, for smaller files.
    """
    page.mouse.move(0, 0)
    image = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    size = round(image.width * scale), round(image.height * scale)
    small = image.resize(size, Image.Resampling.LANCZOS)
    for quality in (82, 74, 66, 58, 50):
        small.save(path, quality=quality, method=6)
        if path.stat().st_size <= LIMIT_BYTES:
            break
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Make the images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with served() as address, sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox"])

        def opened(size: tuple[int, int]) -> Any:
            page = browser.new_page(viewport={"width": size[0], "height": size[1]})
            page.set_default_timeout(120_000)
            begin(page, address)
            return page

        page = opened(WIDE)
        save(page, folder / "page_empty.webp")
        steps: list[tuple[str, Callable[[Any], None]]] = [
            ("", example), ("page_outlined.webp", two_objects), ("page_matched.webp", match),
        ]  # fmt: skip
        for name, step in steps:
            step(page)
            if name:
                save(page, folder / name)
        page.close()
        page = opened(NARROW)
        for _, step in steps:
            step(page)
        save(page, folder / "page_narrow.webp", scale=0.6)
        browser.close()


if __name__ == "__main__":
    main()
