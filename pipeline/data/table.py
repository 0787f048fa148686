"""Images listed in a CSV file: the generic adapter, and the reading of CSV files for the others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..config.data import TableData
from ..errors import ConfigError, DataError, nearest
from ..workspace.progress import Reporter
from .checks import require_column, require_file, require_root
from .dataset import SPLITS
from .images import ImageFileDataset, ImageRows, Natural, load_image_files

OWN_COLUMNS = ("id", "label", "split")
"""Columns that every table of a data set has; group columns cannot take their names."""
FLAG_VALUES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}


def load(config: TableData, reporter: Reporter | None = None) -> ImageFileDataset:
    """Return the images that a CSV file lists.

    Rows whose split is not train, val or test (for example "unlabelled") are left out. Every cell is read as text;
    whole numbers lose their fraction, so that 0.0 and 1.0 are the classes "0" and "1".

    Raises:
        ConfigError: for a column that the table does not have, naming the nearest.
        DataError: for a missing folder or table, a split that no row has, unusable flags, and bad samples.
    """
    root = require_root(config.root)
    table = read_table(require_file(root / config.table, "data.table"))
    _check_columns(config, table)
    if config.split_column is not None:
        table = _rows_with_a_split(table, config)
    ids = table[config.id_column].tolist()
    classes, labels, problems = match_classes(table[config.label_column].tolist(), config.classes)
    fill = {**{name: table[name].tolist() for name in table.columns}, "id": ids}
    group_column = config.split.group_column
    rows = ImageRows(
        source=config.table,
        ids=ids,
        paths=fill_pattern(root, config.path, fill, len(ids)),
        labels=labels,
        classes=classes,
        problems=problems,
        splits=table[config.split_column].str.lower().to_numpy(object) if config.split_column is not None else None,
        split_groups=table[group_column].to_numpy(object) if group_column is not None else None,
        groups={name: table[name].to_numpy(object) for name in config.group_columns},
        roi_masks=fill_pattern(root, config.roi_masks, fill, len(ids)) if config.roi_masks else None,
        artifacts={
            name: Natural(
                _flags(table[each.column], config.table),
                fill_pattern(root, each.masks, fill, len(ids)) if each.masks else None,
            )
            for name, each in config.artifacts.items()
        },
    )
    return load_image_files(rows, config, config.channels, reporter)


def read_table(path: Path) -> pd.DataFrame:
    """Return a CSV file as tidy text: no surrounding spaces, whole numbers without fraction, empty cells as ""."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is no readable CSV file (UTF-8, commas): {error}. Next step: export it again."
        ) from error
    if table.empty:
        raise DataError(f"{path} has no rows. Next step: list one image per row.")
    return table.rename(columns=str.strip).map(_tidy)


def match_classes(
    names: Sequence[str], classes: Sequence[str] | None
) -> tuple[tuple[str, ...], np.ndarray, dict[int, str]]:
    """Return class names, class ids `[N]` (-1 where unusable), and row -> reason of the unusable labels.

    Args:
        names: label of every row as text; "" and "nan" are empty.
        classes: class names in order; None takes the values that occur, whole numbers by value and others by name.
    """
    names = ["" if name.lower() == "nan" else name for name in names]
    if classes is None:
        found = sorted(set(names) - {""})
        whole = all(re.fullmatch(r"-?\d+", name) for name in found)
        classes = sorted(found, key=int) if whole else found
    order = {_tidy(name): index for index, name in enumerate(classes)}
    if len(order) < len(classes):
        raise ConfigError(f"data.classes lists a name twice: {', '.join(classes)}.")
    labels = np.array([order.get(name, -1) for name in names], dtype=np.int64)
    allowed = ", ".join(order)
    problems = {
        row: f"label '{names[row]}' is not one of the classes {allowed}" if names[row] else "empty label"
        for row in np.flatnonzero(labels < 0).tolist()
    }
    return tuple(order), labels, problems


def fill_pattern(root: Path, pattern: str, columns: Mapping[str, Sequence[str]], n: int) -> list[Path]:
    """Return `n` paths: the pattern below root with every {column} replaced by the row's cell."""
    parts = re.split(r"\{([^{}]+)\}", pattern)
    # Odd places hold the names of columns.
    cells = [columns[part] if place % 2 else [part] * n for place, part in enumerate(parts)]
    return [root / "".join(row) for row in zip(*cells, strict=True)]


def _tidy(text: str) -> str:
    text = text.strip()
    return str(int(float(text))) if re.fullmatch(r"[-+]?\d{1,15}\.0*", text) else text


def _check_columns(config: TableData, table: pd.DataFrame) -> None:
    columns = table.columns.tolist()
    wanted = [
        ("data.id_column", config.id_column),
        ("data.label_column", config.label_column),
        ("data.split_column", config.split_column),
        ("data.split.group_column", config.split.group_column),
        *(("data.group_columns", name) for name in config.group_columns),
        *((f"data.artifacts.{name}.column", each.column) for name, each in config.artifacts.items()),
    ]
    for key, column in wanted:
        if column is not None:
            require_column(column, columns, key, config.table)
    patterns = [("data.path", config.path), ("data.roi_masks", config.roi_masks)]
    patterns += [(f"data.artifacts.{name}.masks", each.masks) for name, each in config.artifacts.items()]
    for key, pattern in patterns:
        for column in re.findall(r"\{([^{}]+)\}", pattern or ""):
            require_column(column, ["id", *columns], key, config.table)
    for name in config.group_columns:
        if name in OWN_COLUMNS:
            raise ConfigError(
                f"data.group_columns names '{name}', which means something else in every data set. "
                f"Next step: give the column of {config.table} another name (not {', '.join(OWN_COLUMNS)})."
            )


def _rows_with_a_split(table: pd.DataFrame, config: TableData) -> pd.DataFrame:
    values = table[config.split_column].str.lower()
    for split in SPLITS:
        if not (values == split).any():
            found = ", ".join(
                f"{value or '(empty)'} {count}" for value, count in values.value_counts().head(10).items()
            )
            raise DataError(
                f"No row of {config.table} has '{split}' in the column '{config.split_column}'. It has: {found}."
                f"{nearest(split, values.unique().tolist())} Next step: use the values {', '.join(SPLITS)}, or name "
                "another data.split_column, or none to have splits drawn by data.split"
            )
    return table[values.isin(SPLITS)].reset_index(drop=True)


def _flags(column: pd.Series, place: str) -> np.ndarray:
    values = column.str.lower()
    unknown = values[~values.isin(FLAG_VALUES)]
    if len(unknown):
        raise DataError(
            f"{place}: the artifact column '{column.name}' holds '{unknown.iloc[0]}'; allowed are "
            f"{', '.join(value or '(empty)' for value in FLAG_VALUES)}. Next step: correct the table."
        )
    return values.map(FLAG_VALUES).to_numpy(bool)
