"""``tiny-track``'s engine: candidates, memories in every camera, place, and the match across cameras. Ours.

An object is shown once. In its own camera it is followed: its bank says how it looks there, the camera's motion where
it should be. In every other camera it is matched from a camera that sees it now, and followed likewise. LM-EEC (NeurIPS
2025) keeps two banks of feature maps; here each camera has a bank of descriptors, and each speaks for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from counterview.geometry.homography import Homography
from counterview.tracking.base import UNKNOWN, Observation, Prompts
from counterview.tracking.checks import check_cameras, check_prompts, check_state, check_step, plain
from counterview.tracking.drawing import MaskDrawer
from counterview.tracking.memory import Bank
from counterview.tracking.object_memory import CameraMemory, LastSeen, Memories
from counterview.tracking.place import ViewSummary
from counterview.tracking.scene import Recorder, Scene
from counterview.tracking.tracker_config import TrackerConfig
from counterview.tracking.views import CrossViewModel, EncodedView
from counterview.tracking.weighing import EvidenceWeighing
from counterview.types import RgbImage

_SHARING = ("share_frames", "keep_alignments")


class MemoryTracker:
    """Follows objects in several cameras. See :class:`~counterview.tracking.base.Engine`.

    Args:
        model: encodes images, and matches them across cameras.
        cameras: names; the query camera first.
        weighing: weighs the evidence.
        config: what is remembered and used.
        recorder: told of every decision.
        drawer: draws the masks that are found again; ``None``: they are candidates as they are.

    Raises:
        InputError: no camera, or a name twice.
    """

    name = "tiny-track"

    def __init__(
        self,
        model: CrossViewModel[Any],
        cameras: Sequence[str],
        weighing: EvidenceWeighing,
        config: TrackerConfig | None = None,
        recorder: Recorder | None = None,
        drawer: MaskDrawer[Any] | None = None,
    ) -> None:
        self.cameras = check_cameras(cameras)
        self.model, self.weighing, self.config = model, weighing.eval(), config or TrackerConfig()
        self.motions: dict[str, Homography | None] = {}
        self._recorder, self._drawer = recorder, drawer
        self._memories: Memories = {}
        self._previous: dict[str, ViewSummary] = {}
        self._clip = model.clip(share_frames=self.config.share_frames, keep_alignments=self.config.keep_alignments)
        self._step = 0
        self._time: float | None = None

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the objects shown so far."""
        return tuple(self._memories)

    def settings(self) -> dict[str, Any]:
        """See :meth:`Engine.settings`."""
        from counterview.config import to_dict
        from counterview.nn.weights import weights_fingerprint

        return {
            "engine": self.name,
            # What is off is left out: runs from before it was there go on.
            "tracker": {k: v for k, v in to_dict(self.config).items() if v or k not in _SHARING},
            "weighing": weights_fingerprint(self.weighing)[:16],
            "model": self.model.settings(),
        }

    def step(
        self, images: Mapping[str, RgbImage | None], time_s: float, prompts: Prompts
    ) -> dict[str, dict[str, Observation]]:
        """Take the next images ``(H, W, 3)``. See :meth:`Engine.step`."""
        there = check_step(self.cameras, images, time_s, self._time, prompts)
        views = {camera: self._clip.encode(image, camera) for camera, image in there.items()}
        return self._advance(views, time_s, prompts)

    def step_encoded(
        self, views: Mapping[str, EncodedView[Any]], time_s: float, prompts: Prompts
    ) -> dict[str, dict[str, Observation]]:
        """:meth:`step` for images that are encoded already; masks are ``(H, W)``."""
        check_prompts(self.cameras, {c: view.size_hw for c, view in views.items()}, time_s, self._time, prompts)
        return self._advance(views, time_s, prompts)

    def _advance(
        self, views: Mapping[str, EncodedView[Any]], time_s: float, prompts: Prompts
    ) -> dict[str, dict[str, Observation]]:
        """:meth:`step_encoded` for what is checked."""
        for given in prompts.values():
            for name in given:
                self._memories.setdefault(
                    name,
                    {c: CameraMemory(Bank(self.config.capacity, self.config.compression)) for c in self.cameras},
                )
        scene = Scene(
            self.model, self.weighing, self.config, self.cameras, self._memories, views, prompts, self._step,
            self._recorder,
        )  # fmt: skip
        result: dict[str, dict[str, Observation]] = {}
        for camera in self.cameras:
            if camera in views:
                result[camera] = scene.observe(camera)
            else:
                result[camera] = dict.fromkeys(self._memories, UNKNOWN)
        scene.remember(result)
        if self._drawer is not None:
            self._drawer.look(views, prompts)
            result = self._drawer.draw(scene, result)
        self.motions = {
            camera: scene.motion(camera, self._previous[camera]) if camera in self._previous else None
            for camera in views
        }
        self._previous |= {camera: scene.summary(camera) for camera in views}
        self._time, self._step = time_s, self._step + 1
        return result

    # --------------------------------------------------------------------------------------------- state

    def state(self) -> dict[str, Any]:
        """See :meth:`Engine.state`."""
        summaries: list[ViewSummary] = []

        def number(summary: ViewSummary) -> int:
            for index, known in enumerate(summaries):
                if known is summary:
                    return index
            summaries.append(summary)
            return len(summaries) - 1

        memories = {
            name: {
                camera: {
                    "bank": memory.bank.state(),
                    "visibility": memory.visibility,
                    "last": None
                    if memory.last is None
                    else {
                        "mask": memory.last.mask_rle.to_coco(),
                        "summary": number(memory.last.summary),
                        "step": memory.last.step,
                    },
                }
                for camera, memory in cameras.items()
            }
            for name, cameras in self._memories.items()
        }
        previous = {camera: number(summary) for camera, summary in self._previous.items()}
        return {
            "engine": self.name, "version": 1, "settings": plain(self.settings()), "cameras": list(self.cameras),
            "step": self._step, "time_s": self._time,
            "memories": memories, "previous": previous, "summaries": [s.state() for s in summaries],
            "clip": self._clip.state(),
            **({} if self._drawer is None else {"drawer": self._drawer.state()}),
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Engine.restore`."""
        from counterview.masks.rle import from_coco

        check_state(state, self.name, self.settings(), self.cameras)
        summaries = [ViewSummary.from_state(s) for s in state["summaries"]]
        self._clip.restore(state.get("clip", {}))
        if self._drawer is not None:
            self._drawer.restore(state["drawer"])
        self._step, self._time = int(state["step"]), state["time_s"]
        self._previous = {camera: summaries[index] for camera, index in state["previous"].items()}
        self._memories = {}
        for name, cameras in state["memories"].items():
            self._memories[name] = {}
            for camera, values in cameras.items():
                bank = Bank(self.config.capacity, self.config.compression)
                bank.restore(values["bank"])
                last = values["last"]
                seen = None if last is None else LastSeen(
                    from_coco(last["mask"]), summaries[last["summary"]], int(last["step"])
                )  # fmt: skip
                self._memories[name][camera] = CameraMemory(bank, seen, float(values["visibility"]))
