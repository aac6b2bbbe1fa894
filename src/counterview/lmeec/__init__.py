"""LM-EEC: follow an object through a second camera, with SAM 2 and two memory banks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterview.lazy import exports

__all__ = ["LMEEC", "FrameResult", "HieraConfig", "LMEECConfig", "Session", "SessionImage", "compress"]

if TYPE_CHECKING:
    from counterview.lmeec.config import HieraConfig, LMEECConfig
    from counterview.lmeec.frame import FrameResult, SessionImage
    from counterview.lmeec.memory import compress
    from counterview.lmeec.model import LMEEC
    from counterview.lmeec.session import Session

__getattr__, __dir__ = exports(
    __name__,
    {
        "FrameResult": "counterview.lmeec.frame",
        "HieraConfig": "counterview.lmeec.config",
        "LMEEC": "counterview.lmeec.model",
        "LMEECConfig": "counterview.lmeec.config",
        "Session": "counterview.lmeec.session",
        "SessionImage": "counterview.lmeec.frame",
        "compress": "counterview.lmeec.memory",
    },
)
