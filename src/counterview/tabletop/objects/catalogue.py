"""The family of objects, and which of them a split may use.

An object *instance* is named by ``pool/kind/shape/look``: the pool is the split, so instances of ``val`` and
``test`` never occur in ``train``, whatever the seed. ``test_novel`` draws from kinds that no other split has.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from counterview.tabletop.objects import solids, tools, vessels
from counterview.tabletop.objects.model import ObjectModel
from counterview.tabletop.objects.shapes import Mesh
from counterview.tabletop.surfaces.materials import Material

__all__ = ["KINDS", "NOVEL_KINDS", "SPLITS", "Thing", "draw_things", "make_thing", "seeded"]

SPLITS = ("train", "val", "test", "test_novel")

_BUILDERS: dict[str, Callable[[np.random.Generator, np.random.Generator], ObjectModel]] = {
    "bottle": vessels.bottle,
    "jar": vessels.jar,
    "can": vessels.can,
    "mug": vessels.mug,
    "bowl": vessels.bowl,
    "plate": vessels.plate,
    "pan": vessels.pan,
    "carton": solids.carton,
    "book": solids.book,
    "board": solids.board,
    "cutlery": tools.cutlery,
    "tool": tools.tool,
    "fruit": solids.fruit,
    "goblet": vessels.goblet,
    "teapot": vessels.teapot,
    "tape": vessels.tape,
    "candlestick": vessels.candlestick,
    "scissors": tools.scissors,
    "torch": tools.torch,
    "rolling_pin": tools.rolling_pin,
    "spray": solids.spray,
}
NOVEL_KINDS = ("goblet", "teapot", "tape", "candlestick", "scissors", "torch", "rolling_pin", "spray")
KINDS = tuple(k for k in _BUILDERS if k not in NOVEL_KINDS)
_WEIGHTS = {"cutlery": 1.7, "tool": 1.4, "fruit": 1.7, "book": 0.6, "board": 0.5, "pan": 0.6, "plate": 0.7}
_LARGE = {"board": 1, "pan": 1, "book": 2, "plate": 2, "bowl": 3, "rolling_pin": 1}
_TWO_HANDED = {"board", "plate", "rolling_pin", "teapot"}
_LYING = {"cutlery", "tool", "book", "board", "plate", "scissors", "torch", "rolling_pin", "tape"}


@dataclass(frozen=True)
class Thing:
    """An annotated object on the table.

    Attributes:
        kind: key of its builder, such as ``mug``.
        instance: ``pool/kind/shape/look``, unique to one appearance.
        name: what an annotator would call it, without the running number.
        mesh: stands on z = 0, metres.
        materials: one for each part of the mesh.
        half_xy: half extents of its footprint, metres.
        height: metres.
        hollow: inner radius and floor height, metres, of vessels that can hold something; else None.
        two_handed: carried with both hands.
        lying: grasped from above.
    """

    kind: str
    instance: str
    name: str
    mesh: Mesh
    materials: tuple[Material, ...]
    half_xy: tuple[float, float]
    height: float
    hollow: tuple[float, float] | None
    two_handed: bool
    lying: bool

    @property
    def radius(self) -> float:
        """Radius of the circle about its footprint, metres."""
        return float(np.hypot(*self.half_xy)) if self.lying or self.kind in ("carton", "fruit") else max(self.half_xy)


def seeded(*words: int | str) -> np.random.Generator:
    """A generator whose state is a pure function of ``words``, the same on every platform."""
    return np.random.default_rng([zlib.crc32(w.encode()) if isinstance(w, str) else int(w) for w in words])


def make_thing(seed: int, pool: str, kind: str, shape_no: int, look_no: int) -> Thing:
    """Build one instance; a pure function of its arguments.

    Args:
        seed: of the data set.
        pool: the split whose instances these are.
        kind: one of :data:`KINDS` or :data:`NOVEL_KINDS`.
        shape_no: number of the shape within the pool and kind.
        look_no: number of the appearance.
    """
    shape = seeded(seed, pool, kind, "shape", shape_no)
    look = seeded(seed, pool, kind, "look", look_no)
    mesh, materials, name = _BUILDERS[kind](shape, look)
    low, high = mesh.bounds
    # Handles make pots lopsided: centre the footprint, so that turning and packing stay simple.
    middle = (low + high) / 2
    if kind in ("pan", "mug", "teapot", "scissors", "fruit", "cutlery", "tool", "torch"):
        mesh = Mesh(
            (mesh.vertices - np.array([middle[0], middle[1], low[2]], np.float32)).astype(np.float32),
            mesh.normals,
            mesh.uv,
            mesh.faces,
            mesh.part,
        )
    hollow = None
    if kind == "bowl":
        hollow = (float(high[0]) * 0.55, 0.012)
    elif kind == "plate":
        hollow = (float(high[0]) * 0.5, 0.008)
    half = (float(high[0] - low[0]) / 2, float(high[1] - low[1]) / 2)
    return Thing(
        kind,
        f"{pool}/{kind}/{shape_no}/{look_no}",
        name,
        mesh,
        materials,
        half,
        float(high[2] - low[2]),
        hollow,
        kind in _TWO_HANDED,
        kind in _LYING or (kind == "fruit" and float(high[2]) < 0.045),
    )


def draw_things(rng: np.random.Generator, seed: int, split: str, count: int, pool_size: int = 24) -> list[Thing]:
    """Choose ``count`` objects for a take, with look-alikes on purpose.

    Among them, where ``count`` allows: one pair of the same shape with another look, and one pair of two of a kind
    (the same shape and the same look), as two equal mugs would be.

    Args:
        rng: draws kinds, shapes and looks.
        seed: of the data set.
        split: whose pool they come from; ``test_novel`` has kinds of its own.
        count: number of objects.
        pool_size: shapes and looks of each kind in a pool.
    """
    novel = split == "test_novel"
    kinds = list(NOVEL_KINDS if novel else KINDS)
    weight = np.array([_WEIGHTS.get(k, 1.0) for k in kinds])
    weight /= weight.sum()
    picked: list[tuple[str, int, int]] = []
    counts: dict[str, int] = {}
    while len(picked) < count:
        if len(picked) >= 2 and rng.random() < 0.3:
            kind, shape_no, look_no = picked[int(rng.integers(len(picked)))]
            way = rng.random()
            if way < 0.55:
                look_no = int(rng.integers(pool_size))
            elif way < 0.8:
                shape_no = int(rng.integers(pool_size))
        else:
            kind = str(rng.choice(kinds, p=weight))
            shape_no, look_no = int(rng.integers(pool_size)), int(rng.integers(pool_size))
        if counts.get(kind, 0) >= _LARGE.get(kind, 3) or picked.count((kind, shape_no, look_no)) > 1:
            continue
        counts[kind] = counts.get(kind, 0) + 1
        picked.append((kind, shape_no, look_no))
    return [make_thing(seed, split, *p) for p in picked]
