"""Samples of the bundled take, and a few steps of training on them."""

from importlib.resources import files

import numpy as np
import pytest
import torch

from counterview.inference.examples import load_take
from counterview.refinement.evidence import CHANNELS, SIZE
from tools import train_refiner


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    file = tmp_path_factory.mktemp("samples") / "one.npz"
    folder = str(files("counterview") / "assets" / "take")
    count = train_refiner.take_samples((folder, "test", load_take().uid, str(file), 0))
    made = train_refiner.read([file])
    assert len(made) == count
    return made


def test_samples_are_windows_around_objects(samples):
    assert samples.shape[1:] == (len(CHANNELS) + 1, SIZE, SIZE)
    assert samples.dtype == np.uint8
    proposal, truth = samples[:, CHANNELS.index("proposal")] > 127, samples[:, -1] > 127
    overlap = (proposal & truth).sum((1, 2)) / (proposal | truth).sum((1, 2))
    assert overlap.mean() > 0.5
    assert truth.any((1, 2)).all()


def test_training_goes_on_where_it_stopped(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(train_refiner, "BATCH", 2)
    monkeypatch.setattr(train_refiner, "EVERY", 1)
    train, held_out, validate, asked = samples[:6], samples[6:8], train_refiner.validate, []
    unbroken = train_refiner.fit(train, held_out, tmp_path / "unbroken.pt", 2)

    def stop(net, given):
        asked.append(given)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return validate(net, given)

    monkeypatch.setattr(train_refiner, "validate", stop)
    with pytest.raises(KeyboardInterrupt):
        train_refiner.fit(train, held_out, tmp_path / "resumed.pt", 2)
    resumed = train_refiner.fit(train, held_out, tmp_path / "resumed.pt", 2)
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_variation_flips_maps_and_truth_together(samples):
    plain_maps, plain_truth = train_refiner.batch(samples[:4], None)
    maps, truth = train_refiner.batch(samples[:4], np.random.default_rng(3))
    flips = ((), (0,), (1,), (0, 1))
    flipped = []
    for row in range(4):
        seen = [axes for axes in flips if torch.equal(plain_truth[row].flip(axes), truth[row])]
        assert any(torch.equal(plain_maps[row, 0].flip(axes), maps[row, 0]) for axes in seen)
        flipped += seen
    assert any(flipped)
