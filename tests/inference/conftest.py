import json

import pytest

from counterview.nn import bundled
from tests.inference.small_models import small_lmeec, small_tiny_match
from tools import ship_model


@pytest.fixture(scope="session")
def bundled_models(tmp_path_factory):
    """A folder of bundled models, made like the real ones."""
    place = tmp_path_factory.mktemp("models")
    root = place / "assets"
    patch = pytest.MonkeyPatch()
    patch.setattr(bundled, "models_root", lambda: root)
    ship_model.add("tiny-match", small_tiny_match(place / "omama"), data="random", recipe="none")
    ship_model.add("tiny-follow", small_lmeec(place / "lmeec"))
    patch.undo()
    return root


@pytest.fixture
def with_bundled(bundled_models, monkeypatch):
    """An installation with both models."""
    monkeypatch.setattr(bundled, "models_root", lambda: bundled_models)
    return bundled_models


@pytest.fixture
def own_bundled(bundled_models, tmp_path, monkeypatch):
    """An installation with both models, in a copy that a test may damage."""
    import shutil

    root = tmp_path / "models"
    shutil.copytree(bundled_models, root)
    monkeypatch.setattr(bundled, "models_root", lambda: root)
    assert json.loads((root / bundled.HASHES).read_text())
    return root


@pytest.fixture
def without_bundled(tmp_path, monkeypatch):
    """An installation without bundled models."""
    monkeypatch.setattr(bundled, "models_root", lambda: tmp_path / "nothing")
