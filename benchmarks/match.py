"""How much does a pair of images cost, and each further object?

``python -m benchmarks.match [--save]``: the bundled pair, proposals ``graph``, features ``classical``; both images are
encoded once. The masks of the pair are repeated up to the number of objects.
"""

from __future__ import annotations

import argparse

from benchmarks.common import record, show, timed
from counterview.inference.examples import load_pair
from counterview.inference.loading import load

COUNTS = (1, 4, 16)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/match.json")
    options = parser.parse_args()
    pair = load_pair()
    model = load("knn")
    masks = [*pair.near.masks.values()]
    times = {
        count: timed(
            lambda n=count: model.match(pair.near.image, [masks[i % len(masks)] for i in range(n)], pair.far.image),
            repeat=5,
        )
        for count in COUNTS
    }
    one, most = times[COUNTS[0]]["median_s"], times[COUNTS[-1]]["median_s"]
    show("Seconds per pair", ["objects", "median s", "min s", "max s"], [[n, *t.values()] for n, t in times.items()])
    extra = (most - one) / (COUNTS[-1] - 1)
    print(f"each further object: {extra:.4f} s; {COUNTS[-1]} objects cost {most / one:.2f} times one")
    record(
        "match",
        {"seconds": {str(n): t for n, t in times.items()}, "per_object_s": extra, "ratio_16_to_1": most / one},
        save=options.save,
    )


if __name__ == "__main__":
    main()
