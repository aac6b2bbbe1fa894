"""The takes of a release as its annotation files, its split file, ``takes.json`` and its folders list them.

Where these contradict each other, a take is left out and reported, never assigned by a guess.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from counterview.data.dataset import SPLITS
from counterview.data.formats.release import annotation_path
from counterview.data.formats.takes_json import TakeFacts, read_takes_json
from counterview.data.prepare.report import TakeReport
from counterview.errors import AnnotationError, PathError
from counterview.media.files import check_name
from counterview.media.jsonstream import Span, index_object


@dataclass(frozen=True)
class Listings:
    """What a release lists.

    Attributes:
        root: the release.
        spans: position of each take in the annotation file of each split that is there.
        split_file: takes of each split of the split file; ``None`` if there is none.
        facts: the entries of ``takes.json``; ``None`` if there is none.
    """

    root: Path
    spans: Mapping[str, Mapping[str, Span]]
    split_file: Mapping[str, Sequence[str]] | None
    facts: Mapping[str, TakeFacts] | None

    @classmethod
    def read(cls, root: Path, split_file: Mapping[str, Sequence[str]] | None) -> Listings:
        """Read ``takes.json`` and index every annotation file.

        Raises:
            AnnotationError: one of them is malformed.
        """
        facts = read_takes_json(root)
        paths = {split: annotation_path(root, split) for split in SPLITS}
        spans = {s: index_object(path, error=AnnotationError) for s, path in paths.items() if path.is_file()}
        return cls(root, spans, split_file, facts)

    def order(self, split: str) -> list[str]:
        """The takes of a split in the order of the split file, or else of the annotation."""
        if self.split_file is not None and split in self.split_file:
            return list(self.split_file[split])
        return list(self.spans[split])

    def candidates(self, split: str) -> list[str]:
        """Every take that either names for a split: those of :meth:`order` first."""
        return list(dict.fromkeys([*self.order(split), *self.spans[split]]))

    def name(self, uid: str) -> str:
        """The name of a take in ``takes.json``; empty if it has none."""
        return self.facts[uid].name if self.facts is not None and uid in self.facts else ""

    def is_withdrawn(self, uid: str) -> bool:
        """Whether ``takes.json`` exists and does not list the take."""
        return self.facts is not None and uid not in self.facts

    @cached_property
    def _takes_of_folder(self) -> Counter[str]:
        return Counter(fact.folder for fact in (self.facts or {}).values())

    def reject(self, uid: str, split: str) -> TakeReport | None:
        """The report of a take that cannot be prepared for a split at all; ``None`` if it can.

        Args:
            uid: of the take.
            split: one that is annotated.
        """
        try:
            check_name(uid)
        except PathError as error:
            return self._skipped(uid, split, error.problem)
        if uid.startswith("."):
            return self._skipped(uid, split, f"the name {uid!r} starts with a dot")
        annotated = [other for other, takes in self.spans.items() if uid in takes]
        chosen = [other for other, takes in (self.split_file or {}).items() if uid in takes]
        if split not in annotated:
            if not annotated and self.is_withdrawn(uid):
                problem = "only in the split file: not annotated or listed"
                return TakeReport(uid, split, "redacted", problems=[problem])
            where = f"annotated as {' and '.join(annotated)}" if annotated else "not annotated"
            return TakeReport(
                uid, split, "missing", self.name(uid), problems=[f"in the split file as {split}, but {where}"]
            )
        if chosen and split not in chosen:
            return self._skipped(uid, split, f"annotated as {split}, but in the split file as {' and '.join(chosen)}")
        if self.split_file is not None and split in self.split_file and not chosen:
            return self._skipped(uid, split, "annotated, but not in the split file")
        # Trained on in one split and scored in another, it would spoil every score.
        if len(chosen) > 1 or (not chosen and len(annotated) > 1):
            source = "in the split file as" if chosen else "annotated as"
            return self._skipped(uid, split, f"{source} {' and '.join(chosen or annotated)}: its split is not known")
        fact = (self.facts or {}).get(uid)
        if fact is not None and self._takes_of_folder[fact.folder] > 1:
            problem = f"takes.json gives {self._takes_of_folder[fact.folder]} takes the folder {fact.folder}"
            return self._skipped(uid, split, f"{problem}: whose videos it holds is not known")
        return None

    def _skipped(self, uid: str, split: str, problem: str) -> TakeReport:
        return TakeReport(uid, split, "skipped", self.name(uid), problems=[problem])

    def not_annotated(self, known: Collection[str]) -> list[str]:
        """Folders below ``takes/`` that belong to no annotated take.

        Args:
            known: names of takes that are not to be listed.
        """
        names = set(known)
        uids = {uid for takes in self.spans.values() for uid in takes}
        for uid in uids.intersection(self.facts or ()):
            fact = (self.facts or {})[uid]
            names |= {fact.name, fact.folder.rstrip("/").rpartition("/")[2]}
        folder = self.root / "takes"
        return sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name not in names) if folder.is_dir() else []
