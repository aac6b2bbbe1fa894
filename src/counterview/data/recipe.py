"""What every training recipe says of its data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class TakesConfig:
    """Which takes are trained and validated on, and which way."""

    root: str = field(metadata={"help": "the data set: prepared, or the release"})
    more_roots: tuple[str, ...] = field(default=(), metadata={"help": "further data sets to train on, same split"})
    split: str | None = field(default="train", metadata={"help": "split to train on; null for all takes"})
    val_root: str | None = field(default=None, metadata={"help": "data set to validate on; root if not given"})
    val_split: str | None = field(default="val", metadata={"help": "split to validate on"})
    directions: tuple[Literal["ego2exo", "exo2ego"], ...] = field(
        default=("ego2exo",), metadata={"help": "ego2exo, exo2ego, or both for one model of both"}
    )
    absent: bool = field(
        default=True,
        metadata={"help": "also where the object is not visible in the target, so that visibility is learned"},
    )

    @property
    def roots(self) -> tuple[str, ...]:
        """All data sets that are trained on."""
        return (self.root, *self.more_roots)

    def problems(self) -> list[str]:
        """What is wrong with these keys, a line each."""
        found = []
        if not all(self.roots):
            found.append("root is empty")
        if len(set(self.roots)) < len(self.roots):
            found.append("a folder is in root and more_roots twice")
        if not self.directions or len(set(self.directions)) < len(self.directions):
            found.append("directions are one or two different ones")
        return found
