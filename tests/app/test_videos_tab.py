"""The tab "Videos" in Debian's chromium. Oracles: rectangles of known colours, and files read back by the library."""

import base64
import io
import json
import re
import threading
import zipfile

import httpx
import numpy as np
import pytest
from PIL import Image

from counterview.app.limits import PageLimits
from counterview.exchange import read
from counterview.exchange.tracks import read_tracks
from counterview.masks.geometry import iou
from counterview.media.video import VideoReader
from tests.app.conftest import serving, wait_until
from tests.app.test_video_work import write_long
from tests.inference.coloured_videos import ColourPredictor, cam_images, ego_images, write_two
from tests.tracking.coloured import mask_of

SECONDS = 30_000
HIDDEN = (10, 11, 12, 13, 14)


class GatedPredictor(ColourPredictor):
    """Waits at its fourth step until it is let on, or after another number of steps."""

    def __init__(self):
        super().__init__()
        self.gate, self.gate_after, self.encoded = threading.Event(), 3, 0

    def encode(self, image, proposals=None, *, name=None, color="rgb"):
        self.encoded += 1
        return super().encode(image)

    def make_engine(self, cameras, config=None):
        engine = super().make_engine(cameras, config)
        step = engine.step

        def gated(images, time_s, prompts):
            if self.steps == self.gate_after:
                self.gate.wait(120)
            return step(images, time_s, prompts)

        engine.step = gated
        return engine


@pytest.fixture
def predictor():
    return GatedPredictor()


@pytest.fixture
def page(visit, predictor):
    with serving(predictor) as served:
        opened = in_tab(visit(served, accept_downloads=True))
        opened.served = served
        yield opened
        opened.close()
    assert opened.failures == []
    assert {httpx.URL(url).host for url in opened.requested if url.startswith("http")} == {"127.0.0.1"}


def in_tab(page):
    page.get_by_role("tab", name="Videos").click()
    return page


def upload(page, canvas, path):
    version = page.locator(f"#{canvas} .cv-canvas").get_attribute("data-version")
    page.set_input_files(f"#{canvas} input[type=file]", path)
    page.wait_for_function(
        "([id, old]) => document.querySelector(`#${id} .cv-canvas`).dataset.version !== old", arg=[canvas, version]
    )


def upload_both(page, tmp_path, **options):
    ego, cam = write_two(tmp_path / "uploads", **options)
    upload(page, "cv-first", ego)
    page.wait_for_selector("#cv-first .cv-has")
    upload(page, "cv-second", cam)
    page.wait_for_selector("#cv-second .cv-has")


def click(page, canvas, x, y, size=(120, 90)):
    """Click a pixel of the original, and wait until it was drawn."""
    image = page.locator(f"#{canvas} .cv-image")
    box = image.bounding_box()
    image.scroll_into_view_if_needed()
    page.locator(f"#{canvas} .cv-stage").click(
        position={"x": (x + 0.5) * box["width"] / size[0], "y": (y + 0.5) * box["height"] / size[1]}
    )


def said(page, text, where="#cv-follow-status"):
    page.locator(where).get_by_text(text).wait_for(timeout=SECONDS)


LISTEN = """() => {
    const lines = [], root = document.getElementById("cv-first");
    const watcher = new MutationObserver(() => lines.push(root.innerText));
    watcher.observe(root, {childList: true, subtree: true, characterData: true});
    return lines;
}"""
"""Collects what the first canvas says from now on."""


def shown(page, canvas):
    """The image of a canvas as it is drawn, ``(h, w, 3)``."""
    source = page.locator(f"#{canvas} .cv-image").get_attribute("src")
    content = base64.b64decode(source.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def download(page, name):
    with page.expect_download() as waiting:
        page.locator(f'#cv-results a[download="{name}"]').click()
    return waiting.value.path()


def test_from_two_uploads_to_results_by_way_of_a_stop_and_a_correction(page, visit, predictor, tmp_path):
    wait_until(page, page.get_by_text("1. Drop the video that shows the object.").is_visible)
    upload_both(page, tmp_path, hidden=HIDDEN)

    # A click is outlined where the object is.
    before = shown(page, "cv-first")
    click(page, "cv-first", 20, 25)
    said(page, "object 1: marked here", "#cv-first")
    after = shown(page, "cv-first")
    changed = np.abs(after.astype(int) - before).sum(axis=2) > 60
    assert changed.shape == (720, 960)
    truth = mask_of(ego_images(1)[0], "red").to_array().repeat(8, 0).repeat(8, 1)
    assert changed[truth].mean() > 0.8, "the object is tinted"
    assert changed[320:, :400].mean() < 0.01, "nothing else is"

    # It has a name, and a second one can be added.
    page.locator("#cv-video-objects .cv-name").fill("mug")
    page.locator("#cv-video-objects .cv-name").press("Enter")
    said(page, "mug: marked here", "#cv-first")
    page.get_by_role("button", name="Add an object").last.click()
    page.locator("#cv-video-objects li").nth(1).wait_for()
    click(page, "cv-first", 70, 45)
    said(page, "object 2: marked here", "#cv-first")

    # Following stops at the next step, and goes on from there.
    page.get_by_role("button", name="Settings and formats").click()
    page.locator("#cv-formats").get_by_text("coco").click()
    page.locator("#cv-follow").click()
    said(page, "Following: step 3 of 8")
    assert page.locator("#cv-follow-status progress").get_attribute("value") == "38"
    page.locator("#cv-follow-stop").click()
    said(page, "Stopping after this step")
    predictor.gate.set()
    said(page, "Stopped after step 4 of 8. Press Follow to go on from there.")
    assert predictor.steps == 4
    page.locator("#cv-follow").click()
    said(page, "Done in")
    assert predictor.steps == 8

    # A player, a strip for each track, and what to check.
    wait_until(page, lambda: page.locator("#cv-results .cv-track").count() == 4)
    video = page.locator("#cv-results video")
    page.wait_for_function("document.querySelector('#cv-results video').readyState >= 1")
    assert video.evaluate("v => v.duration") > 3
    assert page.get_by_label("mug in cam01: visible 0:00.00 to 0:0").count() == 1
    first = read_tracks(_unzipped(download(page, "results.zip"), tmp_path / "first") / "tracks.json")
    assert list(first.objects) == ["mug", "object 2"]
    for camera, images in (("ego", ego_images(20)), ("cam01", cam_images(20))):
        for item in (m for m in first.objects["mug"][camera] if m.frame not in HIDDEN):
            assert iou(item.mask_rle, mask_of(images[item.frame], "red")) > 0.6

    # A place to check is mended where it is, and only what depends on it is computed again.
    place = page.locator("#cv-results .cv-place").first
    place.click()
    page.wait_for_selector("#cv-results .cv-place[aria-pressed=true]")
    title = place.locator("span").first.inner_text()
    name, camera, _ = title.split(", ")
    side = "first" if camera == "ego" else "second"
    page.locator(f"#cv-{side}-absent").click()
    said(page, f"{name}: you said that it is not visible here", f"#cv-{side}")
    said(page, "Something was changed since: press Follow to take it in.", "#cv-results")
    predictor.gate.clear()
    predictor.gate_after = predictor.steps + 2
    page.locator("#cv-follow").click()
    said(page, f"Following again what was changed: {name}")
    predictor.gate.set()
    said(page, "Done in")
    folder = _unzipped(download(page, "results.zip"), tmp_path / "second")
    second = read_tracks(folder / "tracks.json")
    other = "object 2" if name == "mug" else "mug"
    assert second.objects[other] == first.objects[other]
    given = [m for m in second.objects[name][camera] if m.source == "given" and m.mask_rle is None]
    assert len(given) == 1
    assert read(folder / "coco" / "coco.json").objects.keys() == second.objects.keys()
    with VideoReader(folder / "overlay.mp4") as overlay:
        assert overlay.duration_s > 3
    assert "/tmp/" not in (folder / "tracks.json").read_text()

    # The work is taken away, and opened again in another session.
    work = download(page, "work.zip")
    again = in_tab(visit(page.served))
    wait_until(again, again.get_by_text("1. Drop the video that shows the object.").is_visible)
    (tmp_path / "work.zip").write_bytes(work.read_bytes())
    again.set_input_files("#cv-video-opener input[type=file]", tmp_path / "work.zip")
    again.wait_for_selector("#cv-results video")
    wait_until(again, lambda: again.locator("#cv-video-objects .cv-name").nth(0).input_value() == "mug")
    steps = predictor.steps
    again.locator("#cv-follow").click()
    said(again, "Done in")
    assert predictor.steps == steps, "nothing is followed again"


def _unzipped(path, folder):
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder


def test_what_is_wrong_is_said_where_it_happened(visit, predictor, tmp_path):
    with serving(predictor, PageLimits(video_s=600, video_mb=1)) as served:
        page = in_tab(visit(served))
        long = write_long(tmp_path / "holiday.mp4", 660)
        page.set_input_files("#cv-first input[type=file]", long)
        said(page, "Holiday.mp4: the video is too long; found 1", "#cv-first")
        (tmp_path / "text.mp4").write_text("not a video")
        page.set_input_files("#cv-first input[type=file]", tmp_path / "text.mp4")
        said(page, "Text.mp4: cannot be opened as a video", "#cv-first")
        (tmp_path / "large.mp4").write_bytes(b"0" * 1_100_000)
        page.set_input_files("#cv-first input[type=file]", tmp_path / "large.mp4")
        said(page, "Large.mp4: is too large; found more than 1 MB", "#cv-first")
        assert not page.locator("#cv-follow").is_visible()
        (tmp_path / "other.zip").write_bytes(b"PK no archive")
        page.set_input_files("#cv-video-opener input[type=file]", tmp_path / "other.zip")
        said(page, "Other.zip: is not a ZIP archive", "#cv-video-opener")
        upload_both(page, tmp_path)
        page.locator("#cv-follow").click()
        said(page, "No object is shown. Click an object in one of the videos.")
        page.get_by_role("button", name="When did the other video begin?").click()
        page.locator("#cv-by-sound").click()
        said(page, "Ego has no sound", "#cv-clock-status")
        text = page.locator("body").inner_text()
        assert "Traceback" not in text
        assert str(served.context.sessions.root) not in text
        (session,) = served.context.sessions._by_key.values()
        assert list((session.folder / "uploads").iterdir()) == [], "what was refused is gone"
        assert page.failures == []
        page.close()


def test_time_and_clock_show_the_frames_that_belong_together(page, tmp_path):
    upload_both(page, tmp_path)
    page.locator("#cv-time input[type=number]").fill("2")
    page.locator("#cv-time input[type=number]").press("Enter")
    said(page, "ego, 0:02.00", "#cv-first")
    said(page, "cam01, 0:02.00", "#cv-second")
    page.locator("#cv-forth").click()
    said(page, "ego, 0:02.20", "#cv-first")
    page.get_by_role("button", name="When did the other video begin?").click()
    offset = page.locator("#cv-offset input[type=number]")
    offset.wait_for(state="visible")
    offset.fill("1.2")
    offset.press("Enter")
    said(page, "cam01, 0:01.00", "#cv-second")
    page.locator("#cv-back").click()
    said(page, "cam01, 0:00.80", "#cv-second")
    expected = cam_images(5)[4].repeat(8, 0).repeat(8, 1)
    assert np.abs(shown(page, "cv-second").astype(int) - expected).mean() < 6
    # Shown in the other camera alone, with the keyboard.
    page.locator("#cv-second .cv-stage").focus()
    page.keyboard.press("Enter")
    page.locator("#cv-second .cv-message p").first.wait_for()


def test_the_files_of_a_session_go_while_it_follows(page, predictor, tmp_path):
    upload_both(page, tmp_path)
    click(page, "cv-first", 20, 25)
    said(page, "object 1: marked here", "#cv-first")
    page.locator("#cv-follow").click()
    said(page, "Following: step 3 of 8")
    (session,) = page.served.context.sessions._by_key.values()
    assert json.loads((session.folder / "work" / "work.json").read_text())["objects"] == ["object 1"]
    page.goto("about:blank")
    wait_until(page, lambda: session.ended)
    predictor.gate.set()
    wait_until(page, lambda: not page.served.context.jobs.running(session))
    assert not session.folder.exists()


def test_no_click_is_lost_and_all_are_handled_in_order(page, predictor, tmp_path):
    """Clicks while the first is worked on, requests that overtake one another, and a drag while an answer comes."""
    upload_both(page, tmp_path)
    (session,) = page.served.context.sessions._by_key.values()
    wait_until(page, lambda: not page.served.context.jobs.running(session))  # the first frames were looked at
    lines = page.evaluate_handle(LISTEN)
    hold, begun, held = threading.Event(), threading.Event(), []
    encode = predictor.encode_query

    def slow(image, **options):
        begun.set()
        hold.wait(120)
        return encode(image, **options)

    def overtaken(route):
        if not held:
            held.append(route)
            return
        route.continue_()
        held.pop().continue_()

    predictor.encode_query = slow
    page.locator("#cv-forth").click()  # a frame that was not looked at yet
    said(page, "ego, 0:00.20", "#cv-first")
    page.route("**/queue/join*", overtaken)
    points = [(20, 25), (24, 28), (16, 30), (26, 22)]
    for x, y in points:
        click(page, "cv-first", x, y)
    said(page, re.compile("object 1: being outlined|Looking at the image"), "#cv-first")  # which one, hangs on the pace
    objects = session.work["videos"].work.objects
    wait_until(page, lambda: [len(prompt.points) for prompt in objects.prompts.values()] == [4])
    page.unroute("**/queue/join*")
    assert begun.wait(20)
    page.locator("#cv-first [data-tool=box]").click()
    box = page.locator("#cv-first .cv-image").bounding_box()

    def move(x, y):
        page.mouse.move(box["x"] + x * box["width"] / 120, box["y"] + y * box["height"] / 90, steps=3)

    move(6, 18)
    page.mouse.down()
    move(20, 30)
    hold.set()
    said(page, "object 1: marked here", "#cv-first")  # while the button is down
    move(36, 45)
    page.mouse.up()
    wait_until(page, lambda: [prompt.box is not None for prompt in objects.prompts.values()] == [True])
    ((_, prompt),) = objects.prompts.items()
    found = [(point.x_px, point.y_px) for point in prompt.points]
    assert np.allclose(found, np.array(points) + 0.5, atol=1)
    corners = prompt.box.x1_px, prompt.box.y1_px, prompt.box.x2_px, prompt.box.y2_px
    assert np.allclose(corners, (6, 18, 36, 45), atol=1)
    heard = lines.json_value()
    assert any("Looking at the image" in line for line in heard)
    waited = [line for line in heard if re.search(r"Stopp|Waiting.*\([1-9]", line)]  # for a moment each job waits
    assert waited == [], "one outline serves all these marks"
    streams = [url for url in page.requested if "/queue/data" in url]
    assert len(streams) == 1, "a stream that is closed and opened again may miss an answer"


def test_a_click_on_nothing_takes_back_itself_alone(page, predictor, tmp_path):
    from counterview.errors import ProposalError

    upload_both(page, tmp_path)
    hold, select = threading.Event(), predictor.select

    def refuse(encoded, prompt, name):
        if name == "object 1":
            hold.wait(120)
            raise ProposalError("nothing is there")
        return select(encoded, prompt, name)

    predictor.select = refuse
    click(page, "cv-first", 50, 80)
    said(page, "Looking at the image", "#cv-first")
    page.locator("#cv-video-objects button:text('Add an object')").click()
    page.wait_for_selector("#cv-video-objects li:nth-child(2).cv-current")
    click(page, "cv-first", 70, 45)
    page.locator("#cv-video-objects li:nth-child(2) :text('0:00.00')").wait_for()
    hold.set()
    said(page, "Nothing is there", "#cv-first")
    page.locator("#cv-video-objects li:nth-child(1) :text('not marked yet')").wait_for()
    (session,) = page.served.context.sessions._by_key.values()
    assert list(session.work["videos"].work.objects.prompts) == [("object 2", "ego", 0)]


def test_a_refusal_is_not_hidden_by_an_outline_that_ends_later(page, predictor, tmp_path):
    upload_both(page, tmp_path)
    hold, select = threading.Event(), predictor.select

    def late(encoded, prompt, name):
        hold.wait(120)
        return select(encoded, prompt, name)

    predictor.select = late
    click(page, "cv-first", 70, 45)
    said(page, "Looking at the image", "#cv-first")
    page.click("#cv-first [data-tool=brush]")
    click(page, "cv-first", 50, 80)
    said(page, "not outlined yet", "#cv-first")
    before = page.get_attribute("#cv-first img.cv-image", "src")
    hold.set()
    page.wait_for_function(f"document.querySelector('#cv-first img.cv-image').src !== {json.dumps(before)}")
    assert "not outlined yet" in page.inner_text("#cv-first .cv-error")


def test_what_is_written_stays_while_an_answer_comes(page, tmp_path):
    upload_both(page, tmp_path)
    click(page, "cv-first", 20, 25)
    said(page, "object 1: marked here", "#cv-first")
    name = page.locator("#cv-video-objects .cv-name")
    name.fill("bowl of so")
    page.evaluate("document.querySelector('#cv-forth').click()")  # an answer that draws the list again
    said(page, "ego, 0:00.20", "#cv-first")
    page.evaluate("document.querySelector('#cv-first .cv-tools button:last-child').click()")  # undo
    page.locator("#cv-video-objects :text('not marked yet')").wait_for()
    assert name.input_value() == "bowl of so"
    page.keyboard.type("up")
    page.keyboard.press("Enter")
    page.locator("#cv-video-objects .cv-pick[aria-label='Mark bowl of soup']").wait_for()


def test_a_late_answer_does_not_put_back_what_was_set_since(page, tmp_path):
    """Answers to earlier settings are drawn last: the newest setting stays."""
    upload_both(page, tmp_path)
    number = page.locator("#cv-time input[type=number]")
    held = []
    page.route("**/queue/join*", lambda route: held.append(route) if len(held) < 1 else route.continue_())
    number.fill("3")
    number.press("Enter")
    wait_until(page, lambda: held)
    number.fill("1")
    number.press("Enter")
    page.wait_for_timeout(200)
    assert number.input_value() == "1"
    held[0].continue_()
    said(page, "ego, 0:01.00", "#cv-first")
    page.wait_for_timeout(500)
    assert number.input_value() == "1"
    assert page.locator("#cv-time input[type=range]").input_value() == "1"
