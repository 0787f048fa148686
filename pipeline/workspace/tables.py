"""The metrics of a run as tables: `metrics.csv` for people, `metrics.parquet` for programs, with the same rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pipeline.errors import StoreError

from .atomic import atomic_path, write_text
from .records import Metric

if TYPE_CHECKING:
    import pyarrow

METRICS_CSV = "evaluate/metrics.csv"
"""Where the metrics lie, relative to the run directory."""
COLUMNS = tuple(Metric.model_fields)
PARQUET_TYPES = {str: "string", float: "double", int: "int64"}


def write_metrics(path: Path, metrics: Sequence[Metric]) -> None:
    """Write rows to `path`, a CSV file, and beside it as Parquet with the suffix `.parquet`; the same rows, same bytes.

    Each file is replaced whole. Figures that are nan stay nan in both, none becomes empty.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    import pyarrow
    import pyarrow.parquet

    columns = {name: [getattr(metric, name) for metric in metrics] for name in COLUMNS}
    table = pyarrow.table(columns, schema=_schema())
    with atomic_path(path.with_suffix(".parquet")) as temporary:
        pyarrow.parquet.write_table(table, temporary)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(zip(*columns.values(), strict=True))
    write_text(path, text.getvalue())


def read_metrics(path: Path) -> list[Metric]:
    """Return the rows of `metrics.csv` or `metrics.parquet`, told apart by their suffix.

    Raises:
        StoreError: the file is missing, damaged, or has other columns.
    """
    try:
        rows = _rows_of_parquet(path) if path.suffix == ".parquet" else _rows_of_csv(path)
        return [Metric.model_validate(row) for row in rows]
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise StoreError(f"{path} cannot be read ({_reason(error)}). Start evaluate again, with --force.") from None


def _reason(error: Exception) -> str:
    """Return in one line why a file cannot be read; of a row that is no record what is wrong with its first field."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return " ".join(str(error).split()) or type(error).__name__


def _rows_of_csv(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        _require_columns(reader.fieldnames or [])
        return list(reader)


def _rows_of_parquet(path: Path) -> list[dict]:
    import pyarrow.parquet

    # Not read_table: it takes a folder for a table in parts.
    with pyarrow.parquet.ParquetFile(path) as file:
        _require_columns(file.schema_arrow.names)
        return file.read().to_pylist()


def _require_columns(found: Sequence[str]) -> None:
    if tuple(found) != COLUMNS:
        raise ValueError(f"its columns are {', '.join(found) or 'none'}; expected are {', '.join(COLUMNS)}")


def _schema() -> pyarrow.Schema:
    import pyarrow

    types = {name: PARQUET_TYPES[field.annotation] for name, field in Metric.model_fields.items()}
    return pyarrow.schema([pyarrow.field(name, pyarrow.type_for_alias(kind), False) for name, kind in types.items()])
