"""Model folders with random weights, as small as the code allows: a tiny-match on `classical`, and an LM-EEC."""

from __future__ import annotations

from pathlib import Path

import torch

from counterview.lmeec.config import HieraConfig, LMEECConfig
from counterview.lmeec.model import LMEEC
from counterview.media.files import write_json
from counterview.omama import OMaMaConfig
from counterview.tiny import TinyMatch, TinyMatchConfig


def small_tiny_match(folder: Path, **values: object) -> Path:
    """A tiny-match on features and proposals without weights."""
    torch.manual_seed(0)
    config = OMaMaConfig(
        channels=282,
        object_channels=2929,
        hidden=16,
        embedding=8,
        heads=2,
        query_grid_hw=(4, 4),
        target_grid_hw=(4, 4),
        backbone="classical",
        backbone_settings={"cell_px": 16},
        proposer="graph",
        proposer_settings={"max_masks": 30, "working_side_px": 160, "regions": 150, "candidates": 150},
        **values,  # type: ignore[arg-type]
    )
    return TinyMatch(TinyMatchConfig(omama=config, descriptor_weight="learned", attention_downscale=4)).save_pretrained(
        folder
    )


def small_lmeec(folder: Path) -> Path:
    """An LM-EEC of the smallest size."""
    torch.manual_seed(0)
    hiera = HieraConfig(hidden=8, blocks=(1, 1, 1, 1), global_blocks=(), windows=(2, 2, 2, 2), background=(2, 2))
    config = LMEECConfig(backbone=hiera, image_size=64, channels=64, attention_layers=1, feed_forward=64, bank_size=2)
    return LMEEC(config).save_pretrained(folder)


def as_run(model: Path, run: Path) -> Path:
    """Put a model into the folder of a training run."""
    model.rename(run.joinpath("model")) if run.is_dir() else (run.mkdir(parents=True), model.rename(run / "model"))
    write_json(run / "result.json", {"best_step": 8, "steps": 10, "metrics": {"iou": 0.5}, "finish": {}})
    recipe = {"training": {"seed": 7, "log_every": 2}, "data": {"root": "/somewhere/data"}}
    state = run / "checkpoints" / "step_00000010" / "state" / "trainer.json"
    write_json(state, {"format": 1, "recipe": recipe, "environment": {"device": "cpu", "torch": "2"}})
    (run / "train.csv").write_text("step,seconds\n2,1800\n4,1800\n")
    (run / "validation.csv").write_text("step,seconds\n4,3600\n")
    return run
