"""Encoded images in one look, pair by pair (:mod:`counterview.tiny.alignment`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from counterview.errors import ConfigError
from counterview.features.tiny import Tiny
from counterview.inference.encoded import ImageEncoding
from counterview.inference.pair_cache import PairCache
from counterview.tiny.alignment import Alignment, AlignmentConfig, CameraRegions, Recolouring, align

if TYPE_CHECKING:
    from torch import Tensor

    from counterview.features.base import Backbone


@dataclass(frozen=True, eq=False)
class _ChangedPair:
    """What takes the place of the images of a pair; ``None`` where an image stays.

    An image that stays is not kept here: it is the key, and would never be forgotten.
    """

    query: ImageEncoding | None
    target: ImageEncoding | None


class CameraPairs:
    """Brings encoded images to one look; each pair is looked at once, while both images are in use.

    Images of one clip share what was found for their cameras (:mod:`counterview.inference.kept_alignments`).

    Args:
        config: constants.
        describe: describes masks, given a backbone, a feature map and the masks.
    """

    def __init__(self, config: AlignmentConfig, describe: Callable[..., Tensor]) -> None:
        self.config, self._describe = config, describe
        self._regions: WeakKeyDictionary[ImageEncoding, CameraRegions] = WeakKeyDictionary()
        self._pairs: PairCache[_ChangedPair] = PairCache()

    def aligned(
        self, backbone: Backbone, query: ImageEncoding, target: ImageEncoding
    ) -> tuple[ImageEncoding, ImageEncoding]:
        """The two images as they are compared.

        Args:
            backbone: made their feature maps.
            query: one image.
            target: the other; the pair is the same the other way round.

        Raises:
            ConfigError: a backbone that has no object crops.
        """
        known = self._pairs.get(query, target)
        if known is None:
            reverse = self._pairs.get(target, query)
            known = self._changed(backbone, query, target) if reverse is None else _swapped(reverse)
            self._pairs.put(query, target, known)
        return known.query or query, known.target or target

    def _changed(self, backbone: Backbone, query: ImageEncoding, target: ImageEncoding) -> _ChangedPair:
        if not isinstance(backbone, Tiny):
            raise ConfigError(
                "cameras are brought to one look with the features of tiny-match alone", found=backbone.name
            )
        regions = self._regions_of(backbone, query), self._regions_of(backbone, target)
        alignment: Alignment
        if query.clip is not None and target.clip is not None and query.clip.alignments is target.clip.alignments:
            alignments = query.clip.alignments
            alignment = alignments.between((query.clip, regions[0]), (target.clip, regions[1]), self.config)
        else:
            alignment = align(*regions, self.config)
        images = ((query, alignment.query), (target, alignment.target))
        return _ChangedPair(*(None if c is None else self._recoloured(backbone, image, c) for image, c in images))

    def _regions_of(self, backbone: Tiny, encoding: ImageEncoding) -> CameraRegions:
        if encoding not in self._regions:
            crops = backbone.crop_source(encoding.features)
            source = encoding.context or encoding
            known = source.descriptors[:, : backbone.net.config.object_crops]
            network = backbone.net.object_crops
            self._regions[encoding] = CameraRegions(network, crops, source.proposals, self.config, known)
        return self._regions[encoding]

    def _recoloured(self, backbone: Tiny, encoding: ImageEncoding, change: Recolouring) -> ImageEncoding:
        features = backbone.recoloured(encoding.features, change)
        context = encoding.context
        return replace(
            encoding,
            features=features,
            descriptors=self._describe(backbone, features, encoding.proposals.masks),
            context=None if context is None else self._recoloured(backbone, context, change),
        )


def _swapped(pair: _ChangedPair) -> _ChangedPair:
    return _ChangedPair(pair.target, pair.query)
