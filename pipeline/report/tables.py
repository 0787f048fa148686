"""Metrics arranged as the tables of the report; nothing is computed here but differences and who is best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..workspace.records import Metric

ORIGINAL = "original"
MODELS_BESIDE = 6  # more columns than that do not fit on a printed page
PIPELINE = "pipeline"  # the "model" under which the run's own findings and masks are scored
WORLDS = {
    "asis": "the test split as it is",
    "clean": "without the artifact",
    "attacked": "with the artifact planted",
}
CONTROL = "tcav_random"
CLASS_METRIC = "class_accuracy"


@dataclass(frozen=True)
class MetricText:
    """How a metric is called on the page, which direction is good, and what it says.

    `better` is "higher", "lower", or "control": the nearer to its random control, the better.
    """

    heading: str
    better: str
    meaning: str


COMPARED = {
    "accuracy": MetricText("Accuracy", "higher", "share of test samples that are classified correctly"),
    "balanced_accuracy": MetricText("Balanced accuracy", "higher", "mean of the accuracies of the classes"),
    "worst_group_accuracy": MetricText("Worst group", "higher", "accuracy of the group that fares worst"),
    "auroc": MetricText("AUROC", "higher", "area under the receiver operating characteristic"),
    "artifact_relevance": MetricText(
        "Artifact relevance", "lower", "share of the relevance that falls on the artifact"
    ),
    "background_relevance": MetricText(
        "Background relevance", "lower", "share of the relevance that falls outside the region of interest"
    ),
    "tcav_quotient": MetricText(
        "TCAV quotient",
        "control",
        "share of samples whose logit rises along the concept; compare it with the range of random directions",
    ),
    "flip_rate": MetricText("Flip rate", "lower", "share of predictions that change when the artifact is planted"),
}
DETECTION = {
    "finding_precision": "share of the samples of the finding that truly carry the artifact",
    "finding_recall": "share of the samples that truly carry the artifact which the finding contains",
    "retrieval_auroc": "how well the concept score ranks samples with the artifact above those without",
    "retrieval_auroc_paired": "the same, comparing each sample with its own copy without the artifact",
    "retrieval_average_precision": "precision averaged over the ranking by concept score; chance is the prevalence",
    "retrieval_kendall_tau": "rank correlation of the concept score with the artifact, -1 to 1; chance is 0",
    "cav_alignment": "mean cosine of the concept vector with the change that the artifact makes; chance is near 0",
    "cav_alignment_p": "share of random directions that align as well",
    "mask_iou": "overlap of the localized mask with the true mask: intersection over union",
    "mask_dice": "overlap of the localized mask with the true mask: twice the intersection over the sum of both",
    "mask_auprc": "area under the precision-recall curve of the soft mask; chance is the artifact's share of the image",
    "mask_pointing": "share of samples whose strongest point lies on the true artifact",
    "mask_relevance_share": "share of the concept's relevance on the true artifact",
    "mask_relevance_ratio": "that share over the artifact's share of the image; chance is 1",
    "mask_precision": "share of the localized mask that lies on the true artifact",
    "mask_recall": "share of the true artifact that the localized mask covers",
}


@dataclass(frozen=True)
class Column:
    """One measured quantity: a metric on a subgroup (`all`, or a bias id)."""

    metric: str
    subgroup: str

    @property
    def text(self) -> MetricText:
        """Heading, direction and meaning."""
        return COMPARED[self.metric]


@dataclass(frozen=True)
class Cell:
    """One figure of the comparison; `metric` is None where nothing was measured."""

    metric: Metric | None = None
    best: bool = False
    change: float | None = None
    control: Metric | None = None

    @property
    def inside_control(self) -> bool:
        """Say whether the value lies within the range of its random control."""
        return self.control is not None and self.control.lower <= self.metric.value <= self.control.upper


@dataclass(frozen=True)
class Block:
    """All models in one world: rows of cells, in the order of the columns."""

    world: str
    meaning: str
    samples: int | None
    rows: list[tuple[str, list[Cell]]]


@dataclass(frozen=True)
class Matrix:
    """One metric in one world: rows are subgroups, columns are models."""

    metric: str
    world: str
    models: list[str]
    rows: list[tuple[str, list[Metric | None]]]


class MetricIndex:
    """Metrics by model, world, subgroup and name."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._rows = {(row.model, row.world, row.subgroup, row.metric): row for row in metrics}

    def find(self, model: str, world: str, subgroup: str, metric: str) -> Metric | None:
        """Return the row, or None where it is absent or its value is not a number."""
        row = self._rows.get((model, world, subgroup, metric))
        return row if row is not None and math.isfinite(row.value) else None


def world_order(metrics: list[Metric]) -> list[str]:
    """Return the worlds in which models were measured: as is, clean, attacked, then any other."""
    present = dict.fromkeys(row.world for row in metrics if row.model != PIPELINE)
    return sorted(present, key=lambda world: _rank(world, list(WORLDS)))


def comparison(metrics: list[Metric], models: list[str]) -> tuple[list[Column], list[Block]]:
    """Arrange the compared metrics as one block per world, all models below each other."""
    columns = _columns(metrics)
    index = MetricIndex(metrics)
    blocks = []
    for world in world_order(metrics):
        cells = [_column_cells(index, column, world, models) for column in columns]
        if not any(cell.metric for column in cells for cell in column):
            continue
        sizes = [row.n for model in models if (row := index.find(model, world, "all", "accuracy"))]
        rows = list(zip(models, map(list, zip(*cells, strict=True)), strict=True))
        blocks.append(Block(world, WORLDS.get(world, ""), sizes[0] if sizes else None, rows))
    return columns, blocks


def subgroup_matrices(metrics: list[Metric], models: list[str], wanted: Callable[[Metric], bool]) -> list[Matrix]:
    """Arrange the wanted rows as one matrix per metric and world, subgroups in order of appearance.

    Many models are spread over several matrices, each with the original (the first model) in its first column.
    """
    rows = [row for row in metrics if row.model != PIPELINE and wanted(row)]
    index = MetricIndex(rows)
    matrices = []
    for metric in dict.fromkeys(row.metric for row in rows):
        for world in world_order([row for row in rows if row.metric == metric]):
            subgroups = dict.fromkeys(row.subgroup for row in rows if (row.metric, row.world) == (metric, world))
            for beside in _spread(models):
                figures = [
                    (subgroup, [index.find(model, world, subgroup, metric) for model in beside])
                    for subgroup in subgroups
                ]
                matrices.append(Matrix(metric, world, beside, figures))
    return matrices


def is_class_metric(row: Metric) -> bool:
    """Say whether the row is the accuracy of one class."""
    return row.metric == CLASS_METRIC


def is_other_metric(row: Metric) -> bool:
    """Say whether the row appears neither in the comparison nor among the classes."""
    return not (is_class_metric(row) or row.metric == CONTROL or _is_compared(row))


def _spread(models: list[str]) -> list[list[str]]:
    first, others = models[:1], models[1:]
    step = MODELS_BESIDE - 1
    return [first + others[start : start + step] for start in range(0, max(1, len(others)), step)]


def _is_compared(row: Metric) -> bool:
    # Subgroups such as "sex=female" are tables of their own; a bias id is a column of the comparison.
    return row.metric in COMPARED and "=" not in row.subgroup


def _columns(metrics: list[Metric]) -> list[Column]:
    present = dict.fromkeys(
        (row.metric, row.subgroup) for row in metrics if row.model != PIPELINE and _is_compared(row)
    )
    order = sorted(present, key=lambda key: (list(COMPARED).index(key[0]), key[1] != "all"))
    return [Column(metric, subgroup) for metric, subgroup in order]


def _column_cells(index: MetricIndex, column: Column, world: str, models: list[str]) -> list[Cell]:
    rows = [index.find(model, world, column.subgroup, column.metric) for model in models]
    is_controlled = column.text.better == "control"
    controls = [index.find(model, world, column.subgroup, CONTROL) if is_controlled else None for model in models]
    badness = [_badness(row, control, column.text.better) for row, control in zip(rows, controls, strict=True)]
    measured = [value for value in badness if value is not None]
    # Figures that read the same on the page, three decimals, are equally good.
    least = round(min(measured), 3) if len(measured) > 1 else None
    start = index.find(ORIGINAL, world, column.subgroup, column.metric)
    return [
        Cell(
            metric=row,
            best=value is not None and round(value, 3) == least,
            change=row.value - start.value if row and start and row.model != ORIGINAL else None,
            control=control,
        )
        if row
        else Cell()
        for row, control, value in zip(rows, controls, badness, strict=True)
    ]


def _badness(row: Metric | None, control: Metric | None, better: str) -> float | None:
    if row is None:
        return None
    if better == "higher":
        return -row.value
    if better == "lower":
        return row.value
    return abs(row.value - control.value) if control else None


def _rank(name: str, order: list[str]) -> int:
    return order.index(name) if name in order else len(order)
