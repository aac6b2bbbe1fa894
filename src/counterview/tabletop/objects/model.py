"""What the builders of objects take and return."""

from __future__ import annotations

import numpy as np

from counterview.tabletop.objects.shapes import Mesh
from counterview.tabletop.surfaces.materials import Material

__all__ = ["ObjectModel", "Rng"]

Rng = np.random.Generator

ObjectModel = tuple[Mesh, tuple[Material, ...], str]
"""A mesh that stands on z = 0, the materials of its parts, and its name (adjective and noun)."""
