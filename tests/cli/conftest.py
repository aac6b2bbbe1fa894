from tests.inference.conftest import own_shipped, shipped_models, with_shipped, without_shipped

__all__ = ["own_shipped", "shipped_models", "with_shipped", "without_shipped"]
