"""``counterview demo``: match in a bundled pair of images and in a bundled take, and follow through its videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from counterview.errors import InputError
from counterview.nn.bundled import default_model

if TYPE_CHECKING:
    from counterview.inference.predictor import Predictor
    from counterview.inference.takes import TakePredictor

VIDEO_FPS = 2
"""Annotated frames are a second apart; a video shows two of them a second."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder for images and videos.")] = Path("counterview-demo"),
    model: Annotated[
        str | None,
        typer.Option(
            help="knn, tiny, base, geometric[:MATCHER], a model folder, a recipe, or a Hub id.",
            show_default=default_model(),
        ),
    ] = None,
    what: Annotated[
        str, typer.Option(help="pair, take, both (pair and take), follow (one click in a video), or all.")
    ] = "all",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Open what the model names outside its folder, and read weights that are pickles (FastSAM's).",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write into a folder with other files; only files of equal name go.")
    ] = False,
) -> None:
    """Match and follow objects in bundled images and videos, offline, and report the scores."""
    import time

    from counterview.cli.progress import stage
    from counterview.devices import check_device
    from counterview.inference.loading import load
    from counterview.inference.mask_tracker import MaskTracker
    from counterview.inference.takes import ClipPredictor, FramePredictor
    from counterview.media.outputs import claim_output_folder

    if what not in ("pair", "take", "both", "follow", "all"):
        raise InputError("no such part of the demo", found=repr(what), expected="pair, take, both, follow or all")
    check_device(device)
    start = time.perf_counter()
    name = default_model() if model is None else model
    written: list[Path] = []
    with claim_output_folder(out, "demo", is_own=_is_own, overwrite=overwrite) as folder:
        with stage("loading the model"):
            predictor = load(name, device=device, trust=trust)
        with folder.replace(_earlier_files(out)) as staged:
            if what in ("pair", "both", "all"):
                written += _pair(name, predictor, staged)
            if what in ("take", "both", "all"):
                if isinstance(predictor, MaskTracker):
                    written += _take("follow", name, ClipPredictor(predictor.model), staged)
                else:
                    written += _take("match", name, FramePredictor(predictor), staged)
            if what in ("follow", "all"):
                written += _follow(name, predictor, staged)
        written = [folder.final(path) for path in written]
    print(f"In {time.perf_counter() - start:.0f} seconds:")
    for path in written:
        print(f"  {path}")


CLICK_XY, CLICKED = (178, 154), "navy rings bowl_0"
"""A pixel of an object in the first image of the ego video, and the object's name in the annotation."""

FOLLOW_FPS, FOLLOW_END_S = 1, 5.0
"""How many times a second the demo looks for it, at the annotated frames, and until when."""


def _earlier_files(out: Path) -> list[str]:
    """The files of a demo of an earlier version, which listed none; empty if the folder holds anything else."""
    from counterview.inference.examples import load_pair
    from counterview.inference.match_output import file_names

    pair = load_pair()
    known = {f"take/{job}.{ending}" for job in ("match", "follow") for ending in ("mp4", "jpg")}
    for query, target in ((pair.near, pair.far), (pair.far, pair.near)):
        known |= {f"{query.name}_to_{target.name}/{name}" for name in file_names(list(query.masks))}
    present = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file() and not p.name.startswith(".")}
    return sorted(present) if present and present <= known else []


def _is_own(out: Path) -> bool:
    """Whether a folder without a marker was written by this command."""
    return bool(_earlier_files(out))


def _about(model: Predictor[Any]) -> str:
    """Proposals and features of a model in brackets; empty for a model without them."""
    settings = model.settings()
    parts = [settings[kind]["name"] for kind in ("proposals", "features") if kind in settings]
    return f" ({', '.join(parts)})" if parts else ""


def _pair(name: str, model: Predictor[Any], out: Path) -> list[Path]:
    """Match the bundled pair in both directions, print the IoUs, and return the files written."""
    from counterview.cli.progress import stage
    from counterview.inference.examples import load_pair
    from counterview.inference.match_output import describe, write
    from counterview.masks.geometry import iou

    pair = load_pair()
    written: list[Path] = []
    with stage("encoding two images"):
        encoded = {view.name: model.encode(view.image) for view in (pair.near, pair.far)}
    for query, target in ((pair.near, pair.far), (pair.far, pair.near)):
        names, masks = list(query.masks), list(query.masks.values())
        matches = model.match_encoded(encoded[query.name], masks, encoded[target.name], names=names)
        result = describe(
            Path(query.name), Path(target.name), query.image, target.image, masks, matches, model.settings()
        )
        paths = write(out / f"{query.name}_to_{target.name}", result, query.image, target.image, masks, matches)
        written += [path for path in paths if path.name in ("overlay.png", "match.json")]
        scores = [iou(item.mask_rle, target.masks[item.name]) for item in matches]
        print(f"match, two images, {query.name} -> {target.name}: {name}{_about(model)}")
        for text, score, item in zip(names, scores, matches, strict=True):
            print(f"  {text:<22} IoU {score:.2f}   visibility {item.visibility:.2f}")
        print(f"  {'mean':<22} IoU {sum(scores) / len(scores):.2f}")
    return written


def _take(job: str, name: str, predictor: TakePredictor, out: Path) -> list[Path]:
    """Predict the bundled take between two cameras, print the scores, and return the video and the contact sheet."""
    from counterview.cli.progress import stage
    from counterview.data.dataset import DIRECTIONS
    from counterview.inference.examples import load_take
    from counterview.inference.take_overlay import draw_predictions, predict_take
    from counterview.masks.draw import contact_sheet
    from counterview.media.encode import write_video
    from counterview.media.images import write_image

    take = load_take()
    with stage("predicting a take of ten annotated seconds"):
        scored = predict_take(predictor, take)
    how = "each frame on its own" if job == "match" else "with memory"
    print(f"{job}, a rendered take of {len(scored.frames)} annotated seconds, {how}: {name}")
    columns = {direction: scored.by_object(direction) for direction in DIRECTIONS}
    print(f"  {'IoU':<22} {'ego -> exo':>10} {'exo -> ego':>10}")
    for item in take.objects:
        cells = [columns[d].get(item) for d in DIRECTIONS]
        print(f"  {item:<22} " + " ".join(f"{'-' if c is None else format(c, '.2f'):>10}" for c in cells))
    for label, measure in (("mean over all frames", "iou"), ("balanced accuracy", "balanced_accuracy")):
        values = [getattr(scored.totals(d), measure) for d in DIRECTIONS]
        print(f"  {label:<22} " + " ".join(f"{v:>10.2f}" for v in values))
    with stage("drawing the take"):
        images = list(draw_predictions(scored, "ego2exo"))
    video, sheet = out / "take" / f"{job}.mp4", out / "take" / f"{job}.jpg"
    write_video(video, images, VIDEO_FPS)
    captions = [f"second {number // 30}" for number in scored.frames]
    write_image(sheet, contact_sheet(images, columns=2, captions=captions, tile_height_px=220))
    return [video, sheet]


def _follow(name: str, predictor: Predictor[Any], out: Path) -> list[Path]:
    """Follow a clicked object through the three videos of the bundled take, print the IoUs, and return the files."""
    from counterview.cli.progress import stage
    from counterview.data.sources import take_source
    from counterview.errors import ConfigError
    from counterview.inference.examples import load_take
    from counterview.inference.follow_output import collect, write_follow_files
    from counterview.inference.following import Following, smoothed
    from counterview.inference.prompted import PromptedPredictor
    from counterview.inference.prompts import Point
    from counterview.masks.geometry import iou

    take = load_take()
    (query,), targets = take.ego_cameras, take.exo_cameras
    cameras = {camera: take_source(take, camera) for camera in (query, *targets)}
    if not isinstance(predictor, PromptedPredictor):
        raise InputError("objects cannot be followed with this model", found=type(predictor).__name__)
    objects = {"bowl": Point(*CLICK_XY, time_s=0.0)}
    try:
        run = Following(
            predictor,
            cameras[query],
            {camera: cameras[camera] for camera in targets},
            objects,
            query_name=query,
            fps=FOLLOW_FPS,
            end_s=FOLLOW_END_S,
        )
    except ConfigError as error:
        print(f"follow: left out: {error}")
        return []
    with run:
        with stage("following a clicked object through three videos"):
            steps = list(smoothed(run.steps(), run.engine))
        tracks, review = collect(steps, run.cameras, run.names, run.settings())
        with stage("drawing what was followed"):
            files = write_follow_files(out / "follow", cameras, tracks, review, lambda: steps, fps=FOLLOW_FPS)
    x, y = CLICK_XY
    seconds = f"{FOLLOW_END_S:g} seconds of three videos"
    print(f"follow, {seconds}, from one click at {x},{y} in the first image of {query}: {name}")
    for camera, masks in tracks.objects["bowl"].items():
        truths = {item.frame: take.mask(CLICKED, camera, item.frame) for item in masks}
        scores = [
            0.0 if item.mask_rle is None else iou(item.mask_rle, truth)
            for item in masks
            if (truth := truths[item.frame]) is not None and not truth.is_empty
        ]
        print(f"  {camera:<22} IoU {sum(scores) / max(1, len(scores)):.2f} in {len(scores)} frames that show it")
    return [path for path in files if path.name in ("overlay.mp4", "tracks.json", "contact.jpg")]
