"""A scene of a box, half of which is proposed."""

import numpy as np
import pytest

from counterview.types import ObjectMask

SCENE_HW = (120, 160)


def rectangle(x0, y0, x1, y1):
    array = np.zeros(SCENE_HW, dtype=bool)
    array[y0:y1, x0:x1] = True
    return ObjectMask.from_array(array)


@pytest.fixture(scope="session")
def scene():
    """A red box on grey, its upper half proposed, and proposals of the whole and of something else."""
    image = np.full((*SCENE_HW, 3), 120, np.uint8)
    image[40:80, 60:90] = (200, 30, 30)
    return image, rectangle(60, 40, 90, 60), [rectangle(60, 40, 90, 80), rectangle(0, 0, 30, 30)]
