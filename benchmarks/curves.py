"""Loss and validation curves of a training run, as an image.

``python -m benchmarks.curves RUN OUT.png [--losses matching absent] [--scores iou ...] [--window 50]``

Reads ``train.csv`` and ``validation.csv``. A loss is drawn as means over ``--window`` steps, without the steps in which
it was 0 because it did not apply. Each is divided by its largest value, so that all fit into one plot.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

SCORES = ("iou", "contour_accuracy", "location_error")


def read(path: Path) -> list[dict[str, float]]:
    """The rows of a log; empty cells are left out."""
    with path.open(encoding="utf-8", newline="") as handle:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(handle)]


def smooth(rows: Sequence[dict[str, float]], name: str, window: int) -> tuple[list[float], list[float]]:
    """Last steps of windows, and means of a column over them; a loss of exactly 0 did not apply."""
    steps: list[float] = []
    values: list[float] = []
    for start in range(0, int(rows[-1]["step"]), window):
        part = [r[name] for r in rows if start < r["step"] <= start + window and r.get(name)]
        if part:
            steps.append(start + window)
            values.append(sum(part) / len(part))
    return steps, values


def main() -> int:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--losses", nargs="+")
    parser.add_argument("--scores", nargs="+", default=list(SCORES))
    parser.add_argument("--window", type=int, default=50)
    options = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    train, validation = read(options.run / "train.csv"), read(options.run / "validation.csv")
    names = options.losses or ["loss"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2))
    for name in names:
        steps, values = smooth(train, name, options.window)
        largest = max(values)
        left.plot(steps, [v / largest for v in values], label=f"{name} / {largest:.2g}")
    left.set(xlabel="step", title=f"training losses, means of {options.window} steps", ylim=0)
    left.legend()
    for name in options.scores:
        points = [(r["step"], r[name]) for r in validation if name in r]
        right.plot(*zip(*points, strict=True), marker=".", label=name.replace("_", " "))
    right.set(xlabel="step", title="validation", ylim=0)
    right.legend()
    figure.tight_layout()
    figure.savefig(options.out, dpi=110)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
