"""Objects of photographs, as they are and with the target image taken by another camera.

``python -m benchmarks.photographs FOLDER [--save]``

The folder holds pairs of photographs ``NAME_a.jpg`` and ``NAME_b.jpg``, and a mask ``NAME_a_OBJECT.png`` and
``NAME_b_OBJECT.png`` (white is inside) of every object. Every object is asked for in both directions. Proposals are
made once with the images as they are, and once from the changed image (``own proposals``). Changes are those of
:mod:`counterview.evaluation.camera_change`; of the drawn ones there are :data:`DRAWS` for each image.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.common import decimals, record, show
from benchmarks.held_out_systems import BEST, DRAWN, MATCH, Systems
from counterview.errors import CounterviewError, InputError
from counterview.evaluation.camera_change import CHANGES, CameraChange, draw_change
from counterview.inference import ProposalMatcher, load
from counterview.inference.matchers import HeadMatcher
from counterview.masks.geometry import iou
from counterview.masks.png import read_mask
from counterview.media.images import read_image
from counterview.proposals.base import Proposals
from counterview.tiny import TinyMatchConfig
from counterview.types import ObjectMask, RgbImage

DRAWS = 5
VISIBLE = 0.5
PLAIN = "plain"
UNALIGNED = "tiny-match, cameras not brought to one look"
SIDES = ("a", "b")


@dataclass(frozen=True)
class Photographs:
    """A pair of photographs: by side the image, and the masks by name of the object."""

    name: str
    images: Mapping[str, RgbImage]
    masks: Mapping[str, Mapping[str, ObjectMask]]


def read_pairs(folder: Path) -> Iterator[Photographs]:
    """All pairs of a folder.

    Raises:
        InputError: none, or an object without its mask in one of the two.
    """
    names = sorted(path.name.removesuffix("_a.jpg") for path in folder.glob("*_a.jpg"))
    if not names:
        raise InputError("no photographs", path=folder, expected="NAME_a.jpg and NAME_b.jpg")
    for name in names:
        objects = sorted(path.stem.removeprefix(f"{name}_a_") for path in folder.glob(f"{name}_a_*.png"))
        masks = {
            side: {o: ObjectMask.from_array(read_mask(folder / f"{name}_{side}_{o}.png")) for o in objects}
            for side in SIDES
        }
        yield Photographs(name, {side: read_image(folder / f"{name}_{side}.jpg") for side in SIDES}, masks)


def changes(name: str) -> list[tuple[CameraChange | None, int]]:
    """The changes of a case, each with the seed of its noise."""
    if name == PLAIN:
        return [(None, 0)]
    if name == DRAWN:
        return [(draw_change(np.random.default_rng(seed)), seed) for seed in range(DRAWS)]
    return [(CHANGES[name], 0)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--match", help="matcher to measure, any model name; by default the bundled tiny-match")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", default="photographs", help="name of the results file, with --save")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    try:
        pairs = list(read_pairs(options.folder))
        systems = Systems.make(options.match, None, None, str(options.folder / ".unused"), options.device)
    except CounterviewError as error:
        print(f"photographs: {error}")
        return error.exit_code
    proposer = systems.proposer.proposer  # type: ignore[attr-defined]
    matchers = {
        name: ProposalMatcher(proposer, system.backbone, system.matcher) for name, system in systems.matchers.items()
    }
    unaligned = without_alignment(options.match, options.device)
    if unaligned is not None:
        matchers[UNALIGNED] = unaligned
    cases = [PLAIN, *CHANGES, DRAWN]
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for pair in pairs:
        plain = {side: proposer(pair.images[side], None) for side in SIDES}
        queries = {(n, side): m.encode(pair.images[side], plain[side]) for n, m in matchers.items() for side in SIDES}
        for case in tqdm(cases, desc=pair.name, unit="change"):
            for change, seed in changes(case):
                for side in SIDES:
                    image = pair.images[side] if change is None else change.apply(pair.images[side], seed)
                    own = plain[side] if change is None else proposer(image, None)
                    for kind, proposals in (("same proposals", plain[side]), ("own proposals", own)):
                        for name, rows in asked(matchers, queries, pair, side, image, proposals).items():
                            found.setdefault((kind, name, case), []).extend(rows)
    result = {"pairs": len(pairs), "objects": sum(len(p.masks["a"]) for p in pairs), "draws": DRAWS, "cases": {}}
    for kind in ("same proposals", "own proposals"):
        names = [*matchers, BEST]
        table = {
            name: {
                case: {
                    "iou": float(np.mean([row[0] for row in found[kind, name, case]])),
                    "called_visible": float(np.mean([row[1] > VISIBLE for row in found[kind, name, case]])),
                    "least_visibility": float(min(row[1] for row in found[kind, name, case])),
                }
                for case in cases
            }
            for name in names
        }
        result["cases"][kind] = table
        show(f"\nIoU, {kind}", ["", *cases], [[n, *(decimals(table[n][c]["iou"]) for c in cases)] for n in names])
        called = [[n, *(decimals(table[n][c]["called_visible"]) for c in cases)] for n in names[:-1]]
        show(f"\nFraction of the objects, which are all there, that are called visible, {kind}", ["", *cases], called)
    record(options.name, result, save=options.save)
    return 0


def without_alignment(name: str | None, device: str) -> ProposalMatcher | None:
    """The matcher without this part; ``None`` if it has none."""
    model = load(name or MATCH, device=device)
    matcher = model.matcher if isinstance(model, ProposalMatcher) else None
    config = matcher.model.config if isinstance(matcher, HeadMatcher) else None
    if not isinstance(model, ProposalMatcher) or not isinstance(config, TinyMatchConfig) or config.alignment is None:
        return None
    model.matcher.model.config = replace(config, alignment=None)  # type: ignore[attr-defined]
    return model


def asked(
    matchers: Mapping[str, ProposalMatcher],
    queries: Mapping[tuple[str, str], Any],
    pair: Photographs,
    side: str,
    image: RgbImage,
    proposals: Proposals,
) -> dict[str, list[tuple[float, float]]]:
    """IoU and visibility of all objects in the target image ``(H, W, 3)`` of one side, by system."""
    other = SIDES[1 - SIDES.index(side)]
    names, truth = list(pair.masks[other]), pair.masks[side]
    rows: dict[str, list[tuple[float, float]]] = {}
    for name, matcher in matchers.items():
        target = matcher.encode(image, proposals)
        matches = matcher.match_encoded(
            queries[name, other], [pair.masks[other][n] for n in names], target, names=names
        )
        rows[name] = [(iou(m.mask_rle, truth[m.name]), m.visibility) for m in matches]
    rows[BEST] = [(max(iou(mask, truth[n]) for mask in proposals.masks), 1.0) for n in names]
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
