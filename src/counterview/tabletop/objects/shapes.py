"""Triangle meshes built from numbers: solids of revolution, lofts, boxes and ellipsoids.

Lengths are metres. Every builder returns a :class:`Mesh` with smooth vertex normals, texture coordinates
in [0, 1] per part and a part index per face, so that one object can carry several textures (the body, the
label and the lid of a jar).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "Mesh",
    "Pose",
    "VectorLike",
    "box",
    "ellipsoid",
    "loft",
    "merge",
    "quad",
    "revolve",
    "rotation_matrix",
    "transform",
    "tube",
]

VectorLike = Sequence[float] | np.ndarray
"""A point, an axis or sizes: a sequence of numbers, or an array ``(n,)``."""

Pose = tuple[np.ndarray, np.ndarray]
"""Rotation ``(3, 3)`` and translation ``(3,)`` in metres, world from body."""


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh.

    Attributes:
        vertices: ``(V, 3)`` float32, metres.
        normals: ``(V, 3)`` float32, unit length, outward.
        uv: ``(V, 2)`` float32, ``v`` runs downwards as image rows do.
        faces: ``(F, 3)`` int32 indices into the vertices.
        part: ``(F,)`` int32, which of the object's surfaces each face belongs to.
    """

    vertices: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    part: np.ndarray

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner, ``(3,)`` each, metres."""
        return self.vertices.min(0), self.vertices.max(0)


def rotation_matrix(axis: VectorLike, angle_rad: float) -> np.ndarray:
    """Rotation ``(3, 3)`` about ``axis`` ``(3,)``, of any length, by ``angle_rad`` (Rodrigues)."""
    a = np.asarray(axis, float)
    a = a / np.linalg.norm(a)
    k = np.array([[0, -a[2], a[1]], [a[2], 0, -a[0]], [-a[1], a[0], 0]])
    return np.eye(3) + np.sin(angle_rad) * k + (1 - np.cos(angle_rad)) * (k @ k)


def transform(
    mesh: Mesh, rotation: np.ndarray | None = None, translation: VectorLike = (0, 0, 0), part: int | None = None
) -> Mesh:
    """Rotate by ``rotation`` ``(3, 3)``, then move by ``translation`` ``(3,)``.

    Args:
        mesh: left as it is.
        rotation: none by default.
        translation: m.
        part: give all faces this part.
    """
    v, n = mesh.vertices, mesh.normals
    if rotation is not None:
        t = np.asarray(rotation, np.float32)
        v, n = v @ t.T, n @ t.T
    faces_part = mesh.part if part is None else np.full(len(mesh.part), part, np.int32)
    return Mesh(
        (v + np.asarray(translation, np.float32)).astype(np.float32),
        n.astype(np.float32),
        mesh.uv,
        mesh.faces,
        faces_part,
    )


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """Join meshes into one; parts keep their numbers."""
    start = np.cumsum([0] + [len(m.vertices) for m in meshes])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.normals for m in meshes]),
        np.concatenate([m.uv for m in meshes]),
        np.concatenate([m.faces + s for m, s in zip(meshes, start, strict=False)]).astype(np.int32),
        np.concatenate([m.part for m in meshes]),
    )


def _grid(points: np.ndarray, normals: np.ndarray, uv: np.ndarray, part: int) -> Mesh:
    """Mesh over a grid of points ``(M, N, 3)``; quads are split so that faces look outward."""
    m, n = points.shape[:2]
    index = np.arange(m * n, dtype=np.int32).reshape(m, n)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    flat = points.reshape(-1, 3).astype(np.float32)
    corner = flat[faces]
    area = np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1)
    faces = faces[area > 1e-12]
    unit = normals.reshape(-1, 3)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
    return Mesh(
        flat, unit.astype(np.float32), uv.reshape(-1, 2).astype(np.float32), faces, np.full(len(faces), part, np.int32)
    )


def revolve(
    sections: Sequence[tuple[Sequence[tuple[float, float]], int]], segments: int = 36, crease_deg: float = 35.0
) -> Mesh:
    """Solid of revolution about z.

    Args:
        sections: ``(points, part)`` pairs; points are (radius, height) in metres and go outward-facing, that is
            from the bottom up on the outside. ``v`` runs from 1 at a section's first point to 0 at its last.
        segments: facets around the axis.
        crease_deg: neighbouring profile pieces that bend more than this keep a sharp edge.
    """
    ring = np.linspace(0, 2 * np.pi, segments + 1)
    cos, sin = np.cos(ring), np.sin(ring)
    pieces = []
    for points, part in sections:
        p = np.asarray(points, float)
        step = np.diff(p, axis=0)
        keep = np.linalg.norm(step, axis=1) > 1e-9
        p, step = np.concatenate([p[:1], p[1:][keep]]), step[keep]
        length = np.linalg.norm(step, axis=1)
        normal = np.stack([step[:, 1], -step[:, 0]], -1) / length[:, None]
        along = np.concatenate([[0], np.cumsum(length)]) / length.sum()
        for i in range(len(step)):
            ends = []
            for j, other in ((i, i - 1), (i + 1, i + 1)):
                n = normal[i]
                if 0 <= other < len(step) and normal[i] @ normal[other] > np.cos(np.radians(crease_deg)):
                    n = normal[i] + normal[other]
                ends.append((p[j], n, 1 - along[j]))
            rows = [np.stack([q[0] * cos, q[0] * sin, np.full_like(ring, q[1])], -1) for q, _, _ in ends]
            norms = [np.stack([n[0] * cos, n[0] * sin, np.full_like(ring, n[1])], -1) for _, n, _ in ends]
            uvs = [np.stack([ring / (2 * np.pi), np.full_like(ring, v)], -1) for _, _, v in ends]
            # Rows along the ring first: the winding then looks outward.
            pieces.append(_grid(np.stack(rows, 1), np.stack(norms, 1), np.stack(uvs, 1), part))
    return merge(pieces)


def loft(
    spine: np.ndarray,
    widths: VectorLike,
    heights: VectorLike,
    part: int = 0,
    segments: int = 12,
    power: float = 2.0,
    up: VectorLike = (0, 0, 1),
) -> Mesh:
    """Closed solid swept along ``spine`` ``(N, 3)`` with super-elliptic cross sections.

    Args:
        spine: points of the middle line, m.
        widths: ``(N,)`` half widths sideways.
        heights: ``(N,)`` half heights along ``up``.
        part: part of all faces.
        segments: facets around the spine.
        power: 2 is an ellipse, larger is boxier.
        up: ``(3,)`` direction of the heights, never parallel to the spine.
    """
    s = np.asarray(spine, float)
    tangent = np.gradient(s, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    side = np.cross(tangent, np.asarray(up, float))
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9)
    top = np.cross(side, tangent)
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    c = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** (2 / power)
    d = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** (2 / power)
    w, h = np.asarray(widths, float)[:, None, None], np.asarray(heights, float)[:, None, None]
    points = s[:, None] + side[:, None] * w * c[None, :, None] + top[:, None] * h * d[None, :, None]
    normals = side[:, None] * (np.cos(angle) / 1.0)[None, :, None] / np.maximum(w, 1e-5) + top[:, None] * np.sin(angle)[
        None, :, None
    ] / np.maximum(h, 1e-5)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(s, axis=0), axis=1))])
    along = along / max(along[-1], 1e-9)
    uv = np.stack(np.broadcast_arrays(along[:, None], (angle / (2 * np.pi))[None]), -1)
    body = _grid(points, normals, uv, part)
    caps = []
    for end, sign in ((0, -1.0), (-1, 1.0)):
        rim = points[end]
        middle = np.broadcast_to(s[end], rim.shape)
        grid = np.stack([rim, middle], 0)
        flat = np.broadcast_to(tangent[end] * sign, grid.shape)
        caps.append(_grid(grid, flat, np.broadcast_to(uv[end], (2, *uv[end].shape)), part))
    return merge([body, *caps])


def tube(
    path: np.ndarray,
    radius: float | VectorLike,
    part: int = 0,
    segments: int = 10,
    up: VectorLike = (0, 0, 1),
) -> Mesh:
    """Round tube along ``path`` ``(N, 3)``; ``up`` ``(3,)`` must never be parallel to it."""
    r = np.broadcast_to(np.asarray(radius, float), (len(path),))
    return loft(path, r, r, part, segments, 2.0, up)


def ellipsoid(half: VectorLike, part: int = 0, segments: int = 24) -> Mesh:
    """Ellipsoid about the origin with half axes ``half`` ``(3,)``, metres."""
    lon, lat = np.linspace(0, 2 * np.pi, segments + 1), np.linspace(0, np.pi, segments // 2 + 1)
    lo, la = np.meshgrid(lon, lat, indexing="ij")
    unit = np.stack([np.cos(lo) * np.sin(la), np.sin(lo) * np.sin(la), np.cos(la)], -1)
    uv = np.stack([lo / (2 * np.pi), la / np.pi], -1)
    return _grid(unit * np.asarray(half, float), unit / np.asarray(half, float), uv, part)


def quad(corners: Sequence[VectorLike], part: int = 0, repeat: tuple[float, float] = (1, 1)) -> Mesh:
    """A flat quadrilateral.

    Args:
        corners: four points ``(3,)``, clockwise seen from the front, from the texture's upper left.
        part: part of both faces.
        repeat: how often the texture repeats along u and v.
    """
    p = np.asarray(corners, np.float32)
    normal = np.cross(p[2] - p[0], p[1] - p[0])
    normal = normal / np.linalg.norm(normal)
    u, v = repeat
    uv = np.array([[0, 0], [u, 0], [u, v], [0, v]], np.float32)
    return Mesh(
        p,
        np.broadcast_to(normal, (4, 3)).astype(np.float32).copy(),
        uv,
        np.array([[0, 1, 2], [0, 2, 3]], np.int32),
        np.full(2, part, np.int32),
    )


def box(
    size: VectorLike,
    bevel: float = 0.002,
    parts: Sequence[int] = (0, 0, 0, 0, 0, 0),
    repeat: Sequence[tuple[float, float]] | None = None,
) -> Mesh:
    """Box with softened edges, standing on z = 0, centred in x and y.

    Args:
        size: ``(3,)`` edge lengths along x, y and z, metres.
        bevel: width of the softened edges, metres.
        parts: part of the faces -y (front), +x, +y (back), -x, top, bottom.
        repeat: texture repeats per face, in the same order.
    """
    half = np.asarray(size, float) / 2
    b = min(bevel, float(half.min()) * 0.6)
    frames = [
        ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
        ((0, 1, 0), (0, 0, 1), (1, 0, 0)),
        ((-1, 0, 0), (0, 0, 1), (0, 1, 0)),
        ((0, -1, 0), (0, 0, 1), (-1, 0, 0)),
        ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
        ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    ]
    vertices: list[np.ndarray] = []
    normals: list[np.ndarray] = []
    uvs: list[tuple[float, float]] = []
    faces: list[tuple[int, ...]] = []
    part: list[int] = []
    lookup: dict[tuple[tuple[int, int, int], int], int] = {}
    for f, (right, upward, out) in enumerate(frames):
        r, u, o = (np.asarray(x, float) for x in (right, upward, out))
        rep = (1.0, 1.0) if repeat is None else repeat[f]
        first = len(vertices)
        for sr, su, uv in ((-1, 1, (0, 0)), (1, 1, (rep[0], 0)), (1, -1, (rep[0], rep[1])), (-1, -1, (0, rep[1]))):
            sign = sr * r + su * u + o
            lookup[(tuple(int(x) for x in sign), f)] = len(vertices)  # type: ignore[index]
            vertices.append(sign * half - (sr * r + su * u) * b)
            normals.append(o)
            uvs.append(uv)
        faces += [(first, first + 2, first + 1), (first, first + 3, first + 2)]
        part += [parts[f]] * 2
    outs = [np.asarray(x[2], float) for x in frames]
    for f in range(6):
        for g in range(f + 1, 6):
            if abs(outs[f] @ outs[g]) > 0.5:
                continue
            shared = [s for s, face in lookup if face == f and np.dot(s, outs[g]) > 0.5]
            a0, a1 = lookup[(shared[0], f)], lookup[(shared[1], f)]
            b0, b1 = lookup[(shared[0], g)], lookup[(shared[1], g)]
            faces += [(a0, a1, b1), (a0, b1, b0)]
            part += [parts[f]] * 2
    for sx in (-1, 1):
        for sy in (-1, 1):
            for sz in (-1, 1):
                faces.append(tuple(lookup[((sx, sy, sz), f)] for f in range(6) if np.dot((sx, sy, sz), outs[f]) > 0.5))
                part.append(parts[0])
    v = np.asarray(vertices, np.float32)
    v[:, 2] += half[2]
    return Mesh(
        v,
        np.asarray(normals, np.float32),
        np.asarray(uvs, np.float32),
        np.asarray(faces, np.int32),
        np.asarray(part, np.int32),
    )
