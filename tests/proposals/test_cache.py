import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest

from counterview.proposals import CachedProposer, Proposals, load_proposer
from counterview.proposals.cache import cache_key
from counterview.types import ObjectMask


class Counting:
    """Proposes the bright half of an image, and counts how often it is called."""

    name = "counting"

    def __init__(self, level=128):
        self.level = level
        self.calls = 0

    def settings(self):
        return {"level": self.level}

    def __call__(self, image, name=None):
        self.calls += 1
        bright = image[..., 0] >= self.level
        masks = (ObjectMask.from_array(bright), ObjectMask.from_array(~bright))
        return Proposals(image.shape[:2], masks, [0.1, 1 / 3], [[0.25, 0, 1e-7, 3], [1, 2, 3, 4]])


def _image(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_second_time_comes_from_disk_and_is_equal(tmp_path):
    proposer = Counting()
    cached = CachedProposer(proposer, tmp_path)
    first, second = cached(_image()), cached(_image())
    assert proposer.calls == 1
    assert first == second == Counting()(_image())
    assert cached.name == "counting"
    assert cached.settings() == {"level": 128}
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".json"]


def test_key_knows_pixels_shape_settings_and_name(tmp_path):
    image = _image()
    changed = image.copy()
    changed[3, 4, 1] ^= 1
    other = Counting()
    other.name = "other"
    keys = {
        cache_key(image, Counting()),
        cache_key(changed, Counting()),
        cache_key(image.reshape(30, 20, 3), Counting()),
        cache_key(image, Counting(level=3)),
        cache_key(image, other),
    }
    assert len(keys) == 5
    assert cache_key(np.asfortranarray(image), Counting()) == cache_key(image, Counting())


def _damage_cut(text):
    return text[: len(text) // 2]


def _damage_number(text):
    entry = json.loads(text)
    entry["scores"][0] = 0.9
    return json.dumps(entry)


def _damage_counts(text):
    entry = json.loads(text)
    entry["counts"][0] = "~~~"
    return json.dumps(entry)


def _damage_format(text):
    return json.dumps({**json.loads(text), "format": 0})


def _damage_types(text):
    return json.dumps({**json.loads(text), "counts": 5})


def _damage_all(text):
    return "[]"


@pytest.mark.parametrize(
    "damage", [_damage_cut, _damage_number, _damage_counts, _damage_format, _damage_types, _damage_all]
)
def test_damaged_entry_is_made_again_with_a_warning(tmp_path, caplog, damage):
    proposer = Counting()
    cached = CachedProposer(proposer, tmp_path)
    first = cached(_image())
    path = cached.path(_image())
    whole = path.read_text()
    path.write_text(damage(whole))
    with caplog.at_level(logging.WARNING):
        assert cached(_image()) == first
    assert proposer.calls == 2
    assert "made again" in caplog.text
    assert path.read_text() == whole


def test_entry_of_another_image_is_not_used(tmp_path):
    proposer = Counting()
    cached = CachedProposer(proposer, tmp_path)
    cached(_image(1))
    target = cached.path(_image(2))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(cached.path(_image(1)).read_bytes())
    assert cached(_image(2)) == Counting()(_image(2))


def test_disk_that_cannot_be_written_costs_only_a_warning(tmp_path, caplog):
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    with caplog.at_level(logging.WARNING):
        found = CachedProposer(Counting(), blocker / "cache")(_image())
    assert found == Counting()(_image())
    assert "cannot be cached" in caplog.text


_WORKER = """
import sys
import numpy as np
from counterview.proposals import CachedProposer, load_proposer

cached = CachedProposer(load_proposer("graph", regions=50, max_masks=5), sys.argv[1])
print(sys.stdin.readline())
for seed in [0, 1, 2, 3] * 3:
    image = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    print(hash(tuple(mask.runs.tobytes().hex() for mask in cached(image))))
"""


def test_several_processes_share_a_folder(tmp_path):
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-c", _WORKER, str(tmp_path)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    for worker in workers:  # they wait for this line, so that they begin together
        worker.stdin.write("go\n")
        worker.stdin.flush()
    results = {worker.communicate(timeout=120)[0] for worker in workers}
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert len(results) == 1
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert all(json.loads(path.read_text())["format"] == 1 for path in files)


def test_graph_through_the_cache_is_compact(tmp_path, shapes):
    image, _ = shapes()
    cached = CachedProposer(load_proposer("graph"), tmp_path)
    proposals = cached(image)
    assert cached(image) == proposals
    size = cached.path(image).stat().st_size
    assert size < 1000 * len(proposals)


def test_folders_are_read_again(tmp_path, shapes):
    image, _ = shapes()
    masks = np.zeros((1, *image.shape[:2]), bool)
    masks[0, 3:9, 4:20] = True
    np.savez(tmp_path / "a_masks.npz", masks)
    cached = CachedProposer(load_proposer(f"folder:{tmp_path}"), tmp_path / "cache")
    assert cached(image, "a").masks[0].area == 96
    masks[0, 20:30, 4:20] = True
    np.savez(tmp_path / "a_masks.npz", masks)
    assert cached(image, "a").masks[0].area == 256
    assert not (tmp_path / "cache").exists()
