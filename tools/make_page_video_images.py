"""The images of the how-to page on videos in the browser: ``python -m tools.make_page_video_images FOLDER``.

Debian's chromium uses the page as the how-to page says: two videos of the bundled take, two objects, the run that
follows them through the first eight seconds, a place to check, the same on a narrow screen, and the take as a data
set. Nothing is retouched. Needs the extra [dev] and chromium; following takes minutes.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from counterview.app.video_changes import example_videos
from tools.make_page_images import NARROW, WIDE, begin, save, served

CAN, BOX = (0.56, 0.33), (0.30, 0.43)
"""Where the objects are in the first image, as fractions of its width and height."""


def click(page: Any, place: tuple[float, float]) -> None:
    """Click in the first video.

    Args:
        page: in a browser.
        place: fractions of width and height.
    """
    size = page.locator("#cv-first img.cv-image").bounding_box()
    page.locator("#cv-first .cv-stage").click(position={"x": place[0] * size["width"], "y": place[1] * size["height"]})


def mark(page: Any) -> None:
    """Drop both videos, show two objects, and name them.

    Args:
        page: in a browser.
    """
    for side, path in zip(("first", "second"), example_videos(), strict=False):
        page.set_input_files(f"#cv-{side} input[type=file]", path)
        page.wait_for_selector(f"#cv-{side} .cv-has")
    for number, (place, name) in enumerate(((CAN, "can"), (BOX, "crackers")), start=1):
        if number > 1:
            page.click("#cv-video-objects button:text('Add an object')")
            page.wait_for_selector(f"#cv-video-objects li:nth-child({number}).cv-current")
        click(page, place)
        page.wait_for_selector("#cv-first :text(': marked here')")
        page.fill(f"#cv-video-objects li:nth-child({number}) input", name)
        page.press(f"#cv-video-objects li:nth-child({number}) input", "Enter")
        page.wait_for_selector(f"#cv-first :text('{name}: marked here')")


def follow(page: Any) -> None:
    """Follow through the first eight seconds.

    Args:
        page: in a browser.
    """
    page.get_by_role("button", name="Settings and formats").click()
    for name, value in (("fps", "0.5"), ("end", "8")):
        page.fill(f"#cv-{name} input[type=number]", value)
        page.press(f"#cv-{name} input[type=number]", "Enter")
    page.get_by_role("button", name="Settings and formats").click()
    page.click("#cv-follow")
    page.wait_for_selector("#cv-follow-status :text('Done in')", timeout=3_600_000)
    page.wait_for_function("document.querySelector('#cv-results video').readyState >= 2")


def main() -> None:
    """Make the images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, help="work.zip of an earlier run of this, to follow nothing again")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with served() as address, sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDE[0], "height": WIDE[1]})
        page.set_default_timeout(600_000)
        begin(page, address)
        page.get_by_role("tab", name="Videos").click()
        if arguments.work is None:
            mark(page)
            follow(page)
        else:
            page.set_input_files("#cv-video-opener input[type=file]", arguments.work)
            page.wait_for_selector("#cv-results video")
        page.locator("#cv-results .cv-place").first.click()
        page.wait_for_selector("#cv-results .cv-place[aria-pressed=true]")
        page.wait_for_selector("#cv-first :text(': marked here')")
        page.wait_for_timeout(1500)
        save(page, folder / "videos_followed.webp")
        page.set_viewport_size({"width": NARROW[0], "height": NARROW[1]})
        page.wait_for_timeout(1500)
        save(page, folder / "videos_narrow.webp", scale=0.6)
        page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
        page.get_by_role("tab", name="Data sets").click()
        page.wait_for_selector("#cv-data-images img")
        page.wait_for_timeout(1500)
        save(page, folder / "data_sets.webp")
        browser.close()


if __name__ == "__main__":
    main()
