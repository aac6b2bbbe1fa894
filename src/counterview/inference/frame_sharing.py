"""An image of a camera that stands still, from the one before: what did not change is kept. Ours.

Candidates that no changed square touches are kept as they are. Around what changed, candidates are proposed anew in
windows; of these count those that touch a changed square and do not end at a window's edge. Larger candidates of which
little changed are kept, and described anew. Where too much changed, and every :data:`RENEWED_EVERY` images, everything
is computed: the result is then that of the image alone. The feature map always is.

How much a kept candidate can be off: its pixels differ by at most the noise that
:func:`counterview.media.changes.changed_squares` allows, against the image that it was proposed in, not against the
one before; so nothing drifts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from counterview.inference.encoded import ImageEncoding
from counterview.inference.matchers import HeadMatcher
from counterview.masks.geometry import iou
from counterview.media.changes import at_pixels, changed_squares, grown, reduced, windows_around
from counterview.proposals.base import Proposals, WindowProposer
from counterview.proposals.cache import uncached
from counterview.types import BoolImage, ObjectMask, RgbImage

if TYPE_CHECKING:
    from torch import Tensor

    from counterview.inference.proposal_matcher import ProposalMatcher

RENEWED_EVERY = 10
"""Images of a camera after which everything is computed anew."""
_MOST_CHANGED, _LARGEST_WINDOWS = 0.35, 0.7
"""Fractions of the image: of changed squares, and of the windows around them, above which everything is."""
_MARGIN, _GROW = 0.04, 0.15
"""Least margin of a window as a fraction of the image's longer side, and as one of what changed."""
_LITTLE = 0.1
"""Fraction of a candidate that may have changed for it to be kept where no window holds it."""
_SAME_IOU = 0.95


@dataclass(frozen=True, eq=False)
class KeptImage:
    """What is kept of a camera's images so far.

    Attributes:
        pixels: ``(h, w, 3)`` uint8, see :func:`counterview.media.changes.reduced`: each square as it was when it last
            changed.
        proposals: N candidates of the newest image.
        descriptors: ``(N, D)`` of them.
        age: images since everything was computed.
    """

    pixels: RgbImage
    proposals: Proposals
    descriptors: Tensor
    age: int

    def state(self) -> dict[str, Any]:
        """The contents as plain values and arrays."""
        return {
            "pixels": self.pixels,
            "size_hw": list(self.proposals.size_hw),
            "masks": [mask.to_coco() for mask in self.proposals.masks],
            "scores": self.proposals.scores,
            "boxes_xywh": self.proposals.boxes_xywh,
            "descriptors": self.descriptors.cpu().numpy(),
            "age": self.age,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: Any) -> KeptImage:
        """The inverse of :meth:`state`.

        Args:
            state: the plain values.
            device: for the descriptors.

        Raises:
            MaskError: a mask ``(H, W)`` that is malformed.
        """
        import torch

        from counterview.masks.rle import from_coco

        height, width = state["size_hw"]
        masks = tuple(from_coco(mask) for mask in state["masks"])
        proposals = Proposals((height, width), masks, state["scores"], state["boxes_xywh"])
        descriptors = torch.from_numpy(np.array(state["descriptors"])).to(device)
        return cls(np.asarray(state["pixels"], dtype=np.uint8), proposals, descriptors, int(state["age"]))


def renewed(
    predictor: ProposalMatcher, image: RgbImage, kept: KeptImage | None, name: str | None = None
) -> tuple[ImageEncoding, KeptImage]:
    """Encode the next image of a camera.

    Args:
        predictor: encodes.
        image: ``(H, W, 3)`` uint8.
        kept: of the image before; ``None`` if there is none.
        name: of the image, for proposals that are stored by it.

    Returns:
        the encoding, and what is kept for the next image.
    """
    pixels = reduced(image)
    squares = None if kept is None or kept.age + 1 >= RENEWED_EVERY else changed_squares(kept.pixels, pixels)
    shared = None if kept is None or squares is None else _shared(predictor, image, kept, squares, pixels)
    if shared is not None:
        return shared
    encoding = predictor.encode(image, name=name)
    return encoding, KeptImage(pixels, encoding.proposals, encoding.descriptors, 0)


def _shared(
    predictor: ProposalMatcher, image: RgbImage, kept: KeptImage, squares: BoolImage, pixels: RgbImage
) -> tuple[ImageEncoding, KeptImage] | None:
    """:func:`renewed` from what is kept; ``None`` where everything has to be computed."""
    proposer = uncached(predictor.proposer)
    size_hw = image.shape[0], image.shape[1]
    if not isinstance(proposer, WindowProposer) or kept.proposals.size_hw != size_hw:
        return None
    squares = grown(squares)
    if squares.mean() > _MOST_CHANGED:
        return None
    reduced_hw = pixels.shape[0], pixels.shape[1]
    changed = at_pixels(squares, reduced_hw, size_hw)
    windows = windows_around(changed, round(_MARGIN * max(size_hw)), _GROW)
    areas = (windows[:, 2:] - windows[:, :2]).prod(1)
    if areas.sum() > _LARGEST_WINDOWS * changed.size:
        return None
    rows = _kept_rows(kept.proposals, changed, windows)
    fresh = _fresh(proposer, image, changed, windows, [kept.proposals.masks[row] for row in rows])
    limit = proposer.settings().get("max_masks")
    masks = [*(kept.proposals.masks[row] for row in rows), *(mask for mask, _ in fresh)]
    scores = np.array([*kept.proposals.scores[rows], *(score for _, score in fresh)], dtype=np.float32)
    known = np.array([*rows, *(-1 for _ in fresh)], dtype=np.int64)
    if limit is not None and len(masks) > int(limit):
        best = np.sort(np.argsort(-scores, kind="stable")[: int(limit)])
        masks, scores, known = [masks[i] for i in best], scores[best], known[best]
    proposals = Proposals(size_hw, tuple(masks), scores)
    features = predictor.backbone.encode(image)
    descriptors = _described(predictor, features, proposals, kept.descriptors, known, changed)
    inside = at_pixels(squares, reduced_hw, reduced_hw)
    newest = np.where(inside[..., None], pixels, kept.pixels)
    encoding = ImageEncoding(size_hw, features, proposals, descriptors, image=image)
    return encoding, KeptImage(newest, proposals, descriptors, kept.age + 1)


def _inside(mask: ObjectMask, changed: BoolImage) -> int:
    """Changed pixels of a mask ``(H, W)``."""
    x, y, width, height = mask.box_xywh
    part = changed[y : y + height, x : x + width]
    if not part.any():
        return 0
    return int(np.count_nonzero(mask.to_array()[y : y + height, x : x + width] & part))


def _kept_rows(proposals: Proposals, changed: BoolImage, windows: NDArray[np.int64]) -> list[int]:
    """Candidates of which nothing changed, or little where no window holds them."""
    rows = []
    for row, mask in enumerate(proposals.masks):
        touched = _inside(mask, changed)
        if touched == 0:
            rows.append(row)
            continue
        x, y, width, height = mask.box_xywh
        held = any(x >= x0 and y >= y0 and x + width <= x1 and y + height <= y1 for x0, y0, x1, y1 in windows.tolist())
        if not held and touched <= _LITTLE * mask.area:
            rows.append(row)
    return rows


def _fresh(
    proposer: WindowProposer,
    image: RgbImage,
    changed: BoolImage,
    windows: NDArray[np.int64],
    kept: list[ObjectMask],
) -> list[tuple[ObjectMask, float]]:
    """Candidates in windows, with their scores: those that touch what changed, and that no kept one is."""
    height, width = image.shape[:2]
    found = []
    for x0, y0, x1, y1 in windows.tolist():
        proposals = proposer.in_window(image, (x0, y0, x1, y1))
        for mask, score in zip(proposals.masks, proposals.scores.tolist(), strict=True):
            x, y, w, h = mask.box_xywh
            is_cut = (x == x0 > 0) or (y == y0 > 0) or (x + w == x1 and x1 < width) or (y + h == y1 and y1 < height)
            if is_cut or _inside(mask, changed) == 0 or any(_is_same(mask, other) for other in kept):
                continue
            found.append((mask, score))
    return found


def _is_same(a: ObjectMask, b: ObjectMask) -> bool:
    """Whether two masks ``(H, W)`` are one; without a look at the pixels of most."""
    return min(a.area, b.area) > _SAME_IOU * max(a.area, b.area) and iou(a, b) > _SAME_IOU


def _described(
    predictor: ProposalMatcher,
    features: Any,
    proposals: Proposals,
    kept: Tensor,
    known: NDArray[np.int64],
    changed: BoolImage,
) -> Tensor:
    """Descriptors ``(N, D)``; of object crops in which nothing changed the kept ones."""
    import torch

    matcher, backbone = predictor.matcher, predictor.backbone
    width = crop_width(predictor)
    rows = np.flatnonzero(known >= 0)
    if width is not None:
        rows = np.array([r for r in rows if not _crop_changed(proposals.masks[r], changed)], dtype=np.int64)
    if width is None or not len(rows):
        return matcher.describe(backbone, features, proposals.masks)
    anew = np.setdiff1d(np.arange(len(proposals)), rows)
    descriptors = torch.empty((len(proposals), kept.shape[1]), dtype=kept.dtype, device=kept.device)
    if len(anew):
        described = matcher.describe(backbone, features, [proposals.masks[r] for r in anew])
        descriptors[torch.from_numpy(anew)] = described
    descriptors[torch.from_numpy(rows), :width] = kept[torch.from_numpy(known[rows]), :width]
    context = context_of(predictor, features, [proposals.masks[r] for r in rows])
    descriptors[torch.from_numpy(rows), width:] = context.to(kept.dtype)
    return descriptors


def crop_width(predictor: ProposalMatcher) -> int | None:
    """Numbers of a descriptor that the pixels of the object's crop alone determine; ``None`` if none are."""
    from counterview.features.tiny import Tiny

    if not isinstance(predictor.matcher, HeadMatcher) or not isinstance(predictor.backbone, Tiny):
        return None
    config = predictor.matcher.omama.descriptor
    if not predictor.backbone.net.config.object_crops or not config.backbone_pooling or config.mask_size != "image":
        return None
    return predictor.matcher.omama.object_width


def context_of(predictor: ProposalMatcher, features: Any, masks: list[ObjectMask]) -> Tensor:
    """The part of descriptors that the feature map determines, ``(N, C)``.

    Args:
        predictor: with object crops, see :func:`crop_width`.
        features: ``(C, h, w)`` of the image.
        masks: N masks ``(H, W)``.
    """
    from counterview.omama.descriptors import describe_context

    assert isinstance(predictor.matcher, HeadMatcher)
    return describe_context(predictor.matcher.omama.descriptor, features, masks)


def _crop_changed(mask: ObjectMask, changed: BoolImage) -> bool:
    """Whether anything changed in the square that a mask ``(H, W)`` is described from."""
    from counterview.features.object_crops import CROP_SCALE

    x, y, width, height = mask.box_xywh
    half = (CROP_SCALE * max(width, height) + 4) / 2 + 1
    x0, x1 = max(0, int(x + width / 2 - half)), int(x + width / 2 + half) + 1
    y0, y1 = max(0, int(y + height / 2 - half)), int(y + height / 2 + half) + 1
    return bool(changed[y0:y1, x0:x1].any())
