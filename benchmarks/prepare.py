"""How fast is reading the annotated frames of a 4K video, and how much does opening the full annotation cost?

``python -m benchmarks.prepare [--seconds 10] [--annotation-gb 2] [--save]``

A 4K clip is encoded twice, with a keyframe every 30 and every 250 frames; every image shows its frame number. One frame
a second is read, as Ego-Exo4D is annotated. *through* is the way of the official preparation: every frame is decoded,
and every 30th is kept.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.common import record, show
from counterview.errors import VideoError
from counterview.media.video import VideoReader
from tests.data_egoexo.release_maker import numbered, read_number

HEIGHT, WIDTH = 2160, 3840
STEP = 30


def encode(path: Path, frames: int, gop: int) -> None:
    """A panning texture with some noise, for which decoding costs about as much as for camera images."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(40, 216, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    texture = coarse.repeat(8, axis=0).repeat(8, axis=1)
    noise = [generator.integers(0, 12, texture.shape, dtype=np.uint8) for _ in range(3)]
    with av.open(str(path), "w") as container:
        options = {
            "preset": "ultrafast",
            "g": str(gop),
            "keyint_min": str(gop),
            "bf": "2",
            "sc_threshold": "0",
            "crf": "26",
        }
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        for number in range(frames):
            image = np.roll(texture, 5 * number, axis=1) + noise[number % 3]
            image[: HEIGHT // 6] = numbered(number, (HEIGHT, WIDTH))[: HEIGHT // 6]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def by_groups(path: Path) -> Iterator[tuple[int, Any]]:
    """The reader of Counterview."""
    with VideoReader(path) as video:
        yield from video.read(range(0, video.frame_count, STEP))


def through(path: Path) -> Iterator[tuple[int, Any]]:
    """Decode every frame, keep every 30th."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for number, frame in enumerate(container.decode(stream)):
            if number % STEP == 0:
                yield number, frame.to_ndarray(format="rgb24")


def bytes_read() -> int | None:
    """Bytes that this process has read from files; ``None`` where the system does not report it."""
    path = Path("/proc/self/io")
    return int(path.read_text().split("rchar:")[1].split()[0]) if path.exists() else None


def measure(read: Callable[[Path], Iterable[tuple[int, Any]]], path: Path, frames: int, repeat: int) -> dict[str, Any]:
    """Wall and processor seconds, bytes, and whether each image shows the requested frame number."""
    walls, works, exact = [], [], True
    before = bytes_read()
    for _ in range(repeat):
        wall, work = time.perf_counter(), time.process_time()
        numbers = {n: None if isinstance(image, VideoError) else read_number(image) for n, image in read(path)}
        walls.append(time.perf_counter() - wall)
        works.append(time.process_time() - work)
        exact = exact and numbers == {n: n for n in range(0, frames, STEP)}
    after = bytes_read()
    wanted = len(range(0, frames, STEP))
    return {
        "wanted": wanted,
        "wall_s": statistics.median(walls),
        "wall_min_s": min(walls),
        "processor_s": statistics.median(works),
        "wanted_per_s": wanted / statistics.median(walls),
        "megabytes_read": None if before is None or after is None else (after - before) / repeat / 1e6,
        "exact": exact,
    }


def videos(seconds: int, repeat: int, folder: Path) -> list[dict[str, Any]]:
    """Both readers on both clips."""
    frames, rows = seconds * 30 + 1, []
    for gop in (30, 250):
        path = folder / f"gop{gop}.mp4"
        encode(path, frames, gop)
        for name, read in (("by groups", by_groups), ("through", through)):
            size = path.stat().st_size / 1e6
            rows.append({"gop": gop, "reader": name, "file_megabytes": size, **measure(read, path, frames, repeat)})
    return rows


def write_annotation(root: Path, gigabytes: float) -> int:
    """Write an annotation of about this size with takes like the real ones; return the number of takes."""
    (root / "annotations").mkdir(parents=True)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"
    draw = random.Random(0)
    text = "".join(draw.choices(letters, k=20_000))
    written, takes = 0, 0
    with (root / "annotations" / "relations_train.json").open("w") as handle:
        handle.write('{"annotations": {')
        while written < gigabytes * 1e9:
            masks: dict[str, Any] = {}
            for number in range(6):
                cameras = {}
                for camera in ("aria01_214-1", "cam01", "cam02", "cam03", "cam04"):
                    marks = {}
                    for frame in range(0, 45 * 30, 30):
                        start, length = draw.randrange(18_000), draw.randrange(300, 2000)
                        click = {"x": 512.53, "y": 317.25, "timestamp": 1689966008925}
                        clicks = {"positive": [click] * 3, "negative": [], "upperLeft": [], "bottomRight": []}
                        encoded = text[start : start + length]
                        marks[str(frame)] = {
                            "width": 3840,
                            "height": 2160,
                            "encodedMask": encoded,
                            "intSegClicks": clicks,
                        }
                    cameras[camera] = {
                        "annotation": marks,
                        "annotation_fps": 1,
                        "annotated_frames": list(map(int, marks)),
                    }
                masks[f"object {number}_0"] = cameras
            take = {"scenario": "Making tea", "take_name": f"take_{takes}", "object_masks": masks}
            written += handle.write(("," if takes else "") + f'"uid-{takes}": ' + json.dumps(take))
            takes += 1
        handle.write("}}")
    return takes


PROBE = """
import json, pathlib, sys, time
from counterview.data.open import open_dataset

def peak():  # since this program began; resource.getrusage would count its parent's memory
    return int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

before, wall, work = peak(), time.perf_counter(), time.process_time()
dataset = open_dataset(sys.argv[1], "train", height="full")
result = {"takes": len(dataset), "open_s": time.perf_counter() - wall, "open_processor_s": time.process_time() - work,
          "imports_peak_megabytes": before, "open_peak_megabytes": peak()}
wall = time.perf_counter()
take = dataset.takes[len(dataset) // 2]
result["masks_of_one_take"] = sum(len(take.mask_frames(o, c)) for o in take.objects for c in take.cameras_of(o))
result["one_take_s"] = time.perf_counter() - wall
for take in dataset.takes[:100]:
    pass
print(json.dumps({**result, "hundred_takes_peak_megabytes": peak()}))
"""


def annotation(gigabytes: float, folder: Path) -> dict[str, Any]:
    """Time and peak memory of opening a release with an annotation of this size, in its own process."""
    root = folder / "release"
    write_annotation(root, gigabytes)
    size = (root / "annotations" / "relations_train.json").stat().st_size / 1e9
    done = subprocess.run([sys.executable, "-c", PROBE, str(root)], check=True, capture_output=True, text=True)
    return {"gigabytes": size, **json.loads(done.stdout)}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="length of the clips")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--annotation-gb", type=float, default=2.0, help="size of the annotation; needs Linux; 0: none")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/prepare.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = videos(options.seconds, options.repeat, Path(name))
        show(
            f"One frame a second of {options.seconds} s of {WIDTH}x{HEIGHT} H.264",
            ["GOP", "reader", "wanted/s", "wall s", "processor s", "MB read", "MB file", "exact"],
            [
                [r["gop"], r["reader"], r["wanted_per_s"], r["wall_s"], r["processor_s"], r["megabytes_read"],
                 r["file_megabytes"], r["exact"]]
                for r in rows
            ],
        )  # fmt: skip
        result: dict[str, Any] = {"videos": rows}
        if options.annotation_gb:
            opened = result["annotation"] = annotation(options.annotation_gb, Path(name))
            show("Opening an annotation", list(opened), [list(opened.values())])
    record("prepare", result, save=options.save)


if __name__ == "__main__":
    main()
