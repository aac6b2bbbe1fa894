"""What a match of two images is written as: ``match.json``, the masks and an overlay."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from counterview import __version__
from counterview.inference.drawing import draw_match
from counterview.masks.png import write_mask_png
from counterview.masks.rle import to_coco
from counterview.media.files import write_json
from counterview.media.images import write_image
from counterview.types import Match, ObjectMask, RgbImage


def describe(
    query: str | os.PathLike[str],
    target: str | os.PathLike[str],
    query_image: RgbImage,
    target_image: RgbImage,
    masks: Sequence[ObjectMask],
    matches: Sequence[Match],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The contents of ``match.json``.

    Args:
        query: path of the query image.
        target: path of the target image.
        query_image: ``(H, W, 3)`` uint8.
        target_image: ``(H', W', 3)`` uint8.
        masks: the query masks ``(H, W)``.
        matches: one for each mask.
        settings: of the predictor.
    """
    return {
        "query": {"path": str(query), "size_hw": list(query_image.shape[:2])},
        "target": {"path": str(target), "size_hw": list(target_image.shape[:2])},
        "objects": [
            {
                "name": item.name,
                "query_mask": to_coco(query_mask),
                "mask": to_coco(item.mask_rle),
                "box_xywh": list(item.mask_rle.box_xywh),
                "similarity": item.similarity,
                "score": item.candidates[0].score if item.candidates else None,
                "visibility": item.visibility,
                "runners_up": [
                    {
                        "mask": to_coco(c.mask_rle),
                        "similarity": c.similarity,
                        "score": c.score,
                        "proposal": c.proposal,
                    }
                    for c in item.candidates[1:]
                ],
                "notes": list(item.notes),
            }
            for query_mask, item in zip(masks, matches, strict=True)
        ],
        "settings": dict(settings),
        "versions": {"counterview": __version__, **{p: version(p) for p in ("torch", "transformers", "numpy")}},
    }


def file_names(objects: Sequence[str]) -> list[str]:
    """Names of the files of :func:`write`, ``match.json`` last.

    Args:
        objects: names of the objects.
    """
    masks = ["mask.png"] if len(objects) == 1 else [f"mask_{name}.png" for name in objects]
    return [*masks, "overlay.png", "match.json"]


def write(
    out: Path,
    result: dict[str, Any],
    query_image: RgbImage,
    target_image: RgbImage,
    masks: Sequence[ObjectMask],
    matches: Sequence[Match],
) -> list[Path]:
    """Write the masks, ``overlay.png`` and, last, ``match.json``.

    Args:
        out: the folder.
        result: contents of ``match.json``.
        query_image: ``(H, W, 3)`` uint8.
        target_image: ``(H', W', 3)`` uint8.
        masks: the query masks ``(H, W)``.
        matches: one for each mask.

    Returns:
        the paths.
    """
    *mask_paths, overlay, record = [out / name for name in file_names([item.name for item in matches])]
    for path, item in zip(mask_paths, matches, strict=True):
        write_mask_png(path, item.mask_rle)
    write_image(overlay, draw_match(query_image, masks, target_image, matches))
    write_json(record, result)
    return [*mask_paths, overlay, record]
