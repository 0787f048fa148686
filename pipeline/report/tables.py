"""Metrics arranged as the tables of the report; nothing is computed here but differences and who is best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..workspace.metric_catalogue import METRICS, Family
from ..workspace.records import Metric
from .formats import subgroup_text

ORIGINAL = "original"
PIPELINE = "pipeline"  # the "model" under which the run's own findings and masks are scored
BESIDE = 6  # more columns of figures than that do not fit on a printed page
WORLDS = {
    "asis": "the test split as it is",
    "clean": "without the artifact",
    "attacked": "with the artifact, planted or pasted in, in every image",
    "inserted": "localized artifacts pasted into samples without them",
    "removed": "localized artifacts filled in, on samples that show them",
}
INTERVENTIONS = ("inserted", "removed")
CONTROLS = {"tcav_quotient": "tcav_random", "tcav_sensitivity": "tcav_sensitivity_random"}
CLASS_METRIC = "class_accuracy"
PERFORMANCE = (
    *("accuracy", "balanced_accuracy", "worst_group_accuracy", "exact_match"),
    *("auroc", "macro_auroc", "sensitivity", "specificity", "calibration_error"),
)
"""Columns of the comparison of all models, in this order; those that nobody was measured by are left out."""
RELIANCE = (
    *("artifact_relevance", "artifact_relevance_ratio", "pointing_artifact", "background_relevance"),
    *("tcav_quotient", "tcav_sensitivity", "flip_rate"),
)
PAIRED = ("accuracy_gain", "mcnemar_p", "mcnemar_p_adjusted", "auroc_gain", "delong_p", "delong_p_adjusted")
CAUSAL = (
    *("flip_rate", "flip_rate_elsewhere", "flip_to_class_rate", "flip_to_class_rate_elsewhere"),
    *("relative_logit_shift", "relative_logit_shift_elsewhere", "accuracy_change", "paste_seam"),
)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Cell:
    """One figure of a table.

    Attributes:
        row: what was measured; None where nothing was.
        too_few: whether it rests on too few samples, so that only their number is given.
        best: whether no other of its column and world is better.
        change: against the original; None where there is none, or where it says nothing.
        control: the same for random directions, for those metrics that need it.
    """

    row: Metric | None = None
    too_few: bool = False
    best: bool = False
    change: float | None = None
    control: Metric | None = None

    @property
    def inside_control(self) -> bool:
        """Say whether the value lies within the range of its random control."""
        return self.control is not None and self.control.lower <= self.row.value <= self.control.upper


@dataclass(frozen=True)
class Block:
    """All models in one world: rows of cells, in the order of the columns."""

    world: str
    meaning: str
    samples: str
    rows: list[tuple[str, list[Cell]]]


@dataclass(frozen=True)
class Comparison:
    """Models below each other, metrics beside each other, one block for each world."""

    subgroup: str
    columns: list[str]
    blocks: list[Block]


@dataclass(frozen=True)
class Matrix:
    """A plain table: rows of cells under column headings.

    Attributes:
        title: what it is about.
        corner: what the rows are.
        columns: headings: names of metrics, or other words.
        of_metrics: whether they are names of metrics.
        rows: name, cells in the order of the columns.
    """

    title: str
    corner: str
    columns: list[str]
    of_metrics: bool
    rows: list[tuple[str, list[Cell]]]


class MetricIndex:
    """Metrics by model, world, subgroup and name; figures on fewer than `min_n` samples are not given away."""

    def __init__(self, metrics: Iterable[Metric], min_n: int = 0) -> None:
        self._rows = {(row.model, row.world, row.subgroup, row.metric): row for row in metrics}
        self._min_n = min_n

    def find(self, model: str, world: str, subgroup: str, metric: str) -> Metric | None:
        """Return the row, or None where it is absent, on too few samples, or its value is not a number."""
        cell = self.cell(model, world, subgroup, metric)
        return None if cell.too_few else cell.row

    def cell(self, model: str, world: str, subgroup: str, metric: str) -> Cell:
        """Return the figure, its number of samples where these are too few, or an empty cell."""
        row = self._rows.get((model, world, subgroup, metric))
        if row is not None and self._rests_on_too_little(row):
            return Cell(row, too_few=True)
        return Cell(row) if row is not None and math.isfinite(row.value) else Cell()

    def _rests_on_too_little(self, row: Metric) -> bool:
        entry = METRICS.get(row.metric)
        return row.n < self._min_n and (entry is None or entry.counts == "samples")


def world_order(rows: Iterable[Metric]) -> list[str]:
    """Return the worlds in which models were measured: as is, clean, attacked, inserted, removed, then any other."""
    present = dict.fromkeys(row.world for row in rows if row.model != PIPELINE)
    order = list(WORLDS)
    return sorted(present, key=lambda world: order.index(world) if world in order else len(order))


def comparison(
    index: MetricIndex, models: Sequence[str], metrics: Sequence[str], worlds: Iterable[str], subgroup: str = "all"
) -> Comparison:
    """Arrange metrics of one subgroup (`all`, or the id of a bias) as one block per world, all models below each other.

    Metrics and worlds without any figure are left out.
    """
    columns = [
        metric
        for metric in metrics
        if any(index.cell(model, world, subgroup, metric).row for model in models for world in worlds)
    ]
    blocks = []
    for world in worlds:
        cells = [_column(index, metric, subgroup, world, models) for metric in columns]
        found = [cell.row for column in cells for cell in column if cell.row]
        if found:
            rows = list(zip(models, map(list, zip(*cells, strict=True)), strict=True))
            blocks.append(Block(world, WORLDS.get(world, ""), _sizes(found), rows))
    return Comparison(subgroup, columns, blocks)


def breakdowns(
    index: MetricIndex, rows: Iterable[Metric], model: str, worlds: Sequence[str], family: str, title: str
) -> list[Matrix]:
    """Arrange the subgroups `<family>=<value>` of one model: values below each other.

    Of one metric alone, worlds stand beside each other; of several, the metrics do, and every world has its table.
    """
    found = [
        row for row in rows if row.model == model and row.subgroup.startswith(f"{family}=") and row.world in worlds
    ]
    metrics = in_catalogue_order(row.metric for row in found)
    subgroups = list(dict.fromkeys(row.subgroup for row in found))

    def names(cells: Callable[[str], list[Cell]]) -> list[tuple[str, list[Cell]]]:
        return [(subgroup.partition("=")[2], cells(subgroup)) for subgroup in subgroups]

    if len(metrics) == 1:
        present = [world for world in worlds if any(row.world == world for row in found)]
        table = names(lambda subgroup: [index.cell(model, world, subgroup, metrics[0]) for world in present])
        return [Matrix(f"{title}: {METRICS[metrics[0]].heading.lower()}", family, present, False, table)]
    matrices = []
    for world in worlds:
        here = in_catalogue_order(row.metric for row in found if row.world == world)
        table = names(lambda subgroup, w=world, h=here: [index.cell(model, w, subgroup, metric) for metric in h])
        if here:
            matrices.append(Matrix(f"{title}, world {world}", family, here, True, table))
    return matrices


def families_of(rows: Iterable[Metric]) -> list[str]:
    """Return what subgroups are made by (class, group, or columns of the data set), in order of appearance."""
    names = dict.fromkeys(row.subgroup.partition("=")[0] for row in rows if "=" in row.subgroup)
    return [name for name in names if name != "fill"]


def remaining(rows: Sequence[Metric], index: MetricIndex, models: Sequence[str]) -> list[Matrix]:
    """Arrange what no comparison shows, so that every figure stands somewhere: models below each other.

    Metrics of a whole set stand beside each other, one table for each world and bias; metrics of classes and subgroups
    have one table for each metric, world and column. Wide ones are spread over several tables.
    """
    left = [row for row in rows if row.model in models and not is_compared(row)]
    matrices = []
    whole = [row for row in left if "=" not in row.subgroup]
    for world in world_order(whole):
        for subgroup in dict.fromkeys(row.subgroup for row in whole if row.world == world):
            metrics = in_catalogue_order(row.metric for row in whole if (row.world, row.subgroup) == (world, subgroup))
            matrices += _spread_matrix(
                _title("", world, subgroup),
                metrics,
                True,
                models,
                lambda model, metric, w=world, s=subgroup: index.cell(model, w, s, metric),
            )
    parts = [row for row in left if "=" in row.subgroup]
    for world in world_order(parts):
        here = [row for row in parts if row.world == world]
        for metric in in_catalogue_order(row.metric for row in here):
            subgroups = dict.fromkeys(row.subgroup for row in here if row.metric == metric)
            for family in dict.fromkeys(subgroup.partition("=")[0] for subgroup in subgroups):
                values = [subgroup for subgroup in subgroups if subgroup.startswith(f"{family}=")]
                matrices += _spread_matrix(
                    f"{_title(metric, world, '')}, by {family}",
                    values,
                    False,
                    models,
                    lambda model, subgroup, w=world, m=metric: index.cell(model, w, subgroup, m),
                )
    return matrices


def is_compared(row: Metric) -> bool:
    """Say whether a comparison of all models shows this row: performance, reliance, paired tests or causal evidence."""
    if "=" in row.subgroup:
        return False
    if row.world in INTERVENTIONS:
        return row.metric in CAUSAL
    if row.metric in (*RELIANCE, *CONTROLS.values()):
        return True
    return row.subgroup == "all" and row.metric in (*PERFORMANCE, *PAIRED)


def in_catalogue_order(metrics: Iterable[str]) -> list[str]:
    """Return each metric once, in the order of the catalogue; others follow by name."""
    order = {name: position for position, name in enumerate(METRICS)}
    return sorted(set(metrics), key=lambda name: (order.get(name, len(order)), name))


def of_family(rows: Iterable[Metric], family: Family) -> list[Metric]:
    """Return the rows whose metric belongs to a family of the catalogue."""
    return [row for row in rows if row.metric in METRICS and METRICS[row.metric].family == family]


def spread(items: Sequence[Item], beside: int = BESIDE) -> list[list[Item]]:
    """Return the items in parts of about equal size, none larger than `beside`."""
    count = math.ceil(len(items) / beside)
    size = math.ceil(len(items) / count) if count else 0
    return [list(items[start : start + size]) for start in range(0, len(items), size)] if count else []


def _spread_matrix(
    title: str, columns: Sequence[str], of_metrics: bool, models: Sequence[str], cell: Callable[[str, str], Cell]
) -> list[Matrix]:
    matrices = []
    parts = spread(columns)
    for number, part in enumerate(parts, start=1):
        rows = [(model, [cell(model, column) for column in part]) for model in models]
        rows = [(model, cells) for model, cells in rows if any(each.row for each in cells)]
        heads = part if of_metrics else [subgroup_text(column) for column in part]
        of = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
        matrices.append(Matrix(f"{title}{of}", "model", heads, of_metrics, rows))
    return matrices


def _title(metric: str, world: str, subgroup: str) -> str:
    parts = [METRICS[metric].heading if metric in METRICS else metric, f"world {world}"]
    return ", ".join(filter(None, [*parts, "" if subgroup in ("all", "") else f"bias {subgroup}"]))


def _sizes(rows: list[Metric]) -> str:
    sizes = sorted({row.n for row in rows if row.metric not in CONTROLS.values()})
    return " to ".join(map(str, dict.fromkeys((sizes[0], sizes[-1])))) if sizes else ""


def _column(index: MetricIndex, metric: str, subgroup: str, world: str, models: Sequence[str]) -> list[Cell]:
    better = METRICS[metric].better
    cells = [index.cell(model, world, subgroup, metric) for model in models]
    rows = [None if cell.too_few else cell.row for cell in cells]
    controls = [
        index.find(model, world, subgroup, CONTROLS[metric]) if metric in CONTROLS else None for model in models
    ]
    badness = [_badness(row, control, better) for row, control in zip(rows, controls, strict=True)]
    known = [value for value in badness if value is not None]
    # Figures that read the same on the page, three decimals, are equally good.
    least = round(min(known), 3) if len(known) > 1 else None
    says_something = better != "none" and METRICS[metric].family != "paired"
    start = index.find(ORIGINAL, world, subgroup, metric) if says_something else None
    return [
        Cell(
            row=row,
            best=value is not None and round(value, 3) == least,
            change=row.value - start.value if start and row.model != ORIGINAL else None,
            control=control,
        )
        if row
        else cell
        for cell, row, control, value in zip(cells, rows, controls, badness, strict=True)
    ]


def _badness(row: Metric | None, control: Metric | None, better: str) -> float | None:
    if row is None or better == "none":
        return None
    if better == "higher":
        return -row.value
    if better == "lower":
        return row.value
    return abs(row.value - control.value) if control else None
