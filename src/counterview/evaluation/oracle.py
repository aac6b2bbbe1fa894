"""The oracle: the score of the best proposal for every object, which is the most that matching can reach.

Proposals are read from one of

* a folder ``<root>/<take uid>/<camera>/`` with ``<frame>_masks.npz`` (one array ``(N, H, W)``, nonzero is inside)
  or ``<frame>.json`` (a list of COCO masks ``{"size", "counts"}``, or of objects that hold one as ``segmentation``);
* a JSON file ``{take uid: {camera: {frame: [COCO mask, …]}}}``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from counterview.data.dataset import Direction, check_direction
from counterview.data.pairs import FramePair, PairFraction
from counterview.errors import InputError, MaskError, PathError, ProposalError
from counterview.evaluation import scorer
from counterview.evaluation.groundtruth import GroundTruth
from counterview.evaluation.metrics import official_iou
from counterview.evaluation.protocol import Report, scored_frames, visible_in_both
from counterview.evaluation.scorer import LONGEST_SIDE_PX, Scorer, get_protocol
from counterview.evaluation.table import FrameTable
from counterview.jobs.run import map_ordered
from counterview.masks import rle
from counterview.masks.geometry import fit_longest_side, resize_mask
from counterview.media.files import read_json, safe_join
from counterview.media.jsonstream import index_object, read_span
from counterview.media.npy import open_archive, read_header
from counterview.types import ObjectMask

MAX_ARRAY_BYTES, MAX_MASKS = 2**31, 10_000
"""Bytes and masks of the largest array of proposals of an image."""


class ProposalFiles:
    """Proposals on disk, read for one image at a time.

    Args:
        path: a folder or a JSON file, see the module's text.

    Raises:
        ProposalError: missing, or neither a folder nor a JSON file of the form above.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._spans = None if self.path.is_dir() else index_object(self.path, (), error=ProposalError)
        self._loaded: tuple[str, Any] = ("", None)

    def get(self, take: str, camera: str, frame: int) -> list[ObjectMask] | None:
        """The proposals of one image; ``None`` if the image has no entry.

        Raises:
            ProposalError: they cannot be read.
        """
        if self._spans is not None:
            if take not in self._spans:
                return None
            if self._loaded[0] != take:
                self._loaded = (take, read_span(self.path, self._spans[take], take, error=ProposalError))
            value = self._loaded[1]
            for step in (camera, str(frame)):
                value = value.get(step) if isinstance(value, dict) else None
            return None if value is None else _masks(value, self.path)
        try:
            folder = safe_join(self.path, take, camera, follow_links=True)
        except PathError as error:
            raise ProposalError(error.problem, path=self.path) from None
        packed, listed = folder / f"{frame}_masks.npz", folder / f"{frame}.json"
        if packed.is_file():
            return _read_npz(packed)
        return _masks(read_json(listed, error=ProposalError), listed) if listed.is_file() else None


def _masks(content: Any, path: Path) -> list[ObjectMask]:
    if not isinstance(content, list):
        raise ProposalError("is not a list of masks", path=path, found=type(content).__name__)
    result = []
    for number, entry in enumerate(content):
        if isinstance(entry, dict) and "segmentation" in entry:
            entry = entry["segmentation"]
        try:
            result.append(rle.from_coco(entry))
        except MaskError as error:
            raise ProposalError(f"proposal {number} is malformed: {error}", path=path) from None
    return result


def _read_npz(path: Path) -> list[ObjectMask]:
    with open_archive(path, ProposalError, "cannot be read") as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        name = "masks.npy" if "masks.npy" in names else names[0]
        with archive.open(name) as stream:
            shape, fortran, dtype = read_header(stream, path, ProposalError)
            # Checked before anything is allocated: a header can state any shape.
            if len(shape) != 3 or 0 in shape[1:] or dtype.kind not in "bui":
                raise ProposalError("holds no masks", path=path, found=f"{dtype} {shape}", expected="(N, H, W)")
            size = math.prod(shape) * dtype.itemsize
            if size > MAX_ARRAY_BYTES or shape[0] > MAX_MASKS:
                raise ProposalError(
                    "is too large", path=path, found=f"{shape[0]} masks, {size} bytes",
                    expected=f"up to {MAX_MASKS} and {MAX_ARRAY_BYTES}",
                )  # fmt: skip
            if fortran:
                stack = np.frombuffer(stream.read(size), dtype=dtype).reshape(shape, order="F")
                return [ObjectMask.from_array(mask != 0) for mask in stack]
            step = size // max(1, shape[0])
            arrays = (np.frombuffer(stream.read(step), dtype=dtype).reshape(shape[1:]) for _ in range(shape[0]))
            return [ObjectMask.from_array(mask != 0) for mask in arrays]


@dataclass
class _ScoreBestProposal:
    truth: GroundTruth
    proposals: ProposalFiles
    direction: Direction
    protocol: str
    part: PairFraction | None = None

    def __call__(self, uid: str) -> tuple[FrameTable, int, list[str]]:
        take = self.truth.load(uid)
        accumulator = Scorer(self.protocol)
        without, problems = 0, []
        rules = accumulator.protocol
        for name, query, target in take.pairs(self.direction):
            for frame, counts in scored_frames(rules.walks, take, None, name, query, target):
                if not counts:
                    continue
                if self.part is not None and FramePair(uid, name, query, target, frame, None) not in self.part:
                    continue
                try:
                    gt = take.mask(name, target, frame)
                    if rules.walks == "both" and not visible_in_both(take, name, query, frame, gt):
                        continue
                    masks = None if gt is None else self.proposals.get(uid, target, frame)
                except InputError as error:
                    problems.append(f"take {uid}, {target}, frame {frame}: {error}")
                    continue
                without += gt is not None and not masks
                best = None if gt is None or not masks else _best(gt, masks, rules.official_size)
                accumulator.add(
                    uid, name, query, target, frame,
                    gt=gt, pred=best, confidence=float(gt is not None), scenario=take.scenario, resize=True,
                )  # fmt: skip
        return accumulator.table, without, problems


def _best(gt: ObjectMask, proposals: list[ObjectMask], official_size: bool) -> ObjectMask:
    """The proposal with the largest IoU at the size of scoring; the first of several."""
    scores = []
    size = fit_longest_side(gt.size_hw, LONGEST_SIDE_PX)
    truth: dict[tuple[int, int], ObjectMask] = {}
    for mask in proposals:
        scored = size if official_size else mask.size_hw
        if scored not in truth:
            truth[scored] = resize_mask(gt, scored)
        scores.append(official_iou(truth[scored], resize_mask(mask, scored)))
    return proposals[int(np.argmax(scores))]


def oracle(
    gt: GroundTruth | str | os.PathLike[str],
    proposals: ProposalFiles | str | os.PathLike[str],
    direction: str,
    *,
    protocol: str = "official",
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    part: PairFraction | None = None,
) -> Report:
    """Score the best proposal, by IoU, for every visible object; visibility is taken from the ground truth.

    Args:
        gt: the ground truth.
        proposals: see the module's text.
        direction: ``ego2exo`` or ``exo2ego``.
        protocol: any but ``lmeec``, which scores only what was predicted.
        workers: processes.
        progress: called with the number of takes done and of all takes.
        part: of the pairs, to score no others.

    Returns:
        The oracle's report; its notes count objects without proposals.

    Raises:
        ProposalError: no proposal can be read.
        InputError: an unknown name, or the protocol ``lmeec``.
    """
    rules = get_protocol(protocol)
    if rules.walks == "prediction":
        raise InputError("the oracle has no predictions to walk", found=f"protocol {rules.name}")
    truth = gt if isinstance(gt, GroundTruth) else GroundTruth(gt)
    files = proposals if isinstance(proposals, ProposalFiles) else ProposalFiles(proposals)
    way = check_direction(direction)
    table, without, problems = FrameTable(), 0, list[str]()
    job = _ScoreBestProposal(truth, files, way, rules.name, part)
    for done, result in enumerate(_parts(job, truth, workers), start=1):
        table.extend(result[0])
        without += result[1]
        problems += result[2]
        if progress is not None:
            progress(done, len(truth))
    totals = scorer.totals(table, rules)
    if totals.visible and without == totals.visible:
        raise ProposalError("no proposal belongs to an image that is scored", path=files.path)
    notes = [f"{without} visible objects have no proposal and count as an empty mask"] if without else []
    notes += [f"{len(problems)} images were left out: {problems[0]}"] if problems else []
    return Report(rules.name, way, files.path, truth.path, table, totals, notes)


def _parts(job: _ScoreBestProposal, truth: GroundTruth, workers: int) -> Iterator[tuple[FrameTable, int, list[str]]]:
    return map_ordered(job, truth.takes, workers, "oracle")
