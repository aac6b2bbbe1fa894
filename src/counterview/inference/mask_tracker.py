"""LM-EEC as a predictor: it draws the mask of an object instead of choosing among proposals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from counterview.errors import ConfigError
from counterview.inference.prompted import PromptedPredictor
from counterview.media.inputs import ColorOrder, ImageInput, load_rgb
from counterview.proposals.base import fit_proposals
from counterview.types import Candidate, Match, ObjectMask, RgbImage

if TYPE_CHECKING:
    import torch

    from counterview.lmeec.frame import SessionImage
    from counterview.lmeec.model import LMEEC
    from counterview.lmeec.session import Session
    from counterview.proposals.base import Proposals
    from counterview.tracking.base import Engine
    from counterview.tracking.tracker_config import TrackerConfig

NOT_A_PROPOSAL = -1
"""Proposal index of a candidate that was drawn, not chosen."""


@dataclass(frozen=True, eq=False)
class TrackerImage:
    """An image after LM-EEC's image encoder.

    Attributes:
        image: ``(H, W, 3)`` uint8.
        encoded: the feature maps of the encoder.
        given: masks ``(H, W)`` that points and boxes choose among; those of ``tiny`` by default.
    """

    image: RgbImage
    encoded: SessionImage
    given: Proposals | None = None

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @cached_property
    def proposals(self) -> Proposals:
        """The masks that a point or a box chooses from; computed on first use."""
        from counterview.proposals import load_proposer

        return load_proposer("tiny")(self.image) if self.given is None else fit_proposals(self.given, self.size_hw)


class MaskTracker(PromptedPredictor[TrackerImage]):
    """Draws the mask of an object of one image in another image, by LM-EEC.

    A pair of images is a clip of one frame: there is no memory from pair to pair. :meth:`session` follows objects
    through a clip, :class:`counterview.inference.takes.ClipPredictor` through a take.

    Args:
        model: an LM-EEC; it is put in eval mode.
        source: the name that it was loaded by, for the settings.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to compute in half precision.
    """

    def __init__(self, model: LMEEC, *, source: str = "", autocast: torch.dtype | None = None) -> None:
        self.model, self.source, self.autocast = model.eval(), source, autocast

    def settings(self) -> dict[str, Any]:
        """Source, configuration, a hash of the weights, and the precision where it is not float32."""
        from counterview.config import to_dict

        half = {} if self.autocast is None else {"autocast": str(self.autocast).removeprefix("torch.")}
        return {
            "matcher": {
                "name": self.model.method,
                "source": self.source,
                "weights": self.model.fingerprint()[:16],
                "config": to_dict(self.model.config),
                **half,
            }
        }

    def session(self, frames: int | None = None, stride: int = 1, autocast: torch.dtype | None = None) -> Session:
        """A session that follows objects through a clip. Arguments: see :class:`counterview.lmeec.session.Session`.

        Without ``autocast``, the precision is that of this predictor.
        """
        from counterview.lmeec.session import Session

        return Session(self.model, frames, stride, self.autocast if autocast is None else autocast)

    def encode(
        self,
        image: ImageInput,
        proposals: Proposals | None = None,
        *,
        name: str | None = None,
        color: ColorOrder = "rgb",
    ) -> TrackerImage:
        """Run the image encoder on an image ``(H, W, 3)``. Proposals serve points and boxes alone.

        See :meth:`counterview.Predictor.encode`.
        """
        rgb = load_rgb(image, color=color)
        return TrackerImage(rgb, self.session().encode([rgb])[0], proposals)

    def prompt_proposals(self, query: TrackerImage) -> tuple[Proposals, RgbImage | None]:
        """See :meth:`PromptedPredictor.prompt_proposals`; masks ``(H, W)`` of the encoded image."""
        return query.proposals, query.image

    def prompt_settings(self) -> dict[str, Any]:
        """See :meth:`PromptedPredictor.prompt_settings`."""
        from counterview.proposals import load_proposer

        proposer = load_proposer("tiny")
        return {"name": proposer.name, **proposer.settings()}

    def make_engine(self, cameras: Sequence[str], config: TrackerConfig | None = None) -> Engine:
        """See :meth:`PromptedPredictor.make_engine`: LM-EEC's own two banks; there is nothing to configure."""
        from counterview.tracking.lmeec_engine import LMEECEngine

        if config is not None:
            raise ConfigError("LM-EEC has banks of its own", found="a configuration of memories of descriptors")
        return LMEECEngine(cameras, self.model, autocast=self.autocast, source=self.source)

    def match_masks(
        self,
        query: TrackerImage,
        masks: Sequence[ObjectMask],
        names: Sequence[str],
        target: TrackerImage,
        top_k: int,
    ) -> list[Match]:
        """See :meth:`PromptedPredictor.match_masks`; masks are ``(H, W)``.

        Each match has one candidate; its similarity is the IoU that the model predicts for its mask, in ``[0, 1]``.
        """
        arrays = {name: mask.to_array() for name, mask in zip(names, masks, strict=True)}
        results = self.session(frames=1).step(query.encoded, arrays, target.encoded)
        matches: list[Match] = []
        for name in names:
            result = results[name]
            predicted_iou = min(1.0, max(0.0, result.predicted_iou or 0.0))
            candidate = Candidate(result.mask_rle, predicted_iou, NOT_A_PROPOSAL)
            matches.append(Match(name, result.mask_rle, predicted_iou, result.visibility, (candidate,)))
        return matches
