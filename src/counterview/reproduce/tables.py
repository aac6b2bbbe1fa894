"""The rows of the papers' tables and the recipe of each: on Ego-Exo4D, and on synthetic takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from counterview.config import nearest
from counterview.data.dataset import DIRECTIONS, Direction
from counterview.errors import ConfigError


@dataclass(frozen=True)
class Model:
    """How a row's model is obtained.

    Attributes:
        recipe: name below ``recipes/``; with ``{direction}`` in it, one model per direction.
        overrides: ``key=value`` applied to the recipe; ``{direction}`` likewise.
        settings: of inference alone, applied to an LM-EEC that is trained once for several rows.
        bundled: the name of a model bundled with the package, instead of a recipe.
        name: of any other model that :func:`counterview.load` loads without a recipe.
    """

    recipe: str = ""
    overrides: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    bundled: str = ""
    name: str = ""


@dataclass(frozen=True)
class TableRow:
    """One row.

    Attributes:
        name: on the command line, and in the file of published scores.
        title: in the table.
        egoexo: the model on Ego-Exo4D; ``None`` if the row is left out there.
        tabletop: the model on synthetic takes; ``None`` likewise, with ``why_not``.
        why_not: why the row is left out on synthetic takes.
    """

    name: str
    title: str
    egoexo: Model | None
    tabletop: Model | None
    why_not: str = ""


@dataclass(frozen=True)
class PaperTable:
    """One table of a paper.

    Attributes:
        name: on the command line.
        title: what it is, and where.
        protocol: of scoring.
        splits: our splits, the default first, each with the published splits that it is compared with.
        rows: in order.
        directions: that the table reports.
        fraction: of the pairs that are scored, in (0, 1].
    """

    name: str
    title: str
    protocol: str
    splits: Mapping[str, tuple[str, ...]]
    rows: tuple[TableRow, ...]
    directions: tuple[Direction, ...] = DIRECTIONS
    fraction: float = 1.0


_NEAREST = ("model.omama.matching_head=false", "model.omama.context=false", "model.omama.cross_attention=false",
            "model.descriptor_weight=0", "model.omama.visibility=released")  # fmt: skip
"""Overrides that turn a recipe of tiny-match-head into nearest neighbour."""
_MAP = ("model.omama.descriptor.backbone_pooling=false", "model.omama.object_channels=null")
"""Descriptors pooled from the feature map, as for a network, instead of from the image's pixels."""
_CLIP = "CLIP's weights come from the Hub"
_OMAMA, _LMEEC = "tabletop/omama", "tabletop/tiny-follow"


def _omama(recipe: str) -> Model:
    return Model(f"omama/{recipe}-{{direction}}")


def _modules(context: bool, adjacent: bool, cross: bool) -> Model:
    mining = "adjacent" if adjacent else "random"
    switches = {"context": context, "cross_attention": cross}
    overrides = [f"model.omama.{key}={str(value).lower()}" for key, value in switches.items()]
    return Model(_OMAMA, (*overrides, f"sampling.mining={mining}"))


def _described(pooling: str, *, learned: bool) -> Model:
    common = (*_MAP, f"model.omama.descriptor.pooling={pooling}")
    return Model(_OMAMA, (*common, *((*_ROW_A,) if learned else _NEAREST)))


_ROW_A = ("model.omama.context=false", "model.omama.cross_attention=false", "sampling.mining=random")

_MAIN = PaperTable(
    "omama-main",
    "O-MaMa (ICCV 2025, arXiv 2506.06026), main results",
    "official",
    {"test": ("v2-test", "test"), "val": ("v1-val", "val")},
    (
        TableRow("knn", "k-NN", _omama("knn-mask"), Model(_OMAMA, _NEAREST)),
        TableRow("omama", "O-MaMa", _omama("main"), Model(_OMAMA)),
        TableRow("released", "O-MaMa, trained as the released code does", _omama("released"),
            Model(_OMAMA, ("sampling.mining=released", "sampling.positive=gt"))),
        TableRow("visibility", "O-MaMa, trained visibility", _omama("visibility"), None,
            "the row above includes it there"),
        TableRow("tiny-match", "tiny-match, bundled", None, Model(bundled="tiny-match")),
    ),
)  # fmt: skip
_MODULES = PaperTable(
    "omama-modules",
    "O-MaMa (ICCV 2025, arXiv 2506.06026), ablation of its modules",
    "official",
    {"val": ("val-10%",)},
    (
        TableRow("baseline", "Baseline: nearest neighbour", _omama("ablation-baseline"), Model(_OMAMA, _NEAREST)),
        TableRow("geometric", "geometric matching", Model(name="geometric:roma"), Model(name="geometric:sift")),
        TableRow("A", "A: contrastive loss", _omama("ablation-a"), _modules(False, False, False)),
        TableRow("C", "C: loss, context, adjacent negatives", _omama("ablation-c"), _modules(True, True, False)),
        TableRow("E", "E: all, with cross-attention", _omama("ablation-e"), _modules(True, True, True)),
    ),
    fraction=0.1,
)
_DESCRIPTORS = PaperTable(
    "omama-descriptors",
    "O-MaMa (ICCV 2025, arXiv 2506.06026), mask descriptors",
    "official",
    {"val": ("val-10%",)},
    (
        TableRow("knn-mask", "k-NN, mean over the mask", _omama("knn-mask"), _described("mask", learned=False)),
        TableRow("knn-box", "k-NN, mean over the box", _omama("knn-box"), _described("box", learned=False)),
        TableRow("knn-box-max", "k-NN, maximum over the box", _omama("knn-box-max"),
            _described("box_max", learned=False)),
        TableRow("knn-box-clip", "k-NN, mean over the box, CLIP", _omama("knn-box-clip"), None, _CLIP),
        TableRow("knn-centroid", "k-NN, centroid", _omama("knn-centroid"), _described("centroid", learned=False)),
        TableRow("mask", "learned, mean over the mask", _omama("descriptor-mask"), _described("mask", learned=True)),
        TableRow("box", "learned, mean over the box", _omama("descriptor-box"), _described("box", learned=True)),
        TableRow("box-max", "learned, maximum over the box", _omama("descriptor-box-max"),
            _described("box_max", learned=True)),
        TableRow("box-clip", "learned, mean over the box, CLIP", _omama("descriptor-box-clip"), None, _CLIP),
    ),
    fraction=0.1,
)  # fmt: skip
_LMEEC_MAIN = PaperTable(
    "lmeec-main",
    "LM-EEC (NeurIPS 2025, arXiv 2510.11417), main results",
    "lmeec",
    {"test": ("test", "v2-test")},
    (
        TableRow("base", "Base model: both memories, simple addition",
            Model("lmeec/ablation-add", ("data.directions=[{direction}]",)), Model(_LMEEC, ("model.fusion=add",))),
        TableRow("lmeec", "LM-EEC", Model("lmeec/paper-{direction}"), Model(_LMEEC)),
        TableRow("both", "LM-EEC, one model for both directions", Model("lmeec/both-directions"), None,
            "the row above is the same there"),
        TableRow("tiny-follow", "tiny-follow, bundled", None, Model(bundled="tiny-follow")),
    ),
)  # fmt: skip


def _changed(name: str, title: str, override: str) -> TableRow:
    return TableRow(name, title, Model(f"lmeec/ablation-{name}"), Model(_LMEEC, (override,)))


def _compressed(name: str, title: str, compression: str) -> TableRow:
    settings = {"compression": compression}
    return TableRow(name, title, Model("lmeec/paper-ego2exo", settings=settings), Model(_LMEEC, settings=settings))


_LMEEC_ABLATIONS = PaperTable(
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
        TableRow("full", "LM-EEC: MV-MoE, compression", Model("lmeec/paper-ego2exo"), Model(_LMEEC)),
    ),
    directions=("ego2exo",),
)

TABLES: dict[str, PaperTable] = {t.name: t for t in (_MAIN, _MODULES, _DESCRIPTORS, _LMEEC_MAIN, _LMEEC_ABLATIONS)}


def get_table(name: str) -> PaperTable:
    """The table of that name.

    Raises:
        ConfigError: no such table; the nearest name is suggested.
    """
    if name not in TABLES:
        raise ConfigError(f"no such table: {name!r}", expected=", ".join(TABLES), fix=nearest(name, list(TABLES)))
    return TABLES[name]
