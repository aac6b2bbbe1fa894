"""Which rows the papers' tables have, and by which recipe each is made: on Ego-Exo4D, and on synthetic takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from counterview.config import nearest
from counterview.data.dataset import DIRECTIONS, Direction
from counterview.errors import ConfigError


@dataclass(frozen=True)
class Model:
    """How a row's model comes about.

    Attributes:
        recipe: name below ``recipes/``; ``{direction}`` in it makes one model for each direction.
        overrides: ``key=value`` laid over the recipe; ``{direction}`` likewise.
        settings: of inference alone, laid over an LM-EEC that is trained once for several rows.
        shipped: the name of a model that comes with the package, instead of a recipe.
    """

    recipe: str = ""
    overrides: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    shipped: str = ""


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: on the command line, and in the file of published scores.
        title: in the table.
        egoexo: on Ego-Exo4D; ``None`` if it is not made there.
        tabletop: on synthetic takes; ``None`` likewise, with ``why_not``.
        why_not: why there is none on synthetic takes.
    """

    name: str
    title: str
    egoexo: Model | None
    tabletop: Model | None
    why_not: str = ""


@dataclass(frozen=True)
class Table:
    """One table of a paper.

    Attributes:
        name: on the command line.
        title: what it is, and where.
        protocol: by which it is scored.
        splits: for each split that can be asked for, the first being the default, the published ones it stands beside.
        rows: in order.
        directions: that it has.
        fraction: share of the pairs that is scored.
    """

    name: str
    title: str
    protocol: str
    splits: Mapping[str, tuple[str, ...]]
    rows: tuple[Row, ...]
    directions: tuple[Direction, ...] = DIRECTIONS
    fraction: float = 1.0


_NEAREST = ("model.matching_head=false", "model.context=false", "model.cross_attention=false", "model.residual=false",
            "model.visibility=released")  # fmt: skip
"""What makes nearest neighbour of a recipe of O-MaMa."""
_MAP = ("model.descriptor.own=false", "model.object_channels=null")
"""Descriptors pooled from the map, as a network's are, and not taken from the image's pixels."""
_CLIP = "CLIP's weights come from the Hub"
_OMAMA, _LMEEC = "tabletop/omama", "tabletop/tiny-follow"


def _omama(recipe: str) -> Model:
    return Model(f"omama/{recipe}-{{direction}}")


def _modules(context: bool, adjacent: bool, cross: bool) -> Model:
    mining = "adjacent" if adjacent else "random"
    return Model(_OMAMA, (f"model.context={str(context).lower()}", f"model.cross_attention={str(cross).lower()}",
                          f"sampling.mining={mining}"))  # fmt: skip


def _described(pooling: str, *, learned: bool) -> Model:
    common = (*_MAP, f"model.descriptor.pooling={pooling}")
    return Model(_OMAMA, (*common, *((*_ROW_A,) if learned else _NEAREST)))


_ROW_A = ("model.context=false", "model.cross_attention=false", "sampling.mining=random")

_MAIN = Table(
    "omama-main",
    "O-MaMa (ICCV 2025, arXiv 2506.06026), main results",
    "official",
    {"test": ("v2-test", "test"), "val": ("v1-val", "val")},
    (
        Row("knn", "k-NN", _omama("knn-mask"), Model(_OMAMA, _NEAREST)),
        Row("omama", "O-MaMa", _omama("main"), Model(_OMAMA)),
        Row("released", "O-MaMa, trained as the released code does", _omama("released"),
            Model(_OMAMA, ("sampling.mining=released", "sampling.positive=gt"))),
        Row("visibility", "O-MaMa, trained visibility", _omama("visibility"), None, "the row above has it there"),
        Row("tiny-match", "tiny-match, shipped", None, Model(shipped="tiny-match")),
    ),
)  # fmt: skip
_MODULES = Table(
    "omama-modules",
    "O-MaMa (ICCV 2025, arXiv 2506.06026), ablation of its modules",
    "official",
    {"val": ("val-10%",)},
    (
        Row("baseline", "Baseline: nearest neighbour", _omama("ablation-baseline"), Model(_OMAMA, _NEAREST)),
        Row("A", "A: contrastive loss", _omama("ablation-a"), _modules(False, False, False)),
        Row("C", "C: loss, context, adjacent negatives", _omama("ablation-c"), _modules(True, True, False)),
        Row("E", "E: all, with cross-attention", _omama("ablation-e"), _modules(True, True, True)),
    ),
    fraction=0.1,
)
_DESCRIPTORS = Table(
    "omama-descriptors",
    "O-MaMa (ICCV 2025, arXiv 2506.06026), mask descriptors",
    "official",
    {"val": ("val-10%",)},
    (
        Row("knn-mask", "k-NN, mean over the mask", _omama("knn-mask"), _described("mask", learned=False)),
        Row("knn-box", "k-NN, mean over the box", _omama("knn-box"), _described("box", learned=False)),
        Row("knn-box-max", "k-NN, maximum over the box", _omama("knn-box-max"), _described("box_max", learned=False)),
        Row("knn-box-clip", "k-NN, mean over the box, CLIP", _omama("knn-box-clip"), None, _CLIP),
        Row("knn-centroid", "k-NN, centroid", _omama("knn-centroid"), _described("centroid", learned=False)),
        Row("mask", "learned, mean over the mask", _omama("descriptor-mask"), _described("mask", learned=True)),
        Row("box", "learned, mean over the box", _omama("descriptor-box"), _described("box", learned=True)),
        Row("box-max", "learned, maximum over the box", _omama("descriptor-box-max"),
            _described("box_max", learned=True)),
        Row("box-clip", "learned, mean over the box, CLIP", _omama("descriptor-box-clip"), None, _CLIP),
    ),
    fraction=0.1,
)  # fmt: skip
_LMEEC_MAIN = Table(
    "lmeec-main",
    "LM-EEC (NeurIPS 2025, arXiv 2510.11417), main results",
    "lmeec",
    {"test": ("test", "v2-test")},
    (
        Row("base", "Base model: both memories, simple addition",
            Model("lmeec/ablation-add", ("data.directions=[{direction}]",)), Model(_LMEEC, ("model.fusion=add",))),
        Row("lmeec", "LM-EEC", Model("lmeec/paper-{direction}"), Model(_LMEEC)),
        Row("both", "LM-EEC, one model for both directions", Model("lmeec/both-directions"), None,
            "the row above is that there"),
        Row("tiny-follow", "tiny-follow, shipped", None, Model(shipped="tiny-follow")),
    ),
)  # fmt: skip


def _changed(name: str, title: str, override: str) -> Row:
    return Row(name, title, Model(f"lmeec/ablation-{name}"), Model(_LMEEC, (override,)))


def _compressed(name: str, title: str, compression: str) -> Row:
    settings = {"compression": compression}
    return Row(name, title, Model("lmeec/paper-ego2exo", settings=settings), Model(_LMEEC, settings=settings))


_LMEEC_ABLATIONS = Table(
    "lmeec-ablations",
    "LM-EEC (NeurIPS 2025, arXiv 2510.11417), ablation",
    "lmeec",
    {"val": ("val",)},
    (
        _changed("no-cross-view", "without the cross-view prompt", "model.cross_view_prompt=false"),
        _changed("add", "simple addition", "model.fusion=add"),
        _changed("no-query-memory", "without ego memory", "model.query_memory=false"),
        _changed("no-target-memory", "without exo memory", "model.target_memory=false"),
        _compressed("fifo", "first in, first out", "fifo"),
        _compressed("weighted", "compression weighted by age (ours)", "weighted"),
        Row("full", "LM-EEC: MV-MoE, compression", Model("lmeec/paper-ego2exo"), Model(_LMEEC)),
    ),
    directions=("ego2exo",),
)

TABLES: dict[str, Table] = {t.name: t for t in (_MAIN, _MODULES, _DESCRIPTORS, _LMEEC_MAIN, _LMEEC_ABLATIONS)}


def get_table(name: str) -> Table:
    """The table of that name.

    Raises:
        ConfigError: there is none; the nearest is named.
    """
    if name not in TABLES:
        raise ConfigError(f"there is no table {name!r}", expected=", ".join(TABLES), fix=nearest(name, list(TABLES)))
    return TABLES[name]
