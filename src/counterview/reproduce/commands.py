"""The steps of a plan as commands, each of which runs by itself as it is printed."""

from __future__ import annotations

import shlex
from pathlib import Path

from counterview.data.formats.release import annotation_path, is_release
from counterview.inference.zoo import TRACKERS, resolve
from counterview.reproduce.plan import PAIRS_SEED, Plan, Unit


def commands(plan: Plan) -> list[str]:
    """The steps in order: train, predict and score each model; what several rows share is there once."""
    lines: list[list[str]] = []
    listed: set[Path] = set()
    for unit in plan.units:
        if unit.is_trained and unit.recipe is not None and unit.base not in listed:
            data = f"data.root={plan.data}"
            lines.append(["train", str(unit.recipe[0]), *unit.overrides, data, "--out", str(unit.base), "--resume"])
            listed.add(unit.base)
        out = plan.predictions(unit)
        if out not in listed:
            lines.append(_predict(plan, unit, out))
            listed.add(out)
        truth = ["--gt", str(plan.data), "--split", plan.split]
        if is_release(plan.data):
            truth = ["--gt", str(annotation_path(plan.data, plan.split))]
        for direction in unit.directions:
            lines.append(["evaluate", *truth, "--pred", str(out), "--direction", direction,
                          "--protocol", plan.table.protocol, "--allow-missing-takes"])  # fmt: skip
    return [shlex.join(["counterview", *line]) for line in lines]


def _predict(plan: Plan, unit: Unit, out: Path) -> list[str]:
    way = unit.directions[0] if len(unit.directions) == 1 else "both"
    line = ["predict", unit.source, *unit.source_overrides, str(plan.data), "--split", plan.split, "--direction", way]
    line += ["--layout", plan.layout.name]
    if plan.table.fraction < 1:
        line += ["--fraction", f"{plan.table.fraction:g}", "--seed", str(PAIRS_SEED)]
    line += [] if plan.takes is None else ["--takes", str(plan.takes)]
    if not follows(unit):
        line += ["--cache", str(plan.out / "proposals")]
    return [*line, "--out", str(out)]


def follows(unit: Unit) -> bool:
    """Whether a unit's model draws masks, and so has no proposals to keep."""
    if unit.recipe is None:
        return resolve(unit.source).method in TRACKERS
    return unit.recipe[1].method in TRACKERS
