"""A small tiny-match and its export, both kept: exporting takes torch several seconds a network.

``python -m tests.deploy.small_network`` writes them again.
"""

import shutil

import pytest

from tests.deploy.small_network import EXPORT, MODEL


@pytest.fixture(scope="session")
def small():
    """The folder of a small tiny-match with a network of its own."""
    return MODEL


@pytest.fixture(scope="session")
def exported():
    """What ``counterview export onnx`` wrote for it."""
    return EXPORT


@pytest.fixture
def copied(tmp_path):
    """A copy of the export that a test may damage."""
    return shutil.copytree(EXPORT, tmp_path / "copy")
