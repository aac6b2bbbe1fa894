"""Test the lowest and the newest versions of the libraries that ``pyproject.toml`` allows, each in a fresh environment.

::

    python -m tools.version_bounds [--python 3.11] [--set lowest] [--pin torch==2.13.0] [--json FILE] [-- tests/media …]

For each Python that the package supports and that is found as ``python3.X`` on PATH, and for each of the two sets, an
environment is made, the package and its extras :data:`EXTRAS` are installed with exactly this set, and pytest runs what
follows ``--`` (the whole suite if nothing does). The lowest version of a library is its lower bound in
``pyproject.toml`` or, if that has no wheel for this Python, the lowest above it that has one; libraries that are not
named there are the newest in both sets. The result is a table, and 1 as the exit code if a test failed.

On Linux, every torch of PyPI but those for a bare CPU brings several gigabytes of CUDA libraries: ``--pin`` chooses one
for the newest set, and ``--pin-lowest`` for the lowest. What uv is told by its own variables and options files, such as
``UV_FIND_LINKS``, holds as well.

uv resolves and installs; ``pip install uv`` brings it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
EXTRAS = ("app", "onnx", "parquet", "ray", "render", "s3", "supervision", "train")
"""Extras whose bounds are tested; the others bring torchvision, accounts, or another licence, or are the tools of
development, which are the newest in both sets."""
SETS = {"lowest": "lowest-direct", "newest": "highest"}
"""The sets, and uv's name of how each is resolved."""
SOURCE_ONLY = ("lzstring",)
"""Libraries without a wheel; for all others only versions that have one are considered."""


@dataclass
class Outcome:
    """What one set did on one Python.

    Attributes:
        python: version of the interpreter, as ``3.11``.
        set: name of the set.
        versions: library to version, of those that ``pyproject.toml`` names.
        counts: of tests, by outcome.
        failed: names of the tests that failed.
        problem: why no test ran; empty if tests ran.
        seconds: that the tests took.
    """

    python: str
    set: str
    versions: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    problem: str = ""
    seconds: float = 0.0

    @property
    def is_green(self) -> bool:
        """Whether tests ran and none failed."""
        return not self.problem and not self.failed and self.counts.get("passed", 0) > 0


def project() -> dict:
    """The table ``project`` of ``pyproject.toml``."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(table: dict) -> list[Requirement]:
    """The libraries whose bounds are tested."""
    extras = table["optional-dependencies"]
    return [Requirement(text) for text in [*table["dependencies"], *(t for e in EXTRAS for t in extras[e])]]


def bounded(found: Iterable[Requirement]) -> dict[str, str]:
    """Library to its lower bound; empty where it has none."""
    bounds: dict[str, str] = {}
    for requirement in found:
        lower = [s.version for s in requirement.specifier if s.operator in (">=", "==", "~=")]
        bounds[_normal(requirement.name)] = lower[0] if lower else ""
    return bounds


def supported(table: dict) -> list[str]:
    """Pythons that the package supports, as ``3.11``."""
    allowed = SpecifierSet(table["requires-python"])
    return [f"3.{minor}" for minor in range(40) if f"3.{minor}.0" in allowed]


def find_python(version: str) -> str | None:
    """The interpreter ``python3.X`` on PATH, if it is there and runs: a shim may stand for none."""
    path = shutil.which(f"python{version}")
    if path is None:
        return None
    code = "import sys, ensurepip, venv; print('%d.%d' % sys.version_info[:2])"
    ran = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
    return path if ran.stdout.strip() == version else None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _run(command: Sequence[str | Path], **options: object) -> str:
    """The output of a command.

    Raises:
        RuntimeError: with the last lines that it printed.
    """
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(" | ".join((done.stderr or done.stdout).strip().splitlines()[-4:]))
    return done.stdout


def install(uv: str, python: str, kind: str, folder: Path, pins: Sequence[str]) -> Path:
    """Make an environment with one set; returns its Python.

    Raises:
        RuntimeError: there is no such set, or it cannot be installed.
    """
    names = [t for name in SOURCE_ONLY for t in ("--no-binary", name)]
    (folder / "pins.txt").write_text("\n".join(pins) + "\n")
    _run(
        [uv, "pip", "compile", "--quiet", "--python", python, "--resolution", SETS[kind], "--only-binary", ":all:",
         *names, "--constraint", folder / "pins.txt", *(t for e in EXTRAS for t in ("--extra", e)),
         "--output-file", folder / "set.txt", ROOT / "pyproject.toml"],
    )  # fmt: skip
    inside = folder / "venv"
    _run([uv, "venv", "--quiet", "--python", python, inside])
    new = inside / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    into = [uv, "pip", "install", "--quiet", "--python", new]
    _run([*into, "--no-deps", "--requirement", folder / "set.txt"])
    # What the tests need beside the set is the newest that goes with it.
    _run([*into, "--constraint", folder / "set.txt", "--editable", f"{ROOT}[dev]"])
    return new


def installed(uv: str, python: Path, names: Iterable[str]) -> dict[str, str]:
    """The versions of libraries in an environment."""
    listed = json.loads(_run([uv, "pip", "list", "--format", "json", "--python", python]))
    versions = {_normal(entry["name"]): entry["version"] for entry in listed}
    return {name: versions.get(name, "-") for name in names}


def read_junit(path: Path) -> tuple[dict[str, int], list[str]]:
    """Counts by outcome, and the names of the tests that failed, of a report in JUnit's XML."""
    counts = {"passed": 0, "skipped": 0, "failed": 0}
    failed = []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        counts[outcome] += 1
        if outcome == "failed":
            failed.append(f"{case.get('classname', '')}::{case.get('name', '')}")
    return counts, failed


def check(uv: str, version: str, kind: str, pins: Sequence[str], tests: Sequence[str], keep: Path | None) -> Outcome:
    """Install one set on one Python and run the tests."""
    outcome = Outcome(version, kind)
    python = find_python(version)
    if python is None:
        outcome.problem = f"python{version} is not on PATH"
        return outcome
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if keep is None else keep / f"{version}-{kind}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            new = install(uv, python, kind, folder, pins)
            outcome.versions = installed(uv, new, bounded(requirements(project())))
        except RuntimeError as error:
            outcome.problem = str(error)
            return outcome
        report = folder / "report.xml"
        start = time.perf_counter()
        with (folder / "tests.log").open("w") as log:
            subprocess.run(
                [new, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests],
                cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False,
                env={k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")},
            )  # fmt: skip
        outcome.seconds = round(time.perf_counter() - start, 1)
        if not report.is_file():
            outcome.problem = "pytest wrote no report: " + " ".join((folder / "tests.log").read_text().split())[-300:]
            return outcome
        outcome.counts, outcome.failed = read_junit(report)
    return outcome


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as two tables in Markdown: of the tests, and of the versions."""
    lines = ["| Python | set | passed | skipped | failed | seconds |", "|---|---|---|---|---|---|"]
    for o in outcomes:
        cells = [str(o.counts.get(k, "")) for k in ("passed", "skipped", "failed")]
        lines.append(f"| {o.python} | {o.set} | " + (o.problem or " | ".join([*cells, f"{o.seconds:.0f}"])) + " |")
    ran = [o for o in outcomes if o.versions]
    if ran:
        heads = " | ".join(f"{o.set}, {o.python}" for o in ran)
        lines += ["", f"| library | {heads} |", "|---" * (len(ran) + 1) + "|"]
        lines += [f"| {name} | " + " | ".join(o.versions[name] for o in ran) + " |" for name in sorted(ran[0].versions)]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run it; 1 if a set that could be tried is not green."""
    parser = argparse.ArgumentParser(prog="python -m tools.version_bounds", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--python", action="append", choices=supported(project()), help="only this one; may be repeated"
    )
    parser.add_argument("--set", action="append", choices=list(SETS), dest="sets", help="only this one")
    parser.add_argument("--pin", action="append", default=[], help="NAME==VERSION, for the newest set")
    parser.add_argument("--pin-lowest", action="append", default=[], help="NAME==VERSION, for the lowest set")
    parser.add_argument("--keep", type=Path, help="folder in which environments and logs are kept")
    parser.add_argument("--json", type=Path, help="write the outcomes here")
    parser.add_argument("tests", nargs="*", help="after --: what pytest runs")
    options = parser.parse_args(arguments)
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        parser.error("uv is not found; run: pip install uv")
    outcomes = []
    for version in options.python or supported(project()):
        for kind in options.sets or SETS:
            pins = options.pin if kind == "newest" else options.pin_lowest
            outcomes.append(check(uv, version, kind, pins, options.tests, options.keep))
            print(table(outcomes[-1:]), *outcomes[-1].failed, sep="\n", end="\n\n", flush=True)
            if options.json:
                options.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=2) + "\n")
    print(table(outcomes))
    return 1 if any(not o.is_green and (o.versions or "PATH" not in o.problem) for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
