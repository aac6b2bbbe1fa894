"""How long do ``import counterview`` and ``counterview --help`` take, compared with an empty Python?

``python -m benchmarks.startup [--save]``
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.common import record, show, timed

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import counterview'": [sys.executable, "-c", "import counterview"],
    "counterview --help": [sys.executable, "-m", "counterview.cli.main", "--help"],
}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/startup.json")
    options = parser.parse_args()
    times = {
        name: timed(lambda c=command: subprocess.run(c, check=True, stdout=subprocess.DEVNULL), repeat=11)
        for name, command in COMMANDS.items()
    }
    show(
        "Start-up of a process",
        ["command", "median s", "min s", "max s"],
        [[n, *t.values()] for n, t in times.items()],
    )
    probe = "import sys, counterview; sys.exit('torch' in sys.modules)"
    torch_free = subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
    record("startup", {"commands": times, "import_loads_torch": not torch_free}, save=options.save)


if __name__ == "__main__":
    main()
