"""How long does a process take until it works: an import, a help text, a loaded model, ``counterview match``?

``python -m benchmarks.startup [--repeat 7] [--save]``

Whole processes, one of each in turn, so that all meet the same load; each is compared with ``python -c pass`` and
``import torch`` of the same turn. Wall seconds, and seconds of the processor, which hang less on other work. The
interpreter's cache of compiled modules is filled by a first turn that does not count.

``match, first work``: ``counterview match`` on the bundled pair, from its start until images are read and the model
is loaded; what follows is work on the images.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from benchmarks.common import record, show

CODE = {
    "python -c pass": "pass",
    "import torch": "import torch",
    "import transformers": "import transformers",
    "import counterview": "import counterview",
    "counterview.load()": "import counterview; counterview.load()",
    "counterview.load('tiny-follow')": "import counterview; counterview.load('tiny-follow')",
}
HELP = {"counterview --help": ["--help"], "counterview match --help": ["match", "--help"]}
FIRST_WORK = "match, first work"
LOADED = "loading the model"
"""What ``--verbose`` logs when a model is loaded."""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/startup.json")
    options = parser.parse_args()
    counterview = [sys.executable, "-m", "counterview.cli.main"]
    runs: dict[str, Callable[[], tuple[float, float]]] = {
        **{name: lambda c=code: whole([sys.executable, "-c", c]) for name, code in CODE.items()},
        **{name: lambda a=arguments: whole([*counterview, *a]) for name, arguments in HELP.items()},
        FIRST_WORK: lambda: until_loaded(counterview),
    }
    turns = [{name: run() for name, run in runs.items()} for _ in range(options.repeat + 1)][1:]
    result = {name: summary(name, turns) for name in runs}
    columns = ["wall_s", "cpu_s", "cpu_min_s", "cpu_max_s", "times_pass", "times_torch"]
    show("Start of a process", ["process", *columns], [[n, *(r[c] for c in columns)] for n, r in result.items()])
    probe = "import sys, counterview; sys.exit('torch' in sys.modules)"
    torch_free = subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
    record("startup", {"processes": result, "import_loads_torch": not torch_free}, save=options.save)


def summary(name: str, turns: list[dict[str, tuple[float, float]]]) -> dict[str, float]:
    """Medians of one process, and of its processor time over that of two others in the same turn."""
    cpu = [turn[name][1] for turn in turns]
    return {
        "wall_s": statistics.median(turn[name][0] for turn in turns),
        "cpu_s": statistics.median(cpu),
        "cpu_min_s": min(cpu),
        "cpu_max_s": max(cpu),
        "times_pass": statistics.median(turn[name][1] / turn["python -c pass"][1] for turn in turns),
        "times_torch": statistics.median(turn[name][1] / turn["import torch"][1] for turn in turns),
    }


def environment() -> dict[str, str]:
    """This process's, with Python's cache of compiled modules: without it, every start compiles the package anew."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def whole(command: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of a process from its start to its end."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment())
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def until_loaded(command: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of ``match`` until its model is loaded; the process is then ended."""
    pair = Path(str(files("counterview"))) / "assets" / "pair"
    mask = sorted(pair.glob("ego_*.png"))[0]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        arguments = ["match", pair / "ego.jpg", pair / "exo.jpg", "--mask", mask, "--out", out, "--verbose"]
        return _until_line([*command, *map(str, arguments)], LOADED)


def _until_line(command: list[str], text: str) -> tuple[float, float]:
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if text in line:
                wall, cpu = time.perf_counter() - start, processor_seconds(process.pid)
                process.kill()
                return wall, cpu
    raise RuntimeError(f"the process ended without a line with {text!r}")


def processor_seconds(pid: int) -> float:
    """Processor seconds of a running process so far, all of its threads together (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
