"""All textures of a scene in one image with mip levels, so that a whole frame is sampled by one ``cv2.remap``."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

__all__ = ["Atlas"]

_WIDTH, _EDGE, _LEVELS = 2048, 2, 6


class Atlas:
    """Texture atlas.

    Args:
        textures: K textures, ``(H, W, 3)`` uint8 each, at most 2000 px wide.

    Attributes:
        sizes_wh: ``(K, 2)`` float32, width and height of each texture.
    """

    def __init__(self, textures: Sequence[np.ndarray]) -> None:
        tiles: list[tuple[int, int, np.ndarray]] = []
        for k, texture in enumerate(textures):
            level = np.ascontiguousarray(texture)
            for m in range(_LEVELS):
                tiles.append((k, m, level))
                h, w = level.shape[:2]
                if min(h, w) >= 8:
                    level = cv2.resize(level, (w // 2, h // 2), interpolation=cv2.INTER_AREA)
        tiles.sort(key=lambda t: (-t[2].shape[0], t[0], t[1]))
        x = y = shelf = 0
        self._start = np.zeros((len(textures), _LEVELS, 2), np.float32)
        self._size = np.zeros((len(textures), _LEVELS, 2), np.float32)
        places = []
        for k, m, level in tiles:
            h, w = level.shape[:2]
            if x + w + 2 * _EDGE > _WIDTH:
                x, y, shelf = 0, y + shelf, 0
            places.append((x, y, level))
            self._start[k, m] = x + _EDGE, y + _EDGE
            self._size[k, m] = w, h
            x, shelf = x + w + 2 * _EDGE, max(shelf, h + 2 * _EDGE)
        self._sheet = np.zeros((y + shelf, _WIDTH, 3), np.uint8)
        for x, y, level in places:
            h, w = level.shape[:2]
            self._sheet[y : y + h + 2 * _EDGE, x : x + w + 2 * _EDGE] = cv2.copyMakeBorder(
                level, _EDGE, _EDGE, _EDGE, _EDGE, cv2.BORDER_WRAP
            )
        self.sizes_wh = self._size[:, 0]

    def sample(self, texture: np.ndarray, u: np.ndarray, v: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Colours ``(N, 3)`` float32 in [0, 1], linear light (gamma 2).

        Args:
            texture: ``(N,)`` index of the texture.
            u: ``(N,)`` coordinate to the right; textures repeat.
            v: ``(N,)`` coordinate downwards.
            level: ``(N,)`` mip level, rounded to the nearest.
        """
        if len(texture) == 0:  # a view of one surface has no edges to sample again
            return np.zeros((0, 3), np.float32)
        m = np.clip(level + 0.5, 0, _LEVELS - 1).astype(np.int32)
        flat = texture * _LEVELS + m
        start = self._start.reshape(-1, 2)[flat]
        size = self._size.reshape(-1, 2)[flat]
        x = start[:, 0] + (u - np.floor(u)) * size[:, 0] - np.float32(0.5)
        y = start[:, 1] + (v - np.floor(v)) * size[:, 1] - np.float32(0.5)
        n = len(x)
        rows = -(-n // 4096)
        pad = rows * 4096 - n
        grid_x = np.pad(x, (0, pad)).reshape(rows, 4096).astype(np.float32)
        grid_y = np.pad(y, (0, pad)).reshape(rows, 4096).astype(np.float32)
        out = cv2.remap(self._sheet, grid_x, grid_y, cv2.INTER_LINEAR).reshape(-1, 3)[:n]
        colour = out.astype(np.float32) * np.float32(1 / 255)
        return colour * colour
