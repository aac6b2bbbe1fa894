"""A tiny-match with every network that is exported but the proposer's, as small as the code allows; and its export.

``python -m tests.deploy.small_network`` writes both again.
"""

from pathlib import Path

import numpy as np
import torch

from counterview.deploy.export import export_model
from counterview.features.tiny import TinyConfig
from counterview.omama import OMaMaConfig
from counterview.tiny import TinyMatch, TinyMatchConfig
from counterview.tiny.alignment import AlignmentConfig
from counterview.tiny.reranker import RerankerConfig

DATA = Path(__file__).parents[1] / "data" / "onnx"
MODEL, EXPORT = DATA / "model", DATA / "export"


def small_network_match(folder: Path) -> Path:
    torch.manual_seed(0)
    network = TinyConfig(
        widths=(4, 4, 8, 8, 8), blocks=(0, 1, 0, 0), channels=8, fine=4, colours=4, histogram=0.125,
        object_crops=16, crop_widths=(4, 4, 8, 8), crop_blocks=(0, 1, 0), longest_side_px=160,
    )  # fmt: skip
    head = OMaMaConfig(
        channels=8, object_channels=network.object_channels, hidden=16, embedding=8, heads=2,
        query_grid_hw=(4, 4), target_grid_hw=(4, 4), backbone="tiny", proposer="graph",
        proposer_settings={"max_masks": 30, "working_side_px": 160, "regions": 150, "candidates": 150},
    )  # fmt: skip
    config = TinyMatchConfig(
        head, network=network, descriptor_weight=0.5, attention_downscale=2,
        reranker=RerankerConfig(proposals=20, homographies=2, hidden=8), alignment=AlignmentConfig(),
    )  # fmt: skip
    model = TinyMatch(config)
    with torch.no_grad():  # an untrained re-ranker adds nothing to similarity
        for parameter in model.reranker.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.save_pretrained(folder)


def scene(shift: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """An image with three things on it, and their masks."""
    image = np.full((96, 128, 3), 90, dtype=np.uint8)
    image += (np.arange(128) // 8 % 2 * 6).astype(np.uint8)[None, :, None]
    boxes = {"red": (10, 10, (200, 40, 30)), "blue": (50, 30, (30, 70, 210)), "green": (30, 80, (40, 190, 60))}
    masks = {}
    for name, (y, x, colour) in boxes.items():
        mask = np.zeros(image.shape[:2], dtype=bool)
        mask[y : y + 24, x + shift : x + shift + 20] = True
        image[mask], masks[name] = colour, mask
    return image, masks


if __name__ == "__main__":
    EXPORT.mkdir(parents=True, exist_ok=True)
    export_model(TinyMatch.from_pretrained(small_network_match(MODEL)), EXPORT, proposer="graph", name="small")
