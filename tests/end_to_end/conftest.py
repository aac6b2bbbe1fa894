from tests.inference.conftest import bundled_models, with_bundled, without_bundled

__all__ = ["bundled_models", "with_bundled", "without_bundled"]
