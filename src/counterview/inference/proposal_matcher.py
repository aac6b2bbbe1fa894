"""A predictor that chooses among candidate masks: k-NN, O-MaMa and tiny-match."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from counterview.errors import ConfigError, ProposalError
from counterview.inference.encoded import ImageEncoding
from counterview.inference.prompted import PromptedPredictor, image_name
from counterview.inference.prompts import check_query_mask
from counterview.inference.refining import drawn_again
from counterview.masks.geometry import same_aspect
from counterview.media.inputs import ColorOrder, ImageInput, load_rgb
from counterview.proposals.base import Proposals, fit_proposals
from counterview.proposals.cache import uncached
from counterview.types import Candidate, Match, ObjectMask, RgbImage

if TYPE_CHECKING:
    from counterview.deploy.models import OnnxNetworks
    from counterview.features.base import Backbone
    from counterview.inference.matchers import Matcher
    from counterview.proposals.base import Proposer
    from counterview.refinement.base import Refiner
    from counterview.tracking.base import Engine
    from counterview.tracking.tracker_config import TrackerConfig


class ProposalMatcher(PromptedPredictor["ImageEncoding"]):
    """Finds objects of a query image among the proposals of a target image.

    Args:
        proposer: makes the candidate masks of an image.
        backbone: makes its feature map.
        matcher: describes masks, and scores candidates for query objects.
        prompt_proposer: makes the masks that points and boxes choose among; ``proposer`` by default.
        networks: the exported networks that compute, where torch does not.
        refiner: draws the mask of each match again; without it masks are proposals as they are.

    >>> import counterview
    >>> import numpy as np
    >>> image = np.full((60, 80, 3), 90, dtype=np.uint8)
    >>> image[10:30, 10:30], image[25:50, 45:70] = (200, 30, 30), (30, 60, 200)
    >>> red, blue = (image == (200, 30, 30)).all(-1), (image == (30, 60, 200)).all(-1)
    >>> mirrored = np.ascontiguousarray(image[:, ::-1])
    >>> matches = counterview.load("knn").match(image, {"red": red, "blue": blue}, mirrored)
    >>> [(match.name, match.mask_rle.box_xywh, match.similarity > 0.9) for match in matches]
    [('red', (50, 10, 20, 20), True), ('blue', (10, 25, 25, 25), True)]
    >>> matches[0].mask.shape
    (60, 80)
    """

    def __init__(
        self,
        proposer: Proposer,
        backbone: Backbone,
        matcher: Matcher,
        prompt_proposer: Proposer | None = None,
        networks: OnnxNetworks | None = None,
        refiner: Refiner | None = None,
    ) -> None:
        self.proposer = proposer
        self.backbone = backbone
        self.matcher = matcher
        self.prompt_proposer = prompt_proposer
        self.networks = networks
        self.refiner = refiner

    def settings(self) -> dict[str, Any]:
        """See :meth:`counterview.Predictor.settings`."""
        return {
            "matcher": {"name": self.matcher.name, **self.matcher.settings()},
            "proposals": {"name": self.proposer.name, **self.proposer.settings()},
            "features": {"name": self.backbone.name, **self.backbone.settings()},
            **({} if self.networks is None else {"runtime": self.networks.settings()}),
            **({} if self.refiner is None else {"refinement": self.refiner.settings()}),
        }

    def encode(
        self,
        image: ImageInput,
        proposals: Proposals | None = None,
        *,
        name: str | None = None,
        color: ColorOrder = "rgb",
    ) -> ImageEncoding:
        """Propose and describe the masks of an image ``(H, W, 3)``. See :meth:`counterview.Predictor.encode`."""
        rgb, name = load_rgb(image, color=color), name or image_name(image)
        prompt_source = None
        if proposals is None and self.prompt_proposer is not None:
            prompt_source = partial(self._propose, self.prompt_proposer, rgb, name)
        return self._encode(rgb, self.proposer(rgb, name) if proposals is None else proposals, prompt_source)

    def encode_query(self, image: ImageInput, *, name: str | None = None, color: ColorOrder = "rgb") -> ImageEncoding:
        """Encode an image ``(H, W, 3)`` with query objects: without proposals, unless the matcher reads them.

        Those that points and boxes choose among are made when they are needed.

        Args:
            image: ``(H, W, 3)`` uint8, a view, an image of Pillow, or the path of a file.
            name: as for :meth:`encode`.
            color: likewise.

        Raises:
            ImageError: not an image.
        """
        if self.matcher.uses_query_proposals:
            return self.encode(image, name=name, color=color)
        rgb, name = load_rgb(image, color=color), name or image_name(image)
        prompt_source = partial(self._propose, self.prompt_proposer or self.proposer, rgb, name)
        return self._encode(rgb, Proposals.none((rgb.shape[0], rgb.shape[1])), prompt_source)

    def _encode(
        self, rgb: RgbImage, candidates: Proposals, prompt_source: Callable[[], Proposals] | None
    ) -> ImageEncoding:
        size = (rgb.shape[0], rgb.shape[1])
        fitted = _fit(candidates, size)
        described = candidates if self.matcher.takes_any_size else fitted
        features = self.backbone.encode(rgb)
        descriptors = self.matcher.describe(self.backbone, features, described.masks, described.stored_boxes())
        return ImageEncoding(size, features, fitted, descriptors, image=rgb, prompt_source=prompt_source)

    @staticmethod
    def _propose(proposer: Proposer, rgb: RgbImage, name: str | None) -> Proposals:
        return _fit(proposer(rgb, name), (rgb.shape[0], rgb.shape[1]))

    def prompt_proposals(self, query: ImageEncoding) -> tuple[Proposals, RgbImage | None]:
        """See :meth:`PromptedPredictor.prompt_proposals`; masks ``(H, W)`` of the encoded image."""
        return query.prompt_proposals, query.image

    def prompt_settings(self) -> dict[str, Any]:
        """See :meth:`PromptedPredictor.prompt_settings`."""
        proposer = self.prompt_proposer or self.proposer
        return {"name": proposer.name, **proposer.settings()}

    def make_engine(self, cameras: Sequence[str], config: TrackerConfig | None = None) -> Engine:
        """See :meth:`PromptedPredictor.make_engine`.

        With proposals of SAM 2.1 objects are matched at key times and propagated by its video memory; otherwise they
        are followed by memories of descriptors.
        """
        proposer = uncached(self.proposer)
        if proposer.name == "sam2":
            if config is not None and config.share_frames:
                raise ConfigError(
                    "the video memory of SAM 2.1 has no frames to share", found="share_frames",
                    expected="proposals of tiny or graph", fix="Leave out --share-frames.",
                )  # fmt: skip
            from counterview.tracking.sam2_memory import load_video_memory
            from counterview.tracking.video_memory import VideoMemoryEngine

            settings = proposer.settings()
            device = str(getattr(proposer, "device", "auto"))
            network = load_video_memory(str(settings["model"]), device, image_size=int(settings["image_size"]))
            return VideoMemoryEngine(cameras, network, self)
        from counterview.inference.cross_view import MatcherViews
        from counterview.tracking.tracker import MemoryTracker
        from counterview.tracking.weights import load_weighing

        weighing = load_weighing() if self.networks is None else self.networks.weighing()
        views = MatcherViews(self)
        return MemoryTracker(views, cameras, weighing, config, drawer=views.drawer())

    @property
    def judges_visibility(self) -> bool:
        """See :attr:`PromptedPredictor.judges_visibility`: as its matcher."""
        return self.matcher.judges_visibility

    def check_mask(self, query: ImageEncoding, mask: ObjectMask, name: str) -> None:
        """See :meth:`PromptedPredictor.check_mask`.

        A matcher that takes any size resizes masks ``(H, W)`` itself; they may be of another resolution than the query
        image.
        """
        is_resized = self.matcher.takes_any_size and same_aspect(mask.size_hw, query.size_hw)
        check_query_mask(mask, mask.size_hw if is_resized else query.size_hw, name)

    def match_masks(
        self,
        query: ImageEncoding,
        masks: Sequence[ObjectMask],
        names: Sequence[str],
        target: ImageEncoding,
        top_k: int,
    ) -> list[Match]:
        """See :meth:`PromptedPredictor.match_masks`; masks are ``(H, W)``.

        Raises:
            ProposalError: the target image has no proposals.
        """
        if not target.proposals.masks:
            raise ProposalError(
                "the target image has no proposals",
                fix="Try another proposer, or give masks with --proposals folder:PATH.",
            )
        scores = self.matcher.score(self.backbone, query, masks, target)
        order = (-scores.score).argsort(axis=1, kind="stable")
        drawn = None
        if self.refiner is not None:
            drawn = drawn_again(self.refiner, query, masks, target, scores.similarity, order)
        matches = []
        for row, name in enumerate(names):
            candidates = tuple(
                Candidate(
                    target.proposals.masks[i], float(scores.similarity[row, i]), int(i), float(scores.score[row, i])
                )
                for i in order[row, :top_k]
            )
            if drawn is not None:
                candidates = (replace(candidates[0], mask_rle=drawn[row]), *candidates[1:])
            best, visibility, notes = candidates[0], float(scores.visibility[row]), tuple(scores.notes[row])
            matches.append(Match(name, best.mask_rle, best.similarity, visibility, candidates, notes))
        return matches


def _fit(proposals: Proposals, size_hw: tuple[int, int]) -> Proposals:
    """Proposals at the size of their image.

    Raises:
        ProposalError: they are of an image of another shape.
    """
    if not same_aspect(proposals.size_hw, size_hw):
        raise ProposalError("the proposals do not fit the image", found=proposals.size_hw, expected=size_hw)
    return fit_proposals(proposals, size_hw)
