"""``counterview prepare``: images, masks, splits and pair lists from an Ego-Exo4D release."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from counterview.cli.options import TaskTimeout, Where

if TYPE_CHECKING:
    from counterview.data.prepare.report import PrepareReport

NOT_COMPLETE = 3
"""Exit code of a run that finished without some of the data."""


def prepare(
    release: Annotated[
        str, typer.Argument(help="The release: takes/, takes.json and annotations/; a folder, or s3://BUCKET/FOLDER.")
    ],
    out: Annotated[
        str,
        typer.Argument(help="The folder, or s3:// address, to write. Run again to resume a run that was stopped."),
    ],
    split: Annotated[
        list[str] | None,
        typer.Option(help="train, val or test; repeat for several. By default every split of the release."),
    ] = None,
    height: Annotated[
        str | None,
        typer.Option(help="Read the videos of height 'full' or '448'; by default whichever the release has."),
    ] = None,
    engine: Where = "local",
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 1,
    task_timeout: TaskTimeout = 3600,
    take: Annotated[list[str] | None, typer.Option(help="Only this take uid; repeat for several.")] = None,
    split_file: Annotated[
        Path | None, typer.Option(help="The baselines' split.json, if it is not in the release.")
    ] = None,
    every_second: Annotated[
        bool, typer.Option("--every-second", help="Every 30th frame of the ego video, not only the annotated frames.")
    ] = False,
    quality: Annotated[int, typer.Option(min=1, max=95, help="JPEG quality.")] = 95,
    images: Annotated[
        str, typer.Option(help="jpg, which every reader of the layout expects; without loss png or webp-lossless.")
    ] = "jpg",
    annotation_fps: Annotated[
        float, typer.Option(help="Frames a second that the annotation's frame numbers count; videos may have others.")
    ] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")] = False,
) -> None:
    """Prepare takes for training and scoring: images at the annotated times, masks, splits and pair lists.

    Exit codes: 0 complete (redacted takes aside), 3 finished, but some data are missing (see the report), 2 bad input,
    1 the folder cannot be written.
    """
    from tqdm import tqdm

    from counterview.data.prepare.prepare import REPORT_FILE, prepare_release
    from counterview.data.prepare.report import TakeReport
    from counterview.jobs.engine import JobEngine
    from counterview.media.storage import is_url

    bar = tqdm(total=0, unit="take", file=sys.stderr, disable=None)

    def progress(total: int, done: TakeReport | None) -> None:
        bar.total = total
        if done is None:
            bar.refresh()
            return
        bar.update()
        if done.problems:
            bar.write(f"{done.take_name or done.take_uid}: {done.status}: {done.problems[0]}", file=sys.stderr)

    with bar:
        report = prepare_release(
            release,
            out,
            splits=split,
            height=height,
            engine=JobEngine.parse(engine, workers, timeout_s=task_timeout),
            takes=take,
            split_file=split_file,
            every_second=every_second,
            quality=quality,
            images=images,
            annotation_fps=annotation_fps,
            progress=progress,
        )
    if as_json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        _show(report, f"{out.rstrip('/')}/{REPORT_FILE}" if is_url(out) else str(Path(out) / REPORT_FILE))
    if not report.is_complete:
        raise typer.Exit(NOT_COMPLETE)


def _show(report: PrepareReport, path: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from counterview.data.prepare.report import STATUSES

    console = Console()
    table = Table("split", *STATUSES, "images", "masks", box=None, pad_edge=False)
    for split in report.splits:
        takes = [t for t in report.takes if t.split == split]
        numbers = [sum(t.status == status for t in takes) for status in STATUSES]
        images = sum(camera.frames for t in takes for camera in t.cameras.values())
        table.add_row(split, *map(str, numbers), str(images), str(sum(t.masks for t in takes)))
    console.print(table)
    notes = [f"{t.take_name or t.take_uid}: {note}" for t in report.takes for note in t.notes if "frames/s" in note]
    for note in notes[:10]:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    if len(notes) > 10:
        console.print(f"and {len(notes) - 10} more cameras of other frame rates")
    incomplete = [t for t in report.takes if t.status != "prepared"]
    for take in incomplete[:20]:
        console.print(f"{take.status}  {take.take_name or take.take_uid}", style="bold", markup=False, soft_wrap=True)
        for problem in take.problems[:6]:
            console.print(f"    {problem}", markup=False, highlight=False, soft_wrap=True)
        if len(take.problems) > 6:
            console.print(f"    and {len(take.problems) - 6} more")
    if len(incomplete) > 20:
        console.print(f"and {len(incomplete) - 20} more takes")
    if report.not_annotated:
        examples = ", ".join(report.not_annotated[:3])
        console.print(f"{len(report.not_annotated)} takes on disk are not annotated: {examples} …", markup=False)
    for name, count in report.pairs.items():
        left_out = report.pairs_left_out.get(name, 0)
        console.print(f"{name}: {count} pairs" + (f", {left_out} left out" if left_out else ""), markup=False)
    if report.done_before:
        console.print(f"{report.done_before} takes were prepared in an earlier run.")
    console.print(f"Report: {path}", markup=False, soft_wrap=True)
