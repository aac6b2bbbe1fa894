"""The memory of one object in one camera: descriptors of how it looked. LM-EEC's bank at the level of descriptors.

A full bank is compressed as LM-EEC compresses its banks (NeurIPS 2025, section 3.3): the two neighbours in time that
are most alike become one. Two things differ from the paper, both ours: an entry that stands for k frames counts k times
in the mean, and entries that a user gave are protected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


class Bank:
    """Descriptors of an object over time, oldest first.

    Args:
        capacity: entries at most, at least 2. Protected ones count, and are merged only where nothing else is left.
        compression: ``merge``: the closest neighbours are averaged, counts kept; ``fifo``: the oldest is dropped.
    """

    def __init__(self, capacity: int, compression: str = "merge") -> None:
        self.capacity, self.compression = capacity, compression
        self._looks: list[F32] = []
        self._counts: list[int] = []
        self._protected: list[bool] = []

    def __len__(self) -> int:
        return len(self._looks)

    @property
    def counts(self) -> NDArray[np.int64]:
        """``(K,)`` frames that each entry stands for."""
        return np.array(self._counts, dtype=np.int64)

    @property
    def looks(self) -> F32:
        """``(K, D)`` entries of unit length, oldest first."""
        return np.stack(self._looks)

    def add(self, look: F32, *, protected: bool = False) -> None:
        """Append what the object looks like now.

        Args:
            look: ``(D,)`` of unit length.
            protected: keep it as it is while other entries can be merged.
        """
        self._looks.append(np.asarray(look, dtype=np.float32))
        self._counts.append(1)
        self._protected.append(protected)
        if len(self) > self.capacity:
            self._compress()

    def _compress(self) -> None:
        pairs = [i for i in range(len(self) - 1) if not (self._protected[i] or self._protected[i + 1])]
        if self.compression == "fifo":
            free = [i for i in range(len(self)) if not self._protected[i]] or [0]
            self._drop(free[0])
            return
        if not pairs:  # everything is protected, or protected entries stand between all others
            pairs = [i for i in range(len(self) - 1) if not (self._protected[i] and self._protected[i + 1])]
            pairs = pairs or list(range(len(self) - 1))
        distances = [float(((self._looks[i] - self._looks[i + 1]) ** 2).sum()) for i in pairs]
        first = pairs[int(np.argmin(distances))]
        counts = self._counts[first], self._counts[first + 1]
        mean = self._looks[first] * counts[0] + self._looks[first + 1] * counts[1]
        keep = self._protected[first] or self._protected[first + 1]
        if self._protected[first] != self._protected[first + 1]:  # what the user gave stays as it is
            mean = self._looks[first] if self._protected[first] else self._looks[first + 1]
        self._looks[first] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        self._counts[first], self._protected[first] = sum(counts), keep
        self._drop(first + 1)

    def _drop(self, index: int) -> None:
        for values in (self._looks, self._counts, self._protected):
            del values[index]

    def similarity(self, looks: F32) -> NDArray[np.float32]:
        """Cosines of every entry with descriptors ``(N, D)`` of unit length: ``(K, N)``; K is 0 for an empty bank."""
        if not self._looks:
            return np.zeros((0, len(looks)), dtype=np.float32)
        return self.looks @ looks.T

    def state(self) -> dict[str, Any]:
        """The contents as arrays."""
        looks = self.looks if self._looks else np.zeros((0, 0), dtype=np.float32)
        return {"looks": looks, "counts": self.counts, "protected": np.array(self._protected, dtype=bool)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the contents of :meth:`state`."""
        self._looks = [np.asarray(row, dtype=np.float32) for row in state["looks"]]
        self._counts = [int(v) for v in state["counts"]]
        self._protected = [bool(v) for v in state["protected"]]
