"""``counterview match``: find objects of one image in another image."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from counterview.errors import InputError
from counterview.inference.bundled import default_model

if TYPE_CHECKING:
    from counterview.inference.prompts import Box, Point
    from counterview.types import Match, ObjectMask, RgbImage


def match(
    query: Annotated[Path, typer.Argument(help="Image with the object.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="Image in which to find it.", show_default=False)],
    mask: Annotated[
        list[Path] | None,
        typer.Option(help="PNG mask of the object in QUERY, white on black. Repeat for several objects."),
    ] = None,
    label: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            help="Value of the object where the mask is a label image or a palette PNG. Repeat for several objects of "
            "one mask, or give one for each mask.",
        ),
    ] = None,
    mask_orientation: Annotated[
        str,
        typer.Option(
            help="What the masks were drawn on where QUERY has an EXIF orientation: upright (as viewers show it), raw "
            "(its stored pixels), or auto (what their size says).",
        ),
    ] = "auto",
    point: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y", help="A pixel of the object in QUERY. Repeat for several objects."),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="X1,Y1,X2,Y2", help="A box around the object in QUERY. Repeat for several objects."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="knn, tiny, base (DINOv2-B and SAM 2.1), geometric[:MATCHER], a model folder, a recipe, or a Hub id.",
            show_default=default_model(),
        ),
    ] = None,
    proposals: Annotated[
        str | None,
        typer.Option(help="graph (default of knn and geometric), tiny, sam2[:ID or FOLDER], fastsam, or folder:PATH."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="For knn: classical (default), tiny, dinov2-base[-reg], clip, dinov3, a Hub id, or a folder."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for match.json, mask.png and overlay.png.")] = Path(
        "counterview-match"
    ),
    top: Annotated[int, typer.Option(min=1, max=100, help="Number of candidates for each object.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    cache: Annotated[Path | None, typer.Option(help="Folder in which proposals are stored for the next run.")] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Open what the model names outside its folder, and read weights that are pickles (FastSAM's).",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print match.json and nothing else.")] = False,
) -> None:
    """Find objects of the image QUERY, given by masks, points or boxes, in the image TARGET."""
    from counterview.devices import resolve_device
    from counterview.inference.loading import load
    from counterview.inference.prompts import check_prompt, check_shape
    from counterview.inference.proposal_matcher import ProposalMatcher
    from counterview.media.images import read_image, read_oriented
    from counterview.proposals.base import file_name

    resolve_device(device)
    check_prompts(mask or [], point or [], box or [], label or [])
    (query_image, query_turn), target_image = read_oriented(query), read_image(target)
    prompts, prompt_notes = read_prompts(
        mask or [], point or [], box or [], label or [],
        image_hw=query_image.shape[:2], image_orientation=query_turn, orientation=mask_orientation,
    )  # fmt: skip
    check_shape(query_image.shape[:2], "query image")
    check_shape(target_image.shape[:2], "target image")
    for name, prompt in prompts.items():  # before anything is loaded or encoded
        check_prompt(prompt, query_image.shape[:2], name)
    predictor = load(model, proposals=proposals, features=features, device=device, cache=cache, trust=trust)
    names = list(prompts)
    # Points and boxes choose among the query image's proposals; a mask may do without them.
    if isinstance(predictor, ProposalMatcher) and not (point or box):
        encoded_query = predictor.encode_query(query_image, name=file_name(query))
    else:
        encoded_query = predictor.encode(query_image, name=file_name(query))
    masks = [predictor.resolve(encoded_query, prompt, name) for name, prompt in prompts.items()]
    matches = predictor.match_encoded(
        encoded_query, masks, predictor.encode(target_image, name=file_name(target)), names=names, top_k=top
    )
    matches = [replace(m, notes=(*prompt_notes.get(m.name or "", ()), *m.notes)) for m in matches]
    result = describe(query, target, query_image, target_image, masks, matches, predictor.settings())
    paths = write(out, result, query_image, target_image, masks, matches)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    for item in matches:
        verdict = "visible" if item.visibility > 0.5 else "probably not visible"
        x, y, width, height = item.mask_rle.box_xywh
        print(
            f"{item.name}: {verdict} (visibility {item.visibility:.2f}, similarity {item.similarity:.3f}), "
            f"box x={x} y={y} w={width} h={height}"
        )
        for note in item.notes:
            print(f"{item.name}: note: {note}", file=sys.stderr)
    print("written: " + ", ".join(str(path) for path in paths))


def check_prompts(masks: list[Path], points: list[str], boxes: list[str], labels: list[int]) -> None:
    """Refuse options that do not go together, before anything is read.

    Raises:
        InputError: no object, or labels that do not belong to the masks one to one.
    """
    if not masks and not points and not boxes:
        raise InputError("no object was given", expected="at least one --mask, --point or --box")
    if labels and len(masks) != 1 and len(labels) not in (1, len(masks)):
        raise InputError(
            "--label does not belong to the masks", found=f"{len(labels)} labels, {len(masks)} masks",
            expected="one mask with labels, or a label for each mask",
        )  # fmt: skip
    if labels and not masks:
        raise InputError("--label needs a mask", expected="--mask FILE --label N")


def read_prompts(
    masks: list[Path],
    points: list[str],
    boxes: list[str],
    labels: list[int] | None = None,
    *,
    image_hw: tuple[int, ...] = (),
    image_orientation: int = 1,
    orientation: str = "auto",
) -> tuple[dict[str, ObjectMask | Point | Box], dict[str, tuple[str, ...]]]:
    """Read the query objects of the command line.

    Args:
        masks: files.
        points: texts ``X,Y``.
        boxes: texts ``X1,Y1,X2,Y2``.
        labels: of one mask, one for each mask, or one for all of them; none if they hold one object each.
        image_hw: height and width of the upright query image, in pixels.
        image_orientation: EXIF orientation of the query image's file.
        orientation: what the masks were drawn on: ``auto``, ``upright`` or ``raw``.

    Returns:
        name to prompt, in the order masks, points, boxes, and name to notes on how a mask was read. A mask is named
        after its file, and one of several labels after both.

    Raises:
        InputError: no object, a malformed point or box, or a file that does not exist.
        MaskError: a file that is not a mask.
        ConfigError: an unknown orientation.
    """
    from counterview.inference.prompts import Box, Point
    from counterview.masks.orientation import read_mask_of
    from counterview.types import ObjectMask

    prompts: dict[str, Any] = {}
    notes: dict[str, tuple[str, ...]] = {}
    check_prompts(masks, points, boxes, labels or [])

    def add(name: str, prompt: ObjectMask | Point | Box, said: tuple[str, ...] = ()) -> None:
        unique, number = name, 2
        while unique in prompts:
            unique, number = f"{name}-{number}", number + 1
        prompts[unique], notes[unique] = prompt, said

    wanted: list[tuple[Path, int | None]] = [(path, None) for path in masks]
    if labels:
        repeat = max(len(masks), len(labels))
        wanted = list(zip(masks * (repeat // len(masks)), labels * (repeat // len(labels)), strict=True))
    for path, label in wanted:
        mask, said = read_mask_of(
            path,
            (image_hw[0], image_hw[1]),
            image_orientation,
            label=label,
            orientation=orientation,  # type: ignore[arg-type]
        )
        name = f"{path.stem}-{label}" if labels and len(labels) > 1 and len(masks) == 1 else path.stem
        add(name, ObjectMask.from_array(mask), said)
    for text in points:
        add("point", Point(*_numbers(text, 2, "--point", "X,Y")))
    for text in boxes:
        add("box", Box(*_numbers(text, 4, "--box", "X1,Y1,X2,Y2")))
    return prompts, notes


def _numbers(text: str, count: int, option: str, form: str) -> list[float]:
    import math

    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(math.isfinite(n) for n in numbers):
        raise InputError(f"{option} is malformed", found=repr(text), expected=f"{form} in pixels")
    return numbers


def describe(
    query: Path,
    target: Path,
    query_image: RgbImage,
    target_image: RgbImage,
    masks: list[ObjectMask],
    matches: list[Match],
    settings: dict[str, Any],
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
    from importlib.metadata import version

    from counterview import __version__
    from counterview.masks.rle import to_coco

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
        "settings": settings,
        "versions": {"counterview": __version__, **{p: version(p) for p in ("torch", "transformers", "numpy")}},
    }


def write(
    out: Path,
    result: dict[str, Any],
    query_image: RgbImage,
    target_image: RgbImage,
    masks: list[ObjectMask],
    matches: list[Match],
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
    from counterview.inference.drawing import draw_match
    from counterview.masks.png import write_mask_png
    from counterview.media.files import write_json
    from counterview.media.images import write_image

    paths = []
    for item in matches:
        path = out / ("mask.png" if len(matches) == 1 else f"mask_{item.name}.png")
        write_mask_png(path, item.mask_rle)
        paths.append(path)
    write_image(out / "overlay.png", draw_match(query_image, masks, target_image, matches))
    write_json(out / "match.json", result)
    return [*paths, out / "overlay.png", out / "match.json"]
