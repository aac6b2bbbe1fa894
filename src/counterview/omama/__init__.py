"""O-MaMa: match an object's mask in one view among the masks of the other view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterview.lazy import exports

__all__ = ["DescriptorConfig", "OMaMa", "OMaMaConfig", "OMaMaOutput", "adjacency", "draw_candidates", "info_nce"]

if TYPE_CHECKING:
    from counterview.omama.config import DescriptorConfig, OMaMaConfig
    from counterview.omama.model import OMaMa, OMaMaOutput
    from counterview.omama.training.loss import info_nce
    from counterview.omama.training.mining import draw_candidates
    from counterview.omama.training.neighbours import adjacency

__getattr__, __dir__ = exports(
    __name__,
    {
        "DescriptorConfig": "counterview.omama.config",
        "OMaMa": "counterview.omama.model",
        "OMaMaConfig": "counterview.omama.config",
        "OMaMaOutput": "counterview.omama.model",
        "adjacency": "counterview.omama.training.neighbours",
        "draw_candidates": "counterview.omama.training.mining",
        "info_nce": "counterview.omama.training.loss",
    },
)
