"""The README of a trained checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from counterview.lmeec.model import LMEEC
    from counterview.lmeec.training.recipe import LMEECRecipe

_SHOWN = ("compression", "fusion", "cross_view_prompt", "query_memory", "target_memory", "bank_size")


def model_card(model: LMEEC, recipe: LMEECRecipe, metrics: Mapping[str, float]) -> str:
    """Markdown: what the model is, how to load it, validation scores."""
    config = model.config
    backbone = config.backbone if isinstance(config.backbone, str) else "a Hiera of its own size"
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    scores = "\n".join(f"| {name} | {value:.4f} |" for name, value in sorted(metrics.items()))
    settings = "\n".join(f"| {name} | {getattr(config, name)} |" for name in _SHOWN)
    return f"""---
library_name: counterview
license: apache-2.0
pipeline_tag: mask-generation
---
# LM-EEC, {backbone}, {config.image_size} px

Finds an object that is shown by masks in one camera in another camera of the same scene, frame by frame, with two
memory banks ({config.behaviour} behaviour, {millions:.1f} million weights).
Trained for: {", ".join(recipe.data.directions)}.

```python
from counterview.lmeec.model import LMEEC

model = LMEEC.from_pretrained("this/folder")
session = model.session()
result = session.step(query_image, {{"mug": mask}}, target_image)["mug"]
result.mask, result.visibility  # (H, W) bool, probability
```

| setting | value |
|---|---|
{settings}

| validation | value |
|---|---|
{scores}
"""
