"""Tables with one metric in each row and its meaning at the end: the original's performance, detection, sanity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..workspace.metric_catalogue import METRICS
from ..workspace.records import Audit, Metric
from .formats import has_interval
from .tables import (
    INTERVENTIONS,
    ORIGINAL,
    PIPELINE,
    Cell,
    Matrix,
    MetricIndex,
    breakdowns,
    families_of,
    in_catalogue_order,
    of_family,
    world_order,
)

OPERATING_POINT = ("operating_threshold", "sensitivity", "specificity")
TEST_WORLDS = ("asis", "clean", "attacked")


@dataclass(frozen=True)
class SheetRow:
    """One metric on one subgroup, in several columns."""

    metric: str
    subgroup: str
    cells: list[Cell]


@dataclass(frozen=True)
class Sheet:
    """Metrics below each other.

    Attributes:
        title: what it is about.
        columns: what the cells are of: worlds, or models.
        rows: of figures.
    """

    title: str
    columns: list[str]
    rows: list[SheetRow]


@dataclass(frozen=True)
class WorstGroup:
    """The group of classes with and without the artifact that fares worst in a world; "" where its name is unknown."""

    world: str
    name: str
    cell: Cell


@dataclass(frozen=True)
class Baseline:
    """How the model under audit performs.

    Attributes:
        sheets: discrimination, calibration, operating point.
        worst: of every world.
        classes: a table for each world.
        groups: classes with and without the artifact.
        subgroups: a table for each column of the data set and each world.
        intervals: how many confidence intervals the section shows.
        few: how many of its cells rest on too few samples.
    """

    sheets: list[Sheet]
    worst: list[WorstGroup]
    classes: list[Matrix]
    groups: list[Matrix]
    subgroups: list[Matrix]
    intervals: int
    few: int


def baseline_performance(audit: Audit, index: MetricIndex) -> Baseline:
    """Arrange the performance of the model under audit."""
    rows = [row for row in audit.metrics if row.model == ORIGINAL and row.world not in INTERVENTIONS]
    worlds = [world for world in world_order(rows) if world in TEST_WORLDS]
    performance = [row for row in rows if row.subgroup == "all"]
    discrimination = [row for row in of_family(performance, "performance") if row.metric not in OPERATING_POINT]
    parts = {
        "Discrimination": discrimination,
        "Calibration": of_family(performance, "calibration"),
        "Operating point": [row for row in performance if row.metric in OPERATING_POINT],
    }
    sheets = [_by_world(title, index, part, worlds) for title, part in parts.items() if part]
    columns = [family for family in families_of(rows) if family not in ("class", "group")]
    classes = breakdowns(index, rows, ORIGINAL, worlds, "class", "Classes")
    groups = breakdowns(index, rows, ORIGINAL, worlds, "group", "Classes with and without the artifact")
    subgroups = [
        matrix for column in columns for matrix in breakdowns(index, rows, ORIGINAL, worlds, column, f"By {column}")
    ]
    cells = [cell for sheet in sheets for row in sheet.rows for cell in row.cells]
    cells += [cell for matrix in [*classes, *groups, *subgroups] for _, row in matrix.rows for cell in row]
    return Baseline(
        sheets=sheets,
        worst=[each for world in worlds if (each := _worst_group(index, rows, world))],
        classes=classes,
        groups=groups,
        subgroups=subgroups,
        intervals=sum(bool(cell.row) and not cell.too_few and has_interval(cell.row) for cell in cells),
        few=sum(cell.too_few for cell in cells),
    )


def detection_sheet(rows: Iterable[Metric], index: MetricIndex, subgroup: str) -> Sheet | None:
    """Arrange what the run's own finding and masks of one bias, finding or artifact scored; None without any."""
    found = [row for row in rows if row.model == PIPELINE and row.subgroup == subgroup and row.metric != "prevalence"]
    return _sheet("", ["value"], found, lambda metric, name, _: index.cell(PIPELINE, "asis", name, metric))


def sanity_sheet(audit: Audit, index: MetricIndex, models: Sequence[str]) -> Sheet | None:
    """Arrange how far heatmaps of the models can be believed, as they are; None where that was not measured."""
    found = [row for row in of_family(audit.metrics, "explanation") if row.model in models and row.world == "asis"]
    blanked = [row for row in audit.metrics if row.metric == "artifact_aopc" and row.model in models]
    shown = [model for model in models if any(row.model == model for row in found + blanked)]
    worlds = {row.metric: row.world for row in found + blanked}
    return _sheet(
        "", shown, found + blanked, lambda metric, name, model: index.cell(model, worlds[metric], name, metric)
    )


def _by_world(title: str, index: MetricIndex, rows: Sequence[Metric], worlds: list[str]) -> Sheet | None:
    return _sheet(title, worlds, rows, lambda metric, name, world: index.cell(ORIGINAL, world, name, metric))


def _sheet(
    title: str, columns: list[str], rows: Sequence[Metric], cell: Callable[[str, str, str], Cell]
) -> Sheet | None:
    names = {metric: dict.fromkeys(row.subgroup for row in rows if row.metric == metric) for metric in METRICS}
    shown = [
        SheetRow(metric, name, [cell(metric, name, column) for column in columns])
        for metric in in_catalogue_order(row.metric for row in rows)
        for name in names.get(metric, {})
    ]
    return Sheet(title, columns, shown) if shown else None


def _worst_group(index: MetricIndex, rows: list[Metric], world: str) -> WorstGroup | None:
    groups = dict.fromkeys(row.subgroup for row in rows if row.subgroup.startswith("group=") and row.world == world)
    known = [(row, name) for name in groups if (row := index.find(ORIGINAL, world, name, "accuracy"))]
    if known:
        row, name = min(known, key=lambda pair: pair[0].value)
        return WorstGroup(world, name.removeprefix("group="), Cell(row))
    cell = index.cell(ORIGINAL, world, "all", "worst_group_accuracy")
    return WorstGroup(world, "", cell) if cell.row else None
