"""Two views of one scene: the homography between them, and what it implies for pairs of masks. No learned weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterview.lazy import exports

__all__ = [
    "Homography",
    "HomographyConfig",
    "PairFeature",
    "PairFeatureConfig",
    "QueryFeature",
    "ScoredBoxes",
    "find_homography",
    "ground_points",
    "pair_features",
    "view_homographies",
]

if TYPE_CHECKING:
    from counterview.geometry.boxes import ScoredBoxes, ground_points
    from counterview.geometry.homography import Homography, HomographyConfig, find_homography, view_homographies
    from counterview.geometry.relations import PairFeature, PairFeatureConfig, QueryFeature, pair_features

__getattr__, __dir__ = exports(
    __name__,
    {
        "Homography": "counterview.geometry.homography",
        "HomographyConfig": "counterview.geometry.homography",
        "PairFeature": "counterview.geometry.relations",
        "PairFeatureConfig": "counterview.geometry.relations",
        "QueryFeature": "counterview.geometry.relations",
        "ScoredBoxes": "counterview.geometry.boxes",
        "find_homography": "counterview.geometry.homography",
        "ground_points": "counterview.geometry.boxes",
        "pair_features": "counterview.geometry.relations",
        "view_homographies": "counterview.geometry.homography",
    },
)
