"""Following through takes with memory: given query masks or one click, and what each part of the tracker gives.

``python -m benchmarks.tracks standard=FOLDER hard=FOLDER --out FOLDER [--away FOLDER] [--save]``

Each set is a folder of takes with a split after a colon (by default ``test``); they want to be long enough that things
are covered and come back. Scored by the official protocol (IoU over visible objects, balanced accuracy), both
directions, with 95 % intervals over takes. Rows:

* *per frame*: tiny-match, each frame on its own; *tiny-follow*: the bundled LM-EEC with its memory;
* *given*: tiny-track with the query mask at every frame, live (filtered) and smoothed over the whole take;
* *without …*: the live row with one part left out;
* *kept alignments*: the live row, not looking at every frame anew for how two cameras differ in colour;
* *shared frames*: that, and what does not change between the frames of a camera is kept (``--share-frames``);
* *click*: shown by one point at the first frame in which the object is visible, live and smoothed;
* *best proposal*: what a choice among the proposals can reach.

``--study drawn`` measures instead what it is worth to draw masks again (``--refine auto``): *given, drawn* and *click,
drawn* beside the same without; saved as ``tracks_drawn.json``. ``--study shared``: *given*, *kept alignments* and
*shared frames* alone; saved as ``tracks_shared.json``.

``--away FOLDER`` measures returns: takes in which the wearer looks away for long (``counterview tabletop --away``). An
object returns where it is visible again after at least ten seconds without; it is found if its IoU at the first three
visible frames is above 0.5 at least once. ``--ablated`` is the fraction of each set's takes, the first ones, on which
tiny-follow and the rows without a part are measured too; their gains are over the same takes. The results of each take
are stored in ``--out``: run again to resume. *Seconds a frame* are processor seconds for all cameras of a take,
followed from each of them, without reading images; they mean something only without ``--cache``. ``--save`` writes
``tracks.json``; without sets, ``tracks_away.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections import defaultdict
from copy import copy
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.common import decimals, finite, record, show
from benchmarks.held_out import open_set, score_table
from counterview.data.dataset import DIRECTIONS, Dataset, Direction, Take
from counterview.data.pairs import FramePair, pairs_of_take
from counterview.errors import ImageError, VideoError
from counterview.evaluation.scorer import Scorer, totals
from counterview.evaluation.statistics import differences, intervals
from counterview.inference.cross_view import MatcherViews
from counterview.inference.loading import load
from counterview.inference.mask_tracker import MaskTracker
from counterview.inference.proposal_matcher import ProposalMatcher
from counterview.inference.refining import refiner_for
from counterview.inference.takes import ClipPredictor, prediction_size
from counterview.inference.track_takes import Protocol, TakeGroup
from counterview.masks.geometry import fit_mask, iou, resize_mask
from counterview.media.files import read_json, write_json
from counterview.proposals.base import frame_name
from counterview.tracking.base import Observation
from counterview.tracking.smoothing import SmoothingConfig, TrackedMoment, smooth
from counterview.tracking.tracker import MemoryTracker
from counterview.tracking.tracker_config import TrackerConfig
from counterview.tracking.views import EncodedView, ViewComparison
from counterview.tracking.weights import load_weighing
from counterview.types import ObjectMask, RgbImage

VERSION = 2
MEASURES = ("iou", "balanced_accuracy", "location_error", "contour_accuracy")
FRAME, FOLLOW, BEST = "per frame", "tiny-follow", "best proposal"
GIVEN, CLICK, ALIGNED, SHARED = "given", "click", "kept alignments", "shared frames"
DRAWN = {GIVEN: "given, drawn", CLICK: "click, drawn"}
TRACKERS: dict[str, tuple[Protocol, TrackerConfig]] = {
    GIVEN: ("given", TrackerConfig()),
    "without own bank": ("given", TrackerConfig(own_memory=False)),
    "without other banks": ("given", TrackerConfig(other_memory=False)),
    "without place": ("given", TrackerConfig(place=False)),
    "without competition": ("given", TrackerConfig(competition=False)),
    ALIGNED: ("given", TrackerConfig(keep_alignments=True)),
    SHARED: ("given", TrackerConfig(share_frames=True, keep_alignments=True)),
    CLICK: ("click", TrackerConfig()),
}
ROWS = tuple(TRACKERS)
TRACKERS |= {drawn: TRACKERS[name] for name, drawn in DRAWN.items()}
TIMED = (GIVEN, ALIGNED, SHARED)
STUDIES = {"drawn": (*DRAWN, *DRAWN.values()), "shared": (GIVEN, ALIGNED, SHARED)}
SMOOTHED = (GIVEN, CLICK, *DRAWN.values())
AWAY_S, RETURN_FRAMES, RETURN_IOU = 10.0, 3, 0.5

Wanted = dict[int, list[tuple[Direction, FramePair]]]


class FrameViews(MatcherViews):
    """Views whose comparisons are computed once for all trackers; forgotten with :meth:`forget`."""

    def __init__(self, predictor: ProposalMatcher) -> None:
        super().__init__(predictor)
        drawn = copy(predictor)
        drawn.refiner = refiner_for(drawn)
        self.drawn = MatcherViews(drawn)
        self._rows: dict[tuple[int, int, int], tuple[Any, Any, float]] = {}
        self._keep: list[Any] = []

    def forget(self) -> None:
        """Drop what was computed for the last frame."""
        self._rows.clear()
        self._keep.clear()

    def compare(self, query: EncodedView[Any], masks: Any, target: EncodedView[Any]) -> ViewComparison:
        """As :meth:`MatcherViews.compare`."""
        keys = [(id(query), hash(mask), id(target)) for mask in masks]
        new = [i for i, key in enumerate(keys) if key not in self._rows]
        if new:
            found = super().compare(query, [masks[i] for i in new], target)
            self._keep += [query, target]
            for row, i in enumerate(new):
                self._rows[keys[i]] = found.similarity[row], found.log_probability[row], float(found.visibility[row])
        rows = [self._rows[key] for key in keys]
        return ViewComparison(
            np.stack([r[0] for r in rows]), np.stack([r[1] for r in rows]), np.array([r[2] for r in rows])
        )


class Rows:
    """Scored predictions of one take, by system."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._scorers: dict[str, Scorer] = defaultdict(lambda: Scorer("official"))
        self._directions: dict[str, list[str]] = defaultdict(list)

    def add(
        self, system: str, direction: Direction, pair: FramePair, mask: ObjectMask | None, confidence: float
    ) -> None:
        """Score one prediction by the official protocol."""
        truth = self._take.mask(pair.object, pair.target_camera, pair.frame) if pair.target_visible else None
        size = prediction_size(self._take, pair.target_camera, None if mask is None else mask.size_hw)
        prediction = ObjectMask.empty(size) if mask is None else resize_mask(mask, size)
        self._scorers[system].add(
            pair.take, pair.object, pair.query_camera, pair.target_camera, pair.frame,
            gt=truth, pred=prediction, confidence=confidence, resize=True,
        )  # fmt: skip
        self._directions[system].append(direction)

    def values(self) -> dict[str, Any]:
        """As plain values; NaN is left out."""
        return {
            name: [
                [direction, {k: v for k, v in asdict(row).items() if v == v}]
                for direction, row in zip(self._directions[name], scorer.table.rows(), strict=True)
            ]
            for name, scorer in self._scorers.items()
        }


def encoding_of(name: str) -> tuple[bool, bool]:
    """How a system encodes images: those of one kind are encoded once for all its systems."""
    config = TRACKERS[name][1]
    return config.share_frames, config.keep_alignments


def run_take(
    take: Take, views: FrameViews, follower: ClipPredictor | None, names: list[str]
) -> tuple[dict[str, Any], dict[str, float]]:
    """All systems on a take; and processor seconds a frame of those in :data:`TIMED`."""
    wanted: Wanted = defaultdict(list)
    for direction in DIRECTIONS:
        for pair in pairs_of_take(take, direction, targets="annotated"):
            wanted[pair.frame].append((direction, pair))
    rows, weighing = Rows(take), load_weighing()
    targets: dict[str, dict[str, None]] = defaultdict(dict)
    for pairs in wanted.values():
        for _, pair in pairs:
            targets[pair.query_camera][pair.target_camera] = None
    groups = {
        (name, query): TakeGroup(
            take, query, tuple(others), TRACKERS[name][0],
            MemoryTracker(
                views, [query, *others], weighing, TRACKERS[name][1],
                drawer=views.drawn.drawer() if name in DRAWN.values() else None,
            ),
        )
        for name in names for query, others in sorted(targets.items())
    }  # fmt: skip
    kinds = dict.fromkeys(map(encoding_of, [GIVEN, *names]))
    clips = {kind: views.clip(share_frames=kind[0], keep_alignments=kind[1]) for kind in kinds}
    seconds = {name: 0.0 for name in names if name in TIMED}
    moments: dict[tuple[str, str], list[TrackedMoment]] = defaultdict(list)
    for frame in sorted(wanted):
        views.forget()
        images = _images(take, frame)
        encoded: dict[tuple[bool, bool], dict[str, Any]] = {}
        for kind, clip in clips.items():
            start = time.process_time()
            encoded[kind] = {
                camera: clip.encode(image, camera, frame_name(take.uid, camera, frame))
                for camera, image in images.items()
            }
            for name in seconds:
                seconds[name] += time.process_time() - start if encoding_of(name) == kind else 0.0
        for key, group in groups.items():
            start = time.process_time()
            observations = group.step(encoded[encoding_of(key[0])], frame)
            if key[0] in seconds:
                seconds[key[0]] += time.process_time() - start
            moments[key].append(TrackedMoment(frame, observations, dict(group.tracker.motions)))
        _alone(take, views, encoded[encoding_of(GIVEN)], wanted[frame], rows)
    for (name, query), track in moments.items():
        _score(rows, name, query, wanted, {m.key: m.observations for m in track})
        if name in SMOOTHED:
            _score(rows, f"{name}, smoothed", query, wanted, smoothed_track(track))
    if follower is not None:
        for _, predictions in follower.predict(take, dict(wanted)):
            for p in predictions:
                rows.add(FOLLOW, p.direction, p.pair, p.mask, p.confidence)
    return rows.values(), {name: total / max(len(wanted), 1) for name, total in seconds.items()}


def _images(take: Take, frame: int) -> dict[str, RgbImage]:
    images = {}
    for camera in take.cameras:
        try:
            images[camera] = take.frame(camera, frame)
        except (ImageError, VideoError):
            continue
    return images


def smoothed_track(track: list[TrackedMoment], config: SmoothingConfig | None = None) -> dict[int, Any]:
    """The observations of a whole take, smoothed at once."""
    result: dict[int, dict[str, dict[str, Observation]]] = {m.key: {c: {} for c in m.observations} for m in track}
    places = {(c, n): None for m in track for c, found in m.observations.items() for n in found}
    for camera, name in places:
        some = [m for m in track if name in m.observations.get(camera, {})]
        found = smooth([m.observations[camera][name] for m in some], [m.motions.get(camera) for m in some], config)
        for moment, observation in zip(some, found, strict=True):
            result[moment.key][camera][name] = observation
    return result


def _score(rows: Rows, name: str, query: str, wanted: Wanted, track: dict[int, Any]) -> None:
    for frame, pairs in wanted.items():
        for direction, pair in pairs:
            if pair.query_camera != query:
                continue
            seen = track.get(frame, {}).get(pair.target_camera, {}).get(pair.object)
            visibility = 0.0 if seen is None or seen.visibility is None else float(np.clip(seen.visibility, 0, 1))
            rows.add(name, direction, pair, None if seen is None else seen.mask_rle, visibility)


def _alone(take: Take, views: FrameViews, encoded: dict[str, Any], pairs: Any, rows: Rows) -> None:
    """tiny-match on this frame alone, and the best proposal."""
    by_cameras: dict[tuple[str, str], list[tuple[Direction, FramePair]]] = defaultdict(list)
    for direction, pair in pairs:
        by_cameras[pair.query_camera, pair.target_camera].append((direction, pair))
    for (query, target), members in by_cameras.items():
        if query not in encoded or target not in encoded or not len(encoded[target].masks):
            for direction, pair in members:
                rows.add(FRAME, direction, pair, None, 0.0)
                rows.add(BEST, direction, pair, None, 0.0)
            continue
        masks = [fit_mask(take.mask(p.object, query, p.frame), encoded[query].size_hw) for _, p in members]
        found = views.compare(encoded[query], masks, encoded[target])
        for row, (direction, pair) in enumerate(members):
            choice = encoded[target].masks[int(found.log_probability[row].argmax())]
            rows.add(FRAME, direction, pair, choice, float(np.clip(found.visibility[row], 0, 1)))
            best = None
            if pair.target_visible:
                truth = fit_mask(take.mask(pair.object, target, pair.frame), encoded[target].size_hw)
                best = max(encoded[target].masks, key=lambda mask: iou(mask, truth))
            rows.add(BEST, direction, pair, best, 1.0 if pair.target_visible else 0.0)


def take_values(
    part: str,
    dataset: Dataset,
    uid: str,
    views: FrameViews,
    follower: ClipPredictor | None,
    names: list[str],
    out: Path,
) -> dict[str, Any]:
    """The rows of one take of a set, and the seconds of some: read from ``out``, or computed and stored there.

    Takes of one seed and split have the same uids in every preset, so the set's name is part of the key.
    """
    tracker = MemoryTracker(views, ["query"], load_weighing())
    settings = [VERSION, part, tracker.settings(), names, None if follower is None else follower.settings(), uid]
    key = json.loads(json.dumps(settings))
    path = out / f"{hashlib.sha256(f'{part}/{uid}'.encode()).hexdigest()[:24]}.json"
    if path.is_file():
        stored = read_json(path)
        if isinstance(stored, dict) and stored.get("key") == key:
            return {"rows": stored["rows"], "seconds": stored["seconds"]}
    rows, seconds = run_take(dataset.take(uid), views, follower, names)
    write_json(path, {"key": key, "rows": rows, "seconds": seconds}, indent=None)
    return json.loads(json.dumps({"rows": rows, "seconds": seconds}))


def summary(results: list[dict[str, Any]], rival: str) -> dict[str, Any]:
    """Scores of every system with intervals over takes, by direction, and gains over one of them; seconds a frame."""
    rows: dict[str, Any] = {}
    takes = [result["rows"] for result in results]
    tables = {
        n: score_table(row for t in takes for _, row in t.get(n, [])) for n in {k: None for t in takes for k in t}
    }
    for name, table in tables.items():
        values, spans = totals(table), intervals(table)
        entry: dict[str, Any] = {
            "takes": sum(name in take for take in takes),
        } | {
            m: {"value": finite(getattr(values, m)), "interval": [finite(spans[m].low), finite(spans[m].high)]}
            for m in MEASURES
        }
        for direction in DIRECTIONS:
            part = totals(score_table(row for t in takes for d, row in t.get(name, []) if d == direction))
            entry[direction] = {m: finite(getattr(part, m)) for m in MEASURES}
        for column, other in (("gain", rival), ("over_given", GIVEN)):
            if name == other or other not in tables:
                continue
            same = score_table(row for take in takes if name in take for _, row in take[other])
            gain = differences(same, table)[0]["iou"]
            interval = [finite(gain.interval.low), finite(gain.interval.high)]
            entry[column] = {"over": other, "value": finite(gain.value), "interval": interval}
        # Over the takes on which all were timed, so that they can be compared.
        timed = [r["seconds"] for r in results if set(TIMED) <= set(r["seconds"])]
        if timed and name in TIMED:
            entry["seconds_a_frame"] = float(np.mean([seconds[name] for seconds in timed]))
        rows[name] = entry
    return {"takes": len(takes), "object_frames": len(tables[rival]) if rival in tables else 0, "rows": rows}


def returns(dataset: Dataset, takes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How often objects that were out of view for long are found again, by system."""
    found: dict[str, list[bool]] = defaultdict(list)
    for uid, rows in takes.items():
        for system, scored in rows.items():
            tracks: dict[tuple[str, str, str, str], list[dict[str, Any]]] = defaultdict(list)
            for direction, row in scored:
                tracks[direction, row["object"], row["query_camera"], row["target_camera"]].append(row)
            for (direction, name, _, camera), frames in tracks.items():
                if direction != "exo2ego":
                    continue
                annotated = dataset.take(uid).annotated_frames(name, camera)
                visible = [row for row in sorted(frames, key=lambda r: r["frame"]) if row["gt_visible"]]
                for before, after in pairwise(visible):
                    gone = (after["frame"] - before["frame"]) / 30
                    absent = [f for f in annotated if before["frame"] < f < after["frame"]]
                    if gone < AWAY_S or len(absent) < AWAY_S / 2:
                        continue
                    first = [r for r in visible if r["frame"] >= after["frame"]][:RETURN_FRAMES]
                    found[system].append(any((r.get("iou") or 0) > RETURN_IOU for r in first))
    return {name: {"returns": len(v), "right": float(np.mean(v))} for name, v in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="NAME=FOLDER[:SPLIT]")
    parser.add_argument("--away", metavar="FOLDER[:SPLIT]", help="takes in which the wearer looks away for long")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results of each take")
    parser.add_argument("--study", choices=list(STUDIES), help="these rows alone")
    parser.add_argument("--ablated", type=float, default=1.0, help="fraction of the takes with all rows")
    parser.add_argument("--takes", type=int, help="first takes of each set only")
    parser.add_argument("--part", default="0/1", metavar="I/N", help="every Nth take alone, for several processes")
    parser.add_argument("--cache", type=Path, help="folder in which proposals are stored")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    predictor = load("tiny-match", device=options.device, cache=options.cache)
    tracker = load("tiny-follow", device=options.device)
    assert isinstance(predictor, ProposalMatcher)
    assert isinstance(tracker, MaskTracker)
    views, follower = FrameViews(predictor), ClipPredictor(tracker.model)
    options.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"sets": {}}
    wanted = ROWS if options.study is None else STUDIES[options.study]
    sets = [(*open_set(text), list(wanted), None if options.study else follower) for text in options.sets]
    if options.away:
        sets.append((*open_set(f"away={options.away}"), [GIVEN, CLICK], None))
    for name, dataset, systems, clip in sets:
        uids = list(dataset.uids)[: options.takes]
        mine = [uid for i, uid in enumerate(uids) if i % parts == part]
        full = set(uids[: math.ceil(options.ablated * len(uids))])
        values = {}
        for uid in tqdm(mine, desc=name):
            rows = (clip, systems) if uid in full or options.study else (None, [GIVEN, CLICK])
            values[uid] = take_values(name, dataset, uid, views, *rows, options.out)
        result["sets"][name] = summary(list(values.values()), FRAME)
        if options.away and name == "away":
            result["sets"][name]["returns"] = returns(dataset, {uid: v["rows"] for uid, v in values.items()})
    if parts > 1:
        print(f"part {part} of {parts} is done; run without --part for the tables")
        return
    for name, found in result["sets"].items():
        show(
            f"{name}: {found['takes']} takes, {found['object_frames']} object-frames",
            [
                "system", "takes", "IoU", "interval", "ego2exo", "exo2ego", "BA", "over per frame", "over given",
                "s a frame",
            ],
            [
                [
                    system, r["takes"], decimals(r["iou"]["value"]), " to ".join(map(decimals, r["iou"]["interval"])),
                    decimals(r["ego2exo"]["iou"]), decimals(r["exo2ego"]["iou"]),
                    decimals(r["balanced_accuracy"]["value"]), decimals(r.get("gain", {}).get("value")),
                    decimals(r.get("over_given", {}).get("value")), decimals(r.get("seconds_a_frame")),
                ]
                for system, r in found["rows"].items()
            ],
        )  # fmt: skip
        for system, r in found.get("returns", {}).items():
            print(f"{system}: {r['right']:.2f} of {r['returns']} returns are right")
    file = f"tracks_{options.study}" if options.study else "tracks" if options.sets else "tracks_away"
    record(file, result, save=options.save)


if __name__ == "__main__":
    main()
