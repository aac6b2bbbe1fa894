"""What the ``tiny`` proposer is trained with: losses, rooms as takes, and a run that goes on where it was cut off."""

import contextlib
import json
import sys

import cv2
import numpy as np
import pytest
import torch

from counterview.data.open import open_dataset
from counterview.proposals.boundary import EMBEDDING, EXTENT, PLACE_PX
from counterview.tiny.training import proposer_boundary, rooms_as_takes

ABOUT = {"clutter": 2, "things": 4, "person": 6, "ego": True}


@pytest.fixture
def rooms(tmp_path):
    """Two rooms of four images: body 0 is the room, 2 clutter, 4 and 5 things, 6 a hand."""
    folder = tmp_path / "rooms"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for room in (28, 29):
        for view in range(4):
            body = np.zeros((64, 80), np.uint8)
            body[5:25, 5:30] = 2
            body[30:50, 10:40] = 4
            if view != 2:
                body[10:40, 50:70] = 5
            else:
                body[10:13, 50:53] = 5
            body[45:60, 30:60] = 6
            name = folder / f"room_0001_{room:04d}_{view}"
            colours = rng.integers(0, 255, (8, 3), dtype=np.uint8)
            cv2.imwrite(str(name.with_suffix(".jpg")), colours[body])
            cv2.imwrite(str(name.with_suffix(".png")), body)
            name.with_suffix(".json").write_text(json.dumps(ABOUT), encoding="utf-8")
    return folder


@pytest.fixture
def run(monkeypatch):
    """Runs a program of ``benchmarks`` with arguments."""

    def program(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        module.main()

    return program


def test_rooms_become_takes_in_which_all_on_the_table_has_a_mask(rooms, tmp_path, run):
    run(rooms_as_takes, rooms, tmp_path / "out")
    run(rooms_as_takes, rooms, tmp_path / "out")
    dataset = open_dataset(tmp_path / "out", "train")
    assert len(dataset) == 2
    take = next(iter(dataset))
    assert take.cameras == ("aria01_214-1", "cam01", "cam02")
    assert [take.is_ego(camera) for camera in take.cameras] == [True, False, False]
    assert set(take.objects) == {"thing_2", "thing_4", "thing_5"}
    body = cv2.imread(str(rooms / "room_0001_0028_1.png"), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(take.mask("thing_4", "aria01_214-1", 30).to_array(), body == 4)
    assert take.frame("cam02", 30).shape == (64, 80, 3)
    assert take.mask_frames("thing_5", "aria01_214-1") == (0, 30)
    # Of the few pixels in the first exo camera nothing is said, neither that it is there nor that it is not.
    assert "cam01" not in take.cameras_of("thing_5") or 30 not in take.annotated_frames("thing_5", "cam01")


def test_belonging_is_small_where_bodies_are_apart_and_counts_small_ones():
    body = torch.zeros(400, dtype=torch.int64)
    body[:100], body[100:110] = 3, 7
    apart = torch.nn.functional.one_hot(body, EMBEDDING).float() * 5
    assert proposer_boundary.belonging(apart, body) < 1e-3
    same = torch.zeros(400, EMBEDDING)
    assert proposer_boundary.belonging(same, body).item() == pytest.approx(np.log(3), abs=1e-3)
    missed = apart.clone()
    missed[100:110] = apart[0]  # the smallest body looks like the second: 10 of 400 pixels
    assert proposer_boundary.belonging(missed, body) > 0.1
    wide = apart + torch.randn(400, EMBEDDING, generator=torch.Generator().manual_seed(0)) * 0.5
    assert proposer_boundary.belonging(wide, body) > proposer_boundary.belonging(apart, body) + 0.05


def test_extents_have_no_error_at_the_truth_and_what_is_cut_off_may_be_larger():
    body = torch.zeros(32, 40, dtype=torch.int64)
    body[8:20, 10:16] = 2
    body[24:32, 30:40] = 5
    truth = torch.zeros(16 * 20, EXTENT)
    for number in (0, 2, 5):
        y, x = torch.nonzero(body == number, as_tuple=True)
        values = [x.float().mean() / PLACE_PX, y.float().mean() / PLACE_PX]
        values += [(v.float().var(correction=0) + 1 / 12).log() / 2 for v in (x, y)]
        values.append(torch.tensor(float(len(x))).log())
        truth[(body[::2, ::2] == number).flatten()] = torch.stack(values)
    assert proposer_boundary.extents(truth, body) < 1e-4
    inside, rim = ((body[::2, ::2] == number).flatten() for number in (2, 5))
    for where, change, free in ((inside, 0.5, False), (inside, -0.5, False), (rim, 0.5, True), (rim, -0.5, False)):
        other = truth.clone()
        other[where, 2:] += change
        assert (proposer_boundary.extents(other, body) < 1e-4) == free
    other = truth.clone()
    other[rim, :2] += 1  # nobody knows where the middle of what is cut off lies
    assert proposer_boundary.extents(other, body) < 1e-4


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(rooms, tmp_path, run, monkeypatch, capsys):
    options = ("--below", 40, "--batch", 1, "--every", 1)
    run(proposer_boundary, rooms, tmp_path / "whole.safetensors", *options, "--steps", 2)
    state = torch.load(tmp_path / "whole.state", weights_only=True)
    assert state["step"] == 2

    class CutError(Exception):
        """Stands for a kill."""

    kept, calls = proposer_boundary.atomic_write, []

    @contextlib.contextmanager
    def write(path):
        with kept(path) as handle:
            yield handle
        calls.append(path)
        if path.suffix == ".state":
            raise CutError

    with monkeypatch.context() as patch:
        patch.setattr(proposer_boundary, "atomic_write", write)
        with pytest.raises(CutError):
            run(proposer_boundary, rooms, tmp_path / "cut.safetensors", *options, "--steps", 2)
    assert len(calls) == 2
    run(proposer_boundary, rooms, tmp_path / "cut.safetensors", *options, "--steps", 2)
    assert "goes on after step 1" in capsys.readouterr().out
    assert (tmp_path / "cut.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
