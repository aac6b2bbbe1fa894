from tests.inference.conftest import bundled_models, own_bundled, with_bundled, without_bundled

__all__ = ["bundled_models", "own_bundled", "with_bundled", "without_bundled"]
