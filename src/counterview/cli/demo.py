"""``counterview demo``: the main jobs on what comes with the package: match in images, match and follow in a take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from counterview.inference.bundled import default_model

if TYPE_CHECKING:
    from counterview.inference.predictor import Predictor
    from counterview.inference.takes import TakePredictor

FOLLOWER = "tiny-follow"
VIDEO_FPS = 2
"""Annotated frames lie a second apart; a video shows two of them a second."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder for images and videos.")] = Path("counterview-demo"),
    model: Annotated[
        str | None,
        typer.Option(help="knn, tiny, base, a trained folder, a recipe, or a Hub id.", show_default=default_model()),
    ] = None,
    what: Annotated[str, typer.Option(help="pair, take or both.")] = "both",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Match the objects of a bundled pair of images and of a bundled take, follow them through the take, offline;
    and say how well it went."""
    import time

    from counterview.errors import InputError
    from counterview.inference.bundled import available
    from counterview.inference.loading import load
    from counterview.inference.mask_tracker import MaskTracker
    from counterview.inference.takes import ClipPredictor, FramePredictor

    if what not in ("pair", "take", "both"):
        raise InputError("no such part of the demo", found=repr(what), expected="pair, take or both")
    start = time.perf_counter()
    name = default_model() if model is None else model
    predictor = load(name, device=device)
    written: list[Path] = []
    if what in ("pair", "both"):
        written += _pair(name, predictor, out)
    if what in ("take", "both"):
        follows = isinstance(predictor, MaskTracker)
        answering: TakePredictor = (
            ClipPredictor(predictor.model) if isinstance(predictor, MaskTracker) else FramePredictor(predictor)
        )
        written += _take("follow" if follows else "match", name, answering, out)
        if not follows and FOLLOWER in available():
            follower = load(FOLLOWER, device=device)
            assert isinstance(follower, MaskTracker)
            written += _take("follow", FOLLOWER, ClipPredictor(follower.model), out)
        elif not follows:
            print(
                f"follow: skipped, because this installation does not hold the model {FOLLOWER}; with one of yours: "
                "counterview demo --model FOLDER",
                file=sys.stderr,
            )
    print(f"In {time.perf_counter() - start:.0f} seconds:")
    for path in written:
        print(f"  {path}")


def _about(model: Predictor) -> str:
    settings = model.settings()
    parts = [settings[kind]["name"] for kind in ("proposals", "features") if kind in settings]
    return f" ({', '.join(parts)})" if parts else ""


def _pair(name: str, model: Predictor, out: Path) -> list[Path]:
    """Both directions of the bundled pair."""
    from counterview.cli.match import describe, write
    from counterview.inference.examples import load_pair
    from counterview.masks.geometry import iou

    pair = load_pair()
    kept: list[Path] = []
    encoded = {view.name: model.encode(view.image) for view in (pair.near, pair.far)}
    for query, target in ((pair.near, pair.far), (pair.far, pair.near)):
        names, masks = list(query.masks), list(query.masks.values())
        matches = model.match_encoded(encoded[query.name], masks, encoded[target.name], names=names)
        result = describe(
            Path(query.name), Path(target.name), query.image, target.image, masks, matches, model.settings()
        )
        paths = write(out / f"{query.name}_to_{target.name}", result, query.image, target.image, masks, matches)
        kept += [path for path in paths if path.name in ("overlay.png", "match.json")]
        scores = [iou(item.mask_rle, target.masks[item.name]) for item in matches]
        print(f"match, two images, {query.name} -> {target.name}: {name}{_about(model)}")
        for text, score, item in zip(names, scores, matches, strict=True):
            print(f"  {text:<22} IoU {score:.2f}   visibility {item.visibility:.2f}")
        print(f"  {'mean':<22} IoU {sum(scores) / len(scores):.2f}")
    return kept


def _take(job: str, name: str, predictor: TakePredictor, out: Path) -> list[Path]:
    """Both directions between the ego camera and one exo camera of the bundled take."""
    from counterview.data.dataset import DIRECTIONS
    from counterview.inference.examples import load_take
    from counterview.inference.take_overlay import answer_take, draw_answers
    from counterview.masks.draw import contact_sheet
    from counterview.media.encode import write_video
    from counterview.media.images import write_image

    take = load_take()
    answers = answer_take(predictor, take)
    how = "each frame by itself" if job == "match" else "with memory"
    print(f"{job}, a rendered take of {len(answers.frames)} annotated seconds, {how}: {name}")
    columns = {direction: answers.by_object(direction) for direction in DIRECTIONS}
    print(f"  {'IoU':<22} {'ego -> exo':>10} {'exo -> ego':>10}")
    for text in take.objects:
        cells = [columns[d].get(text) for d in DIRECTIONS]
        print(f"  {text:<22} " + " ".join(f"{'-' if c is None else format(c, '.2f'):>10}" for c in cells))
    for label, measure in (("mean over all frames", "iou"), ("balanced accuracy", "balanced_accuracy")):
        values = [getattr(answers.totals(d), measure) for d in DIRECTIONS]
        print(f"  {label:<22} " + " ".join(f"{v:>10.2f}" for v in values))
    images = list(draw_answers(answers, "ego2exo"))
    video, sheet = out / "take" / f"{job}.mp4", out / "take" / f"{job}.jpg"
    write_video(video, images, VIDEO_FPS)
    captions = [f"second {number // 30}" for number in answers.frames]
    write_image(sheet, contact_sheet(images, columns=2, captions=captions, tile_height_px=220))
    return [video, sheet]
