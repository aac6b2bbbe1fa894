import pytest
import torch

from tests.omama.omama_fill import released_state


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
