"""What the model was trained and tested on, as tables of counts."""

from __future__ import annotations

from dataclasses import dataclass

from ..workspace.records import DataSummary, LeakageCheck
from .tables import spread

SPLITS = ("train", "val", "test")
CLASSES_BESIDE = 8
LEAKAGE_WORDS = {"clean": "none found", "leak": "LEAK", "not_run": "not run"}
CHECKS = ("identical pixels", "nearly identical pixels", "same group")


@dataclass(frozen=True)
class Count:
    """A number of samples; `few` where figures on so few are not given."""

    n: int
    few: bool = False


@dataclass(frozen=True)
class CountTable:
    """Counts under headings.

    Attributes:
        title: what is counted.
        corners: headings of the columns that name the row.
        columns: headings of the counts.
        rows: names, counts.
    """

    title: str
    corners: list[str]
    columns: list[str]
    rows: list[tuple[list[str], list[Count]]]


@dataclass(frozen=True)
class DataTables:
    """Section 2 of the report.

    Attributes:
        classes: class by split.
        subgroups: for each group column value by class; wide ones in several tables.
        missing: group column, samples without a value, their share of all samples.
        leakage: the checks that were made, those that were not made at the end.
        samples: of all splits.
    """

    classes: CountTable | None
    subgroups: list[CountTable]
    missing: list[tuple[str, int, float]]
    leakage: list[LeakageCheck]
    samples: int


def data_tables(data: DataSummary, min_n: int) -> DataTables:
    """Arrange the summary of the data; counts of the test split below `min_n` are marked."""
    samples = sum(count.n for count in data.classes)
    columns = list(dict.fromkeys(count.column for count in data.subgroups))
    done = {check.check for check in data.leakage}
    absent = [
        LeakageCheck(check=name, status="not_run", pairs=0, test_samples=0, detail="no result was recorded")
        for name in CHECKS
        if name not in done
    ]
    return DataTables(
        classes=_class_table(data) if data.classes else None,
        subgroups=[table for column in columns for table in _subgroup_tables(data, column, min_n)],
        missing=[(name, n, n / samples if samples else 0.0) for name, n in data.missing.items()],
        leakage=[*data.leakage, *absent],
        samples=samples,
    )


def split_order(splits: set[str]) -> list[str]:
    """Return training, validation and test split first, then any other by name."""
    return sorted(splits, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name))


def _class_table(data: DataSummary) -> CountTable:
    splits = split_order({count.split for count in data.classes})
    names = list(dict.fromkeys(count.class_name for count in data.classes))
    counts = {(count.class_name, count.split): count.n for count in data.classes}
    rows = [([name], _with_total([counts.get((name, split), 0) for split in splits])) for name in names]
    totals = [sum(counts.get((name, split), 0) for name in names) for split in splits]
    return CountTable(
        "Samples of each class in each split", ["Class"], [*splits, "all"], [*rows, (["all"], _with_total(totals))]
    )


def _subgroup_tables(data: DataSummary, column: str, min_n: int) -> list[CountTable]:
    here = [count for count in data.subgroups if count.column == column]
    splits = split_order({count.split for count in here})
    values = sorted({count.value for count in here}, key=lambda value: (value == "", value))
    classes = list(dict.fromkeys(count.class_name for count in here))
    counts = {(count.value, count.split, count.class_name): count.n for count in here}
    keys = [(value, split) for value in values for split in splits]
    tables = []
    for part in spread(classes, CLASSES_BESIDE):
        rows = []
        for value, split in keys:
            found = [counts.get((value, split, name), 0) for name in part]
            marked = [Count(n, few=split == "test" and n < min_n) for n in found]
            total = sum(counts.get((value, split, name), 0) for name in classes)
            few = split == "test" and total < min_n
            rows.append(([value or "(missing)", split], [*marked, Count(total, few=few)]))
        tables.append(CountTable(f"Samples by {column} and class", [column, "Split"], [*part, "all classes"], rows))
    return tables


def _with_total(counts: list[int]) -> list[Count]:
    return [Count(n) for n in [*counts, sum(counts)]]
