"""What is ours beyond both papers: small networks that come with the package, and how they are trained.

``tiny-match`` (:class:`TinyMatch`) is an O-MaMa head on object crops, with a geometric re-ranker, that brings two
cameras to one look before it compares. ``tiny-follow`` is an LM-EEC with an appearance prompt (:class:`TinyFollow`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterview.lazy import exports

__all__ = ["GeometricReranker", "RerankerConfig", "TinyFollow", "TinyFollowConfig", "TinyMatch", "TinyMatchConfig"]

if TYPE_CHECKING:
    from counterview.tiny.config import TinyMatchConfig
    from counterview.tiny.follow import TinyFollow
    from counterview.tiny.follow_config import TinyFollowConfig
    from counterview.tiny.model import TinyMatch
    from counterview.tiny.reranker import GeometricReranker, RerankerConfig

__getattr__, __dir__ = exports(
    __name__,
    {
        "GeometricReranker": "counterview.tiny.reranker",
        "RerankerConfig": "counterview.tiny.reranker",
        "TinyFollow": "counterview.tiny.follow",
        "TinyFollowConfig": "counterview.tiny.follow_config",
        "TinyMatch": "counterview.tiny.model",
        "TinyMatchConfig": "counterview.tiny.config",
    },
)
