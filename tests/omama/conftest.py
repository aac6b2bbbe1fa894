import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from counterview.config import load_config
from counterview.omama.training.recipe import OMaMaRecipe
from counterview.omama.training.task import OMaMaTask
from tests.omama.omama_fill import released_state
from tests.omama.tiny_takes import write_takes


@pytest.fixture(scope="session")
def head(fixture_data):
    return fixture_data("omama/head.json")


@pytest.fixture(scope="session")
def released(head):
    """State dicts of the released format by direction."""
    torch.set_num_threads(1)
    return {
        "exo2ego": released_state(head["parameters"]["reverse_true"]),
        "ego2exo": released_state(head["parameters"]["reverse_false"]),
    }


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A data set, a small network as backbone, and a recipe for both."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("omama")
    write_takes(root / "data", frames=2, splits={"train": 4, "val": 1})
    torch.manual_seed(0)
    Dinov2Model(
        Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, patch_size=7, image_size=112)
    ).save_pretrained(root / "backbone")
    values = {
        "data": {"root": str(root / "data"), "directions": ["ego2exo", "exo2ego"], "cache": str(root / "cache")},
        "model": {
            "channels": 24,
            "hidden": 32,
            "embedding": 16,
            "heads": 2,
            "query_grid_hw": [12, 16],
            "target_grid_hw": [12, 16],
            "backbone": str(root / "backbone"),
            "proposer": "graph",
            "proposer_settings": {"max_masks": 20, "working_side_px": 100, "regions": 60, "candidates": 80},
        },
    }
    return root, values


@pytest.fixture(scope="session")
def task(place):
    result = OMaMaTask(load_config(OMaMaRecipe, place[1]))
    result.prepare(progress=False)
    return result
