"""Matched points of two images carry a mask from one to the other: the geometric rows beside O-MaMa (ICCV 2025).

``load_image_matcher("sift")`` needs no weights. The predictor is
:class:`counterview.inference.geometric_matcher.GeometricMatcher`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from counterview.baselines.geometric.config import MATCHERS
from counterview.config import load_config, nearest
from counterview.errors import ConfigError

if TYPE_CHECKING:
    from counterview.baselines.geometric.base import ImageMatcher


def load_image_matcher(name: str = "sift", **settings: Any) -> ImageMatcher:
    """Load an image matcher by name.

    Args:
        name: ``sift``, ``lightglue``, ``loftr``, ``roma`` or ``xfeat``.
        settings: fields of :class:`~counterview.baselines.geometric.sift.SiftSettings`,
            :class:`~counterview.baselines.geometric.lightglue.LightGlueSettings`,
            :class:`~counterview.baselines.geometric.loftr.LoftrSettings`,
            :class:`~counterview.baselines.geometric.roma.RomaSettings` or
            :class:`~counterview.baselines.geometric.xfeat.XfeatSettings`.

    Raises:
        ConfigError: an unknown name or setting; the message names the nearest known one.
        WeightsError: the weights are not available.
        CheckpointError: weights that are damaged or of another architecture.
        MissingExtraError: an optional package is not installed.

    >>> import numpy as np
    >>> from counterview.baselines.geometric.base import find_matches
    >>> image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    >>> matches = find_matches(load_image_matcher("sift"), image, image[10:, 20:])
    >>> (matches.query_xy - matches.target_xy).round().mean(axis=0).tolist()  # what was cut off
    [20.0, 10.0]
    """
    if name == "sift":
        from counterview.baselines.geometric.sift import SiftMatcher, SiftSettings

        return SiftMatcher(load_config(SiftSettings, settings))
    if name == "lightglue":
        from counterview.baselines.geometric.lightglue import LightGlueMatcher, LightGlueSettings

        return LightGlueMatcher(load_config(LightGlueSettings, settings))
    if name == "loftr":
        from counterview.baselines.geometric.loftr import LoftrMatcher, LoftrSettings

        return LoftrMatcher(load_config(LoftrSettings, settings))
    if name == "roma":
        from counterview.baselines.geometric.roma import RomaMatcher, RomaSettings

        return RomaMatcher(load_config(RomaSettings, settings))
    if name == "xfeat":
        from counterview.baselines.geometric.xfeat import XfeatMatcher, XfeatSettings

        return XfeatMatcher(load_config(XfeatSettings, settings))
    raise ConfigError(f"there is no matcher {name!r}", fix=nearest(name, MATCHERS).capitalize())
