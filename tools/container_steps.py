"""The steps of the container without a container: ``python -m tools.container_steps FOLDER``.

For machines without Docker: the lines of ``deploy/Dockerfile`` are carried out below a folder. What is copied is copied
there, what ``pip`` installs goes into a new environment there, the entry point is started with a home and a temporary
folder of its own, the health check is run, and a visitor uploads the bundled pair, clicks an object and matches it.
What needs root (the user, the base image) is left out. Fails if a step does, or if something of the visitor is left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.page import scaled_pair, visit

ROOT = Path(__file__).parents[1]
INDEX = re.compile(r'--index-url "[^"]*"')


def read_steps(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, each with its arguments.

    Args:
        text: of the file.
    """
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"(?m)^#.*\n", "", text))
    pairs = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(word, rest) for word, rest in pairs]


def build(steps: list[tuple[str, str]], place: Path, bin_folder: Path, index: str | None) -> dict[str, str]:
    """Copy and install as the steps say.

    Args:
        steps: of the Dockerfile.
        place: the working folder of the image.
        bin_folder: of the environment.
        index: for torch instead of the one in the file; pip's own if empty.

    Returns:
        the environment variables that the steps set.
    """
    variables: dict[str, str] = {}
    for word, rest in steps:
        if word == "COPY":
            *sources, target = shlex.split(rest)
            for source in sources:
                if (ROOT / source).is_dir():
                    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
                    shutil.copytree(ROOT / source, place / target, dirs_exist_ok=True, ignore=ignore)
                else:
                    shutil.copy(ROOT / source, place / target)
        elif word == "ENV":
            variables |= dict(part.split("=", 1) for part in shlex.split(rest))
        elif word == "RUN" and "pip install" in rest:
            for part in rest.split("&&"):
                chosen = "" if index is None else f"--index-url {index}"
                words = shlex.split(INDEX.sub(chosen.replace("\\", ""), part))
                command = [str(bin_folder / words[0]), *words[1:], "--quiet"]
                print("RUN", shlex.join(command), flush=True)
                subprocess.run(command, check=True, cwd=place)
    return variables


def serve(steps: list[tuple[str, str]], place: Path, bin_folder: Path, variables: dict[str, str]) -> dict[str, Any]:
    """Start the entry point, check its health, visit it, and stop it.

    Args:
        steps: of the Dockerfile.
        place: the working folder of the image.
        bin_folder: of the environment.
        variables: that the steps set.

    Returns:
        what was measured.
    """
    of = dict(steps)
    command, check = (json.loads(of[name][of[name].index("[") :]) for name in ("ENTRYPOINT", "HEALTHCHECK"))
    home, temporary = place / "home", place / "tmp"
    for folder in (home, temporary):
        folder.mkdir(exist_ok=True)
    given = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "HOME": str(home), "TMPDIR": str(temporary), **variables}
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=place, env=given, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = re.search(r":(\d+)", process.stdout.readline())
        if port is None:
            raise SystemExit("the entry point did not say where the page is")
        started = time.perf_counter() - start
        subprocess.run(check, cwd=place, env=given, check=True)
        images, point, truth = scaled_pair(None, temporary)
        server: Any = SimpleNamespace(address=f"http://127.0.0.1:{port[1]}/")
        found = asyncio.run(visit(server, images, point, asyncio.Semaphore(1), truth))
    finally:
        process.send_signal(signal.SIGTERM)  # as a container is stopped
        status = process.wait(30)
    if found is None:
        raise SystemExit("the visitor got no match")
    left = [str(path) for path in temporary.rglob("*") if path.is_file()]
    if status or left:
        raise SystemExit(f"ended with status {status}, left {left}")
    return {"start_s": round(started, 1), **{name: round(value, 2) for name, value in found.items()}}


def main() -> int:
    """Carry the steps out and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new or empty; about 2 GB")
    parser.add_argument("--index", help="index of torch instead of the Dockerfile's; '' takes pip's own")
    options = parser.parse_args()
    place, environment = options.folder.resolve() / "image", options.folder.resolve() / "venv"
    place.mkdir(parents=True)
    venv.create(environment, with_pip=True)
    steps = read_steps((ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8"))
    if options.index is None:
        index = "https://download.pytorch.org/whl/" + dict(s.split("=") for w, s in steps if w == "ARG")["TORCH"]
    else:
        index = options.index or None
    variables = build(steps, place, environment / "bin", index)
    print(json.dumps(serve(steps, place, environment / "bin", variables)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
