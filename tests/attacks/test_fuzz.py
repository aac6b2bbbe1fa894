"""Every reader under attack for a few seconds; ``python -m tests.attacks`` does it for as long as one likes."""

import ast
from pathlib import Path

import pytest

from tests.attacks.entries import ENTRIES, Entry
from tests.attacks.runner import Count, run

SRC = Path(__file__).parents[2] / "src" / "counterview"
SECONDS = 2.0


@pytest.mark.parametrize("name", ENTRIES)
def test_any_damage_ends_in_an_answer_a_skip_or_a_typed_error(name):
    count = run(name, seconds=SECONDS, seed=0)
    print(count.line())
    assert count.bad == []
    assert count.cases >= 5
    assert count.ended["answer"] > 0, "nothing valid was ever read"
    if name != "cache":  # whose damaged entries are made again
        assert count.ended["typed"] > 0, "nothing was ever damaged"


class Faulty(Entry):
    """Readers that fail in each of the ways that count as bad."""

    name = "faulty"

    def damage(self, rng):
        self.about = "none"

    def read(self, rng):
        import os
        import time

        kind = rng.randrange(5)
        if kind == 0:
            raise IndexError("list index out of range")
        if kind == 1:
            raise AssertionError
        if kind == 2:
            os.write(2, b"a word on standard error")
        if kind == 3:
            end = time.process_time() + 0.5
            while time.process_time() < end:
                pass
        if kind == 4:
            self.kept = bytearray(300_000_000)
            self.kept = None
        return "answer"


def test_a_fault_would_be_found(monkeypatch, tmp_path):
    """The judgement itself, in this process."""
    import random

    from tests.attacks import runner

    entry = Faulty(tmp_path)
    ended = {}
    for case in range(40):
        kind = random.Random(f"0 faulty {case}").randrange(5)
        if kind < 2:
            ended[kind] = runner._one(entry, case, 0)
    assert ended[0][0] == ended[1][0] == "bad"
    assert "IndexError: 'list index out of range' at test_fuzz.py" in ended[0][1]


@pytest.mark.parametrize("kind", ["output", "time", "memory", "death"])
def test_limits_of_a_case(kind, monkeypatch):
    if kind == "memory" and not Path("/proc/self/clear_refs").exists():
        pytest.skip("the system does not tell the largest size of a process")
    count = _run_in_process_of_its_own(kind)
    assert count.ended["bad"] >= 1, count
    words = {"output": "a word", "time": " s, ", "memory": " MB", "death": "the process ended with 7"}[kind]
    assert words in count.bad[0]


def _run_in_process_of_its_own(kind: str) -> Count:
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_faulty_work, args=(kind, there))
    process.start()
    there.close()
    count = Count("faulty")
    try:
        while True:
            message = here.recv()
            if message[0] == "done":
                count.add(*message[1:])
    except EOFError:
        process.join()
        if process.exitcode:
            count.add(0, "bad", f"the process ended with {process.exitcode}", 0, 0)
    return count


def _faulty_work(kind, pipe):
    import os
    import tempfile

    from tests.attacks import entries, runner

    class One(Faulty):
        def read(self, rng):
            if kind == "death":
                os._exit(7)
            number = {"output": 2, "time": 3, "memory": 4}[kind]

            class Fixed:
                randrange = staticmethod(lambda _: number)

            return super().read(Fixed)

    runner.TIME_S, runner.MEMORY_MB = 0.2 if kind == "time" else 60, 200
    entries.ENTRIES["faulty"] = One
    runner._work("faulty", tempfile.mkdtemp(), 0, 0, 0.01, True, pipe)


def test_nothing_catches_ctrl_c():
    """A handler of ``BaseException``, or of everything, raises it again."""
    found = 0
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ExceptHandler):
                continue
            text = "" if node.type is None else ast.unparse(node.type)
            if node.type is None or "BaseException" in text:
                found += 1
                last = node.body[-1]
                assert isinstance(last, ast.Raise), f"{path}:{node.lineno}"
                assert last.exc is None, f"{path}:{node.lineno}"
            elif "KeyboardInterrupt" in text:
                assert path.relative_to(SRC).as_posix() in ("cli/main.py", "cli/follow.py"), path
    assert found > 3
