"""Items that worker processes share. The oracle is what each process writes: item, process and thread counts."""

import json
import os
from pathlib import Path

import pytest

from counterview.jobs.engine import JobEngine
from counterview.jobs.manifest import Worker
from counterview.jobs.run import MIN_POOL_ITEMS, for_each_item

TWO = JobEngine(workers=2)


def make_writer(folder: Path) -> Worker:
    import cv2
    import torch

    def write(item: int) -> None:
        threads = [torch.get_num_threads(), cv2.getNumThreads()]
        (folder / f"{item}.json").write_text(json.dumps([os.getpid(), threads]))

    return write


def make_failing(folder: Path) -> Worker:
    def fail(item: int) -> None:
        raise ValueError(f"item {item}")

    return fail


def test_several_processes_of_one_thread_share_the_items(tmp_path: Path) -> None:
    items = range(MIN_POOL_ITEMS + 5)
    for_each_item(make_writer, (tmp_path,), items, engine=TWO, label="t", progress=False)
    written = {int(p.stem): json.loads(p.read_text()) for p in tmp_path.glob("*.json")}
    assert sorted(written) == list(items)
    assert os.getpid() not in {process for process, _ in written.values()}
    assert all(threads == [1, 1] for _, threads in written.values())


def test_few_items_start_no_process(tmp_path: Path) -> None:
    for_each_item(make_writer, (tmp_path,), range(MIN_POOL_ITEMS - 1), engine=TWO, label="t", progress=False)
    processes = [json.loads(p.read_text())[0] for p in tmp_path.glob("*.json")]
    assert processes == [os.getpid()] * (MIN_POOL_ITEMS - 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_worker_reaches_the_caller(tmp_path: Path, workers: int) -> None:
    with pytest.raises(ValueError, match=r"item \d"):
        for_each_item(make_failing, (tmp_path,), range(9), engine=JobEngine(workers=workers), label="t", progress=False)
