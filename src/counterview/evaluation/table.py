"""The scores of every object in every frame, stored as columns."""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterview.errors import InputError, MissingExtraError
from counterview.media.files import atomic_write


@dataclass(frozen=True, slots=True)
class FrameScore:
    """One object in one frame of one pair of cameras.

    Attributes:
        take: uid of the take.
        object: name of the object.
        query_camera: in which the object is given.
        target_camera: in which it is searched.
        frame: frame number.
        gt_visible: whether it is visible in the target camera, by the rules of the protocol.
        pred_visible: whether the confidence is above one half.
        confidence: of the prediction; NaN if it is missing.
        iou: 0 to 1; NaN where the object is not visible, as are the next five.
        contour_accuracy: 0 to 1.
        contour_accuracy_unregistered: the same without shifting the prediction (protocol ``corrected`` only).
        location_error: distance of the centres as a fraction of the diagonal.
        gt_area_px: pixels of the ground truth at the size of scoring.
        pred_area_px: pixels of the prediction.
        height: of the masks as scored, in pixels; 0 where the object is not visible.
        width: of the masks as scored, in pixels.
        missing: whether the prediction was missing and counted as absent.
        group: the scenario of the take, or an empty text.
    """

    take: str
    object: str
    query_camera: str
    target_camera: str
    frame: int
    gt_visible: bool
    pred_visible: bool
    confidence: float
    iou: float = float("nan")
    contour_accuracy: float = float("nan")
    contour_accuracy_unregistered: float = float("nan")
    location_error: float = float("nan")
    gt_area_px: float = float("nan")
    pred_area_px: float = float("nan")
    height: int = 0
    width: int = 0
    missing: bool = False
    group: str = ""


COLUMNS = tuple(f.name for f in fields(FrameScore))
_TEXT = ("take", "object", "query_camera", "target_camera", "group")
_INTEGERS = ("frame", "height", "width")
_FLAGS = ("gt_visible", "pred_visible", "missing")
KEY = ("take", "object", "query_camera", "target_camera", "frame")


class FrameTable:
    """Rows of :class:`FrameScore` kept as columns, about 120 bytes a row."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}
        self._columns: dict[str, array[Any]] = {
            name: array("q" if name in _TEXT or name in _INTEGERS else "b" if name in _FLAGS else "d")
            for name in COLUMNS
        }

    def __len__(self) -> int:
        return len(self._columns["frame"])

    def append(self, row: FrameScore) -> None:
        """Add a row at the end."""
        for name in COLUMNS:
            value = getattr(row, name)
            self._columns[name].append(self._code(value) if name in _TEXT else value)

    def _code(self, text: str) -> int:
        return self._texts.setdefault(text, len(self._texts))

    def extend(self, other: FrameTable) -> None:
        """Add the rows of another table."""
        code = {number: self._code(text) for text, number in other._texts.items()}
        for name in COLUMNS:
            values = other._columns[name]
            self._columns[name].extend((code[v] for v in values) if name in _TEXT else values)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """One column, ``(N,)``: bool, int64, float64, or an object array of texts.

        Raises:
            KeyError: no such column.
        """
        values = np.array(self._columns[name])
        if name in _TEXT:
            texts = np.empty(len(self._texts), dtype=object)
            texts[:] = list(self._texts)
            return texts[values] if len(values) else np.empty(0, dtype=object)
        if name in _FLAGS:
            return values.astype(np.bool_)
        return values.astype(np.int64) if name in _INTEGERS else values.astype(np.float64)

    def codes(self, name: str) -> NDArray[np.int64]:
        """A text column as ``(N,)`` int64 codes, equal where the texts are.

        Raises:
            KeyError: no such column.
        """
        return np.array(self._columns[name], dtype=np.int64)

    def row(self, index: int) -> FrameScore:
        """Row ``index``, from 0.

        Raises:
            IndexError: no such row.
        """
        values: dict[str, Any] = {name: self._columns[name][index] for name in COLUMNS}
        texts = list(self._texts)
        values.update({name: texts[values[name]] for name in _TEXT})
        values.update({name: bool(values[name]) for name in _FLAGS})
        return FrameScore(**values)

    def rows(self) -> Iterator[FrameScore]:
        """All rows, in order."""
        texts = list(self._texts)
        for values in zip(*(self._columns[name] for name in COLUMNS), strict=True):
            row: dict[str, Any] = dict(zip(COLUMNS, values, strict=True))
            row.update({name: texts[row[name]] for name in _TEXT})
            row.update({name: bool(row[name]) for name in _FLAGS})
            yield FrameScore(**row)

    def select(self, keep: NDArray[np.bool_] | Sequence[int]) -> FrameTable:
        """Some of the rows as a new table.

        Args:
            keep: ``(N,)`` bool mask, or indices in any order.

        Raises:
            IndexError: an index, or the mask's length, does not fit.
        """
        result = FrameTable()
        result._texts = dict(self._texts)
        index = np.asarray(keep)
        index = np.flatnonzero(index) if index.dtype == np.bool_ else index.astype(np.int64)
        for name in COLUMNS:
            kind = self._columns[name].typecode
            values = np.array(self._columns[name])[index] if len(index) else []
            result._columns[name] = array(kind, list(values))
        return result

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a ``.csv`` or ``.parquet`` file, completely or not at all. NaN is an empty cell in CSV.

        Raises:
            InputError: another file name extension.
            MissingExtraError: Parquet without pyarrow.
        """
        path = Path(path)
        check_table_path(path)
        if path.suffix.lower() == ".csv":
            with atomic_write(path, "w") as handle:
                writer = csv.writer(handle, lineterminator="\n")
                writer.writerow(COLUMNS)
                for row in self.rows():
                    writer.writerow([_cell(getattr(row, name)) for name in COLUMNS])
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({name: pa.array(self[name].tolist()) for name in COLUMNS})
        with atomic_write(path) as handle:
            pq.write_table(table, handle)


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return "" if value != value else repr(value)
    if isinstance(value, str):
        # Texts that a spreadsheet would run as a formula, and lone surrogates, which UTF-8 cannot encode.
        value = value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")
        return f"'{value}" if value[:1] in ("=", "+", "@") else value
    return value


def is_table(path: str | os.PathLike[str]) -> bool:
    """Whether a file is one that :meth:`FrameTable.write` wrote, by its columns."""
    path = Path(path)
    try:
        if path.suffix.lower() == ".csv":
            with path.open("rb") as handle:
                return handle.readline(10_000).strip() == ",".join(COLUMNS).encode()
        import pyarrow.parquet as pq

        return list(pq.read_schema(path).names) == list(COLUMNS)
    except (ImportError, OSError, ValueError):
        return False


def check_table_path(path: str | os.PathLike[str]) -> None:
    """Check that :meth:`FrameTable.write` can write this file, before hours are spent on its contents.

    Raises:
        InputError: another file name extension than ``.csv`` and ``.parquet``.
        MissingExtraError: Parquet without pyarrow.
    """
    ending = Path(path).suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise InputError("the table's format is unknown", path=path, expected="a name ending in .csv or .parquet")
    if ending == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise MissingExtraError("parquet", "writing a table as Parquet") from None
