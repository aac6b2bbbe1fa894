from tests.inference.conftest import shipped_models, with_shipped, without_shipped

__all__ = ["shipped_models", "with_shipped", "without_shipped"]
