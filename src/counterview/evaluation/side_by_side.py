"""Score prediction files that are to stand side by side: on the same takes and pairs, of the same frames and sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from counterview.data.dataset import Direction
from counterview.data.pairs import PairFraction
from counterview.errors import counted
from counterview.evaluation.groundtruth import GroundTruth
from counterview.evaluation.layout import check_alike, chosen_part, read_record
from counterview.evaluation.predictions import PredictionSource
from counterview.evaluation.protocol import Missing, Report, evaluate
from counterview.evaluation.scorer import get_protocol


@dataclass(frozen=True)
class CommonGround:
    """What several prediction files are scored on.

    Attributes:
        truth: the takes.
        part: of the pairs; ``None`` for all of them.
    """

    truth: GroundTruth
    part: PairFraction | None


def common_ground(
    truth: GroundTruth, sources: Sequence[PredictionSource], direction: Direction, *, allow_missing_takes: bool = False
) -> CommonGround:
    """The takes and pairs on which files can be compared, by what they record.

    Args:
        truth: the ground truth.
        sources: the files. Those of other systems record nothing, and are taken to hold everything.
        direction: of the predictions.
        allow_missing_takes: leave out the takes that a file was not asked for.

    Raises:
        PredictionError: the files hold different fractions of the pairs.
    """
    part: PairFraction | None = None
    for source in sources:
        record = read_record(source)
        part = chosen_part(record, part, direction, source)
        if allow_missing_takes and record is not None and record.takes is not None:
            truth = truth.only(record.takes)
    return CommonGround(truth, part)


def evaluate_alike(
    truth: GroundTruth,
    sources: Sequence[PredictionSource],
    direction: Direction,
    *,
    protocol: str,
    missing: Missing = "error",
    allow_missing_takes: bool = False,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Report]:
    """Score prediction files on the ground that they have in common.

    Args:
        truth: the ground truth.
        sources: the files.
        direction: ``ego2exo`` or ``exo2ego``.
        protocol: a name among :data:`counterview.evaluation.scorer.PROTOCOLS`.
        missing: as for :func:`counterview.evaluation.protocol.evaluate`.
        allow_missing_takes: likewise.
        workers: likewise.
        progress: likewise, for each file.

    Returns:
        One report for each file.

    Raises:
        PredictionError: as :func:`counterview.evaluation.protocol.evaluate`; or the files hold different fractions of
            the pairs, or other frames or sizes where the protocol takes those of the file.
    """
    ground = common_ground(truth, sources, direction, allow_missing_takes=allow_missing_takes)
    reports = [
        evaluate(
            ground.truth, source, direction, protocol=protocol, missing=missing,
            allow_missing_takes=allow_missing_takes, workers=workers, progress=progress, part=ground.part,
        )
        for source in sources
    ]  # fmt: skip
    if len(ground.truth) < len(truth):
        for report in reports:
            report.notes.append(
                f"scored of {counted(len(truth), 'take')}: the {len(ground.truth)} that the file was asked for"
            )
    rules = get_protocol(protocol)
    if rules.walks == "prediction" or not rules.official_size:
        check_alike([(str(r.predictions), r.contents.frames, r.contents.size) for r in reports])
    return reports
