"""Whether a prediction file is what a run would write: told by what the file records and by the pairs that it holds."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from counterview.data.dataset import Direction
from counterview.errors import OutputError, PredictionError
from counterview.evaluation.layout import RECORD, Record
from counterview.evaluation.predictions import PredictionFile, iter_takes


def is_made_by(out: Path, directions: Sequence[Direction], settings: Mapping[str, Any], record: Record) -> bool:
    """Whether a prediction file is of a model, takes, layout and fraction, by what it records.

    Args:
        out: the file.
        directions: that it should hold.
        settings: of the predictor, and of the data.
        record: of the takes, the layout and the fraction.
    """
    wanted = json.loads(json.dumps({**settings, RECORD: record.to_json()}))
    try:
        source = PredictionFile(out)
        found = source.settings()
        images = wanted.get("data", {}).get("images")
        if "data" not in found or images == "unknown":  # an earlier version's file, or takes that cannot be read now
            found, wanted = ({k: v for k, v in values.items() if k != "data"} for values in (found, wanted))
        return set(source.directions) == set(directions) and found == wanted
    except PredictionError:
        return False


def held_takes(out: Path) -> dict[str, int]:
    """Uid and number of predictions of each take in a prediction file; empty if it is not one, or damaged."""
    held = defaultdict[str, int](int)
    try:
        source = PredictionFile(out)
        for direction in source.directions:
            for uid in source.takes(direction):
                take = source.load(direction, uid)
                held[uid] += 0 if take is None else sum(number for _, _, number in take.pairs())
    except PredictionError:
        return {}
    return dict(held)


def counts_of(out: Path) -> dict[str, Any]:
    """Number of ``predictions`` of a prediction file, and of ``empty`` ones by reason.

    Raises:
        PredictionError: the file is damaged.
    """
    number, empty = 0, defaultdict[str, int](int)
    for direction in PredictionFile(out).directions:
        for _, take in iter_takes(out, direction):
            for cameras in take["masks"].values():
                for frames in cameras.values():
                    for entry in frames.values():
                        number += 1
                        if "note" in entry:
                            empty[entry["note"]] += 1
    return {"predictions": number, "empty": dict(empty)}


def other_settings(out: Path) -> OutputError:
    """The error of a file that holds predictions of another run."""
    return OutputError(
        "holds predictions of other settings or data", path=out, expected="those of this command, or a new name",
        fix="Give another --out, or add --overwrite.",
    )  # fmt: skip
