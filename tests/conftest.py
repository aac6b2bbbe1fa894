"""Shared fixtures. Nothing here or in the tests needs a network, a hub or a GPU."""

import json
import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def fixture_data():
    """Read a JSON file below tests/data."""

    def read(name: str):
        return json.loads((DATA / name).read_text(encoding="utf-8"))

    return read
