"""Every recipe parses, and says what its row is about."""

from dataclasses import fields
from pathlib import Path

import pytest

from counterview.errors import ConfigError
from counterview.omama import OMaMa, OMaMaConfig
from counterview.tiny import TinyMatch
from counterview.training.recipe import load_recipe

ROOT = Path(__file__).parents[2] / "recipes"
PAPER = sorted((ROOT / "omama").glob("*.yaml"))
TABLETOP = sorted((ROOT / "tabletop").glob("omama*.yaml"))

# row: loss, context, adjacent negatives, cross-attention
MODULES = {
    "ablation-baseline": (False, False, None, False),
    "ablation-a": (True, False, False, False),
    "ablation-c": (True, True, True, False),
    "ablation-e": (True, True, True, True),
    "main": (True, True, True, True),
}


def test_every_published_row_has_a_recipe_for_each_direction():
    names = {p.stem for p in PAPER}
    rows = {*MODULES, "released", "visibility", "descriptor-mask", "descriptor-box", "descriptor-box-max",
            "descriptor-box-clip", "knn-mask", "knn-box", "knn-box-max", "knn-box-clip", "knn-centroid"}  # fmt: skip
    assert names == {f"{row}-{d}" for row in rows for d in ("ego2exo", "exo2ego")}
    assert TABLETOP


@pytest.mark.parametrize("path", PAPER + TABLETOP, ids=lambda p: p.stem)
def test_recipe(path):
    recipe = load_recipe(path)
    model, training = recipe.config.model, recipe.training
    if path in TABLETOP:
        assert recipe.method == "tiny-match-head"
        assert model.omama.backbone == ("classical" if "classical" in path.stem else "tiny")
        return
    assert recipe.method == "omama"
    row, _, direction = path.stem.rpartition("-")
    assert recipe.config.data.directions == (direction,)
    assert (training.batch_size, training.lr, training.min_lr, training.epochs) == (24, 8e-5, 1e-6, 3)
    assert recipe.config.data.fraction == 0.2
    if "clip" not in row:
        released = OMaMaConfig.released(direction)
        assert (model.query_grid_hw, model.target_grid_hw) == (released.query_grid_hw, released.target_grid_hw)
    if row in MODULES:
        loss, context, adjacent, cross = MODULES[row]
        assert (model.matching_head, model.context, model.cross_attention) == (loss, context, cross)
        if loss:
            assert recipe.config.sampling.mining == ("adjacent" if adjacent else "random")
    if row.startswith(("knn", "descriptor")):
        pooling = row.split("-", 1)[1].removesuffix("-clip").replace("-", "_")
        assert model.descriptor.pooling == pooling
        assert model.matching_head == row.startswith("descriptor")
    OMaMa(model)


def test_each_run_of_tiny_match_can_begin_with_the_model_of_the_one_before():
    parts = ("", "-objects", "-object-crops", "-look-alikes", "-rooms", "-head", "-reranker")
    names = [f"tiny-match{part}" for part in parts]
    recipes = [load_recipe(ROOT / "tabletop" / f"{name}.yaml") for name in names]
    assert [r.method for r in recipes] == [
        "tiny-match-maps",
        *["tiny-match-crops"] * 4,
        "tiny-match-head",
        "tiny-match-reranker",
    ]
    shapes = [
        {name: value.shape for name, value in TinyMatch(r.config.model).network.state_dict().items()} for r in recipes
    ]
    object_crops = {name for name in shapes[1] if name.startswith("object_crops.")}
    assert shapes[0] == {name: shape for name, shape in shapes[1].items() if name not in object_crops}
    assert shapes[1] == shapes[2] == shapes[3] == shapes[4] == shapes[5] == shapes[6]
    begins = [*(r.config.object_crops.init for r in recipes[1:5]), recipes[5].config.init, recipes[6].config.init]
    assert [Path(begin).parts[:2] for begin in begins] == [("runs", name) for name in names[:6]]
    # The last changes no weight of the one before.
    head, reranker = (r.config.model for r in recipes[5:])
    changed = {f.name for f in fields(head) if getattr(head, f.name) != getattr(reranker, f.name)}
    assert changed == {"reranker", "proposal_prior", "descriptor_weight"}
    assert 2e6 < sum(p.numel() for p in TinyMatch(recipes[5].config.model).network.parameters()) < 6e6
    frozen = load_recipe(ROOT / "tabletop" / "omama.yaml").config.model.omama
    last = recipes[5].config.model.omama
    assert (frozen.channels, frozen.object_channels) == (last.channels, last.object_channels)


def test_main_recipe_has_the_released_number_of_parameters():
    model = OMaMa(load_recipe(ROOT / "omama" / "main-ego2exo.yaml").config.model)
    count = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("visibility_head"))
    assert 10.3e6 < count < 10.5e6  # 11.8 million with the visibility network that the released code never uses


def test_overrides_and_their_faults():
    path = ROOT / "omama" / "main-ego2exo.yaml"
    assert not load_recipe(path, ["model.context=false"]).config.model.context
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, ["model.contxt=false", "sampling.order=9", "training.lr=-1"])
    for part in ("contxt", "order", "lr"):
        assert part in str(caught.value)
