"""Attack every reader of files, and print a count for each: ``python -m tests.attacks [--seconds N] [--entry NAME]``.

Every case is made from the seed, the entry and its number alone: ``--entry image --seed 0 --case 4711`` repeats one.
"""

from __future__ import annotations

import argparse
import sys

from tests.attacks.entries import ENTRIES
from tests.attacks.runner import run


def main(arguments: list[str] | None = None) -> int:
    """Run it; 1 if a case ended badly."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each entry")
    parser.add_argument("--entry", action="append", choices=list(ENTRIES), help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of all cases")
    parser.add_argument("--case", type=int, help="only the case of this number")
    options = parser.parse_args(arguments)
    bad = 0
    for name in options.entry or ENTRIES:
        count = run(name, seconds=options.seconds, seed=options.seed, case=options.case)
        print(count.line(), flush=True)
        for line in count.bad:
            print(f"  {line}", flush=True)
        bad += count.ended["bad"]
    print(f"{bad} cases ended in something else than an answer, a documented skip or a typed error")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
