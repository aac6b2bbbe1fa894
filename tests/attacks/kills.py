"""Kill every command that writes, and run two of each at once: ``python -m tests.attacks.kills [--trials N]``.

A trial starts a command in a new process and kills it with SIGKILL: at a random moment, or just before a chosen one of
its changes to the disk (a file opened for writing, renamed or removed, a folder made or removed). Then the same command
is run again. It has to leave the bytes of a run that nobody disturbed, and no other file; or to refuse, with exit code
2 and one line. A race starts the command twice, with the same output: again the bytes are those of one run, and whoever
does not write them refuses.

Processes are forked from this one after the libraries are imported, so that a trial takes the time of the work alone.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

EVALUATOR = Path(__file__).parents[1] / "data" / "evaluator"
LIMIT_S = 1800.0
"""Longest time of one run. One that takes longer is called bad: it hangs, or the machine has no time for it."""
_OVERDUE = -99
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        name: for the table.
        arguments: what follows ``counterview``, for an output folder that does not exist.
        again: what is added when it is run again after a kill.
        varying: names of files whose bytes differ between undisturbed runs, since they hold times.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    again: tuple[str, ...] = ()
    varying: tuple[str, ...] = ()


@dataclass
class Tally:
    """What the trials of one command ended in."""

    name: str
    writes: int = 0
    seconds: float = 0.0
    ended: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def cells(self) -> list[str]:
        """The row of the table."""
        texts = [self.name, f"{self.seconds:.1f}", str(self.writes)]
        for kind in ("random", "write", "race"):
            counts = [self.ended[f"{kind} {how}"] for how in ("same", "refused", "bad")]
            texts.append(" / ".join(map(str, counts)))
        return texts


# ------------------------------------------------------------------------------------------------------ commands


def inputs(folder: Path) -> dict[str, Path]:
    """Small inputs of all commands, below ``folder``."""
    import torch
    from PIL import Image

    from counterview.media.images import write_image
    from tests.data_egoexo.release_maker import TakeSpec, make_release
    from tests.omama.omama_fill import released_state
    from tests.omama.tiny_takes import write_takes

    folder.mkdir(parents=True)
    image = np.full((60, 80, 3), 120, np.uint8)
    image[10:30, 10:30], image[35:55, 45:70] = (200, 30, 30), (30, 30, 200)
    write_image(folder / "a.png", image)
    Image.fromarray((image[..., 0] == 200).astype(np.uint8) * 255).save(folder / "red.png")
    release = make_release(folder / "release", [TakeSpec("u1", "t1", 61), TakeSpec("u2", "t2", 61)])
    takes = write_takes(folder / "takes", frames=2, splits={"val": 2})
    (folder / "toy.yaml").write_text(
        "method: toy\ndata: {samples: 16}\n"
        "training: {epochs: 3, batch_size: 8, lr: 0.02, trackers: [], checkpoint_every: 1}\n"
    )
    names = json.loads((EVALUATOR.parent / "omama" / "head.json").read_text(encoding="utf-8"))
    torch.save(released_state(names["parameters"]["reverse_true"]), folder / "best.pt")
    return {
        "image": folder / "a.png", "mask": folder / "red.png", "release": release, "takes": takes,
        "recipe": folder / "toy.yaml", "weights": folder / "best.pt",
    }  # fmt: skip


def commands(files: dict[str, Path]) -> list[Command]:
    """All commands that write, on these inputs."""
    gt, ego, exo = (str(EVALUATOR / n) for n in ("correspondence-gt.json", "pred_ego-exo.json", "pred_exo-ego.json"))
    match = ["match", str(files["image"]), str(files["image"]), "--mask", str(files["mask"]), "--model", "knn"]
    release, takes = str(files["release"]), str(files["takes"])
    scores = ["evaluate", "--gt", gt, "--pred", ego]
    render = ["--takes", "1", "--size", "96", "--seconds", "2", "--cameras", "2", "--pool-size", "2"]
    found = [
        Command("match", lambda out: [*match, "--out", str(out)]),
        Command("match --cache", lambda out: [*match, "--out", str(out / "m"), "--cache", str(out / "cache")]),
        Command("demo", lambda out: ["demo", "--model", "knn", "--what", "pair", "--out", str(out)]),
        Command("inspect", lambda out: ["inspect", release, "--image", str(out / "i.png"), "--overwrite"]),
        Command("prepare", lambda out: ["prepare", release, str(out), "--split", "val"]),
        Command("predict", lambda out: ["predict", "knn", takes, "--split", "val", "--out", str(out / "p.json")]),
        Command("evaluate --report", lambda out: [*scores, "--report", str(out)]),
        Command("evaluate --per-frame", lambda out: [*scores, "--per-frame", str(out / "rows.csv")]),
        Command("submit", lambda out: ["submit", ego, exo, "--gt", gt, "--out", str(out / "s.json")]),
        Command("convert", lambda out: ["convert", "omama", str(files["weights"]), str(out)]),
        Command(
            "train", lambda out: ["train", str(files["recipe"]), "--out", str(out), "--quiet"], again=("--resume",),
            varying=("train.csv", "validation.csv", "trainer.json", "COMPLETE", "result.json"),
        ),
        Command("tabletop", lambda out: ["tabletop", str(out), *render]),
    ]  # fmt: skip
    try:
        import embreex  # noqa: F401
    except ImportError:
        print("tabletop is left out: the extra [render] is not installed", file=sys.stderr)
        found.pop()
    return found


# ------------------------------------------------------------------------------------------------------ processes


def _is_change(event: str, arguments: tuple[object, ...], place: str) -> bool:
    """Whether an audit event changes the disk below ``place``."""
    if event == "open":
        path, mode, flags = (*arguments, None, None, None)[:3]
        writes = (isinstance(mode, str) and bool(set(mode) & set("wax+"))) or (
            mode is None and isinstance(flags, int) and bool(flags & _WRITING)
        )
    else:
        path, writes = (arguments[0] if arguments else None), event in _CHANGES
    return writes and isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(place)


def _child(arguments: Sequence[str], place: Path, log: Path, kill_before: int | None, count: Path | None) -> None:
    """Run a command in this forked process, and end it."""
    code = 70
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        seen, below = 0, str(place)

        def hook(event: str, details: tuple[object, ...]) -> None:
            nonlocal seen
            if (event == "open" or event in _CHANGES) and os.getpid() == own and _is_change(event, details, below):
                seen += 1
                if seen == kill_before:
                    os.kill(own, signal.SIGKILL)

        own = os.getpid()
        if kill_before is not None or count is not None:
            sys.addaudithook(hook)
        from counterview.cli.main import main

        code = main(list(arguments))
        if count is not None:
            number = seen
            count.write_text(json.dumps([number, sorted(sys.modules)]))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def start(
    arguments: Sequence[str], place: Path, log: Path, *, kill_before: int | None = None, count: Path | None = None
) -> int:
    """Start a command in a new process group; returns the process."""
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        _child(arguments, place, log, kill_before, count)
    with contextlib.suppress(OSError):  # the child may have done it, or ended
        os.setpgid(pid, pid)
    return pid


def wait(pid: int, kill_after: float | None = None) -> int:
    """Wait for a process; its exit code, or minus the signal. It is killed after so many seconds, and when it hangs."""
    begun = time.monotonic()
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        passed = time.monotonic() - begun
        if passed > (LIMIT_S if kill_after is None else kill_after):
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            return os.waitstatus_to_exitcode(status) if kill_after is not None else _OVERDUE
        time.sleep(0.002)


def lives(group: int) -> bool:
    """Whether a process of the group is still there after a few seconds."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return False
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-group, os.WNOHANG)
        time.sleep(0.1)
    return True


# ------------------------------------------------------------------------------------------------------ trials


def tree(folder: Path, varying: Sequence[str]) -> dict[str, str]:
    """Hash of each file below a folder by its name, and the folders; of a file that varies only the name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            found[name] = "folder"
        elif path.name in varying:
            found[name] = "varies"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return found


def difference(found: dict[str, str], expected: dict[str, str]) -> str:
    """In words, how two trees differ; empty if they do not."""
    texts = [
        f"{what} {', '.join(names[:4])}"
        for what, names in (
            ("lacks", sorted(expected.keys() - found.keys())),
            ("has also", sorted(found.keys() - expected.keys())),
            ("differs in", sorted(n for n in found.keys() & expected.keys() if found[n] != expected[n])),
        )
        if names
    ]
    return "; ".join(texts)


class Trials:
    """The trials of one command.

    Args:
        command: the command.
        folder: for its outputs.
        rng: of kills.
    """

    def __init__(self, command: Command, folder: Path, rng: random.Random) -> None:
        self.command, self.folder, self.rng = command, folder, rng
        self.out, self.log = folder / "out", folder / "log.txt"
        self.tally = Tally(command.name)
        counted = folder / "count.txt"
        code = self._fresh(count=counted)
        if code:
            raise RuntimeError(f"{command.name} fails undisturbed with {code}: {self._said()}")
        self.tally.writes, modules = json.loads(counted.read_text())
        for module in modules:  # what the command imports on first use, so that the trials need not
            with contextlib.suppress(Exception):
                importlib.import_module(module)
        self.expected = tree(self.out, command.varying)
        begun = time.monotonic()
        self._fresh()
        self.tally.seconds = time.monotonic() - begun
        if problem := difference(tree(self.out, command.varying), self.expected):
            raise RuntimeError(f"two undisturbed runs of {command.name} differ: {problem}")

    def _fresh(self, kill_before: int | None = None, kill_after: float | None = None, count: Path | None = None) -> int:
        shutil.rmtree(self.out, ignore_errors=True)
        self.pid = start(self.command.arguments(self.out), self.out, self.log, kill_before=kill_before, count=count)
        return wait(self.pid, kill_after)

    def _said(self) -> str:
        return " ".join(self.log.read_text(errors="replace").strip().splitlines()[-1:])[:300]

    def _judge(self, kind: str, codes: Sequence[int], said: Sequence[str], about: str) -> None:
        refused = [text for code, text in zip(codes, said, strict=True) if code == 2]
        self.tally.refusals.update(text.replace(str(self.folder), "").split(", process")[0] for text in refused)
        problem = difference(tree(self.out, self.command.varying), self.expected)
        other = [
            f"did not end in {LIMIT_S:.0f} s" if code == _OVERDUE else f"exit {code}: {text}"
            for code, text in zip(codes, said, strict=True)
            if code not in (0, 2)
        ]
        if other:
            how, problem = "bad", "; ".join(other)
        elif any(not text.startswith("counterview: ") for text in refused):
            how, problem = "bad", f"no clear refusal: {refused}"
        elif len(refused) == len(codes):
            how = "refused"
        else:
            how = "bad" if problem else "same"
        self.tally.ended[f"{kind} {how}"] += 1
        if how == "bad":
            self.tally.bad.append(f"{self.command.name}, {about}: {problem}")

    def kill(self, kind: str) -> None:
        """One kill, of the kind ``random`` or ``write``, and the run after it."""
        if kind == "random":
            moment = self.rng.uniform(0, self.tally.seconds)
            about = f"killed after {moment:.3f} s"
            self._fresh(kill_after=moment)
        else:
            number = self.rng.randint(1, self.tally.writes)
            about = f"killed before change {number}"
            self._fresh(kill_before=number)
        killed = self.pid
        again = start([*self.command.arguments(self.out), *self.command.again], self.out, self.log)
        code = wait(again)
        self._judge(kind, [code], [self._said()], about)
        if lives(killed):
            self.tally.ended[f"{kind} bad"] += 1
            self.tally.bad.append(f"{self.command.name}, {about}: a process of the killed run lives on")
            os.killpg(killed, signal.SIGKILL)

    def race(self) -> None:
        """Two processes at once on one output."""
        shutil.rmtree(self.out, ignore_errors=True)
        delay = self.rng.choice((0.0, self.rng.uniform(0, self.tally.seconds)))
        logs = [self.folder / f"race{n}.txt" for n in range(2)]
        first = start(self.command.arguments(self.out), self.out, logs[0])
        time.sleep(delay)
        second = start(self.command.arguments(self.out), self.out, logs[1])
        codes = [wait(first), wait(second)]
        said = []
        for log in logs:
            self.log = log
            said.append(self._said())
        self.log = self.folder / "log.txt"
        self._judge("race", codes, said, f"a second run {delay:.3f} s after the first")


def spread(total: int, names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each name, and its share of ``total``."""
    for number, name in enumerate(names):
        yield name, total // len(names) + (number < total % len(names))


def main(arguments: list[str] | None = None) -> int:
    """Run it; 1 if a trial ended badly."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.kills", description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100, help="kills at random moments, and as many at chosen writes")
    parser.add_argument("--races", type=int, default=3, help="pairs of runs at once, of each command")
    parser.add_argument("--command", action="append", help="only this one; may be repeated")
    parser.add_argument("--seconds", type=float, default=3600.0, help="no trial begins after this time")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    _import_libraries()
    end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        known = {command.name: command for command in commands(inputs(folder / "in"))}
        names = options.command or list(known)
        jobs: list[tuple[Trials, str]] = []
        tallies = []
        for number, (name, share) in enumerate(spread(options.trials, names)):
            (folder / f"work{number}").mkdir()
            trials = Trials(known[name], folder / f"work{number}", random.Random(f"{options.seed} {name}"))
            tallies.append(trials.tally)
            jobs += [(trials, kind) for kind in ("random", "write") for _ in range(share)]
            jobs += [(trials, "race")] * options.races
        random.Random(options.seed).shuffle(jobs)  # so that every command has its turn before the time is up
        for number, (trials, kind) in enumerate(jobs):
            if time.monotonic() > end:
                print(f"time is up after {number} of {len(jobs)} trials", file=sys.stderr)
                break
            trials.race() if kind == "race" else trials.kill(kind)
            if number % 20 == 19:
                bad = sum(len(tally.bad) for tally in tallies)
                print(f"{number + 1} of {len(jobs)} trials, {bad} bad", file=sys.stderr, flush=True)
    _report(tallies)
    return 1 if any(tally.bad for tally in tallies) else 0


def _import_libraries() -> None:
    """What commands import, so that a forked process need not; nothing is computed, which could start threads."""
    import pkgutil

    import counterview
    import counterview.cli.main
    from counterview.training.recipe import register_method

    sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
    from training_toy import ToyTask  # type: ignore[import-not-found]

    register_method("toy", ToyTask)
    for module in pkgutil.walk_packages(counterview.__path__, "counterview."):
        with contextlib.suppress(Exception):  # of an extra that is not installed
            __import__(module.name)


def _report(tallies: Sequence[Tally]) -> None:
    head = ["command", "s", "writes", "random kills: same / refused / bad", "kills at a write", "two at once"]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for tally in tallies:
        print("| " + " | ".join(tally.cells()) + " |")
    total: Counter[str] = sum((tally.ended for tally in tallies), Counter())
    print("total: " + ", ".join(f"{number} {how}" for how, number in sorted(total.items())))
    for tally in tallies:
        for text, number in tally.refusals.items():
            print(f"refused {number} x, {tally.name}: {text}")
        for text in tally.bad:
            print(f"BAD {text}")


if __name__ == "__main__":
    sys.exit(main())
