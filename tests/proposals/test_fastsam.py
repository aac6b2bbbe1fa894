import hashlib
import logging
import os
import sys
import types

import numpy as np
import pytest
import torch

from counterview.errors import MissingExtraError, TrustError, WeightsError
from counterview.proposals import load_proposer
from counterview.proposals.fastsam import FastSamProposer, FastSamSettings

IMAGE = np.zeros((40, 60, 3), np.uint8)
IMAGE[..., 0] = 200


class _Network:
    """Returns what ultralytics.FastSAM does: a list with one result an image, masks and boxes in it or None."""

    def __init__(self, masks, scores):
        self.masks, self.scores, self.calls = masks, scores, []

    def __call__(self, source, **options):
        self.calls.append((source, options))
        if self.masks is None:
            return [types.SimpleNamespace(masks=None, boxes=None)]
        masks = types.SimpleNamespace(data=torch.as_tensor(self.masks).float())
        return [types.SimpleNamespace(masks=masks, boxes=types.SimpleNamespace(conf=torch.tensor(self.scores)))]


def _masks():
    masks = np.zeros((3, 40, 60), bool)
    masks[0, 5:10, 5:20] = True
    masks[2, 20:39, 30:59] = True
    return masks


def test_masks_come_back_best_first_without_empty_ones():
    network = _Network(_masks(), [0.5, 0.9, 0.7])
    proposer = FastSamProposer(FastSamSettings(device="cpu", max_masks=10), build=lambda weights: network)
    found = proposer(IMAGE)
    assert [mask.to_array().tobytes() for mask in found] == [_masks()[2].tobytes(), _masks()[0].tobytes()]
    assert found.scores.tolist() == pytest.approx([0.7, 0.5])
    source, options = network.calls[0]
    assert source[0, 0].tolist() == [0, 0, 200]  # blue first
    assert options["retina_masks"] is True
    assert options["max_det"] == 10


def test_masks_of_another_size_are_brought_to_that_of_the_image():
    network = _Network(np.repeat(np.repeat(_masks()[:1], 2, 1), 2, 2), [0.5])
    found = FastSamProposer(FastSamSettings(device="cpu"), build=lambda weights: network)(IMAGE)
    assert np.array_equal(found.masks[0].to_array(), _masks()[0])


def test_nothing_found_is_no_proposals():
    network = _Network(None, [])
    assert len(FastSamProposer(FastSamSettings(device="cpu"), build=lambda weights: network)(IMAGE)) == 0


def test_absent_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(MissingExtraError, match=r"AGPL-3.0.*pip install \"counterview\[fastsam\]\""):
        load_proposer("fastsam")


def test_the_licence_is_logged_and_the_weights_are_loaded_by_name(monkeypatch, caplog, tmp_path):
    asked = _pretend_ultralytics(monkeypatch, restricted=True)
    weights = tmp_path / "small.pt"
    weights.write_bytes(b"weights")
    with caplog.at_level(logging.WARNING):
        proposer = load_proposer(f"fastsam:{weights}", device="cpu", trust=True)
    assert asked == [str(weights)]
    assert "AGPL-3.0" in caplog.text
    assert "restrictions" not in caplog.text
    assert len(proposer.settings()["weights_sha256"]) == 64
    assert load_proposer("fastsam", device="cpu", trust=True).settings()["weights_sha256"] is None


def _pretend_ultralytics(monkeypatch, *, restricted):
    """A package of that name; the weights that it is asked for are in the list that is returned."""
    asked = []
    module, utils = types.ModuleType("ultralytics"), types.ModuleType("ultralytics.utils")
    module.FastSAM = lambda weights: asked.append(weights) or _Network(None, [])
    if restricted:
        utils.SAFE_LOAD = True
    monkeypatch.setitem(sys.modules, "ultralytics", module)
    monkeypatch.setitem(sys.modules, "ultralytics.utils", utils)
    monkeypatch.delenv("ULTRALYTICS_SAFE_LOAD", raising=False)
    return asked


def test_weights_are_a_pickle_and_need_the_users_word(monkeypatch, caplog, tmp_path):
    asked = _pretend_ultralytics(monkeypatch, restricted=False)
    weights = tmp_path / "x.pt"
    weights.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(TrustError, match=rf"x\.pt.*pickle.*{digest}.*--trust"):
        load_proposer(f"fastsam:{weights}", device="cpu")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrustError, match=r"pickle.*ultralytics would download it.*--trust"):
        load_proposer("fastsam", device="cpu")
    for address in ("http://a.b/FastSAM-x.pt", "https://a.b/x.pt", "file:///etc/passwd", "\\\\host\\x.pt"):
        with pytest.raises(WeightsError, match="are an address"):
            load_proposer(f"fastsam:{address}", device="cpu", trust=True)
    with pytest.raises(WeightsError, match=f"other weights.*{digest}"):
        load_proposer(f"fastsam:{weights}", device="cpu", sha256="0" * 64, trust=True)
    with pytest.raises(WeightsError, match="no such file"):
        load_proposer(f"fastsam:{tmp_path}/none.pt", device="cpu", trust=True)
    assert asked == []
    vouched = load_proposer(f"fastsam:{weights}", device="cpu", sha256=digest.upper())
    assert asked == [str(weights)]
    assert vouched.settings() == load_proposer(f"fastsam:{weights}", device="cpu", trust=True).settings()
    assert os.environ["ULTRALYTICS_SAFE_LOAD"] == "1"
    assert "without restrictions" in caplog.text


def test_weights_that_cannot_be_loaded_are_one_line():
    def build(weights):
        raise FileNotFoundError(f"{weights} is not there\nand more")

    with pytest.raises(WeightsError, match=r"FastSAM-x\.pt.*--proposals graph") as caught:
        FastSamProposer(FastSamSettings(device="cpu"), build=build)
    assert "\n" not in str(caught.value)


def test_ultralytics_is_not_imported_by_default():
    assert "ultralytics" not in sys.modules
