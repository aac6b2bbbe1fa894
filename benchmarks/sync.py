"""How well are offset and drift of two cameras' clocks found from their sound, and are wrong pairs refused?

One rendered take is encoded twice: at 30 frames a second, and at 23.976, late by 1.37 s and with a clock that is slow
by 100 ppm. Both hear the same sound, made here (dishes, knocks, phrases in a room), each with an echo, hum and noise of
its own. The error is the largest of those at the start, the middle and the end of the target. Wrong pairs hear
different sounds of the same kind.

``python -m benchmarks.sync [--save] [--seconds 40] [--seeds 3]``
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from benchmarks.common import record, show
from benchmarks.sync_sounds import RATE, activity, recorded
from counterview.errors import InputError
from counterview.media.encode import write_video
from counterview.media.sources import VideoFrames
from counterview.media.sync import SyncResult, synchronise
from counterview.media.timeline import Clock
from counterview.media.video import VideoReader

TAKE = Path(__file__).parents[1] / "src/counterview/assets/take/takes/tabletop_test_0019_0000/frame_aligned_videos"
TRUE = Clock(1.37, 100.0)
TARGET_FPS = Fraction(24000, 1001)
SNR_DB = (20, 10, 5, 0, -5, -10)


def images(camera: str, clock: Clock, seconds: float, fps: Fraction) -> Iterator[np.ndarray]:
    """What a camera of the take shows at the times of a clock; the take is played to its end and back."""
    with VideoReader(TAKE / f"{camera}.mp4") as video:
        rate = float(video.fps)
        frames = [image for _, image in video.read(range(video.frame_count)) if isinstance(image, np.ndarray)]
    small = [cv2.resize(image, (64, 48), interpolation=cv2.INTER_AREA) for image in frames]
    for n in range(int(seconds * fps)):
        place = round(clock.query_time(float(n / fps)) * rate) % (2 * len(small) - 2)
        yield small[min(place, 2 * len(small) - 2 - place)]


def film(path: Path, camera: str, clock: Clock, seconds: float, fps: Fraction, sound: np.ndarray) -> Path:
    """One camera's video."""
    write_video(path, images(camera, clock, seconds, fps), fps, crf=35, audio=(sound, RATE))
    return path


def compare(query: Path, target: Path) -> tuple[SyncResult | None, float, str]:
    """The result, ``None`` if refused; its seconds, and the reason of a refusal."""
    start = time.perf_counter()
    with VideoFrames(query) as q, VideoFrames(target) as t:
        try:
            return synchronise(q, t, "audio"), time.perf_counter() - start, ""
        except InputError as error:
            return None, time.perf_counter() - start, str(error.found)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/sync.json")
    parser.add_argument("--seconds", type=float, default=40.0, help="length of the query video")
    parser.add_argument("--seeds", type=int, default=3, help="number of sounds, each heard with two noises")
    options = parser.parse_args()
    length, right, wrong = options.seconds, [], []
    sounds = [activity(length + 5, seed) for seed in range(options.seeds)]
    with tempfile.TemporaryDirectory() as folder:
        query, target = Path(folder) / "query.mp4", Path(folder) / "target.mp4"
        for snr in SNR_DB:
            heard = []
            for seed, sound in enumerate(sounds):
                film(query, "cam01", Clock(), length, Fraction(30), recorded(sound, length, snr, 100 + seed))
                late = recorded(sound, length - 3, snr, 200 + seed, late_s=TRUE.offset_s, drift_ppm=TRUE.drift_ppm)
                film(target, "cam02", TRUE, length - 3, TARGET_FPS, late)
                heard.append(query.rename(query.with_name(f"query{seed}.mp4")))
                target.rename(target.with_name(f"target{seed}.mp4"))
                result, seconds, _ = compare(heard[-1], target.with_name(f"target{seed}.mp4"))
                times = (0, (length - 3) / 2, length - 3)
                errors = result and [1000 * (result.clock.query_time(t) - TRUE.query_time(t)) for t in times]
                right.append({
                    "snr_db": snr, "seed": seed, "seconds": seconds, "errors_ms": errors,
                    "drift_ppm": result and result.drift_ppm, "confidence": result and result.confidence,
                })  # fmt: skip
            for seed in range(options.seeds):
                other = (seed + 1) % options.seeds
                result, seconds, reason = compare(heard[seed], target.with_name(f"target{other}.mp4"))
                wrong.append({"snr_db": snr, "pair": [seed, other], "accepted": result is not None, "reason": reason})
    rows = []
    for snr in SNR_DB:
        mine = [row for row in right if row["snr_db"] == snr]
        found = [row for row in mine if row["errors_ms"] is not None]
        off = [row for row in wrong if row["snr_db"] == snr]
        rows.append([
            snr,
            f"{len(found)} of {len(mine)}",
            max((max(map(abs, r["errors_ms"])) for r in found), default=float("nan")),
            max((abs(r["drift_ppm"] - TRUE.drift_ppm) for r in found), default=float("nan")),
            min((r["confidence"] for r in found), default=float("nan")),
            float(np.median([r["seconds"] for r in mine])),
            f"{sum(not r['accepted'] for r in off)} of {len(off)}",
        ])  # fmt: skip
    columns = ["SNR dB", "found", "max error ms", "max drift error ppm", "min confidence", "s a pair", "wrong refused"]
    show(f"Clocks from sound: {length:g} s, {TRUE.offset_s} s late, {TRUE.drift_ppm:g} ppm slow", columns, rows)
    record("sync", {"seconds": length, "seeds": options.seeds, "right": right, "wrong": wrong}, save=options.save)


if __name__ == "__main__":
    main()
