"""What a visitor sees of work with videos: a time, two cameras, the object that is marked, and what was found."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from counterview.app.canvas import SIDE_PX, canvas_value
from counterview.app.marks import Mark, mask_of
from counterview.app.messages import note_line
from counterview.app.scripted import Sliders
from counterview.app.video_drawing import grey_image, scaled_prompt
from counterview.app.video_results import VideoResults
from counterview.app.video_work import VideoWork
from counterview.errors import InputError, ProposalError
from counterview.inference.drawing import mark_prompts
from counterview.inference.prompted import PromptedPredictor
from counterview.inference.prompts import AnyPrompt
from counterview.inference.track_drawing import clock, resized
from counterview.inference.track_sheets import review_crop
from counterview.masks.draw import object_colors, overlay
from counterview.masks.geometry import fit_longest_side, fit_mask
from counterview.tracking.review import ReviewRow
from counterview.types import ObjectMask, RgbImage

LEAST_PX = 960
"""Longer side of an image as it is drawn, at least."""

LETTERS = 46
"""Height of letters as a fraction of the longer side, one in so many: an image is shown at half a screen's width."""

SHOWN_ROWS = 60
"""Places to check that are shown, the worst first."""


@dataclass(eq=False)
class VideoView:
    """What a visitor sees of work with videos.

    Attributes:
        work: the videos and what was done with them.
        current: the object that clicks are about; ``None`` before the first one.
        time_s: on the first camera's clock, in seconds.
        other: the camera beside the first one; ``None`` without one.
        pinned: frames that are shown whatever the time says, by camera: those of a place to check.
        results: of the finished run; ``None`` before.
        runs: number of finished runs, so that browsers fetch the newest video.
        said: lines about the last run.
        is_stale: whether marks or clocks changed since it.
        version: grows with each state that is shown: answers may overtake one another on their way to a browser.
        sliders: what the visitor set last.
        refused: why a mark was taken back, as HTML by camera, until the visitor does something else.
        outlining: cameras in whose frames masks of marks are being found.
    """

    work: VideoWork
    current: str | None = None
    time_s: float = 0.0
    other: str | None = None
    pinned: dict[str, int] = field(default_factory=dict)
    results: VideoResults | None = None
    runs: int = 0
    said: list[str] = field(default_factory=list)
    is_stale: bool = False
    version: int = 0
    sliders: Sliders = field(default_factory=Sliders)
    refused: dict[str, str] = field(default_factory=dict)
    outlining: set[str] = field(default_factory=set)
    _masks: dict[tuple[str, str, int], tuple[AnyPrompt, ObjectMask]] = field(default_factory=dict)
    _crops: dict[int, RgbImage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.work_changed()

    def work_changed(self) -> None:
        """Follow what changed in the work: its cameras and objects."""
        names = self.work.cameras.names
        if self.other not in names[1:]:
            self.other = names[1] if len(names) > 1 else None
        if self.current not in self.work.objects.names:
            self.current = self.work.objects.names[0] if self.work.objects.names else None

    def add_camera(self, camera: str) -> None:
        """Show a camera that was added.

        Args:
            camera: its name.
        """
        self.work_changed()
        if camera != self.first:
            self.other = camera
        self.is_stale = True

    def clear(self) -> None:
        """Begin anew, with an empty folder.

        Raises:
            InputError: objects are being followed.
        """
        self.replace_work(None)

    def replace_work(self, folder: Path | None) -> None:
        """Work with other videos from now on.

        Args:
            folder: of the work, which is moved; ``None``: an empty one.

        Raises:
            InputError: objects are being followed.
        """
        if self.work.is_running:
            raise InputError("objects are being followed", fix="Stop that first.")
        place, limits = self.work.folder, self.work.cameras.limits
        self.work.close()
        shutil.rmtree(place, ignore_errors=True)
        if folder is not None:
            shutil.move(folder, place)
        self.work = VideoWork(place, limits)
        self.current = self.other = self.results = None
        self.time_s, self.said, self.is_stale = 0.0, [], False
        for kept in (self.pinned, self.refused, self._masks, self._crops):
            kept.clear()
        self.work_changed()
        with suppress(InputError):
            self.take_results([])

    def camera_of(self, side: str) -> str:
        """The camera on one side.

        Args:
            side: ``first`` or ``second``.

        Raises:
            InputError: there is none.
        """
        camera = self.first if side == "first" else self.other
        if camera is None:
            raise InputError("there is no video yet", fix="Drop one here.")
        return camera

    def clock_changed(self) -> None:
        """Show the frames that belong together now."""
        self.pinned.clear()
        self.is_stale = True

    def renamed(self, name: str, new: str) -> None:
        """Call an object by its new name.

        Args:
            name: until now.
            new: from now on.
        """
        if self.current == name:
            self.current = new
        self._masks = {(new if o == name else o, c, n): found for (o, c, n), found in list(self._masks.items())}
        self.is_stale |= name != new

    @property
    def first(self) -> str | None:
        """The first camera; ``None`` without one."""
        return next(iter(self.work.cameras.names), None)

    # ------------------------------------------------------------------------------------------ time

    def go_to(self, time_s: float) -> None:
        """Show another time.

        Args:
            time_s: on the first camera's clock, in seconds.
        """
        self.time_s = min(max(0.0, float(time_s)), max(0.0, self.work.cameras.duration_s))
        self.pinned.clear()

    def step(self, frames: int) -> None:
        """Go some frames of the first camera on.

        Args:
            frames: how many; below 0 back.
        """
        if self.first is None:
            return
        source = self.work.cameras.source(self.first)
        now = self.number(self.first)
        wanted = min(max(0, (now if now is not None else 0) + frames), source.frame_count - 1)
        self.go_to(source.time_of(wanted))

    def go_to_row(self, index: int) -> ReviewRow:
        """Show a place to check.

        Args:
            index: of its row, from 0.

        Returns:
            the row.

        Raises:
            InputError: there is none.
        """
        if self.results is None or index not in range(len(self.results.rows)):
            raise InputError("there is no such place to check", found=index)
        row = self.results.rows[index]
        self.go_to(row.worst_s)
        if row.camera != self.first:
            self.other = row.camera
        if row.frame is not None:
            self.pinned[row.camera] = row.frame
        if row.object in self.work.objects.names:
            self.current = row.object
        return row

    def number(self, camera: str) -> int | None:
        """The frame of a camera that is shown; ``None`` where it has none.

        Args:
            camera: its name.
        """
        return self.pinned.get(camera, self.work.cameras.number_at(camera, self.time_s))

    # ------------------------------------------------------------------------------------------ objects

    def mark(self, camera: str, mark: Mark | None, predictor: PromptedPredictor[Any]) -> None:
        """Mark the current object in the frame of a camera that is shown; the first mark makes an object.

        Args:
            camera: its name.
            mark: a click, box or stroke; ``None``: the object is not visible there.
            predictor: the model.

        Raises:
            InputError: the camera shows nothing, or the mark does not fit.
        """
        number = self.number(camera)
        if number is None:
            raise InputError(f"{camera} shows nothing at this time", fix="Choose another time.")
        if self.current is None:
            if mark is None:
                raise InputError("no object is marked yet", fix="Click an object where it is visible.")
            with self.work.changed():
                self.current = self.work.objects.add()
        if mark is not None and mark.tool in ("brush", "erase"):
            self._paint(self.current, camera, number, mark, predictor)
        else:
            kind, points = ("absent", ()) if mark is None else (mark.tool, mark.points)
            self.work.mark(self.current, camera, number, kind, points)
        self.is_stale = True

    def _paint(self, name: str, camera: str, number: int, mark: Mark, predictor: PromptedPredictor[Any]) -> None:
        """Change the mask of an object by a brush: the one that is marked, else the one that was found."""
        known, marked = self._known(camera, number), self.work.objects.shown_in(camera, number)
        if name not in known and marked.get(name) is not None:
            raise InputError("the object is not outlined yet", fix="Wait a moment.")
        found = {} if self.results is None or name in marked else self.results.visible_in(camera, number)
        base = known.get(name, found.get(name))
        size = SimpleNamespace(size_hw=self.work.cameras.source(camera).size_hw)
        painted = mask_of([mark], predictor, size, name, base)
        if painted is not None:
            with self.work.changed():
                self.work.objects.paint((name, camera, number), painted.mask_rle)

    def lacks_outline(self, camera: str) -> bool:
        """Whether an object is marked in the frame that is shown whose mask is not known yet.

        Args:
            camera: its name.
        """
        number = self.number(camera)
        return number is not None and len(self._known(camera, number)) < len(_marked(self.work, camera, number))

    def outline(self, predictor: PromptedPredictor[Any], camera: str, number: int) -> ProposalError | None:
        """Find the masks of the objects that are marked in a frame. A mark that means none is taken back.

        Args:
            predictor: the model.
            camera: its name.
            number: of the frame.

        Returns:
            why a mark was taken back; ``None`` if none was.

        Raises:
            VideoError: the frame cannot be read.
        """
        failed = None
        for name, prompt in _marked(self.work, camera, number).items():
            if isinstance(prompt, ObjectMask):
                continue
            try:
                mask = self.work.outline(predictor, camera, number, name, prompt)
                self._masks[name, camera, number] = prompt, mask
            except ProposalError as error:
                failed = failed or error
                with self.work.changed():  # what cannot be outlined cannot be followed
                    self.work.objects.take_back((name, camera, number), prompt)
        return failed

    def _known(self, camera: str, number: int) -> dict[str, ObjectMask]:
        known = {}
        for name, prompt in _marked(self.work, camera, number).items():
            if isinstance(prompt, ObjectMask):
                known[name] = prompt
                continue
            earlier, mask = self._masks.get((name, camera, number), (None, None))
            if mask is not None and earlier == prompt:
                known[name] = mask
        return known

    def colors(self) -> dict[str, str]:
        """The colour of each object, in hex; those of the last run as they were drawn in it."""
        names = self.work.objects.names
        colors = dict(zip(names, object_colors(len(names)), strict=True))
        return colors | (self.results.colors() if self.results is not None else {})

    # ------------------------------------------------------------------------------------------ images

    def canvas(self, camera: str | None, *, busy: bool = False) -> str:
        """What the canvas of a camera shows, see :func:`~counterview.app.canvas.canvas_value`.

        Args:
            camera: its name; ``None``: no video yet.
            busy: whether something is computed that the visitor waits for.
        """
        if camera is None:
            return canvas_value(None, version=self.version)
        message = self.refused.get(camera, "")
        number = self.number(camera)
        if number is None:
            about = self.work.cameras.clock(camera)
            shown = f"{camera} lasts from {clock(about.query_time(0))} to "
            shown += f"{clock(about.query_time(self.work.cameras.source(camera).duration_s))} of {self.first}."
            height, width = self.work.cameras.source(camera).size_hw
            size = fit_longest_side((height, width), 480)
            blank = resized(grey_image(), size)
            return canvas_value(
                blank, (height, width), name=camera, message=message or note_line(shown), version=self.version
            )
        image = self.work.cameras.image(camera, number)
        drawn = self.draw(camera, number, image)
        color = self.colors().get(self.current or "", object_colors(1)[0])
        own = self.work.cameras.source(camera).time_of(number)
        return canvas_value(
            drawn, (image.shape[0], image.shape[1]), name=f"{camera}, {clock(own)}",
            message=message or self._about(camera, number), busy=busy, color=color,
            version=self.version,
        )  # fmt: skip

    def draw(self, camera: str, number: int, image: RgbImage) -> RgbImage:
        """A frame with the objects in it: as they are marked, else as they were found.

        Args:
            camera: its name.
            number: of the frame.
            image: of it, ``(H, W, 3)`` uint8.

        Returns:
            ``(h, w, 3)`` uint8, :data:`LEAST_PX` to :data:`SIDE_PX` on the longer side.
        """
        longest = max(image.shape[:2])  # small images are enlarged: lines and letters take less of them then
        size = fit_longest_side((image.shape[0], image.shape[1]), min(SIDE_PX, max(longest, LEAST_PX)))
        marked = self.work.objects.shown_in(camera, number)
        found = {} if self.results is None else dict(self.results.visible_in(camera, number))
        masks = {n: m for n, m in found.items() if n not in marked and n in self.work.objects.names}
        masks |= self._known(camera, number)
        colors, names = self.colors(), list(masks)
        drawn = overlay(
            resized(image, size) if size != image.shape[:2] else image, [fit_mask(masks[n], size) for n in names],
            labels=names, colors=[colors[n] for n in names], letters_px=round(max(size) / LETTERS),
        )  # fmt: skip
        scale = size[1] / image.shape[1]
        return mark_prompts(drawn, [scaled_prompt(p, scale) for p in marked.values() if p is not None])

    def _about(self, camera: str, number: int) -> str:
        """What is known of the current object in a frame, for people."""
        marked = self.work.objects.shown_in(camera, number)
        if self.current in marked:
            if marked[self.current] is None:
                return note_line(f"{self.current}: you said that it is not visible here.")
            is_outlined = self.current in self._known(camera, number)
            return note_line(f"{self.current}: marked here." if is_outlined else f"{self.current}: being outlined…")
        if self.results is None or self.current is None:
            return ""
        item = self.results.masks_in(camera, number).get(self.current)
        if item is None:
            return note_line("Between the times that were looked at.") if not marked else ""
        if item.visibility is None:
            return note_line(f"{self.current}: nothing is known of it here.")
        words = "visible" if item.mask_rle is not None else "not visible"
        return note_line(f"{self.current}: {words} (probability {item.visibility:.2f}). Wrong? Click where it is.")

    def thumbnails(self) -> Mapping[int, RgbImage]:
        """The surroundings of the worst places to check, ``(h, w, 3)`` each, by the index of their rows."""
        if self.results is None:
            return {}
        rows = self.results.rows[:SHOWN_ROWS]
        colors = self.results.colors()
        # In the order of the frames: a video is read forwards.
        for index in sorted(range(len(rows)), key=lambda i: (rows[i].camera, rows[i].frame or 0)):
            if index not in self._crops:
                color = colors.get(rows[index].object, "#ffffff")
                self._crops[index] = review_crop(rows[index], self.work.cameras.image, color)
        return self._crops

    def take_results(self, said: list[str]) -> None:
        """Read the results of the run that has just ended.

        Args:
            said: lines about it.

        Raises:
            InputError: its files are damaged.
        """
        self.results = VideoResults(self.work.out)
        self.said, self.is_stale = said, False
        self.runs += 1
        self._crops.clear()
        self.thumbnails()


def _marked(work: VideoWork, camera: str, number: int) -> dict[str, AnyPrompt]:
    return {name: p for name, p in work.objects.shown_in(camera, number).items() if p is not None}
