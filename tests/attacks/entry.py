"""One kind of file under attack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.attacks import mutations as m


class Entry:
    """One kind of file.

    Attributes:
        name: as on the command line.
        names: one of these is in every error: the file's name, or its folder's.
        about: the seed and the damage of the case at hand.
    """

    name = ""
    mutations: Sequence[m.Mutation] = m.BLIND

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: tuple[str, ...] = ("case",)
        self.about = ""
        self.seeds: list[tuple[str, bytes]] = []
        self.path = folder / "case"

    def prepare(self) -> None:
        """Make the valid files."""

    def damage(self, rng: Random) -> None:
        """Write the file of the case."""
        suffix, data = rng.choice(self.seeds)
        self.path = self.folder / f"case{suffix}"
        self.path.write_bytes(self.damaged(data, suffix, rng))

    def damaged(self, data: bytes, about: str, rng: Random, mutations: Sequence[m.Mutation] | None = None) -> bytes:
        """Data after one to three mutations, or as it was."""
        chosen = [rng.choice(mutations or self.mutations) for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 3)))]
        self.about = f"{about} {'+'.join(mutation.__name__ for mutation in chosen)}"
        for mutation in chosen:
            data = mutation(data, rng)
        return data

    def read(self, rng: Random) -> str:
        """Read it; ``answer`` or ``skip``."""
        raise NotImplementedError
