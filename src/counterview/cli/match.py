"""``counterview match``: find objects of one image in another image."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from counterview.cli.options import Device, Dtype, ProposalCache, Refine, Runtime, Trust
from counterview.errors import InputError
from counterview.nn.bundled import default_model

if TYPE_CHECKING:
    from counterview.types import Match


def match(
    query: Annotated[Path, typer.Argument(help="Image with the object.", show_default=False)],
    target: Annotated[
        list[Path],
        typer.Argument(
            help="Image in which to find it; several, folders of images or patterns: each gets a folder below --out.",
            show_default=False,
        ),
    ],
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
        typer.Option(
            metavar="X,Y[+X,Y][-X,Y]",
            help="A pixel of the object in QUERY, further ones after +, pixels of the background after -. "
            "Repeat for several objects.",
        ),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X1,Y1,X2,Y2[+X,Y][-X,Y]",
            help="A box around the object in QUERY, with points as in --point. Repeat for several objects.",
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Name of an object. Repeat: names go to masks, then points, then boxes, as they were given."),
    ] = None,
    preview: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write an image of the query objects as they were taken.")
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
    device: Device = "auto",
    dtype: Dtype = "float32",
    cache: ProposalCache = None,
    trust: Trust = False,
    runtime: Runtime = "torch",
    refine: Refine = "none",
    as_json: Annotated[bool, typer.Option("--json", help="Print match.json and nothing else.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write into a folder with other files; only files of equal name go.")
    ] = False,
) -> None:
    """Find objects of the image QUERY, given by masks, points or boxes, in the image TARGET, or in several."""
    from counterview.cli.progress import stage
    from counterview.cli.prompts import check_prompts, read_prompts
    from counterview.cli.targets import target_images
    from counterview.devices import check_device
    from counterview.inference.drawing import draw_prompts
    from counterview.inference.loading import load
    from counterview.inference.match_output import describe, file_names, write
    from counterview.inference.prompted import PromptedPredictor
    from counterview.inference.prompts import check_prompt, check_shape
    from counterview.inference.proposal_matcher import ProposalMatcher
    from counterview.inference.runtime import is_onnx
    from counterview.media.files import check_name
    from counterview.media.images import check_image_name, read_image, read_oriented, write_image
    from counterview.media.outputs import (
        check_cache_folder,
        check_output_folder,
        claim_output_file,
        claim_output_folder,
    )
    from counterview.proposals.base import file_name

    check_output_folder(out, "match", is_own=_is_own, overwrite=overwrite)
    check_cache_folder(cache)
    if preview is not None:
        check_image_name(preview)
    if not is_onnx(runtime):
        check_device(device, dtype)
    check_prompts(mask or [], point or [], box or [], label or [])
    targets = target_images(target)
    (query_image, query_turn), target_image = read_oriented(query), read_image(next(iter(targets.values())))
    prompts, prompt_notes = read_prompts(
        mask or [], point or [], box or [], name or [], label or [],
        image_hw=query_image.shape[:2], image_orientation=query_turn, orientation=mask_orientation,
    )  # fmt: skip
    check_shape(query_image.shape[:2], "query image")
    check_shape(target_image.shape[:2], "target image")
    for key, prompt in prompts.items():  # before anything is loaded or encoded
        check_prompt(prompt, query_image.shape[:2], key)
    names = list(prompts)
    with ExitStack() as claims:
        if preview is not None:
            claims.enter_context(claim_output_file(preview, "an image", overwrite=overwrite))
        folder = claims.enter_context(claim_output_folder(out, "match", is_own=_is_own, overwrite=overwrite))
        earlier = _earlier_files(out)
        # One target keeps its files in the folder itself.
        places = {key: f"{check_name(key)}/" if len(targets) > 1 else "" for key in targets}
        folder.check_free([place + file for place in places.values() for file in file_names(names)], earlier)
        with stage("loading the model"):
            predictor = load(
                model,
                proposals=proposals,
                features=features,
                device=device,
                dtype=dtype,
                cache=cache,
                trust=trust,
                runtime=runtime,
                refine=refine,
            )
        with stage("encoding the query image"):
            # A mask may do without the query image's proposals; points and boxes make them when they are needed.
            encode = predictor.encode_query if isinstance(predictor, ProposalMatcher) else predictor.encode
            encoded_query = encode(query_image, name=file_name(query))
            selections = [predictor.select(encoded_query, prompt, key) for key, prompt in prompts.items()]
        masks = [selection.mask_rle for selection in selections]
        if preview is not None:
            write_image(preview, draw_prompts(query_image, prompts, masks))
        settings = predictor.settings()
        if isinstance(predictor, PromptedPredictor) and (point or box):
            settings["prompt_proposals"] = predictor.prompt_settings()
        results, paths = [], []
        with folder.replace(earlier) as staged:
            for number, (key, file) in enumerate(targets.items()):
                image = target_image if number == 0 else read_image(file)
                check_shape(image.shape[:2], "target image")
                with stage("encoding the target image" if len(targets) == 1 else f"encoding {file.name}"):
                    encoded_target = predictor.encode(image, name=file_name(file))
                with stage("matching"):
                    matches = predictor.match_encoded(encoded_query, masks, encoded_target, names=names, top_k=top)
                matches = [
                    replace(item, notes=(*prompt_notes.get(item.name, ()), *chosen.notes, *item.notes))
                    for item, chosen in zip(matches, selections, strict=True)
                ]
                results.append(describe(query, file, query_image, image, masks, matches, settings))
                place = staged / places[key] if places[key] else staged
                paths += [folder.final(p) for p in write(place, results[-1], query_image, image, masks, matches)]
                if not as_json:
                    _print_matches(matches, f"{key}: " if len(targets) > 1 else "")
    if as_json:
        print(json.dumps(results[0] if len(results) == 1 else results, indent=2))
        return
    written = paths if preview is None else [preview, *paths]
    print("written: " + ", ".join(str(path) for path in written))


def _print_matches(matches: list[Match], where: str) -> None:
    for item in matches:
        verdict = "visible" if item.visibility > 0.5 else "probably not visible"
        x, y, width, height = item.mask_rle.box_xywh
        print(
            f"{where}{item.name}: {verdict} (visibility {item.visibility:.2f}, similarity {item.similarity:.3f}), "
            f"box x={x} y={y} w={width} h={height}"
        )
        for note in item.notes:
            print(f"{where}{item.name}: note: {note}", file=sys.stderr)


def _earlier_files(out: Path) -> list[str]:
    """The files of an earlier run, by its ``match.json``; none if there is no such file of ours."""
    from counterview.inference.match_output import file_names
    from counterview.media.files import read_json

    try:
        result = read_json(out / "match.json")
        if "counterview" in result["versions"] and {"query", "target", "settings"} <= set(result):
            return file_names([str(item["name"]) for item in result["objects"]])
    except (InputError, KeyError, TypeError):
        pass
    return []


def _is_own(out: Path) -> bool:
    """Whether a folder without a marker was written by this command."""
    return bool(_earlier_files(out))
