"""Draw the masks that a tracker chose again, so that they need not be candidates. Ours.

What is remembered stays the candidates as they are: what is found does not depend on how it is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from counterview.refinement.evidence import QueryColours
from counterview.tracking.base import Observation, Prompts
from counterview.tracking.evidence import Evidence
from counterview.tracking.scene import Scene
from counterview.tracking.views import EncodedView
from counterview.types import ObjectMask

H = TypeVar("H")

DRAWN_ABOVE = 0.2
"""Visibility above which a mask is drawn again; below, it is hardly ever shown."""


@dataclass(frozen=True, eq=False)
class ChosenCandidate:
    """A candidate that was chosen for an object, among N.

    Attributes:
        order: ``(N,)`` their rows: first the one that was chosen, then the likeliest.
        similarity: ``(N,)`` cosine of each with the object where it was matched from, or with the chosen candidate.
        colours: of the object, as the user showed it.
    """

    order: NDArray[np.int64]
    similarity: NDArray[np.float32]
    colours: QueryColours


class MaskDrawing(Protocol[H]):
    """What draws masks again."""

    def colours(self, view: EncodedView[H], mask: ObjectMask) -> QueryColours | None:
        """The colours of an object ``(H, W)`` that the user showed in an image; ``None`` if it cannot be drawn by them.

        Args:
            view: the image.
            mask: of the object.
        """
        ...

    def redraw(self, view: EncodedView[H], chosen: Sequence[ChosenCandidate]) -> list[ObjectMask]:
        """Draw chosen candidates again.

        Args:
            view: the image.
            chosen: M of its candidates.

        Returns:
            M masks ``(H, W)``.
        """
        ...


class MaskDrawer(Generic[H]):
    """Draws the masks of a tracker again, by what the user showed of the objects last.

    Args:
        drawing: draws.
    """

    def __init__(self, drawing: MaskDrawing[H]) -> None:
        self._drawing = drawing
        self._colours: dict[str, QueryColours] = {}

    def look(self, views: Mapping[str, EncodedView[H]], prompts: Prompts) -> None:
        """See what the user shows.

        Args:
            views: the images by camera.
            prompts: masks ``(H, W)`` by camera and object.
        """
        for camera, given in prompts.items():
            for name, mask in given.items():
                found = None if mask is None or mask.is_empty else self._drawing.colours(views[camera], mask)
                if found is not None:
                    self._colours[name] = found

    def draw(
        self, scene: Scene, observations: Mapping[str, Mapping[str, Observation]]
    ) -> dict[str, dict[str, Observation]]:
        """The observations of a step with masks ``(H, W)`` that were drawn again.

        Args:
            scene: in which they were made.
            observations: by camera and object.
        """
        result = {camera: dict(found) for camera, found in observations.items()}
        for camera, view in scene.views.items():
            chosen = {}
            for name, observation in result[camera].items():
                candidate = self._candidate(scene, camera, name, observation)
                if candidate is not None:
                    chosen[name] = candidate
            masks = self._drawing.redraw(view, list(chosen.values())) if chosen else []
            for name, mask in zip(chosen, masks, strict=True):
                seen = result[camera][name]
                first, *others = seen.alternatives  # smoothing chooses among them
                result[camera][name] = replace(seen, mask_rle=mask, alternatives=((mask, first[1]), *others))
        return result

    def _candidate(self, scene: Scene, camera: str, name: str, observation: Observation) -> ChosenCandidate | None:
        found, colours = scene.chosen(camera, name), self._colours.get(name)
        if found is None or colours is None or observation.visibility is None or observation.visibility < DRAWN_ABOVE:
            return None
        row, decision = found
        ranked = np.argsort(-decision.log_probability, kind="stable")
        looks = scene.views[camera].looks
        similarity = decision.table[:, Evidence.CROSS_SIMILARITY] if decision.has_cross else looks @ looks[row]
        return ChosenCandidate(np.concatenate([[row], ranked[ranked != row]]), similarity, colours)

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs to go on, as numpy arrays."""
        return {n: {"object": c.object, "surroundings": c.surroundings} for n, c in self._colours.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Args:
            state: what :meth:`state` gave.
        """
        self._colours = {
            name: QueryColours(
                np.asarray(values["object"], dtype=np.float32), np.asarray(values["surroundings"], dtype=np.float32)
            )
            for name, values in state.items()
        }
