"""Takes, cameras and tracks of Ego-Exo4D (release or prepared), HANDAL and synthetic data behind one interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterview.lazy import exports

__all__ = [
    "Clip",
    "ClipSampler",
    "Dataset",
    "FramePair",
    "PairTable",
    "Take",
    "enumerate_pairs",
    "open_dataset",
    "open_datasets",
    "prepare_release",
    "subset",
]

if TYPE_CHECKING:
    from counterview.data.clips import Clip, ClipSampler
    from counterview.data.dataset import Dataset, Take
    from counterview.data.open import open_dataset, open_datasets
    from counterview.data.pairs import FramePair, PairTable, enumerate_pairs, subset
    from counterview.data.prepare.prepare import prepare_release

__getattr__, __dir__ = exports(
    __name__,
    {
        "Clip": "counterview.data.clips",
        "ClipSampler": "counterview.data.clips",
        "Dataset": "counterview.data.dataset",
        "FramePair": "counterview.data.pairs",
        "PairTable": "counterview.data.pairs",
        "Take": "counterview.data.dataset",
        "enumerate_pairs": "counterview.data.pairs",
        "open_dataset": "counterview.data.open",
        "open_datasets": "counterview.data.open",
        "prepare_release": "counterview.data.prepare.prepare",
        "subset": "counterview.data.pairs",
    },
)
