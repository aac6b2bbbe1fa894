"""Open anybody's predictions: a file in the official format, or a folder of masks."""

from __future__ import annotations

import os
from pathlib import Path

from counterview.evaluation.folders import open_folder
from counterview.evaluation.predictions import PredictionFile, PredictionSource


def open_predictions(path: str | os.PathLike[str]) -> PredictionSource:
    """Open a prediction file or folder.

    Args:
        path: a file in the official format, or a folder in one of the layouts of :mod:`counterview.evaluation.folders`.

    Raises:
        PredictionError: missing, or in none of these forms.
    """
    return open_folder(Path(path)) if Path(path).is_dir() else PredictionFile(path)
