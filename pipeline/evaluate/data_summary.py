"""What the model was trained and tested on: counts, missing values, and whether the test split is known."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.data.checks import require_column
from pipeline.data.dataset import SPLITS, AuditDataset
from pipeline.data.leakage import as_text, identical_pixels, nearly_identical_pixels, same_group, sketch
from pipeline.data.worlds import WorldView
from pipeline.workspace.records import ClassCount, DataSummary, LeakageCheck, SubgroupCount

MOST_VALUES = 20
"""Values of a group column that are counted one by one, the most frequent ones."""
OTHER, MISSING = "other", ""
IDENTITIES = ("patient", "patient_id", "lesion_id", "subject_id")
"""Columns whose values tell who or what a sample shows, whether or not the configuration names them."""


def summarize_data(
    dataset: AuditDataset, subgroups: Sequence[str], group_column: str | None, say: Callable[[str], None]
) -> DataSummary:
    """Return counts per class, split and subgroup, missing values, and the checks for leakage.

    Of a `WorldView` the data set behind it is summarized: copies are a property of the data before anything is planted,
    and what is planted would hide them.

    Args:
        dataset: a data set, or a world of it.
        subgroups: group columns whose values are counted (`evaluate.subgroups`). Of more than 20 values of a column,
            the less frequent ones are summed up as "other"; missing values are "".
        group_column: column whose groups must not cross splits (`data.split.group_column`). Columns of the table that
            are called patient, patient_id, lesion_id or subject_id are compared, too.
        say: is told which copies were found, and how long it took.

    Raises:
        ConfigError: for a subgroup that is no column of the table.
    """
    dataset = dataset.dataset if isinstance(dataset, WorldView) else dataset
    table = dataset.table
    for column in subgroups:
        require_column(column, table.columns.tolist(), "evaluate.subgroups", "the data set (data.group_columns)")
    splits, labels = table["split"].to_numpy(dtype=object), table["label"].to_numpy()
    values = {column: as_text(table[column]) for column in subgroups}
    counted = Counter(zip(splits.tolist(), labels.tolist(), strict=True))
    groups = group_columns(table.columns.tolist(), group_column)
    return DataSummary(
        classes=[
            ClassCount(split=split, class_name=name, n=counted[split, label])
            for split in SPLITS
            for label, name in enumerate(dataset.classes)
        ],
        subgroups=[
            each
            for column, texts in values.items()
            for each in subgroup_counts(column, texts, splits, labels, dataset.classes)
        ],
        missing={
            column: int((as_text(table[column]) == MISSING).sum())
            for column in [*subgroups, *groups]
            if column in table.columns
        },
        leakage=_leakage(dataset, groups, say),
    )


def subgroup_counts(
    column: str, texts: np.ndarray, splits: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> list[SubgroupCount]:
    """Return how many samples of each class and split have each value; combinations without samples are left out.

    Args:
        texts: values `[N]`, "" where missing.
        splits: names of splits `[N]`.
        labels: class ids `[N]`.
    """
    present = Counter(text for text in texts.tolist() if text != MISSING)
    ranked = sorted(present, key=lambda text: (-present[text], text))
    kept = set(ranked[:MOST_VALUES])
    shown = [text if text in kept or text == MISSING else OTHER for text in texts.tolist()]
    order = [*sorted(kept - {OTHER}), OTHER, MISSING]
    counted = Counter(zip(shown, splits.tolist(), labels.tolist(), strict=True))
    return [
        SubgroupCount(column=column, value=value, split=split, class_name=name, n=n)
        for value in order
        for split in SPLITS
        for label, name in enumerate(classes)
        if (n := counted[value, split, label])
    ]


def _leakage(dataset: AuditDataset, groups: Sequence[str], say: Callable[[str], None]) -> list[LeakageCheck]:
    start = time.perf_counter()
    sketches = sketch(dataset)
    checks = [
        identical_pixels(dataset, sketches),
        nearly_identical_pixels(dataset, sketches),
        same_group(dataset, groups),
    ]
    for check in checks:
        if check.status == "leak":
            say(f"    {check.check}: other splits know {check.test_samples:,} test samples ({check.pairs:,} pairs)")
    say(f"    {len(dataset):,} samples searched for copies of test samples ({time.perf_counter() - start:.1f} s)")
    return checks


def group_columns(columns: Sequence[str], named: str | None) -> list[str]:
    """Return the column that the configuration names, if it does, and those columns whose name says who is shown."""
    found = [column for column in columns if str(column).lower() in IDENTITIES and column != named]
    return found if named is None else [named, *found]
