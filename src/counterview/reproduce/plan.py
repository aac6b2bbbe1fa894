"""From a table and a data set to the steps that produce its rows, all checked before the first is run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from counterview.data.dataset import Dataset, Direction
from counterview.data.open import open_dataset
from counterview.errors import CheckpointError, ConfigError, InputError, MissingExtraError, WeightsError, counted
from counterview.evaluation.folders import folder_name
from counterview.evaluation.layout import OFFICIAL, Layout, layout_of_protocol
from counterview.inference.zoo import find_recipe, resolve
from counterview.nn import bundled
from counterview.reproduce.tables import Model, PaperTable, TableRow
from counterview.training.recipe import Recipe, load_recipe

PAIRS_SEED = 42
"""Seed of the fraction of pairs that some tables score; the published selection is not known."""
TABLETOP_NAME = "tabletop_"
"""Names of synthetic takes begin with this."""

_GET_EGOEXO = (
    "Ego-Exo4D is licensed by its owners: apply at https://ego-exo4d-data.org, download with `egoexo -o egoexo "
    "--benchmarks relations --parts metadata annotations takes`, run `counterview prepare egoexo egoexo/prepared`, and "
    "give --data egoexo/prepared; or render synthetic takes and add --tabletop (docs/how-to/reproduce.md)."
)
_GET_TABLETOP = (
    "Render synthetic takes: `counterview tabletop takes --takes 40 --split train=24,val=6,test=10`, `counterview "
    "prepare takes takes/prepared`, then give --data takes/prepared."
)


@dataclass(frozen=True)
class Unit:
    """A model that is obtained once, for one or both directions of a row.

    Attributes:
        row: of the table.
        directions: that it predicts.
        model: how it is obtained, with the direction filled in.
        recipe: its file and contents; ``None`` for a model that is loaded by name.
        folder: of its files.
        base: folder of the trained run; that of another unit where only settings of inference differ.
        overrides: ``key=value`` texts laid over the recipe, apart from the data's folder.
    """

    row: TableRow
    directions: tuple[Direction, ...]
    model: Model
    recipe: tuple[Path, Recipe] | None
    folder: Path
    base: Path
    overrides: tuple[str, ...] = ()

    @property
    def is_trained(self) -> bool:
        """Whether it is trained: nearest neighbour and bundled models are not."""
        if self.recipe is None:
            return False
        model = self.recipe[1].config.model
        return bool(getattr(getattr(model, "omama", model), "matching_head", True))

    @property
    def source(self) -> str:
        """What ``counterview predict`` loads: a name, a recipe that needs no training, or the folder of the weights."""
        if self.recipe is None:
            return self.model.bundled or self.model.name
        return str(self.base / "model" if self.is_trained else self.recipe[0])

    @property
    def source_overrides(self) -> tuple[str, ...]:
        """What is changed in it: a recipe's model, or settings of inference of a trained model."""
        if self.recipe is not None and not self.is_trained:
            return tuple(text for text in self.overrides if text.startswith("model."))
        return tuple(f"model.{key}={value}" for key, value in self.model.settings.items())


@dataclass(frozen=True)
class Plan:
    """All decisions before the first step.

    Attributes:
        table: to reproduce.
        data: the data set's folder.
        dataset: the takes that are scored.
        split: of these takes.
        tabletop: whether the takes are synthetic.
        stand_in: whether synthetic takes replace Ego-Exo4D, under its recipes.
        units: models, in order.
        skipped: title of each row that is left out, and why.
        out: folder of all runs, predictions and scores.
        takes: number of takes that are scored; ``None`` for all.
        overrides: ``key=value`` applied to every recipe that is trained.
    """

    table: PaperTable
    data: Path
    dataset: Dataset
    split: str
    tabletop: bool
    stand_in: bool
    units: tuple[Unit, ...]
    skipped: dict[str, str]
    out: Path
    takes: int | None = None
    overrides: tuple[str, ...] = field(default=())

    @property
    def layout(self) -> Layout:
        """Frames and sizes of every row."""
        return layout_of_protocol(self.table.protocol)

    def predictions(self, unit: Unit) -> Path:
        """Path of the prediction file of a unit. Files of other takes, frames or pairs have other names."""
        parts = [f"predictions-{self.split}"]
        parts += [str(self.takes)] if self.takes else []
        parts += [] if self.layout == OFFICIAL else [self.layout.name]
        parts += [] if self.table.fraction == 1 else [f"{self.table.fraction:g}"]
        return unit.folder / ("-".join(parts) + ".json")

    @property
    def data_title(self) -> str:
        """The data set in words. Synthetic takes are always called synthetic."""
        kind = "Tabletop, synthetic takes" if self.tabletop else "Ego-Exo4D Correspondence"
        stand_in = " in the place of Ego-Exo4D" if self.stand_in else ""
        return f"{kind}{stand_in}, split {self.split}, {counted(len(self.dataset), 'take')}"


def make_plan(
    table: PaperTable,
    data: str | os.PathLike[str] | None,
    out: Path,
    *,
    tabletop: bool = False,
    split: str | None = None,
    rows: Sequence[str] | None = None,
    takes: int | None = None,
    overrides: Sequence[str] = (),
) -> Plan:
    """Decide which models a table needs, and check that data and recipes exist and fit.

    Args:
        table: to reproduce.
        data: prepared folder or release.
        out: folder for runs, predictions and scores.
        tabletop: use the small recipes for synthetic takes.
        split: one of the table's; its first by default.
        rows: names of the rows to reproduce; all by default.
        takes: number of takes to score, the first ones; all by default.
        overrides: ``key=value`` applied to every recipe that is trained.

    Raises:
        InputError: no data, no such split or row, or synthetic takes expected and not found.
        ConfigError: a recipe that does not parse.
    """
    if data is None:
        title = "synthetic takes" if tabletop else "Ego-Exo4D, prepared"
        raise InputError(
            f"the table {table.name} needs {title}; no --data was given", fix=_GET_TABLETOP if tabletop else _GET_EGOEXO
        )
    chosen = split or next(iter(table.splits))
    if chosen not in table.splits:
        raise InputError(f"the table {table.name} has no split {chosen!r}", expected=" or ".join(table.splits))
    names = [row.name for row in table.rows]
    unknown = [name for name in rows or () if name not in names]
    if unknown:
        raise InputError(f"the table {table.name} has no row {unknown[0]!r}", expected=", ".join(names))
    if takes is not None and takes < 1:
        raise InputError("at least one take must be scored", found=takes)
    folder = Path(data)
    dataset = _open(folder, chosen, tabletop)
    synthetic = dataset.takes[0].name.startswith(TABLETOP_NAME)
    if tabletop and not synthetic:
        raise InputError(
            "--tabletop is for synthetic takes, and these are not", path=folder, found=dataset.takes[0].name,
            fix="Leave --tabletop out.",
        )  # fmt: skip
    skipped: dict[str, str] = {}
    units: list[Unit] = []
    for row in table.rows:
        if rows is not None and row.name not in rows:
            continue
        model = row.tabletop if tabletop else row.egoexo
        if model is None:
            if tabletop:
                skipped[row.title] = row.why_not
            continue
        why = _why_not_there(model)
        if why:
            skipped[row.title] = why
            continue
        units += _units(table, row, model, folder, out, overrides)
    if any(unit.is_trained for unit in units):
        for needed in ("train", "val"):
            _open(folder, needed, tabletop)
    if takes is not None and takes < len(dataset):
        dataset = dataset.first(takes)
    return Plan(
        table, folder, dataset, chosen, synthetic, synthetic and not tabletop, tuple(units), skipped, out, takes,
        tuple(overrides),
    )  # fmt: skip


def _why_not_there(model: Model) -> str:
    """Why a model that is loaded by name cannot be; an empty text if nothing is known against it."""
    if model.bundled and model.bundled not in bundled.available():
        return "this installation does not have it"
    if model.name:
        try:
            resolve(model.name)
        except (ConfigError, CheckpointError, WeightsError, MissingExtraError) as error:
            return str(error)
    return ""


def _open(folder: Path, split: str, tabletop: bool) -> Dataset:
    try:
        dataset = open_dataset(folder, split)
    except InputError as error:
        raise InputError(
            error.problem, path=error.path, found=error.found, expected=error.expected,
            fix=error.fix or (_GET_TABLETOP if tabletop else _GET_EGOEXO),
        ) from None  # fmt: skip
    if not len(dataset):
        raise InputError(f"split {split!r} has no takes", path=folder, fix=f"Prepare it: --split {split}.")
    return dataset


def _units(
    table: PaperTable, row: TableRow, model: Model, data: Path, out: Path, overrides: Sequence[str]
) -> Iterator[Unit]:
    """One unit, or one for each direction if the recipe contains ``{direction}``."""
    if model.bundled or model.name:
        folder = out / folder_name(model.bundled or model.name.replace(":", "-"))
        yield Unit(row, table.directions, model, None, folder, folder)
        return
    split = "{direction}" in model.recipe or any("{direction}" in text for text in model.overrides)
    for directions in [(d,) for d in table.directions] if split else [table.directions]:
        filled = Model(
            model.recipe.format(direction=directions[0]),
            tuple(text.format(direction=directions[0]) for text in model.overrides),
            model.settings,
        )
        path = find_recipe(filled.recipe)
        if path is None:
            raise ConfigError(
                f"the recipe {filled.recipe} was not found", fix="Give the source tree's recipes/ folder."
            )
        changes = [*filled.overrides, *overrides]
        recipe = load_recipe(path, [*changes, f"data.root={data}"])
        name = filled.recipe.replace("/", "-")
        if changes:
            name += "-" + hashlib.sha256("\n".join(changes).encode()).hexdigest()[:8]
        base = out / name
        folder = out / "-".join([name, *filled.settings.values()]) if filled.settings else base
        yield Unit(row, directions, filled, (path, recipe), folder, base / "run", tuple(changes))


def check_images(plan: Plan) -> str:
    """Open the first take and one image of each of its cameras, and describe them in one line.

    Raises:
        InputError: the take or an image cannot be read.
    """
    take = plan.dataset.takes[0]
    sizes = []
    for camera in take.cameras:
        frames = [f for f in take.frames if take.has_frame(camera, f)]
        if not frames:
            raise InputError(f"camera {camera} has no image", path=take.path)
        height, width = take.frame(camera, frames[0]).shape[:2]
        sizes.append(f"{camera} {width}x{height}")
    return f"{take.name}: {len(take.objects)} objects, {len(take.frames)} frames, {', '.join(sizes)}"
