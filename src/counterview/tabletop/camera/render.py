"""Ray tracing with Embree, shading with NumPy.

One primary ray per pixel centre gives the exact instance label and the shading point; soft shadows and ambient
occlusion are traced from there and smoothed within one surface; pixels on an edge get further primary rays, so
colour is supersampled where it matters while labels stay those of the pixel centre.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from counterview.errors import MissingExtraError
from counterview.tabletop.camera.cameras import Camera
from counterview.tabletop.camera.frame_buffer import AMBIENT_REACH_M, FrameBuffer, stale_pixels
from counterview.tabletop.camera.world import BodyPoses, Lighting, RigidBody
from counterview.tabletop.objects.shapes import Mesh
from counterview.tabletop.surfaces.atlas import Atlas

__all__ = ["OUTSIDE", "RenderedImage", "Renderer"]

OUTSIDE = -2
"""Label of the pixels beyond a fisheye's image circle."""
_BLOCK = 12000  # rays worked on at a time: their arrays stay in the cache
_EDGE_SAMPLES = ((-0.375, -0.125), (0.125, -0.375), (0.375, 0.125), (-0.125, 0.375))


@dataclass(frozen=True)
class RenderedImage:
    """What a camera receives.

    Attributes:
        light: ``(H, W, 3)`` float32, linear.
        labels: ``(H, W)`` int16, object index, :data:`~counterview.tabletop.camera.world.BACKGROUND` or
            :data:`OUTSIDE`.
        flow_px: ``(H, W, 2)`` float32 motion during the exposure as (x, y), or None.
    """

    light: np.ndarray
    labels: np.ndarray
    flow_px: np.ndarray | None


def _embree() -> tuple[Any, Any]:
    try:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene
    except ImportError as error:
        raise MissingExtraError("render", "rendering of synthetic takes (embreex)") from error
    return EmbreeScene, TriangleMesh


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2])


class Renderer:
    """A scene of rigid bodies. Call :meth:`pose` for an instant, then :meth:`render` for each camera.

    Args:
        bodies: B bodies, in the order of the poses.
        lighting: does not change.

    Raises:
        MissingExtraError: ``embreex`` is not installed.
    """

    def __init__(self, bodies: Sequence[RigidBody], lighting: Lighting) -> None:
        self.bodies, self._lighting = tuple(bodies), lighting
        self._scene_type, self._mesh_type = _embree()
        textures: list[np.ndarray] = []
        surface: list[tuple[float, ...]] = []
        material_start = []
        for body in bodies:
            material_start.append(len(textures))
            for m in body.materials:
                textures.append(m.texture)
                surface.append((m.gloss, m.exponent, m.metal, m.emission))
        self._atlas = Atlas(textures)
        self._surface = np.asarray(surface, np.float32)
        starts = np.cumsum([0] + [len(b.mesh.vertices) for b in bodies])
        self._range = list(itertools.pairwise(starts.tolist()))
        self._local = np.concatenate([b.mesh.vertices for b in bodies])
        self._local_normals = np.concatenate([b.mesh.normals for b in bodies])
        self._faces = np.concatenate([b.mesh.faces + s for b, s in zip(bodies, starts, strict=False)]).astype(np.int32)
        uv = np.concatenate([b.mesh.uv for b in bodies])
        self._face_uv = uv[self._faces].reshape(-1, 6)
        self._buffers: dict[str, FrameBuffer] = {}
        self._local_spheres = [_spheres(b.mesh) for b in bodies]
        self._face_body = np.concatenate([np.full(len(b.mesh.faces), i, np.int32) for i, b in enumerate(bodies)])
        self._face_material = np.concatenate([b.mesh.part + m for b, m in zip(bodies, material_start, strict=True)])
        self._body_label = np.array([b.label for b in bodies], np.int16)
        corner = self._local[self._faces]
        area = np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1)
        t = uv[self._faces]
        texels = np.abs(
            (t[:, 1, 0] - t[:, 0, 0]) * (t[:, 2, 1] - t[:, 0, 1])
            - (t[:, 2, 0] - t[:, 0, 0]) * (t[:, 1, 1] - t[:, 0, 1])
        )
        texels = texels * self._atlas.sizes_wh[self._face_material].prod(1)
        self._texels_per_m = np.sqrt(np.maximum(texels, 1e-6) / np.maximum(area, 1e-12)).astype(np.float32)

    def pose(self, poses: BodyPoses) -> None:
        """Place all bodies and build the acceleration structure.

        Args:
            poses: of the B bodies.
        """
        self._poses = poses
        vertices, normals = np.empty_like(self._local), np.empty_like(self._local_normals)
        for (a, b), r, t in zip(self._range, poses.rotation, poses.translation, strict=True):
            p, n = self._local[a:b], self._local_normals[a:b]
            vertices[a:b] = p[:, :1] * r[:, 0] + p[:, 1:2] * r[:, 1] + p[:, 2:] * r[:, 2] + t
            normals[a:b] = n[:, :1] * r[:, 0] + n[:, 1:2] * r[:, 1] + n[:, 2:] * r[:, 2]
        self._face_normals = normals[self._faces].reshape(-1, 9)
        self._scene = self._scene_type()
        self._mesh = self._mesh_type(self._scene, vertices, self._faces)

    def render(
        self, camera: Camera, before: tuple[BodyPoses, Camera] | None = None, keep: bool = False
    ) -> RenderedImage:
        """Trace one frame.

        Args:
            camera: at this instant.
            before: poses and camera at the start of the exposure; then ``flow_px`` is returned.
            keep: the camera stands still: trace again only what can have changed since its last frame (what moved,
                and what it shades or used to shade). Labels are the same either way.

        Returns:
            the image at the camera's size ``(H, W)``.
        """
        h, w = camera.size_hw
        y, x = np.divmod(np.arange(h * w), w)
        buffer = self._buffers.get(camera.name) if keep else None
        if buffer is None:
            buffer = FrameBuffer(h * w, camera, x, y)
            todo = buffer.inside
        else:
            moved = self._moved(buffer.poses)
            todo = buffer.inside & stale_pixels(camera, buffer.dirs, buffer.depth, moved, self._lighting.key)
        buffer.poses = self._poses
        if keep:
            self._buffers[camera.name] = buffer
        pick = np.flatnonzero(todo)
        flow = None if before is None else np.zeros((h * w, 2), np.float32)
        motion = None if before is None else self._motion(before[0])
        hits = []
        blocks = np.array_split(pick, max(1, len(pick) // _BLOCK)) if len(pick) else []
        for at in blocks:
            hit = self._trace(camera, buffer.dirs[at])
            hits.append(hit)
            buffer.vis[at] = self._visibility(hit, (x[at], y[at]))
            side = np.round(hit["flat"] * np.float32(1.3)).astype(np.int32) + 1
            buffer.key[at] = hit["material"] * 27 + side[:, 0] + side[:, 1] * 3 + side[:, 2] * 9
            buffer.labels[at], buffer.depth[at] = self._body_label[hit["body"]], hit["t"]
            if flow is not None and before is not None and motion is not None:
                flow[at] = _flow(camera, hit, motion, before[1])
        if len(pick):
            top, end = max(0, int(y[pick[0]]) - 6), min(h, int(y[pick[-1]]) + 7)
            left, right = max(0, int(x[pick].min()) - 6), min(w, int(x[pick].max()) + 7)
            part = np.s_[top:end, left:right]
            soft = buffer.vis.reshape(h, w, 2).copy()
            soft[part] = _smooth(soft[part], buffer.key.reshape(h, w)[part])
            flat_soft = soft.reshape(-1, 2)
            for at, hit in zip(blocks, hits, strict=True):
                buffer.light[at] = self._shade(hit, buffer.dirs[at], flat_soft[at], 1 / camera.focal_px)
            self._smooth_edges(camera, buffer, todo, flat_soft)
        return RenderedImage(
            buffer.light.reshape(h, w, 3).copy(),
            buffer.labels.reshape(h, w).copy(),
            None if flow is None else flow.reshape(h, w, 2),
        )

    def _moved(self, old: BodyPoses) -> list[tuple[np.ndarray, float]]:
        """Spheres (centre ``(3,)``, radius) about all that moved, where it was and where it is."""
        changed = np.flatnonzero(
            (np.abs(self._poses.rotation - old.rotation).max((1, 2)) > 1e-7)
            | (np.abs(self._poses.translation - old.translation).max(1) > 1e-7)
        )
        spheres: list[tuple[np.ndarray, float]] = []
        for poses in (old, self._poses):
            group: list[tuple[np.ndarray, float]] = []
            for i in changed.tolist():
                for local, radius in self._local_spheres[i]:
                    centre = poses.rotation[i] @ local + poses.translation[i]
                    for k, (c, r) in enumerate(group):
                        wide = max(r, float(np.linalg.norm(centre - c)) + radius)
                        if wide < 0.12:
                            group[k] = (c, wide)
                            break
                    else:
                        group.append((centre, radius))
            spheres.extend(group)
        return spheres

    def _trace(self, camera: Camera, dirs: np.ndarray) -> dict[str, np.ndarray]:
        origin = np.broadcast_to(camera.position.astype(np.float32), dirs.shape)
        out = self._scene.run(np.ascontiguousarray(origin), np.ascontiguousarray(dirs), query="INTERSECT", output=1)
        face = np.maximum(out["primID"], 0)
        t = np.minimum(out["tfar"], np.float32(1e3))
        u, v = out["u"][:, None], out["v"][:, None]
        n9 = self._face_normals[face]
        normal = n9[:, :3] * (1 - u - v) + n9[:, 3:6] * u + n9[:, 6:] * v
        flat = out["Ng"] / np.maximum(np.sqrt(_dot(out["Ng"], out["Ng"])), 1e-20)[:, None]
        flat = np.where((_dot(flat, dirs) > 0)[:, None], -flat, flat)
        normal = np.where((_dot(normal, flat) < 0)[:, None], -normal, normal)
        normal = normal / np.maximum(np.sqrt(_dot(normal, normal)), 1e-6)[:, None]
        u6 = self._face_uv[face]
        uv = u6[:, :2] * (1 - u - v) + u6[:, 2:4] * u + u6[:, 4:] * v
        point = origin + dirs * t[:, None]
        return {
            "t": t,
            "face": face,
            "normal": normal,
            "flat": flat,
            "uv": uv,
            "body": self._face_body[face],
            "material": self._face_material[face],
            "point": point,
        }

    def _unoccluded(self, origin: np.ndarray, target_dir: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """``(N,)`` float32: 1 where nothing is hit within ``reach``, 0 elsewhere."""
        hit = self._scene.run(
            np.ascontiguousarray(origin, np.float32),
            np.ascontiguousarray(target_dir, np.float32),
            np.ascontiguousarray(reach, np.float32),
            query="OCCLUDED",
        )
        return (hit < 0).astype(np.float32)

    def _visibility(
        self, hit: dict[str, np.ndarray], grain: tuple[np.ndarray, np.ndarray], ambient: bool = True
    ) -> np.ndarray:
        """Visibility ``(N, 2)`` of the key light and of the near surroundings, one ray each (smoothed later)."""
        start = hit["point"] + hit["flat"] * np.float32(1.5e-3)
        n = hit["normal"]
        out = np.zeros((len(start), 2), np.float32)
        x, y = (g.astype(np.float64) for g in grain)
        lamp = self._lighting.key
        a = ((x * 0.7548776662 + y * 0.5698402910) % 1 * 2 - 1).astype(np.float32)
        b = ((x * 0.5545497 + y * 0.308517) % 1 * 2 - 1).astype(np.float32)
        way = (
            lamp.centre.astype(np.float32)
            + a[:, None] * lamp.half_a.astype(np.float32)
            + b[:, None] * lamp.half_b.astype(np.float32)
        ) - start
        reach = np.sqrt(_dot(way, way))
        way /= reach[:, None]
        facing = np.flatnonzero(_dot(way, n) > 0)
        out[facing, 0] = self._unoccluded(start[facing], way[facing], reach[facing] - np.float32(0.02))
        if ambient:
            phi = (2 * np.pi * ((x * 0.8191725134 + y * 0.6710436067) % 1)).astype(np.float32)
            b = ((x * 0.2451223338 + y * 0.6180339887) % 1).astype(np.float32)
            # A frame about the normal without branches or cross products (Duff et al., JCGT 2017).
            sign = np.where(n[:, 2] >= 0, np.float32(1), np.float32(-1))
            c = -1 / (sign + n[:, 2])
            d = n[:, 0] * n[:, 1] * c
            r = np.sqrt(b)
            u, v, w = r * np.cos(phi), r * np.sin(phi), np.sqrt(1 - b)
            way = np.stack(
                [
                    (1 + sign * n[:, 0] ** 2 * c) * u + d * v + n[:, 0] * w,
                    sign * d * u + (sign + n[:, 1] ** 2 * c) * v + n[:, 1] * w,
                    -sign * n[:, 0] * u - n[:, 1] * v + n[:, 2] * w,
                ],
                -1,
            )
            out[:, 1] = self._unoccluded(start, way, np.full(len(way), AMBIENT_REACH_M, np.float32))
        return out

    def _shade(self, hit: dict[str, np.ndarray], dirs: np.ndarray, vis: np.ndarray, pixel_rad: float) -> np.ndarray:
        """Light ``(N, 3)`` that leaves the hit points towards the camera."""
        n, p = hit["normal"], hit["point"]
        facing = np.maximum(-_dot(n, dirs), 0.05)
        texel = self._texels_per_m[hit["face"]] * hit["t"] * np.float32(pixel_rad)
        level = np.log2(np.maximum(texel / np.sqrt(facing), 1e-3)) - np.float32(0.2)
        colour = self._atlas.sample(hit["material"], hit["uv"][:, 0], hit["uv"][:, 1], level)
        gloss, exponent, metal, emission = (self._surface[hit["material"]][:, k, None] for k in range(4))
        sky = n[:, 2:] * np.float32(0.5) + np.float32(0.5)
        light = self._lighting
        diffuse = (light.above * sky + light.below * (1 - sky)).astype(np.float32) * (0.15 + 0.85 * vis[:, 1:])
        shine = np.zeros_like(diffuse)
        for lamp, column in ((light.key, 0), (light.fill, 1)):  # the fill light is large: only what is near shades it
            way = lamp.centre.astype(np.float32) - p
            d2 = _dot(way, way)[:, None]
            way = way / np.sqrt(d2)
            power = lamp.power.astype(np.float32) / d2 * vis[:, column : column + 1]
            diffuse += power * np.maximum(_dot(n, way), 0)[:, None]
            if column:
                continue
            half = way - dirs
            half = half / np.sqrt(_dot(half, half))[:, None]
            shine += power * (exponent + 8) / 40 * np.maximum(_dot(n, half), 0)[:, None] ** exponent
        back = dirs + 2 * facing[:, None] * n
        env = self._surroundings(back) * (0.3 + 0.7 * vis[:, 1:])
        fresnel = (1 - facing[:, None]) ** 5
        mirror = gloss * (0.05 + 0.35 * fresnel) * (1 - metal) + metal * 0.55
        tint = 1 - metal + metal * colour
        out = colour * diffuse * (1 - 0.75 * metal) + tint * (shine * gloss * (0.12 + 0.5 * metal) + env * mirror)
        return np.asarray(out + emission * colour, np.float32)

    def _surroundings(self, way: np.ndarray) -> np.ndarray:
        """What a mirror reflects ``(N, 3)``: bright lights, a lit upper room, a darker floor."""
        light = self._lighting
        up = way[:, 2:]
        room = light.above * np.clip(0.55 + 0.6 * up, 0.1, 1.2) + light.below * np.clip(-up, 0, 1)
        for lamp in (light.key, light.fill):
            ahead = lamp.centre / np.linalg.norm(lamp.centre)
            glow = np.clip((_dot(way, ahead.astype(np.float32)) - 0.90) / 0.07, 0, 1)[:, None]
            room = room + lamp.power * 0.35 * glow * glow
        return np.asarray(room, np.float32)

    def _smooth_edges(self, camera: Camera, buffer: FrameBuffer, todo: np.ndarray, soft: np.ndarray) -> None:
        """Replace the light of the edge pixels among ``todo`` by the mean of five samples."""
        h, w = camera.size_hw
        k, d = buffer.key.reshape(h, w) // 27, buffer.depth.reshape(h, w)
        edge = np.zeros((h, w), bool)
        for a, b in (
            ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
            ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
        ):
            jump = (k[a] != k[b]) | (np.abs(d[a] - d[b]) > 0.03 * np.minimum(d[a], d[b]) + 0.004)
            edge[a] |= jump
            edge[b] |= jump
        edges = np.flatnonzero(edge.ravel() & todo & (buffer.key >= 0))
        for pick in np.array_split(edges, max(1, len(edges) // _BLOCK)):
            y, x = np.divmod(pick, w)
            total = buffer.light[pick]
            for i, (dx, dy) in enumerate(_EDGE_SAMPLES):
                dirs, _ = camera.rays(x + 0.5 + dx, y + 0.5 + dy)
                hit = self._trace(camera, dirs)
                vis = self._visibility(hit, (x * 2 + i, y * 2 + 3 * i), ambient=False)
                vis[:, 1] = soft[pick, 1]
                total += np.minimum(self._shade(hit, dirs, vis, 1 / camera.focal_px), 4.0)
            buffer.light[pick] = total / (1 + len(_EDGE_SAMPLES))

    def _motion(self, old: BodyPoses) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per body: rotation and translation that take it back to ``old``, and whether it moved at all."""
        now = self._poses
        rotation = np.einsum("bij,bkj->bik", old.rotation, now.rotation).astype(np.float32)
        translation = old.translation - np.einsum("bij,bj->bi", rotation, now.translation)
        return (
            rotation,
            translation,
            (np.abs(rotation - np.eye(3)).max((1, 2)) > 1e-6) | (np.abs(translation).max(1) > 1e-6),
        )


def _flow(
    camera: Camera, hit: dict[str, np.ndarray], motion: tuple[np.ndarray, np.ndarray, np.ndarray], old_camera: Camera
) -> np.ndarray:
    """Motion ``(N, 2)``, px, of the hit points since the start of the exposure."""
    rotation, translation, moved = motion
    p, body = hit["point"], hit["body"]
    past = p.copy()
    rows = np.flatnonzero(moved[body])
    past[rows] = np.einsum("nij,nj->ni", rotation[body[rows]], p[rows]) + translation[body[rows]]
    a, _ = camera.project(p)
    b, _ = old_camera.project(past)
    return np.asarray(a - b, np.float32)


def _spheres(mesh: Mesh) -> list[tuple[np.ndarray, float]]:
    """Spheres (centre ``(3,)``, radius) in a row along a mesh's longest side that together hold it."""
    low, high = (x.astype(float) for x in mesh.bounds)
    size = high - low
    long = int(size.argmax())
    count = int(np.clip(np.ceil(size[long] / max(np.delete(size, long).max(), 1e-3)), 1, 5))
    piece = size.copy()
    piece[long] /= count
    out = []
    for k in range(count):
        corner = low.copy()
        corner[long] += k * piece[long]
        out.append((corner + piece / 2, float(np.linalg.norm(piece)) / 2))
    return out


def _smooth(values: np.ndarray, key: np.ndarray, reach: int = 2) -> np.ndarray:
    """Box mean of ``(H, W, C)`` over neighbours with the same key, first along rows, then along columns."""
    for axis in (1, 0):
        total, count = values.copy(), np.ones(key.shape, np.float32)
        for step in range(1, reach + 1):
            n = key.shape[axis] - step
            lead = tuple(slice(step, None) if k == axis else slice(None) for k in range(2))
            lag = tuple(slice(None, n) if k == axis else slice(None) for k in range(2))
            same = (key[lead] == key[lag]).astype(np.float32)
            total[lead] += values[lag] * same[..., None]
            total[lag] += values[lead] * same[..., None]
            count[lead] += same
            count[lag] += same
        values = total / count[..., None]
    return values
