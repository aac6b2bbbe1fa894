"""Logs of a run: CSV files always; TensorBoard, Weights & Biases and trackio where configured."""

from __future__ import annotations

import csv
import io
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from counterview.errors import InputError, MissingExtraError
from counterview.media.files import atomic_write, read_json, write_json
from counterview.training.recipe import TrainingConfig
from counterview.types import RgbImage

Values = Mapping[str, float | int]


class Tracker(Protocol):
    """Receives the numbers and images of a run, in the main process."""

    def log(self, kind: str, step: int, row: Values) -> None:
        """Values after optimizer step ``step``; ``kind`` is ``"train"`` or ``"validation"``."""

    def image(self, name: str, step: int, image: RgbImage) -> None:
        """An image ``(H, W, 3)`` uint8."""

    def close(self) -> None:
        """Write what is still in memory."""


class CsvTracker:
    """``train.csv`` and ``validation.csv``: one line per step or epoch, written as soon as it is logged.

    A new column rewrites the file; a line without a value for a column leaves it empty.

    Args:
        out: folder of the files.
        resumed_step: lines after this step, which a killed run may have left, are dropped.
    """

    kinds = ("train", "validation")

    def __init__(self, out: Path, resumed_step: int) -> None:
        self.out = out
        self._columns: dict[str, list[str]] = {}
        out.mkdir(parents=True, exist_ok=True)
        for kind in self.kinds:
            rows = [row for row in read_csv(self._path(kind)) if int(row["step"]) <= resumed_step]
            self._columns[kind] = list(rows[0]) if rows else []
            self._rewrite(kind, rows)

    def _path(self, kind: str) -> Path:
        return self.out / f"{kind}.csv"

    def _rewrite(self, kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns[kind], restval="", lineterminator="\n")
        if self._columns[kind]:
            writer.writeheader()
        writer.writerows(rows)
        with atomic_write(self._path(kind), "w") as handle:
            handle.write(text.getvalue())

    def log(self, kind: str, step: int, row: Values) -> None:
        """See :meth:`Tracker.log`."""
        line = {"step": step, **row}
        new = [column for column in line if column not in self._columns[kind]]
        if new:
            rows = read_csv(self._path(kind))
            self._columns[kind] += new
            self._rewrite(kind, [*rows, line])
            return
        with self._path(kind).open("a", encoding="utf-8", newline="") as handle:
            csv.DictWriter(handle, self._columns[kind], restval="", lineterminator="\n").writerow(line)

    def image(self, name: str, step: int, image: RgbImage) -> None:
        """Ignore the image ``(H, W, 3)``: the engine writes sheets to files itself."""

    def close(self) -> None:
        """Nothing: every line is on disk already."""


def read_csv(path: Path) -> list[dict[str, str]]:
    """Lines of a log by column; a last line that a kill left incomplete is dropped."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    rows = csv.DictReader(io.StringIO(complete))
    return [row for row in rows if None not in row and None not in row.values() and row.get("step", "").isdigit()]


class TensorBoardTracker:
    """Event files in ``tensorboard/``; events after the resumed step are purged."""

    def __init__(self, out: Path, resumed_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtraError("train", "the TensorBoard log") from None
        purge = resumed_step + 1 if resumed_step else None
        self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=purge, flush_secs=10)

    def log(self, kind: str, step: int, row: Values) -> None:
        """See :meth:`Tracker.log`."""
        for name, value in row.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def image(self, name: str, step: int, image: RgbImage) -> None:
        """An image ``(H, W, 3)`` uint8; see :meth:`Tracker.image`."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """See :meth:`Tracker.close`."""
        self._writer.close()


class WandbTracker:
    """Weights & Biases, from the extra ``[wandb]``; a resumed run keeps its id."""

    def __init__(self, out: Path, config: TrainingConfig, recipe: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise MissingExtraError("wandb", "the Weights & Biases log") from None
        self._wandb: Any = wandb
        self._run = wandb.init(
            project=config.project,
            name=out.name,
            id=_run_id(out, "wandb"),
            resume="allow",
            dir=str(out),
            config=dict(recipe),
        )

    def log(self, kind: str, step: int, row: Values) -> None:
        """See :meth:`Tracker.log`."""
        self._run.log({f"{kind}/{name}": value for name, value in row.items()}, step=step)

    def image(self, name: str, step: int, image: RgbImage) -> None:
        """An image ``(H, W, 3)`` uint8; see :meth:`Tracker.image`."""
        self._run.log({name: self._wandb.Image(image)}, step=step)

    def close(self) -> None:
        """See :meth:`Tracker.close`."""
        self._run.finish()


class TrackioTracker:
    """trackio, from the extra ``[trackio]``; a resumed run keeps its name."""

    def __init__(self, out: Path, config: TrainingConfig, recipe: Mapping[str, Any]) -> None:
        try:
            import trackio
        except ImportError:
            raise MissingExtraError("trackio", "the trackio log") from None
        self._trackio: Any = trackio
        name = f"{out.name}-{_run_id(out, 'trackio')}"
        trackio.init(project=config.project, name=name, resume="allow", config=dict(recipe))

    def log(self, kind: str, step: int, row: Values) -> None:
        """See :meth:`Tracker.log`."""
        self._trackio.log({f"{kind}/{name}": value for name, value in row.items()}, step=step)

    def image(self, name: str, step: int, image: RgbImage) -> None:
        """An image ``(H, W, 3)`` uint8; see :meth:`Tracker.image`."""
        self._trackio.log({name: self._trackio.Image(image)}, step=step)

    def close(self) -> None:
        """See :meth:`Tracker.close`."""
        self._trackio.finish()


def _run_id(out: Path, tracker: str) -> str:
    path = out / "trackers.json"
    try:
        ids = read_json(path)
    except InputError:
        ids = {}
    if not isinstance(ids.get(tracker), str):
        ids[tracker] = secrets.token_hex(4)
        write_json(path, ids)
    return str(ids[tracker])


def open_trackers(out: Path, config: TrainingConfig, recipe: Mapping[str, Any], resumed_step: int) -> list[Tracker]:
    """The CSV files and every tracker that the configuration names.

    Args:
        out: folder of the run.
        config: names the trackers.
        recipe: all values of the run, recorded by the trackers.
        resumed_step: the step that the run resumes from; 0 for a new run.

    Raises:
        MissingExtraError: a tracker's package is not installed.
    """
    trackers: list[Tracker] = [CsvTracker(out, resumed_step)]
    for name in dict.fromkeys(config.trackers):
        if name == "tensorboard":
            trackers.append(TensorBoardTracker(out, resumed_step))
        elif name == "wandb":
            trackers.append(WandbTracker(out, config, recipe))
        else:
            trackers.append(TrackioTracker(out, config, recipe))
    return trackers
