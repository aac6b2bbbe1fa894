"""``counterview follow``: show objects once in one video; get them in all other videos, through time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from counterview.cli.options import (
    Device,
    Dtype,
    ProposalCache,
    Refine,
    Runtime,
    TaskTimeout,
    Trust,
    Where,
    WorkerGpus,
    Workers,
)
from counterview.errors import InputError
from counterview.jobs.engine import JobEngine
from counterview.nn.bundled import default_model

if TYPE_CHECKING:
    from tqdm import tqdm

    from counterview.inference.follow_folder import FollowFolder


def follow(
    query: Annotated[
        str | None,
        typer.Argument(
            help="Where the objects are shown: a video, a folder of images (frames@30), or TAKE:camera.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Argument(
            help="Where they are looked for, likewise; one or several. Without any, in QUERY alone.", show_default=False
        ),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PNG[@SECONDS]",
            help="Mask of an object in QUERY at a time, white on black; without a time, in its first image. Or a file "
            "of an annotation tool (CVAT, COCO, Label Studio, LabelMe, YOLO, DAVIS, tracks.json). Repeat for several.",
        ),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y[+X,Y][-X,Y][@SECONDS]",
            help="A pixel of the object in QUERY, further ones after +, pixels of the background after -.",
        ),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X1,Y1,X2,Y2[+X,Y][-X,Y][@SECONDS]",
            help="A box around the object in QUERY, with points as in --point.",
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of an object. Repeat: names go to masks, then points, then boxes, as they were given. A name "
            "that is there again is the same object at another time."
        ),
    ] = None,
    label: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="Value of the object where the mask is a label image or a palette PNG."),
    ] = None,
    mask_orientation: Annotated[
        str,
        typer.Option(
            help="What the masks were drawn on where the video is turned: upright (as players show it), raw (its "
            "stored pixels), or auto (what their size says)."
        ),
    ] = "auto",
    fps: Annotated[float, typer.Option(help="How many times a second objects are looked for.")] = 2.0,
    every_frame: Annotated[
        bool, typer.Option("--every-frame", help="Masks in every frame: between those times they move with the image.")
    ] = False,
    share_frames: Annotated[
        bool,
        typer.Option(
            "--share-frames",
            help="Keep what does not change from image to image: faster with cameras that stand still, less accurate.",
        ),
    ] = False,
    start: Annotated[float | None, typer.Option(metavar="S", help="First second of QUERY.")] = None,
    end: Annotated[float | None, typer.Option(metavar="S", help="Last second of QUERY.")] = None,
    offset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SECONDS",
            help="What is added to a target's time to get QUERY's: positive if it began later. NAME is the file's name "
            "without ending.",
        ),
    ] = None,
    sync: Annotated[
        str,
        typer.Option(
            help="How the clocks of other targets are found: none (all began at the same time), audio (from the "
            "sound tracks), motion (from what moves in both), or auto (audio, else motion)."
        ),
    ] = "none",
    model: Annotated[
        str | None,
        typer.Option(
            help="tiny, base (DINOv2-B and SAM 2.1), knn, tiny-follow, a model folder, a recipe, or a Hub id.",
            show_default=default_model(),
        ),
    ] = None,
    proposals: Annotated[
        str | None, typer.Option(help="graph (default of knn), tiny, sam2[:ID or FOLDER], fastsam, or folder:PATH.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="For knn: classical (default), tiny, dinov2-base[-reg], clip, dinov3, a Hub id, or a folder."
        ),
    ] = None,
    format: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,NAME]",
            help="Write the tracks also as coco, davis, cvat, labelstudio, labelme, yolo or rerun, each into a folder.",
        ),
    ] = None,
    corrections: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON with corrections in any camera. On a finished run, only the objects in it are followed again.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for tracks.json, overlay.mp4, contact.jpg and what to check.")
    ] = Path("counterview-follow"),
    device: Device = "auto",
    dtype: Dtype = "float32",
    cache: ProposalCache = None,
    trust: Trust = False,
    runtime: Runtime = "torch",
    refine: Refine = "none",
    as_json: Annotated[bool, typer.Option("--json", help="Print tracks.json and nothing else.")] = False,
    list_file: Annotated[
        Path | None,
        typer.Option(
            "--list",
            metavar="FILE",
            help="Many runs in the place of one: a line each, with the arguments of a single run and its --out; paths "
            "may be s3:// addresses. Runs that fail are listed at the end, the others are done.",
        ),
    ] = None,
    engine: Where = "local",
    workers: Workers = 1,
    task_timeout: TaskTimeout = 3600,
    worker_gpus: WorkerGpus = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew, and write into a folder with other files.")
    ] = False,
) -> None:
    """Follow objects, shown once in the video QUERY, through it and through the videos TARGET.

    Run again to go on with a run that was stopped; a finished one is not repeated.
    """
    where = JobEngine.parse(engine, workers, timeout_s=task_timeout, worker_gpus=worker_gpus)
    if list_file is not None:
        from counterview.cli.follow_list import follow_list

        if query is not None:
            raise InputError("--list takes the place of QUERY and its options", found=query, expected="one of both")
        follow_list(list_file, where, follow)
        return
    if query is None:
        raise InputError("QUERY is missing", expected="a video, a folder of images, TAKE:camera, or --list FILE")
    if where != JobEngine():
        raise InputError("--engine and --workers are for --list", expected="a single run in this process")
    from counterview.cli.loaded import load_once
    from counterview.cli.progress import stage
    from counterview.cli.prompts import read_shown
    from counterview.cli.targets import open_cameras, read_offsets
    from counterview.devices import check_device
    from counterview.inference.corrections import check_corrections, read_corrections
    from counterview.inference.follow_folder import FollowSettings, open_follow_folder, output_parts
    from counterview.inference.follow_run import stopped, with_corrections
    from counterview.inference.loading import load
    from counterview.inference.runtime import is_onnx
    from counterview.media.outputs import check_cache_folder, check_output_folder

    check_output_folder(out, "follow", overwrite=overwrite)
    check_cache_folder(cache)
    if not is_onnx(runtime):
        check_device(device, dtype)
    formats = read_formats(format or [])
    check_sync(sync)
    if not 0 < fps <= 1000:
        raise InputError("--fps is out of range", found=fps, expected="above 0, 1000 at most")
    cameras = open_cameras(query, target or [])
    offsets = read_offsets(offset or [], list(cameras)[1:])
    objects, notes = read_shown(
        mask or [], point or [], box or [], name or [], label or [], cameras, orientation=mask_orientation
    )
    if corrections is not None:
        corrected = read_corrections(corrections)
        check_corrections(corrected, {c: s.size_hw for c, s in cameras.items()}, {item.object for item in objects})
        objects = with_corrections(objects, corrected, cameras)
    settings = FollowSettings(
        fps, start, end, offsets, sync, formats, every_frame, share_frames=share_frames
    )  # fmt: skip
    with ExitStack() as stack:
        with stage("pairing the cameras"):
            run = stack.enter_context(open_follow_folder(out, cameras, objects, settings, overwrite=overwrite))
        with stage("loading the model"):
            predictor = load_once(
                load, model, proposals=proposals, features=features, device=device, dtype=dtype, cache=cache,
                trust=trust, runtime=runtime, refine=refine,
            )  # fmt: skip
            run.begin(predictor)
        try:
            if run.is_new:
                _follow(run)
            said = run.written()
            if said is None:
                said = _write(run)
            elif not as_json:
                print("finished already: nothing has changed since")
        except KeyboardInterrupt:
            raise stopped() from None
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if as_json:
        print((out / "tracks.json").read_text(encoding="utf-8"))
        return
    print("\n".join(said))
    print("written: " + ", ".join(str(out / part) for part in output_parts(formats)))


def read_formats(texts: Sequence[str]) -> list[str]:
    """The formats of the command line, each once.

    Args:
        texts: names, several with commas between them.

    Raises:
        InputError: an unknown format.
        MissingExtraError: ``rerun`` without rerun-sdk.
    """
    from importlib.util import find_spec

    from counterview.errors import MissingExtraError
    from counterview.exchange.formats import check_format

    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    formats = [check_format(name) for name in dict.fromkeys(names) if name != "tracks"]
    if "rerun" in formats and find_spec("rerun") is None:
        raise MissingExtraError("rerun", "writing a Rerun recording")
    return formats


def check_sync(method: str) -> None:
    """Check ``--sync``.

    Raises:
        ConfigError: another method.
    """
    from counterview.errors import ConfigError
    from counterview.media.sync import SYNC_METHODS

    if method not in SYNC_METHODS:
        raise ConfigError("no such way to synchronise", found=repr(method), expected=" or ".join(SYNC_METHODS))


def _follow(run: FollowFolder) -> None:
    from counterview.jobs.worker import report_steps
    from counterview.training.interrupt import StopSignals

    with StopSignals() as stop, _bar("following", 0, "step") as bar:

        def progress(done: int, total: int) -> None:
            if not bar.total:  # what an earlier run did does not count for the time that is left
                bar.total, bar.initial, bar.n = total, done, done
                bar.refresh()
            else:
                bar.update(done - bar.n)
                report_steps()

        run.follow(should_stop=lambda: stop.requested, progress=progress)


def _write(run: FollowFolder) -> list[str]:
    """Write all files with a bar for each part of the work, and return the summary."""
    with ExitStack() as bars:
        shown: dict[str, tqdm[Any]] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in shown:
                shown[what] = bars.enter_context(_bar(what, total, "frame" if what == "every frame" else "step"))
            shown[what].update(done - shown[what].n)

        return run.write(progress)


def _bar(what: str, total: int, unit: str) -> tqdm[Any]:
    """A bar with the time left, on a terminal."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, desc=what, file=sys.stderr, disable=None, dynamic_ncols=True)
