"""The work of the tab "Two images": objects shown in one image, and their matches in the other. No Gradio here."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from counterview.app.canvas import SIDE_PX
from counterview.app.marks import Mark, mask_of, with_mark
from counterview.errors import InputError
from counterview.inference.prompts import check_query_mask, check_shape
from counterview.inference.track_drawing import resized
from counterview.masks.draw import object_colors
from counterview.masks.geometry import fit_longest_side, fit_mask
from counterview.media.files import check_name
from counterview.types import Match, ObjectMask, RgbImage

if TYPE_CHECKING:
    from counterview.app.jobs import Job
    from counterview.inference.prompted import PromptedPredictor
    from counterview.inference.selection import Selection

Side = Literal["query", "target"]
MAX_OBJECTS = 16
TOP_K = 5
"""Candidates of each object: the match and its runners-up."""


def visibility_words(visibility: float) -> str:
    """A probability of being visible in words.

    >>> [visibility_words(p) for p in (0.97, 0.6, 0.3, 0.02)]
    ['visible', 'probably visible', 'probably not visible', 'not visible']
    """
    if visibility > 0.5:
        return "visible" if visibility > 0.85 else "probably visible"
    return "not visible" if visibility < 0.15 else "probably not visible"


@dataclass(eq=False)
class PageImage:
    """One of the two images.

    Attributes:
        name: of the file, as the visitor's machine calls it.
        image: ``(H, W, 3)`` uint8.
        encoding: what the model computed from it; ``None`` until that is done.
        seconds: how long that took.
        small: the image as it is shown, ``(h, w, 3)`` uint8.
    """

    name: str
    image: RgbImage
    encoding: Any = None
    seconds: float = 0.0
    small: RgbImage = field(init=False)

    def __post_init__(self) -> None:
        check_shape(self.size_hw, "image")
        is_large = max(self.size_hw) > SIDE_PX
        self.small = resized(self.image, fit_longest_side(self.size_hw, SIDE_PX)) if is_large else self.image

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.image.shape[0], self.image.shape[1]

    def shrunk(self, mask: ObjectMask) -> ObjectMask:
        """A mask ``(H, W)`` of the image at the size at which it is shown."""
        return fit_mask(mask, (self.small.shape[0], self.small.shape[1]))


@dataclass(eq=False)
class PairObject:
    """An object that the visitor shows.

    Attributes:
        name: unique in the pair.
        marks: by which it is shown in the query image.
        selection: the query mask ``(H, W)`` that they mean, with notes.
        match: where it is in the target image; ``None`` if it was not matched since it was changed.
        found: the same before a correction by hand.
        corrections: marks in the target image.
    """

    name: str
    marks: list[Mark] = field(default_factory=list)
    selection: Selection | None = None
    match: Match | None = None
    found: Match | None = None
    corrections: list[Mark] = field(default_factory=list)

    def unmatch(self) -> None:
        """Forget the match, since the object changed."""
        self.match = self.found = None
        self.corrections = []


class PagePair:
    """Two images, the objects shown in one, and where they are in the other.

    Args:
        predictor: the model.

    Attributes:
        images: the query and the target image, as far as they are there.
        objects: in the order in which they were added; never empty.
        current: index of the object that is marked.
        match_s: seconds that the last match took; ``None`` before.
        mark_s: seconds that the last mark took; ``None`` before.
        version: grows with each state that is shown: answers may overtake one another on their way to a browser.
        refused: HTML of what went wrong last at an image, by side, until something is done again.
        shown_px: how wide the images are on the visitor's screen, in CSS pixels.
    """

    def __init__(self, predictor: PromptedPredictor[Any]) -> None:
        self.predictor = predictor
        self.images: dict[Side, PageImage] = {}
        self.objects: list[PairObject] = [PairObject("object 1")]
        self.current = 0
        self.match_s: float | None = None
        self.mark_s: float | None = None
        self.version = 0
        self.refused: dict[Side, str] = {}
        self.shown_px = 560.0

    def see(self, shown_px: object) -> None:
        """Note how wide an image is on the visitor's screen.

        Args:
            shown_px: in CSS pixels, as a browser said; anything else is passed over.
        """
        if isinstance(shown_px, int | float) and 100 <= shown_px <= 5000:
            self.shown_px = float(shown_px)

    # ------------------------------------------------------------------------------------------ images

    def put(self, side: Side, image: PageImage) -> None:
        """Take another image; what was marked or matched on the earlier one goes.

        Args:
            side: which of the two it is.
            image: the image.
        """
        self.images[side] = image
        self.refused.pop(side, None)
        if side == "query":
            self.objects, self.current = [PairObject("object 1")], 0
        for item in self.objects:
            item.unmatch()

    def encode(self, side: Side, job: Job[Any]) -> None:
        """Compute what marks and matches need of an image, if that was not done yet.

        Args:
            side: which of the two.
            job: as part of which it is computed.

        Raises:
            InputError: there is no such image.
            JobCancelled: the job was told to stop.
        """
        image = self.image(side)
        if image.encoding is not None:
            return
        job.report(f"Looking for objects in {image.name}")
        start = time.perf_counter()
        encode = self.predictor.encode_query if side == "query" else self.predictor.encode
        encoding = encode(image.image)
        job.check()
        self.predictor.prompt_proposals(encoding)  # what clicks choose among
        image.seconds = time.perf_counter() - start
        image.encoding = encoding

    def image(self, side: Side) -> PageImage:
        """One of the images.

        Args:
            side: which.

        Raises:
            InputError: it is not there yet.
        """
        if side not in self.images:
            raise InputError(f"there is no {side} image", fix="Drop one, or take an example.")
        return self.images[side]

    def _encoded(self, side: Side) -> PageImage:
        image = self.image(side)
        if image.encoding is None:
            raise InputError(f"the {side} image is not ready", fix="Wait a moment, and click again.")
        return image

    # ------------------------------------------------------------------------------------------ objects

    def mark(self, mark: Mark) -> None:
        """Add a mark to the current object and outline it.

        Args:
            mark: in the query image.

        Raises:
            InputError, ProposalError: it means no mask; then nothing changed.
        """
        start = time.perf_counter()
        image, item = self._encoded("query"), self.objects[self.current]
        marks = with_mark(item.marks, mark, image.size_hw)
        selection = mask_of(marks, self.predictor, image.encoding, item.name)
        item.marks, item.selection = marks, selection
        item.unmatch()
        self.mark_s = time.perf_counter() - start

    def undo(self) -> None:
        """Take back the last mark of the current object."""
        image, item = self._encoded("query"), self.objects[self.current]
        if item.marks:
            marks = item.marks[:-1]
            while marks and all(mark.tool in ("away", "erase") for mark in marks):
                marks = marks[:-1]
            item.selection = mask_of(marks, self.predictor, image.encoding, item.name)
            item.marks = marks
            item.unmatch()

    def add(self) -> None:
        """Add an object and mark that one from now on.

        Raises:
            InputError: there are as many as there may be, or the current one is not shown yet.
        """
        if self.objects[self.current].selection is None:
            raise InputError(f"{self.objects[self.current].name} is not shown yet", fix="Click it first.")
        if len(self.objects) >= MAX_OBJECTS:
            raise InputError("there are as many objects as there may be", found=len(self.objects))
        names, number = {item.name for item in self.objects}, len(self.objects) + 1
        while f"object {number}" in names:
            number += 1
        self.objects.append(PairObject(f"object {number}"))
        self.current = len(self.objects) - 1

    def pick(self, index: int) -> None:
        """Mark another object from now on.

        Args:
            index: of the object.
        """
        self._object(index)
        self.current = index

    def remove(self, index: int) -> None:
        """Remove an object; the last one is emptied instead.

        Args:
            index: of the object.
        """
        self._object(index)
        del self.objects[index]
        if not self.objects:
            self.objects = [PairObject("object 1")]
        self.current = min(self.current if index > self.current else max(0, self.current - 1), len(self.objects) - 1)

    def rename(self, index: int, name: str) -> None:
        """Give an object another name.

        Args:
            index: of the object.
            name: which must be one that a file can have.

        Raises:
            InputError: another object has it, or it is no name.
        """
        text = " ".join(name.split())[:60]
        item = self._object(index)
        if not text:
            raise InputError("an object has a name")
        if any(other.name == text for other in self.objects if other is not item):
            raise InputError("two objects have the same name", found=text, fix="Give one of them another name.")
        check_name(text)
        item.name = text
        if item.match is not None and item.found is not None:
            is_found = item.match is item.found
            item.found = replace(item.found, name=text)
            item.match = item.found if is_found else replace(item.match, name=text)

    def _object(self, index: int) -> PairObject:
        if not isinstance(index, int) or not 0 <= index < len(self.objects):
            raise InputError("there is no such object", found=str(index))
        return self.objects[index]

    # ------------------------------------------------------------------------------------------ matches

    def check_ready(self) -> None:
        """Check that there is something to match.

        Raises:
            InputError: an image is missing, or no object is shown.
            MaskError: a query mask that is empty.
        """
        query = self.image("query")
        self.image("target")
        if not self.shown:
            raise InputError("no object is shown yet", fix="Click an object in the query image.")
        for item in self.shown:
            check_query_mask(item.selection.mask_rle, query.size_hw, item.name)  # type: ignore[union-attr]

    @property
    def shown(self) -> list[PairObject]:
        """The objects that have a query mask."""
        return [item for item in self.objects if item.selection is not None]

    @property
    def matched(self) -> list[PairObject]:
        """The objects that are matched."""
        return [item for item in self.shown if item.match is not None]

    def match(self, job: Job[Any]) -> None:
        """Find all objects in the target image.

        Args:
            job: as part of which it is done.

        Raises:
            InputError, MaskError, ProposalError: something cannot be matched.
            JobCancelled: the job was told to stop.
        """
        start = time.perf_counter()
        self.check_ready()
        items = self.shown
        masks = [item.selection.mask_rle for item in items if item.selection is not None]
        self.encode("query", job)
        self.encode("target", job)
        job.report("Matching")
        query, target = self._encoded("query"), self._encoded("target")
        names = [item.name for item in items]
        found = self.predictor.match_encoded(query.encoding, masks, target.encoding, names=names, top_k=TOP_K)
        job.check()
        for item, mask, match in zip(items, masks, found, strict=True):
            if item.selection is None or item.selection.mask_rle is not mask:
                continue  # it was changed meanwhile
            notes = (*item.selection.notes, *match.notes)
            item.match = item.found = replace(match, name=item.name, notes=notes)
            item.corrections = []
        self.match_s = time.perf_counter() - start

    def choose(self, index: int, candidate: int) -> None:
        """Take a runner-up for the match of an object.

        Args:
            index: of the object.
            candidate: its number, 0 for the model's own match.

        Raises:
            InputError: there is none.
        """
        item = self._object(index)
        if item.found is None or not isinstance(candidate, int) or not 0 <= candidate < len(item.found.candidates):
            raise InputError("there is no such candidate", found=str(candidate))
        item.corrections = []
        if candidate == 0:
            item.match = item.found
            return
        chosen = item.found.candidates[candidate]
        others = tuple(c for c in item.found.candidates if c is not chosen)
        item.match = replace(
            item.found, mask_rle=chosen.mask_rle, similarity=chosen.similarity, visibility=1.0,
            candidates=(chosen, *others), notes=(*item.found.notes, "chosen among the candidates by hand"),
        )  # fmt: skip

    def correct(self, mark: Mark) -> None:
        """Show the current object in the target image: its match becomes what the marks there mean.

        Args:
            mark: in the target image.

        Raises:
            InputError, ProposalError: it means no mask, or the object was not matched; then nothing changed.
        """
        target, item = self._encoded("target"), self.objects[self.current]
        if item.found is None:
            raise InputError(f"{item.name} is not matched yet", fix="Match it first, then correct it here.")
        self._set_corrections(item, with_mark(item.corrections, mark, target.size_hw))

    def undo_correction(self) -> None:
        """Take back the last mark of the current object in the target image."""
        self._set_corrections(self.objects[self.current], self.objects[self.current].corrections[:-1])

    def _set_corrections(self, item: PairObject, marks: list[Mark]) -> None:
        if item.found is None:
            return
        base, encoding = item.found.mask_rle, self._encoded("target").encoding
        chosen = mask_of(marks, self.predictor, encoding, item.name, base) if marks else None
        item.corrections, item.match = marks, item.found
        if chosen is not None:
            notes = (*item.found.notes, *chosen.notes, "corrected by hand")
            item.match = replace(item.found, mask_rle=chosen.mask_rle, visibility=1.0, notes=notes)

    def absent(self, index: int) -> None:
        """Say that an object is not visible in the target image.

        Args:
            index: of the object.

        Raises:
            InputError: it was not matched.
        """
        item = self._object(index)
        if item.found is None:
            raise InputError(f"{item.name} is not matched yet")
        item.corrections = []
        empty = ObjectMask.empty(item.found.mask_rle.size_hw)
        item.match = replace(
            item.found, mask_rle=empty, visibility=0.0, notes=(*item.found.notes, "said by hand not to be visible")
        )

    @property
    def colors(self) -> list[str]:
        """A hex colour for each object, the same in both images."""
        return object_colors(len(self.objects))
