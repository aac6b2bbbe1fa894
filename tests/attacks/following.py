"""What a run of following keeps for the next one under attack: the engine's state, and the steps."""

from __future__ import annotations

import json
from random import Random

import numpy as np

from tests.attacks import mutations as m
from tests.attacks.entry import Entry


class StateEntry(Entry):
    """The state of an engine: a zip of plain values and arrays."""

    name = "state"

    def prepare(self) -> None:
        from counterview.tracking.state_file import write_state

        state = {
            "step": 3,
            "time_s": None,
            "banks": [{"looks": np.eye(3, dtype=np.float32)}, {"looks": np.zeros((0, 3))}],
        }
        write_state(self.folder / "valid", state)
        self.seeds = [("", (self.folder / "valid").read_bytes())]

    def read(self, rng: Random) -> str:
        from counterview.tracking.state_file import read_state

        assert isinstance(read_state(self.path), dict)
        return "answer"


class StepsEntry(Entry):
    """The steps of a run: one line of JSON each."""

    name = "steps"
    mutations = (m.json_values, m.json_values, *m.BLIND)

    def prepare(self) -> None:
        from counterview.inference.follow_journal import step_to_json
        from counterview.inference.follow_step import FollowStep
        from counterview.tracking.base import Observation
        from counterview.types import ObjectMask

        mask = ObjectMask.from_array(np.eye(6, dtype=bool))
        seen = Observation(mask, 0.75, "matched", ((mask, -0.1),), {"low_score": 0.5})
        step = FollowStep(0.5, {"ego": (15, 0.5)}, {"ego": {"mug": seen}})
        line = json.dumps(step_to_json(step)).encode() + b"\n"
        self.seeds = [(".jsonl", line * 3)]

    def read(self, rng: Random) -> str:
        from counterview.inference.follow_journal import read_steps

        for step in read_steps(self.path):
            assert all(isinstance(camera, str) for camera in step.frames)
        return "answer"
