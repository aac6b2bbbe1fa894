"""What it costs: ``docs/how-to/what-it-costs.md`` from committed measurements, a price and a formula.

``python -m benchmarks.cost_page [--check]`` writes the page, or reports whether it is up to date;
``python -m benchmarks.cost_page --show [--NAME VALUE …]`` prints the tables with numbers of your own. Seconds are of
the processor, of one core, read from ``benchmarks/results``. A GPU is a stated number of such cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS
from counterview.media.files import atomic_write, read_json

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "what-it-costs.md"
HOUR_S = 3600.0
YEAR_S = 365 * 24 * HOUR_S


@dataclass(frozen=True)
class Assumptions:
    """Numbers that a reader puts in; the defaults are stated on the page with where they are from.

    Attributes:
        core_price: of one core for an hour.
        gpu_price: of one GPU, with the cores beside it, for an hour.
        gpu_ratio: one GPU in cores, for networks.
        gpus: the N of the tables.
        efficiency: part of N machines that is of use.
        takes: of the data set that can be had.
        train_takes: of them, for training.
        frames: annotated frames of a take.
        cameras: annotated cameras of a take.
        pairs: pairs of an object, a camera and a frame to predict in a take, both directions.
        train_pairs: of a take and direction.
        train_fraction: of the training pairs that are used.
        epochs: of training.
        site_cameras: of the site.
        site_fps: images a second of each that objects are looked for in.
        active: part of the time in which something happens.
    """

    core_price: float = 0.04
    gpu_price: float = 2.50
    gpu_ratio: float = 43.0
    gpus: int = 8
    efficiency: float = 0.9
    takes: int = 1251
    train_takes: int = 755
    frames: float = 60.0
    cameras: float = 4.0
    pairs: float = 710.0
    train_pairs: float = 355.0
    train_fraction: float = 0.2
    epochs: int = 3
    site_cameras: int = 10
    site_fps: float = 1.0
    active: float = 1.0


@dataclass(frozen=True)
class Measured:
    """Processor seconds of one core, from the result files.

    Attributes:
        prepare_s: reading one annotated image of a 4K video.
        proposals_s: proposals of one image by the bundled proposer.
        backbone_s: DINOv2-B on one image at O-MaMa's size.
        head_s: O-MaMa's head on one object and its 100 proposals.
        lmeec_s: LM-EEC B+ on one frame of two cameras with four objects.
        lmeec_fps: published frames a second of the official LM-EEC on a V100, one object.
        lmeec_one_s: ours on the same, one core.
        follow_s: following in one image with the bundled model.
        versions: machine of the files.
    """

    prepare_s: float
    proposals_s: float
    backbone_s: float
    head_s: float
    lmeec_s: float
    lmeec_fps: float
    lmeec_one_s: float
    follow_s: float
    versions: str


def read_measured(folder: Path = RESULTS) -> Measured:
    """The measurements that the page is made from."""
    prepare, omama = read_json(folder / "prepare.json"), read_json(folder / "omama.json")
    video = next(v for v in prepare["videos"] if v["gop"] == 30 and v["reader"] == "by groups")
    stages = omama["stages"]["seconds"]
    speed = {
        (r["objects"], r["cameras"]): r for r in read_json(folder / "lmeec.json")["speed"] if "fp32" in r["variant"]
    }
    tiny = read_json(folder / "proposals.json")["results"]["tiny"]["seconds"]
    follow = next(
        r for r in read_json(folder / "tracks_cost.json")["seconds"] if (r["objects"], r["targets"]) == (4, 1)
    )
    machine = prepare["machine"]
    return Measured(
        prepare_s=video["processor_s"] / video["wanted"],
        proposals_s=tiny["exo"]["median_processor_s"],
        backbone_s=stages["backbone, both pictures"]["median_s"] / 2,
        head_s=stages["attention and head, 1 objects"]["median_s"],
        lmeec_s=speed[4, 1]["cpu_s"],
        lmeec_fps=8.4,
        lmeec_one_s=speed[1, 1]["cpu_s"],
        follow_s=follow["follow_s"] / 2,
        versions=f"{machine['cpu']}, torch {machine['torch']}",
    )


@dataclass(frozen=True)
class Step:
    """One step: its name, how often what is done, core seconds of each, and whether a GPU does it."""

    name: str
    count: float
    unit: str
    seconds: float
    on_gpu: bool

    def core_hours(self) -> float:
        return self.count * self.seconds / HOUR_S

    def gpu_hours(self, a: Assumptions) -> float:
        """Hours of one GPU, or of one core where no GPU helps."""
        return self.core_hours() / (a.gpu_ratio if self.on_gpu else 1.0)

    def wall_hours(self, a: Assumptions, machines: int) -> float:
        """Hours until it is done by so many GPUs, or by 16 cores for each where no GPU helps."""
        part = 1.0 if machines == 1 else a.efficiency
        return self.gpu_hours(a) / (machines * part) / (1.0 if self.on_gpu else CORES_A_GPU)

    def price(self, a: Assumptions, machines: int) -> float:
        """By the hours of GPUs, which are paid while their cores work as well."""
        return self.wall_hours(a, machines) * machines * a.gpu_price


CORES_A_GPU = 16
"""Cores that are rented with a GPU."""


def egoexo_steps(m: Measured, a: Assumptions) -> list[Step]:
    """All of Ego-Exo4D Correspondence, for O-MaMa and for LM-EEC."""
    images = a.takes * a.frames * a.cameras
    trained = a.train_takes * a.train_pairs * a.train_fraction * a.epochs * 2  # both directions, a model each
    predicted = a.takes * a.pairs
    return [
        Step("prepare (reading)", images, "images", m.prepare_s, False),
        Step("proposals (bundled proposer)", images, "images", m.proposals_s, False),
        Step("features, DINOv2-B", images, "images", m.backbone_s, True),
        Step("train O-MaMa", trained, "pairs", 3 * m.head_s, True),
        Step("predict with O-MaMa", predicted, "objects", m.head_s, True),
        Step("predict with LM-EEC B+", a.takes * a.frames * (a.cameras - 1) * 2, "frames", m.lmeec_s, True),
    ]


def site_step(m: Measured, a: Assumptions) -> Step:
    """A year of a site's cameras, followed with the bundled model."""
    return Step("follow", YEAR_S * a.site_cameras * a.site_fps * a.active, "images", m.follow_s, True)


def number(value: float) -> str:
    """Three digits, with separators where there are more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def tables(m: Measured, a: Assumptions) -> list[str]:
    """The tables, as Markdown."""
    lines = [
        f"| step | how much | core s each | core hours | 1 GPU, h | {a.gpus} GPUs, h "
        f"| price, 1 GPU | price, {a.gpus} GPUs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    steps = egoexo_steps(m, a)
    for step in steps:
        lines.append(row(step, a))
    total = [sum(f(s) for s in steps) for f in (Step.core_hours, lambda s: s.wall_hours(a, 1),
             lambda s: s.wall_hours(a, a.gpus), lambda s: s.price(a, 1), lambda s: s.price(a, a.gpus))]  # fmt: skip
    hours, money = [number(x) for x in total[:3]], [f"${number(x)}" for x in total[3:]]
    lines.append(f"| **all of it** | | | {' | '.join(hours)} | {' | '.join(money)} |")
    site = site_step(m, a)
    cores = site.core_hours() / (YEAR_S / HOUR_S)
    lines += [
        "", f"A year of a site with {a.site_cameras} cameras, {a.site_fps:g} images a second of each, followed with "
        "the bundled model:", "",
        "| | core hours a year | cores, day and night | price on cores | GPUs, day and night | price on GPUs |",
        "|---|---|---|---|---|---|",
        f"| follow | {number(site.core_hours())} | {number(cores)} | ${number(site.core_hours() * a.core_price)} "
        f"| {number(cores / a.gpu_ratio)} | ${number(site.gpu_hours(a) * a.gpu_price)} |",
    ]  # fmt: skip
    return lines


def row(step: Step, a: Assumptions) -> str:
    cells = [
        step.name, f"{number(step.count)} {step.unit}", number(step.seconds), number(step.core_hours()),
        number(step.wall_hours(a, 1)), number(step.wall_hours(a, a.gpus)), f"${number(step.price(a, 1))}",
        f"${number(step.price(a, a.gpus))}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


SOURCES = {
    "core_price": "US dollars an hour; stated, about a cloud's on-demand price",
    "gpu_price": f"US dollars an hour with {CORES_A_GPU} cores; stated",
    "gpu_ratio": "one GPU in cores: see below",
    "gpus": "stated",
    "efficiency": "part of N machines that is of use; stated",
    "takes": "755 train, 201 val and 295 test takes of version 2",
    "train_takes": "of the 821 of version 2, without redacted ones",
    "frames": "a take of a minute at one annotated frame a second; stated, measure yours with `counterview inspect`",
    "cameras": "one ego and three exo; stated, likewise",
    "pairs": "(100,223 + 109,253) object masks of the 295 test takes",
    "train_pairs": "half of that: one direction",
    "train_fraction": "as in the released code of O-MaMa",
    "epochs": "likewise",
    "site_cameras": "stated",
    "site_fps": "stated",
    "active": "1: nothing is skipped",
}


def page(m: Measured, a: Assumptions) -> str:
    """The whole page."""
    lines = [
        "# What it costs", "",
        "Written by `python -m benchmarks.cost_page` from the files in `benchmarks/results`; not by hand. Every line "
        "is a product of three numbers: how much there is, what one costs on one core, and what a core or a GPU costs. "
        "The seconds are measured; amounts and prices are stated, and yours to replace:", "",
        "```", "python -m benchmarks.cost_page --show --gpu-price 1.9 --gpus 32 --gpu-ratio 120 --takes 300", "```", "",
        "**No GPU was measured for this page.** A GPU counts as "
        f"{a.gpu_ratio:g} cores: the official LM-EEC does {m.lmeec_fps:g} frames a second with one object on a V100, "
        f"as published, and ours takes {m.lmeec_one_s:.2f} s a frame on one core, which is a ratio of "
        f"{m.lmeec_fps * m.lmeec_one_s:.0f}. Newer GPUs do more, and the ratio of other networks is another: measure "
        "yours with a take, and set `--gpu-ratio`.", "",
        "## Tables", "", *tables(m, a), "",
        "*Prepare* and *proposals* run on cores; the tables give each GPU "
        f"{CORES_A_GPU} of them. The price is that of the GPUs for all the time, so it is a bound from above where "
        "cores alone would do. Storage, downloads and people are not in it. Proposals by SAM 2 or FastSAM were "
        "not measured; they take the place of the second line. Training LM-EEC is not in the table: neither its time "
        "nor its number of clips is published.", "",
        "## Formula", "",
        "```",
        "core hours  = amount x core seconds / 3600",
        "GPU hours   = core hours / gpu_ratio                      (networks)",
        "hours on N  = GPU hours / (N x efficiency)                (networks; efficiency is 1 for N = 1)",
        f"            = core hours / (N x efficiency x {CORES_A_GPU})            (prepare, proposals)",
        "price on N  = hours on N x N x gpu_price",
        "images      = takes x frames x cameras",
        "pairs       = train_takes x train_pairs x train_fraction x epochs x 2 directions",
        "year        = 31,536,000 s x site_cameras x site_fps x active",
        "```", "",
        "| name | here | from |", "|---|---|---|",
        *(f"| `{f.name}` | {getattr(a, f.name):g} | {SOURCES[f.name]} |" for f in fields(a)), "",
        "| core seconds | here | file in `benchmarks/results` |", "|---|---|---|",
        f"| reading one annotated image of a 4K video | {number(m.prepare_s)} | `prepare.json`, keyframe every 30 |",
        f"| proposals of one image | {number(m.proposals_s)} | `proposals.json`, `tiny`, exo |",
        f"| DINOv2-B on one image | {number(m.backbone_s)} | `omama.json` |",
        f"| O-MaMa's head, one object and 100 proposals | {number(m.head_s)} | `omama.json`; training 3 times that |",
        f"| LM-EEC B+, one frame, four objects, one target | {number(m.lmeec_s)} | `lmeec.json` |",
        f"| following in one image, four objects | {number(m.follow_s)} | `tracks_cost.json` |",
        "", f"Machine: {m.versions}. How the work is spread: [Many takes, many machines](many-machines.md).", "",
    ]  # fmt: skip
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--show", action="store_true", help="print the tables, and write nothing")
    defaults = Assumptions()
    for field in fields(defaults):
        value: Any = getattr(defaults, field.name)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args(arguments))
    chosen = replace(defaults, **{f.name: options[f.name] for f in fields(defaults)})
    measured = read_measured()
    if options["show"]:
        print("\n".join(tables(measured, chosen)))
        return 0
    if chosen != defaults:
        parser.error("the page has the defaults; add --show to other numbers")
    text = page(measured, defaults)
    if options["check"]:
        is_current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print("up to date" if is_current else "docs/how-to/what-it-costs.md is out of date: run benchmarks.cost_page")
        return 0 if is_current else 1
    with atomic_write(PAGE, "w") as handle:
        handle.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
