"""LM-EEC: follow an object through a second camera, with SAM 2 and two memory banks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterview.lazy import exports

__all__ = ["LMEEC", "EncodedView", "FrameResult", "HieraConfig", "LMEECConfig", "Session", "compress"]

if TYPE_CHECKING:
    from counterview.lmeec.config import HieraConfig, LMEECConfig
    from counterview.lmeec.memory import compress
    from counterview.lmeec.model import LMEEC
    from counterview.lmeec.session import EncodedView, FrameResult, Session

__getattr__, __dir__ = exports(
    __name__,
    {
        "EncodedView": "counterview.lmeec.session",
        "FrameResult": "counterview.lmeec.session",
        "HieraConfig": "counterview.lmeec.config",
        "LMEEC": "counterview.lmeec.model",
        "LMEECConfig": "counterview.lmeec.config",
        "Session": "counterview.lmeec.session",
        "compress": "counterview.lmeec.memory",
    },
)
