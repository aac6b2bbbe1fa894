import json
from pathlib import Path

import numpy as np
import pytest
import torch

from counterview.lmeec.model import LMEEC
from tests.lmeec.lmeec_fill import fill, small_model, tiny_clip

# Small tensors: a second thread costs more than it helps, and much more on a busy machine.
torch.set_num_threads(1)

DATA = Path(__file__).parent.parent / "data" / "lmeec"


@pytest.fixture(scope="session")
def units():
    return json.loads((DATA / "units.json").read_text()), np.load(DATA / "units.npz")


@pytest.fixture(scope="session")
def reference():
    """Description and outputs of the official predictor on the reference clip."""
    return json.loads((DATA / "e2e_tiny.json").read_text()), np.load(DATA / "e2e_tiny.npz")


@pytest.fixture(scope="session")
def released_state(reference):
    return {name: fill(name, shape, scale, offset) for name, shape, scale, offset in reference[0]["parameters"]}


@pytest.fixture(scope="session")
def released(released_state):
    return LMEEC.from_released(released_state, backbone="hiera-t", image_size=480)


@pytest.fixture(scope="session")
def encoded(reference, released):
    """The reference clip's images as ``[(query, target), ...]``, encoded once, and the query masks."""
    clip = tiny_clip(reference[0])
    session = released.session()
    views = [session.encode([ego, exo]) for ego, exo in zip(clip["ego"][:10], clip["exo"][:10], strict=True)]
    return views, clip["masks"]


@pytest.fixture(scope="session")
def small():
    return small_model()
