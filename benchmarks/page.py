"""How many visitors does the page bear, and how long do they wait?

``python -m benchmarks.page load [--sessions 100] [--at-once 20] [--side PX] [--model M] [--proposals P] [--save]``: a
server in a process of its own, and sessions that each upload the bundled pair, click one object and match it, so many
at once. A session is lost if it gets an error or no answer. How many answers are the object (IoU of 0.5) is counted
beside it: that tells about the model and ``--side``. Memory is the server's, before, at most and after; files are those
left below its folder.

``python -m benchmarks.page browser [--clicks 20] …``: a browser that clicks and matches again and again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx

from benchmarks.common import RESULTS, record, show
from counterview.inference.examples import load_pair
from counterview.inference.track_drawing import resized
from counterview.masks.geometry import fit_longest_side, fit_mask, iou
from counterview.masks.rle import from_coco
from counterview.media.files import read_json
from counterview.media.images import write_image

ASSETS = Path(str(files("counterview"))) / "assets" / "pair"
NAME = "white bowl_0"
RIGHT = 0.5
"""IoU from which on an answer is called right."""


class Server:
    """``counterview serve`` in a process of its own.

    Args:
        options: of the command, which say what its model is.
        folder: for its temporary files.
    """

    def __init__(self, options: list[str], folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "counterview.cli.main", "serve", "--port", "0", *options],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split()[1]

    def resident_mb(self) -> float:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def processor_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def files(self) -> list[str]:
        return [str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(120)  # a busy machine takes its time


class Visitor:
    """One session, as a browser would talk to the page.

    Args:
        server: address of the page.
    """

    def __init__(self, server: str) -> None:
        limits = httpx.Limits(keepalive_expiry=30)  # a server may close an idle connection just when it is used again
        self.client = httpx.AsyncClient(base_url=server, timeout=httpx.Timeout(1800), limits=limits)
        self.key = secrets.token_hex(6)
        self.functions: dict[str, tuple[int, int | None]] = {}

    async def __aenter__(self) -> Visitor:
        await self.client.get("/")  # the cookie
        config = (await self.client.get("/config")).json()
        for number, entry in enumerate(config["dependencies"]):
            target = entry["targets"][0][0] if entry["targets"] else None
            self.functions[entry["api_name"]] = entry.get("id", number), target
        self.heart = asyncio.create_task(self._beat())
        begun = await self.call("begin")
        self.token = json.loads(begun[0])["token"]
        return self

    async def __aexit__(self, *unused: object) -> None:
        self.heart.cancel()
        await asyncio.gather(self.heart, return_exceptions=True)
        await self.client.aclose()

    async def _beat(self) -> None:
        async with self.client.stream("GET", f"/gradio_api/heartbeat/{self.key}") as answer:
            async for _ in answer.aiter_lines():
                pass

    async def call(self, name: str, **data: Any) -> list[Any]:
        """Call a function of the page, and wait until it is done.

        Args:
            name: of the function.
            data: of the event.

        Raises:
            RuntimeError: it failed.
        """
        number, target = self.functions[name]
        body = {
            "data": [],
            "event_data": data or None,
            "fn_index": number,
            "trigger_id": target,
            "session_hash": self.key,
        }
        joined = await self.client.post("/gradio_api/queue/join", json=body)
        joined.raise_for_status()
        event = joined.json()["event_id"]
        async with self.client.stream("GET", f"/gradio_api/queue/data?session_hash={self.key}") as answer:
            async for line in answer.aiter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if message.get("event_id") == event and message.get("msg") == "process_completed":
                    if not message["success"]:
                        raise RuntimeError(f"{name}: {message['output']}")
                    return list(message["output"]["data"])
        raise RuntimeError(f"{name}: no answer")

    async def upload(self, path: Path) -> str:
        answer = await self.client.post(f"/upload/{self.token}?name={path.name}", content=path.read_bytes())
        return str(answer.json()["id"])


async def visit(
    server: Server, images: tuple[Path, Path], point: tuple[float, float], gate: asyncio.Semaphore, truth: Any
) -> dict[str, float] | None:
    """One session from its first to its last request.

    Args:
        server: of the page.
        point: to click, in pixels of the query image.
        gate: how many sessions there may be at once.
        truth: the mask ``(H, W)`` that the match should be.

    Returns:
        seconds of the ``whole`` and of the ``match``, and the answer's ``iou``; ``None`` if the session was lost.
    """
    async with gate:
        start = time.perf_counter()
        try:
            async with Visitor(server.address) as visitor:
                await visitor.call("upload_query", id=await visitor.upload(images[0]))
                await visitor.call("upload_target", id=await visitor.upload(images[1]))
                await visitor.call("mark_query", kind="point", points=[point])
                began = time.perf_counter()
                await visitor.call("match")
                matched = time.perf_counter()
                answer = await visitor.client.get(f"/files/{visitor.token}/match.json")
                found = from_coco(answer.json()["objects"][0]["mask"])
                return {"whole": time.perf_counter() - start, "match": matched - began, "iou": iou(found, truth)}
        except (httpx.HTTPError, RuntimeError, KeyError, ValueError) as error:
            print(f"lost: {type(error).__name__} {error}", file=sys.stderr)
            return None


def scaled_pair(side: int | None, folder: Path) -> tuple[tuple[Path, Path], tuple[float, float], Any]:
    """The bundled pair as files, a point of an object in the first, and its mask ``(H, W)`` in the second.

    Args:
        side: longest side of the images in pixels; their own by default.
        folder: for the files.
    """
    pair = load_pair()
    x, y = pair.near.masks[NAME].centroid_xy or (0.0, 0.0)
    if side is None:
        return (ASSETS / "ego.jpg", ASSETS / "exo.jpg"), (x, y), pair.far.masks[NAME]
    paths = []
    for view in (pair.near, pair.far):
        paths.append(folder / f"{view.name}.png")
        size = fit_longest_side(view.image.shape[:2], side)
        write_image(paths[-1], resized(view.image, size))
    scale = side / max(pair.near.image.shape[:2])
    far = fit_mask(pair.far.masks[NAME], fit_longest_side(pair.far.image.shape[:2], side))
    return (paths[0], paths[1]), (x * scale, y * scale), far


async def load_of(server: Server, sessions: int, at_once: int, side: int | None, folder: Path) -> dict[str, Any]:
    """The load: sessions, so many at once.

    Args:
        server: of the page.
        sessions: how many in all.
        at_once: how many at a time.
        side: longest side of the images in pixels.
        folder: for files of the visitors.
    """
    given = scaled_pair(side, folder)

    def session() -> Any:
        return visit(server, given[0], given[1], gate, given[2])

    gate = asyncio.Semaphore(at_once)
    await session()  # what is loaded on first use is no part of a session
    await settled(server)
    before, processor = server.resident_mb(), server.processor_s()
    most = before
    start = time.perf_counter()
    tasks = [asyncio.create_task(session()) for _ in range(sessions)]
    while not all(task.done() for task in tasks):
        most = max(most, server.resident_mb())
        await asyncio.sleep(0.2)
    seconds = time.perf_counter() - start
    done = [result for task in tasks if (result := task.result()) is not None]
    if not done:
        raise SystemExit("every session was lost; why is said above")
    await settled(server)
    return {
        "sessions": sessions, "at_once": at_once, "side_px": side, "lost": sessions - len(done),
        "right": sum(r["iou"] >= RIGHT for r in done), "seconds": seconds,
        "processor_s_per_session": (server.processor_s() - processor) / sessions,
        "whole_s": {"median": statistics.median(r["whole"] for r in done), "worst": max(r["whole"] for r in done)},
        "match_s": {"median": statistics.median(r["match"] for r in done), "worst": max(r["match"] for r in done)},
        "memory_mb": {"before": before, "most": most, "after": server.resident_mb()},
        "files_left": len(server.files()),
    }  # fmt: skip


async def settled(server: Server) -> None:
    """Wait until the sessions are ended: a browser that is gone is noticed within seconds."""
    for _ in range(300):
        if not server.files():
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(2)


def in_browser(server: Server, count: int) -> dict[str, Any] | None:
    """Times that a visitor sees: from a click to the outline, and from *Match* to the answer.

    Args:
        server: of the page.
        count: of each.
    """
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        print("no chromium here: nothing was measured in a browser", file=sys.stderr)
        return None
    pair = load_pair()
    x, y = pair.near.masks[NAME].centroid_xy or (0.0, 0.0)
    height, width = pair.near.image.shape[:2]
    measure = """([act, root, part]) => new Promise((resolve) => {
        const node = document.querySelector(root), start = performance.now();
        const seen = new MutationObserver(async () => {
            const image = document.querySelector(part + " img");
            seen.disconnect();
            if (image) await image.decode();
            requestAnimationFrame(() => resolve(performance.now() - start));
        });
        seen.observe(node, { attributes: true, attributeFilter: ["data-version"] });
        if (act === "match") document.querySelector("#cv-match").click();
        else {
            const stage = document.querySelector("#cv-query .cv-stage"), box = stage.getBoundingClientRect();
            const [x, y] = [box.left + act[0] * box.width, box.top + act[1] * box.height];
            stage.dispatchEvent(new MouseEvent("click", { clientX: x, clientY: y, bubbles: true }));
        }
    })"""
    clicks, matches = [], []
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(server.address)
        page.click("#cv-examples button >> nth=0")
        for side in ("query", "target"):
            page.wait_for_selector(f"#cv-{side} .cv-has:not(.cv-busy)")
        page.wait_for_timeout(1000)
        for _ in range(count):
            clicks.append(page.evaluate(measure, [[x / width, y / height], "#cv-objects .cv-objects", "#cv-query"]))
            matches.append(page.evaluate(measure, ["match", "#cv-answers .cv-answers", "#cv-target"]))
            page.click("#cv-query .cv-tools button:text('Undo')")
            page.wait_for_selector("#cv-objects :text('not shown yet')")
            page.wait_for_timeout(300)
        browser.close()
    return {
        name: {"median_s": statistics.median(values) / 1000, "worst_s": max(values) / 1000, "count": count}
        for name, values in (("click_to_outline", clicks), ("match_to_answer", matches))
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["load", "browser"])
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--side", type=int, help="scale the pair to this longest side; its own by default")
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--model", help="of the page; the bundled one by default")
    parser.add_argument("--proposals", help="of the page; those of the model by default")
    parser.add_argument("--save", action="store_true", help="write this part of benchmarks/results/page.json")
    options = parser.parse_args()
    chosen = {"--model": options.model, "--proposals": options.proposals}
    arguments = [text for key, value in chosen.items() if value for text in (key, value)]
    about = {"model": options.model or "tiny", "proposals": options.proposals, "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as files_folder:
        server = Server(arguments, Path(folder))
        try:
            if options.part == "load":
                result = asyncio.run(
                    load_of(server, options.sessions, options.at_once, options.side, Path(files_folder))
                )
            else:
                result = in_browser(server, options.clicks) or {}
        finally:
            server.stop()
        about["files_left_after_the_server"] = len(server.files())
    if options.part == "load":
        show(
            f"{result['sessions']} sessions, {result['at_once']} at once: {result['lost']} lost, "
            f"{result['right']} answers right",
            ["", "median s", "worst s"],
            [["whole session", *result["whole_s"].values()], ["match", *result["match_s"].values()]],
        )
        memory = result["memory_mb"]
        print(f"memory {memory['before']:.0f} MB, at most {memory['most']:.0f}, after {memory['after']:.0f}")
        print(f"files left: {result['files_left']}; with the server ended: {about['files_left_after_the_server']}")
    elif result:
        show("In a browser", ["", "median s", "worst s"], [[k, v["median_s"], v["worst_s"]] for k, v in result.items()])
    earlier = read_json(RESULTS / "page.json") if (RESULTS / "page.json").exists() else {}
    parts = {key: earlier[key] for key in ("load", "browser") if key in earlier}
    record("page", {**parts, options.part: {**about, **result}}, save=options.save)


if __name__ == "__main__":
    main()
