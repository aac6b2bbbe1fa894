"""How two cameras differ in colour is found once for a clip, and again where it no longer fits."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from counterview.features.colour_transfer import ColourTransfer
from counterview.inference import kept_alignments
from counterview.inference.kept_alignments import ClipFrame, KeptAlignments
from counterview.tiny.alignment import Alignment, AlignmentConfig, Recolouring

WARM = Alignment(target=Recolouring(ColourTransfer((1.2, 1.0, 0.75)), backwards=True))


class Cameras:
    """Two cameras whose true alignment and gains can be set; counts when they are looked at."""

    def __init__(self, monkeypatch):
        self.found, self.gain, self.looks, self.kept = WARM, 1.5, [], KeptAlignments()
        monkeypatch.setattr(kept_alignments, "align", self._align)
        monkeypatch.setattr(kept_alignments, "gain_of", self._gain_of)

    def _look(self):
        if self.looks[-1:] != [self.number]:
            self.looks.append(self.number)

    def _align(self, first, second, config):
        self._look()
        return replace(self.found, gain=self.gain)

    def _gain_of(self, alignment, first, second, config):
        self._look()
        return self.gain

    def at(self, number, mean=0.4, order=("cam", "ego"), colourless=False):
        self.number = number
        sides = []
        for camera in order:
            colour = np.full(3, mean if camera == "ego" else 0.4)
            regions = SimpleNamespace(mean_colour=colour, is_colourless=colourless and camera == "ego")
            sides.append((ClipFrame(camera, number, self.kept), regions))
        return self.kept.between(*sides, AlignmentConfig())


def test_it_is_looked_for_ever_more_seldom(monkeypatch):
    cameras = Cameras(monkeypatch)
    for number in range(50):
        assert cameras.at(number) == WARM
    assert cameras.looks == [0, 1, 3, 7, 15, 31, 47]


def test_the_pair_is_the_same_the_other_way_round(monkeypatch):
    cameras = Cameras(monkeypatch)
    assert cameras.at(0, order=("cam", "ego")) == WARM
    assert cameras.at(0, order=("ego", "cam")) == Alignment(WARM.target, WARM.query)
    assert cameras.looks == [0]


@pytest.mark.parametrize("change", [{"mean": 0.6}, {"colourless": True}])
def test_other_colours_are_seen_at_once(monkeypatch, change):
    cameras = Cameras(monkeypatch)
    for number in range(20):
        cameras.at(number)
    cameras.at(20, **change)
    assert cameras.looks[-1] == 20


def test_a_transfer_that_no_longer_helps_is_given_up_and_what_follows_is_checked_soon(monkeypatch):
    cameras = Cameras(monkeypatch)
    for number in range(20):
        cameras.at(number)
    cameras.gain = 1.02  # no gain, and no harm
    for number in range(20, 40):
        assert cameras.at(number) == WARM
    cameras.found, cameras.gain = Alignment(), 0.9
    for number in range(40, 60):
        cameras.at(number)
    assert cameras.at(60) == Alignment()
    assert cameras.looks == [0, 1, 3, 7, 15, 31, 47, 48, 50, 54]


def test_none_stays_until_there_is_a_clear_gain(monkeypatch):
    cameras = Cameras(monkeypatch)
    cameras.found, cameras.gain = Alignment(), 1.0
    cameras.at(0)
    cameras.found, cameras.gain = WARM, 1.06  # would be found for a pair alone
    assert [cameras.at(number) for number in range(1, 7)] == [Alignment()] * 6
    cameras.gain = 1.2
    assert cameras.at(7) == WARM
    assert cameras.looks == [0, 1, 3, 7]


def test_a_saved_state_goes_on_to_the_bit(monkeypatch):
    cameras = Cameras(monkeypatch)
    for number in range(9):
        cameras.at(number)
    state = json.loads(json.dumps(cameras.kept.state()))
    cameras.kept = KeptAlignments()
    cameras.kept.restore(state)
    assert cameras.kept.state() == state
    for number in range(9, 20):
        cameras.at(number)
    assert cameras.looks == [0, 1, 3, 7, 15]
