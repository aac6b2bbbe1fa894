"""The tab "Two images" in a browser, as a visitor uses it."""

import base64
import datetime
import io
import json
import struct
import time
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image

from counterview.app.gradio_states import UNUSED_S
from counterview.exchange.formats import read
from counterview.masks.draw import PALETTE
from counterview.masks.geometry import iou
from tests.app.conftest import BLUE, RED, scene, wait_until

QUERY, TARGET = "#cv-query", "#cv-target"


def put(page, where, path):
    page.set_input_files(f"{where} input[type=file]", path)
    page.wait_for_selector(f"{where} .cv-has:not(.cv-busy)")


def click(page, where, x, y, **options):
    """Click a pixel of the original image."""
    size = page.locator(f"{where} img.cv-image").bounding_box()
    page.locator(f"{where} .cv-stage").click(
        position={"x": x / 320 * size["width"], "y": y / 240 * size["height"]}, **options
    )


def shot(page, where) -> np.ndarray:
    """The image as it is on the screen, ``(240, 320, 3)``."""
    data = page.locator(f"{where} .cv-stage").screenshot()
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((320, 240), Image.Resampling.NEAREST)).astype(
        int
    )


def outlined(page, where, color) -> np.ndarray:
    """Pixels on the screen that are of an object's colour."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.abs(shot(page, where) - wanted) < 30).all(-1)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@pytest.fixture
def page(served, visit, scene_files):
    page = visit(served)
    yield page
    hosts = {httpx.URL(url).host for url in page.requested if url.startswith("http")}
    assert hosts == {"127.0.0.1"}, "a request left this machine"
    assert page.failures == []


def test_from_an_upload_to_a_download(page, served, scene_files, tmp_path):
    """Both images by upload, a click, the answer where it should be, a second object, a correction, files read back."""
    near, far = scene_files
    put(page, QUERY, near)
    click(page, QUERY, 80, 80)
    page.wait_for_selector("#cv-objects :text('pixels')")
    wait_until(page, lambda: outlined(page, QUERY, PALETTE[0]).any())  # the image is drawn after the list of objects
    outline = outlined(page, QUERY, PALETTE[0])
    outline[:36] = False  # its label
    assert abs(np.array(box_of(outline)) - (40, 40, 120, 120)).max() <= 4

    put(page, TARGET, far)
    page.fill("#cv-objects input", "red thing")
    page.press("#cv-objects input", "Enter")
    page.click("#cv-objects button:text('Add an object')")
    page.wait_for_selector("#cv-objects li:nth-child(2).cv-current")
    click(page, QUERY, 235, 155)
    page.wait_for_selector("#cv-objects li:nth-child(2) :text('pixels')")
    page.click("#cv-match")
    page.wait_for_selector("#cv-answers section:nth-child(2)")
    assert "red thing" in page.inner_text("#cv-answers section:nth-child(1)")
    assert "visible" in page.inner_text("#cv-answers section:nth-child(1)")
    wait_until(page, lambda: "2 objects matched in" in page.inner_text("#cv-status"))
    wait_until(page, lambda: outlined(page, TARGET, PALETTE[1]).any())

    plain, drawn = scene()[:, ::-1].astype(int), shot(page, TARGET)
    changed = np.abs(drawn - plain).max(-1) > 12
    for color in (RED, BLUE):
        inside = (plain == color).all(-1)
        assert changed[inside].mean() > 0.9, "the answer is drawn on the object"
    assert changed.mean() < 0.45
    tint = drawn[80, 240]  # RED under the colour of the first object
    assert tint[2] > RED[2] + 30

    click(page, TARGET, 80, 150)  # the second object is current
    page.wait_for_selector("#cv-answers section:nth-child(2) :text('corrected by hand')")
    page.click("#cv-answers section:nth-child(1) button:text('Correct it by clicks')")
    page.wait_for_selector("#cv-answers section:nth-child(1).cv-current")
    click(page, TARGET, 80, 150)
    page.wait_for_selector("#cv-answers section:nth-child(1) :text('corrected by hand')")

    with page.expect_download() as found:
        page.click("#cv-downloads a:text('COCO')")
    tracks = read(found.value.path())
    wrong = tracks.objects["red thing"]["far"][0].mask_rle
    assert iou(wrong, (scene() == BLUE).all(-1)[:, ::-1]) > 0.95, "as it was corrected"
    with page.expect_download() as found:
        page.click("#cv-downloads a:text('match.json')")
    record = json.loads(found.value.path().read_text())
    assert "corrected by hand" in record["objects"][0]["notes"]

    page.click("#cv-answers section:nth-child(1) button[aria-label='red thing: the model\\'s match']")
    page.wait_for_selector("#cv-answers section:nth-child(1) .cv-thumb[aria-pressed=true]")
    with page.expect_download() as found:
        page.click("#cv-downloads a:text('tracks.json')")
    right = read(found.value.path()).objects["red thing"]["far"][0].mask_rle
    assert iou(right, (scene() == RED).all(-1)[:, ::-1]) > 0.95


def test_with_the_keyboard_alone(page, scene_files):
    near, far = scene_files
    put(page, QUERY, near)
    put(page, TARGET, far)
    page.focus(f"{QUERY} .cv-stage")
    for key in ["ArrowLeft"] * 5 + ["ArrowUp"] * 2:
        page.keyboard.press(f"Shift+{key}")
    page.keyboard.press("Enter")  # at 80, 88
    page.wait_for_selector("#cv-objects :text('pixels')")
    page.keyboard.press("Control+z")
    page.wait_for_selector("#cv-objects :text('not shown yet')")
    page.keyboard.press("Enter")
    page.wait_for_selector("#cv-objects :text('pixels')")
    page.focus("#cv-match")
    page.keyboard.press("Enter")
    page.wait_for_selector("#cv-answers section")


def test_a_box_and_a_brush_are_dragged(page, scene_files):
    put(page, QUERY, scene_files[0])
    size = page.locator(f"{QUERY} img.cv-image").bounding_box()

    def at(x, y):
        return size["x"] + x / 320 * size["width"], size["y"] + y / 240 * size["height"]

    def pixels():
        return int(page.inner_text("#cv-objects li .cv-quiet").removesuffix(" pixels").replace(",", ""))

    def drag(*ways):
        page.mouse.move(*at(*ways[0]))
        page.mouse.down()
        for way in ways[1:]:
            page.mouse.move(*at(*way), steps=4)
        page.mouse.up()

    page.click(f"{QUERY} [data-tool=box]")
    size = page.locator(f"{QUERY} img.cv-image").bounding_box()
    drag((30, 30), (130, 130))
    page.wait_for_selector("#cv-objects :text('pixels')")
    whole = pixels()
    assert abs(whole - 80 * 80) < 400
    page.click(f"{QUERY} [data-tool=erase]")
    size = page.locator(f"{QUERY} img.cv-image").bounding_box()
    drag((45, 80), (115, 80))
    page.wait_for_function(f"!document.querySelector('#cv-objects').innerText.includes('{whole:,}')")
    assert pixels() < whole - 500


def test_an_example_needs_no_file(page):
    page.click("#cv-examples button >> nth=0")
    page.wait_for_selector(f"{QUERY} .cv-has:not(.cv-busy)")
    page.wait_for_selector(f"{TARGET} .cv-has:not(.cv-busy)")
    wait_until(page, lambda: "near.jpg" in page.inner_text(f"{QUERY} .cv-about"))


def bomb() -> bytes:
    """A PNG file of a few kilobytes that says it has 30,000 x 30,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(30001 * 90)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("bomb.png", bomb(), "too large"),
        ("letter.jpg", b"Dear colleague, this is not an image.", "letter.jpg: is not an image"),
        ("large.png", b"\x89PNG" + bytes(1_200_000), "is too large; found more than 1 MB"),
        ("empty.png", b"", "is empty"),
        ("page.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image that the page takes"),
        ("../../up.jpg", b"nothing", "up.jpg"),
        ("strip.png", None, "strip"),
    ],
)
def test_bad_files_are_said_where_they_were_dropped(page, served, name, data, said):
    if data is None:
        buffer = io.BytesIO()
        Image.new("RGB", (4000, 2)).save(buffer, "PNG")
        data = buffer.getvalue()
    before = set(served.context.sessions.root.rglob("*.*"))
    page.set_input_files(f"{QUERY} input[type=file]", {"name": name, "mimeType": "image/jpeg", "buffer": data})
    page.wait_for_selector(f"{QUERY} .cv-error")
    text = page.inner_text(f"{QUERY} .cv-error")
    assert said in text
    assert "Traceback" not in page.inner_text("body")
    assert "\n" not in text
    assert "counterview-serve" not in text
    assert page.locator(f"{TARGET} .cv-error").count() == 0
    assert set(served.context.sessions.root.rglob("*.*")) <= before, "a refused file is not kept"


def test_what_is_missing_is_said_beside_the_button(page):
    page.click("#cv-match")
    page.wait_for_selector("#cv-status .cv-error")
    assert "no query image" in page.inner_text("#cv-status").lower()


def test_a_click_on_nothing_says_so_at_the_image(page, scene_files):
    put(page, QUERY, scene_files[0])
    page.click(f"{QUERY} [data-tool=away]")
    click(page, QUERY, 80, 80)
    page.wait_for_selector(f"{QUERY} .cv-error")
    assert "Nothing is marked yet" in page.inner_text(f"{QUERY} .cv-error")


def test_a_second_visitor_sees_nothing_of_the_first(served, visit, scene_files):
    first, second = visit(served), visit(served)
    put(first, QUERY, scene_files[0])
    put(first, TARGET, scene_files[1])
    click(first, QUERY, 80, 80)
    first.wait_for_selector("#cv-objects :text('pixels')")
    first.click("#cv-match")
    first.wait_for_selector("#cv-downloads a")
    address = served.address + first.get_attribute("#cv-downloads a", "href")
    assert first.request.get(address).status == 200
    answer = second.request.get(address)
    assert answer.status == 404
    assert "another visitor" in answer.text()
    token = address.split("/files/")[1].split("/")[0]
    answer = second.request.post(f"{served.address}upload/{token}?name=a.png", data=b"x")
    assert answer.status == 400
    assert "another visitor" in answer.text()
    assert second.locator(f"{QUERY} .cv-has").count() == 0


def test_a_page_that_is_closed_leaves_nothing(served, visit, scene_files):
    before = set(served.context.sessions._by_key)
    page = visit(served)
    put(page, QUERY, scene_files[0])
    count = len(served.context.sessions)
    (key,) = set(served.context.sessions._by_key) - before
    states = served.context.sessions.states
    assert image_in(states, key)
    page.close()
    until = time.monotonic() + 20
    while len(served.context.sessions) == count and time.monotonic() < until:
        time.sleep(0.1)
    assert len(served.context.sessions) == count - 1
    while image_in(states, key) and time.monotonic() < until:
        time.sleep(0.1)
    assert not image_in(states, key)
    states._holder[key]  # as Gradio makes it again when it ends the page
    states._holder.time_last_used[key] -= datetime.timedelta(seconds=UNUSED_S + 1)
    other = next((k for k in states._holder.session_data if k != key), None)
    states.drop_others([] if other is None else [other])
    assert key not in states._holder
    assert other is None or other in states._holder


def image_in(states, key):
    """Whether Gradio keeps an image of a page."""
    state = states._holder.session_data.get(key)
    blocks = [] if state is None else list(state.blocks_config.blocks.values())
    return any("data:image" in str(getattr(block, "value", "")) for block in blocks)


def test_the_page_fits_a_narrow_screen(served, visit, scene_files):
    page = visit(served, width=390, height=844)
    put(page, QUERY, scene_files[0])
    put(page, TARGET, scene_files[1])
    click(page, QUERY, 80, 80)
    page.wait_for_selector("#cv-objects :text('pixels')")
    page.click("#cv-match")
    page.wait_for_selector("#cv-answers section")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for button in page.locator("button[class*=cv-]:visible, #cv-match, #cv-stop").all():
        size = button.bounding_box()
        assert size["x"] >= 0
        assert size["x"] + size["width"] <= 390
        assert size["height"] >= 30


def test_images_are_in_the_page_and_not_in_files(page, served, scene_files):
    put(page, QUERY, scene_files[0])
    source = page.get_attribute(f"{QUERY} img.cv-image", "src")
    assert source.startswith("data:image/jpeg;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).size == (320, 240)
