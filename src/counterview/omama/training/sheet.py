"""A contact sheet of what a model matches: query, match and truth, for the same few validation pairs every time."""

from __future__ import annotations

import numpy as np

from counterview.masks.draw import PALETTE, contact_sheet, overlay, side_by_side
from counterview.masks.geometry import fit_mask
from counterview.omama.training.validation import MatchingModel, OMaMaValidator, ScoredMatch
from counterview.types import RgbImage

QUERY, MATCH, TRUTH = PALETTE[0], PALETTE[1], PALETTE[2]


def match_sheet(validator: OMaMaValidator, model: MatchingModel, *, count: int = 12) -> RgbImage | None:
    """Draw matches, evenly spread over the validation pairs.

    Each tile shows the query object (blue) in its image, and in the target image the match (red) over the
    truth (green).

    Args:
        validator: of the validation pairs.
        model: matches them.
        count: number of tiles at most.

    Returns:
        ``(H, W, 3)`` uint8; ``None`` if there is no pair.
    """
    groups = validator.groups
    if not groups:
        return None
    tiles, captions = [], []
    for index in np.unique(np.linspace(0, len(groups) - 1, count).astype(int)):
        numbers = groups[index]
        rows = {row.number: row for row in validator.match_pairs(model, numbers)}
        number = next((n for n in numbers if rows[n].visible), numbers[0])
        tile, caption = _tile(validator, rows[number])
        tiles.append(tile)
        captions.append(caption)
    return contact_sheet(tiles, columns=3, captions=captions, tile_height_px=200)


def _tile(validator: OMaMaValidator, row: ScoredMatch) -> tuple[RgbImage, str]:
    """Both images of a pair beside each other, ``(H, W, 3)``, and a caption."""
    pair = validator.pairs[row.number][1]
    take = validator.dataset.take(pair.take)
    query = take.frame(pair.query_camera, pair.frame)
    target = take.frame(pair.target_camera, pair.frame)
    mask = take.mask(pair.object, pair.query_camera, pair.frame)
    left = overlay(
        query, [fit_mask(mask, query.shape[:2])] if mask is not None else [], colors=[QUERY][: mask is not None]
    )
    masks, colours = [], []
    truth = take.mask(pair.object, pair.target_camera, pair.frame) if row.visible else None
    if truth is not None:
        masks.append(fit_mask(truth, target.shape[:2]))
        colours.append(TRUTH)
    if row.proposal >= 0:
        chosen = validator.store.proposals(take, pair.target_camera, pair.frame).masks[row.proposal]
        masks.append(fit_mask(chosen, target.shape[:2]))
        colours.append(MATCH)
    right = overlay(target, masks, colors=colours)
    score = f"IoU {row.scores[0]:.2f}" if row.scores else "absent"
    return side_by_side(left, right), f"{pair.object}: {score}, visible {row.confidence:.2f}"
