"""What bringing two cameras to one look costs: processor seconds a pair of images, with and without, in one process.

``python -m benchmarks.alignment [--repeat 7] [--save]``: the bundled pair with all its objects, as it is and with the
target image of another camera. Each pair is encoded and matched anew; with and without take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

from benchmarks.common import record, show
from counterview.evaluation.camera_change import CHANGES
from counterview.inference.examples import load_pair
from counterview.inference.loading import load

CASES = {"as they are": None, "target warm": "warm"}
WITH, WITHOUT = "with", "without"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/alignment.json")
    options = parser.parse_args()
    pair, models = load_pair(), {WITH: load(), WITHOUT: load()}
    head = models[WITHOUT].matcher.model  # type: ignore[attr-defined]
    head.config = replace(head.config, alignment=None)
    seconds: dict[str, dict[str, list[float]]] = {case: {WITH: [], WITHOUT: []} for case in CASES}
    for turn in range(options.repeat + 1):
        for case, change in CASES.items():
            target = pair.far.image if change is None else CHANGES[change].apply(pair.far.image)
            for name, model in models.items():
                start = time.process_time()
                model.match(pair.near.image, dict(pair.near.masks), target)
                if turn:  # the first warms up
                    seconds[case][name].append(time.process_time() - start)
    rows = {
        case: {
            **{f"{name}_s": statistics.median(values) for name, values in by_name.items()},
            "ratio": statistics.median(a / b for a, b in zip(by_name[WITH], by_name[WITHOUT], strict=True)),
        }
        for case, by_name in seconds.items()
    }
    show(
        f"Processor seconds a pair, {len(pair.near.masks)} objects",
        ["", WITHOUT, WITH, "ratio"],
        [[case, row["without_s"], row["with_s"], row["ratio"]] for case, row in rows.items()],
    )
    record("alignment", {"objects": len(pair.near.masks), "repeat": options.repeat, "rows": rows}, save=options.save)


if __name__ == "__main__":
    main()
