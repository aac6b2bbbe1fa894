"""``counterview follow``: show objects once in one video; get them in all other videos, through time."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from counterview import __version__
from counterview.cli.options import Device, ProposalCache, Runtime, Trust
from counterview.errors import InputError, counted
from counterview.nn.bundled import default_model

if TYPE_CHECKING:
    from tqdm import tqdm

    from counterview.exchange.tracks import Tracks
    from counterview.inference.follow_journal import FollowJournal
    from counterview.inference.follow_plan import FollowPlan
    from counterview.inference.follow_step import FollowStep
    from counterview.inference.prompted import PromptedPredictor
    from counterview.media.outputs import OutputFolder
    from counterview.tracking.base import Engine
    from counterview.tracking.review import Review


def follow(
    query: Annotated[
        str,
        typer.Argument(
            help="Where the objects are shown: a video, a folder of images (frames@30), or TAKE:camera.",
            show_default=False,
        ),
    ],
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
    cache: ProposalCache = None,
    trust: Trust = False,
    runtime: Runtime = "torch",
    as_json: Annotated[bool, typer.Option("--json", help="Print tracks.json and nothing else.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew, and write into a folder with other files.")
    ] = False,
) -> None:
    """Follow objects, shown once in the video QUERY, through it and through the videos TARGET.

    Run again to go on with a run that was stopped; a finished one is not repeated.
    """
    from counterview.cli.progress import stage
    from counterview.cli.prompts import read_shown
    from counterview.cli.targets import open_cameras, read_offsets
    from counterview.devices import resolve_device
    from counterview.inference.corrections import check_corrections, read_corrections
    from counterview.inference.follow_journal import FollowJournal
    from counterview.inference.follow_plan import FollowPlan
    from counterview.inference.follow_run import objects_of, source_identity, stopped, with_corrections
    from counterview.inference.loading import load
    from counterview.inference.prompted import PromptedPredictor
    from counterview.inference.runtime import is_onnx
    from counterview.media.outputs import check_cache_folder, check_output_folder, claim_output_folder
    from counterview.media.timeline import Clock

    check_output_folder(out, "follow", overwrite=overwrite)
    check_cache_folder(cache)
    if not is_onnx(runtime):
        resolve_device(device)
    formats = read_formats(format or [])
    check_sync(sync)
    if not 0 < fps <= 1000:
        raise InputError("--fps is out of range", found=fps, expected="above 0, 1000 at most")
    cameras = open_cameras(query, target or [])
    query_name, *target_names = cameras
    offsets = read_offsets(offset or [], target_names)
    objects, notes = read_shown(
        mask or [], point or [], box or [], name or [], label or [], cameras, orientation=mask_orientation
    )
    if corrections is not None:
        corrected = read_corrections(corrections)
        check_corrections(corrected, {c: s.size_hw for c, s in cameras.items()}, {item.object for item in objects})
        objects = with_corrections(objects, corrected, cameras)
    request: dict[str, Any] = {
        "cameras": {c: source_identity(s) for c, s in cameras.items()},
        "fps": fps, "start_s": start, "end_s": end, "sync": sync,
        "offsets": {c: clock.offset_s for c, clock in offsets.items()},
    }  # fmt: skip
    with claim_output_folder(out, "follow", overwrite=overwrite) as folder:
        folder.check_free(output_parts(formats), {name.partition("/")[0] for name in folder.files()})
        journal = FollowJournal(out)
        noted = None if overwrite else journal.notes(request)
        clocks = {c: Clock(*values) for c, values in noted["clocks"].items()} if noted else offsets
        with stage("pairing the cameras"):  # once: a run that goes on knows its clocks
            plan = FollowPlan(
                cameras[query_name], {c: cameras[c] for c in target_names}, objects, query_name=query_name, fps=fps,
                start_s=start, end_s=end, clocks=clocks, sync=sync,
            )  # fmt: skip
        with plan:
            with stage("loading the model"):
                predictor = load(
                    model,
                    proposals=proposals,
                    features=features,
                    device=device,
                    cache=cache,
                    trust=trust,
                    runtime=runtime,
                )
                if not isinstance(predictor, PromptedPredictor):
                    raise InputError("objects cannot be followed with this model", found=type(predictor).__name__)
                engine = predictor.make_engine(list(cameras))
            notes_kept = noted or {
                "clocks": {c: [clock.offset_s, clock.drift_ppm] for c, clock in plan.clocks.items()},
                "sync": {c: str(result) for c, result in plan.found_clocks.items()},
            }
            key = {
                "request": request,
                "engine": engine.settings(),
                "prompts": predictor.prompt_settings(),
                "objects": objects_of(plan),
            }
            folder.mark(folder.files())  # a run that is killed leaves a folder that is known as ours
            is_new = journal.begin(key, notes_kept, overwrite=overwrite)
            try:
                if is_new:
                    _follow(predictor, plan, journal, engine)
                wanted = {"formats": formats, "every_frame": every_frame, "version": __version__}
                said = None if is_new else _said(journal, wanted, out, folder.files())
                if said is None:
                    said = _write(plan, journal, folder, {**key, "every_frame": every_frame}, formats, notes_kept)
                    journal.note_written({"of": wanted, "said": said})
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


def output_parts(formats: Sequence[str]) -> list[str]:
    """Names of what is written, relative to the output folder: files, and a folder for each format.

    Args:
        formats: further formats.
    """
    from counterview.inference.follow_output import NAMES

    return [*NAMES, *formats]


def _follow(predictor: PromptedPredictor[Any], plan: FollowPlan, journal: FollowJournal, engine: Engine) -> None:
    from counterview.inference.follow_run import follow_plan
    from counterview.training.interrupt import StopSignals

    with StopSignals() as stop, _bar("following", 0, "step") as bar:

        def progress(done: int, total: int) -> None:
            if not bar.total:  # what an earlier run did does not count for the time that is left
                bar.total, bar.initial, bar.n = total, done, done
                bar.refresh()
            else:
                bar.update(done - bar.n)

        follow_plan(predictor, plan, journal, engine, should_stop=lambda: stop.requested, progress=progress)


def _said(journal: FollowJournal, wanted: Mapping[str, Any], out: Path, files: Sequence[str]) -> list[str] | None:
    """The summary of the files that are there, if they are those wanted and none is missing."""
    written = journal.written()
    if not isinstance(written, dict) or written.get("of") != wanted or not files:
        return None
    return list(written["said"]) if all((out / name).is_file() for name in files) else None


def _write(
    plan: FollowPlan,
    journal: FollowJournal,
    folder: OutputFolder,
    settings: Mapping[str, Any],
    formats: Sequence[str],
    notes: Mapping[str, Any],
) -> list[str]:
    """Write all files, and return the summary."""
    from counterview.config import to_dict
    from counterview.inference.follow_output import collect, write_follow_files

    settings = {**settings, "version": __version__}
    steps, found, timeline, fps = journal.results, journal.results, plan.timeline, plan.fps or 1.0
    if settings["every_frame"]:
        from counterview.inference.every_frame import EveryFrame

        dense = EveryFrame(plan, journal)
        settings["every_frame"] = {camera: to_dict(dense.settings(camera)) for camera in plan.sources}
        with _bar("every frame", dense.total, "frame") as bar:
            dense.run(bar.update)
        steps, found, timeline = dense.steps, dense.by_camera, dense.timeline
        fps = plan.sources[plan.query].fps or fps
    tracks, review = collect(found(), plan.cameras, plan.names, settings)
    with folder.replace() as staged, _bar("drawing", sum(1 for _ in steps()), "step") as bar:
        write_follow_files(
            staged, plan.sources, tracks, review, steps, fps=fps, formats=formats, progress=lambda: bar.update()
        )
    return summary(tracks, review, found(), timeline.unpaired, notes.get("sync", {}))


def _bar(what: str, total: int, unit: str) -> tqdm[Any]:
    """A bar with the time left, on a terminal."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, desc=what, file=sys.stderr, disable=None, dynamic_ncols=True)


def summary(
    tracks: Tracks,
    review: Review,
    steps: Iterable[FollowStep],
    unpaired: Mapping[str, int],
    sync: Mapping[str, str],
) -> list[str]:
    """What was found, in lines for people.

    Args:
        tracks: all that was found.
        review: what to check.
        steps: of the run.
        unpaired: camera to the number of frames of the query camera without a partner in it.
        sync: camera to how its clock was found.
    """
    from collections import Counter

    from counterview.inference.track_drawing import clock

    rows = review.rows()
    checks = Counter((row.object, row.camera) for row in rows)
    unreadable = Counter(camera for step in steps for camera in step.unreadable)
    width = max(len(camera) for camera in tracks.cameras)
    lines = [f"{camera}: {text}" for camera, text in sync.items()]
    for name, by_camera in tracks.objects.items():
        lines.append(name)
        for camera, masks in by_camera.items():
            known = [item for item in masks if item.visibility is not None]
            visible = [item for item in known if item.mask_rle is not None]
            text = f"never visible in {counted(len(known), 'frame')}"
            if visible:
                share = f"{100 * len(visible) / len(known):.0f} %"
                first, last = clock(visible[0].time_s), clock(visible[-1].time_s)
                text = f"visible in {share} of {counted(len(known), 'frame')}, {first} to {last}"
            check = checks[name, camera]
            lines.append(f"  {camera:<{width}}  {text}" + (f", {check} to check" if check else ""))
    for camera, number in unpaired.items():
        if number:
            lines.append(f"{camera}: no frame at the time of {counted(number, 'frame')} of {tracks.query_camera}")
    for camera, number in sorted(unreadable.items()):
        lines.append(f"{camera}: {counted(number, 'frame')} cannot be read, and nothing is known of them")
    left_out = f", and {review.left_out} less doubtful ones" if review.left_out else ""
    if rows:
        lines.append(
            f"{counted(len(rows), 'place')} to check{left_out}: review.csv, the worst first; review.jpg shows them"
        )
    return lines
