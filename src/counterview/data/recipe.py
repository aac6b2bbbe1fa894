"""The data section of every training recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class TakesConfig:
    """Takes for training and validation, and the directions."""

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
        metadata={"help": "train also on targets in which the object is not visible, so that visibility is learned"},
    )

    @property
    def roots(self) -> tuple[str, ...]:
        """All training data sets."""
        return (self.root, *self.more_roots)

    def problems(self) -> list[str]:
        """One line for each value that is not valid."""
        lines = []
        if not all(self.roots):
            lines.append("root is empty")
        if len(set(self.roots)) < len(self.roots):
            lines.append("a folder is in root and more_roots twice")
        if not self.directions or len(set(self.directions)) < len(self.directions):
            lines.append("directions are one or two different ones")
        return lines
