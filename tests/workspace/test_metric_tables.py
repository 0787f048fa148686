from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.workspace.records import Metric
from pipeline.workspace.tables import COLUMNS, read_metrics, write_metrics

FIGURES = {"value": 0.1 + 0.2, "lower": -math.inf, "upper": 1e-300, "n": 12}
ROWS = [
    Metric(model="original", world="clean", subgroup="all", metric="accuracy", **FIGURES),
    Metric(model="rrr", world="asis", subgroup='group=a, "b",\nwith', metric="f1", **FIGURES | {"value": math.nan}),
    Metric(model="größer", world="asis", subgroup="", metric="auroc", **FIGURES | {"upper": math.nan, "n": 2**40}),
]


def figures(metrics: list[Metric]) -> list[str]:
    """Return the rows in a form in which nan equals nan."""
    return [repr(metric) for metric in metrics]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "evaluate/metrics.csv"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_come_back(path, suffix):
    write_metrics(path, ROWS)
    assert figures(read_metrics(path.with_suffix(suffix))) == figures(ROWS)


@given(
    st.lists(
        st.builds(
            Metric,
            **{name: st.text(st.characters(codec="utf-8", exclude_characters="\r\0")) for name in COLUMNS[:4]},
            **{name: st.floats() for name in ("value", "lower", "upper")},
            n=st.integers(0, 2**62),
        )
    )
)
def test_any_rows_come_back_from_both(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("any") / "metrics.csv"
    write_metrics(path, rows)
    assert figures(read_metrics(path)) == figures(read_metrics(path.with_suffix(".parquet"))) == figures(rows)


def test_other_programs_read_both(path):
    write_metrics(path, ROWS)
    table = pd.read_parquet(path.with_suffix(".parquet"))
    assert list(table.columns) == list(COLUMNS) == list(pd.read_csv(path).columns)
    assert table["value"].dtype == float and table["n"].dtype == "int64"
    with open(path, newline="", encoding="utf-8") as file:
        assert [row["value"] for row in csv.DictReader(file)] == ["0.30000000000000004", "nan", "0.30000000000000004"]


def test_nan_is_no_empty_cell(path):
    write_metrics(path, ROWS)
    column = pyarrow.parquet.read_table(path.with_suffix(".parquet"))["value"]
    assert column.null_count == 0 and math.isnan(column[1].as_py())


def test_equal_rows_are_equal_bytes(tmp_path):
    written = []
    for name in ("one", "two"):
        path = tmp_path / name / "metrics.csv"
        write_metrics(path, ROWS)
        written.append((path.read_bytes(), path.with_suffix(".parquet").read_bytes()))
    assert written[0] == written[1]


def test_no_rows_are_a_table_too(path):
    write_metrics(path, [])
    assert path.read_text() == ",".join(COLUMNS) + "\n"
    assert read_metrics(path) == read_metrics(path.with_suffix(".parquet")) == []


def test_other_rows_replace_earlier_ones_and_leave_nothing_else(path):
    write_metrics(path, ROWS)
    write_metrics(path, ROWS[:1])
    assert len(read_metrics(path)) == len(read_metrics(path.with_suffix(".parquet"))) == 1
    assert sorted(each.name for each in path.parent.iterdir()) == ["metrics.csv", "metrics.parquet"]


def test_a_failed_write_keeps_the_earlier_file(path, monkeypatch):
    write_metrics(path, ROWS)

    def fail(table, where):
        Path(where).write_bytes(b"half")
        raise RuntimeError("interrupted")

    monkeypatch.setattr("pyarrow.parquet.write_table", fail)
    with pytest.raises(RuntimeError):
        write_metrics(path, ROWS[:1])
    assert figures(read_metrics(path)) == figures(read_metrics(path.with_suffix(".parquet"))) == figures(ROWS)
    assert len(list(path.parent.iterdir())) == 2


def other_columns(folder: Path, suffix: str) -> None:
    if suffix == ".csv":
        (folder / "metrics.csv").write_text("model,world\na,b\n")
    else:
        pyarrow.parquet.write_table(pyarrow.table({"model": ["a"], "world": ["b"]}), folder / "metrics.parquet")


def wrong_types(folder: Path, suffix: str) -> None:
    row = dict.fromkeys(COLUMNS, "many")
    if suffix == ".csv":
        (folder / "metrics.csv").write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
    else:
        pyarrow.parquet.write_table(pyarrow.table({k: [v] for k, v in row.items()}), folder / "metrics.parquet")


def too_many_cells(folder: Path, suffix: str) -> None:
    if suffix == ".parquet":
        write_metrics(folder / "more.csv", ROWS)
        table = pyarrow.parquet.read_table(folder / "more.parquet")
        pyarrow.parquet.write_table(table.append_column("more", table["n"]), folder / "metrics.parquet")
    else:
        (folder / "metrics.csv").write_text(f"{','.join(COLUMNS)}\na,b,c,d,1,1,1,1,1\n")


def cut_off(folder: Path, suffix: str) -> None:
    write_metrics(folder / "metrics.csv", ROWS)
    whole = (folder / f"metrics{suffix}").read_bytes()
    (folder / f"metrics{suffix}").write_bytes(whole[: len(whole) * 2 // 3])


def no_text(folder: Path, suffix: str) -> None:
    (folder / f"metrics{suffix}").write_bytes(bytes(range(256)))


def empty(folder: Path, suffix: str) -> None:
    (folder / f"metrics{suffix}").touch()


def a_folder(folder: Path, suffix: str) -> None:
    (folder / f"metrics{suffix}").mkdir()


def missing(folder: Path, suffix: str) -> None:
    """Leave the folder empty."""


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    "damage", [other_columns, wrong_types, too_many_cells, cut_off, no_text, empty, a_folder, missing]
)
def test_a_file_that_cannot_be_read_is_named_with_the_next_step(tmp_path, suffix, damage):
    damage(tmp_path, suffix)
    path = tmp_path / f"metrics{suffix}"
    with pytest.raises(StoreError) as caught:
        read_metrics(path)
    text = str(caught.value)
    assert text.startswith(f"{path} cannot be read (") and "()" not in text
    assert text.endswith("). Start evaluate again, with --force.") and "\n" not in text
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_other_columns_are_named(tmp_path, suffix):
    other_columns(tmp_path, suffix)
    with pytest.raises(StoreError, match=r"its columns are model, world; expected are model, world, subgroup, metric"):
        read_metrics(tmp_path / f"metrics{suffix}")


@pytest.mark.parametrize(("text", "told"), [("two\n  lines", "two lines"), ("", "ValueError")])
def test_the_reason_is_one_line_and_never_empty(tmp_path, monkeypatch, text, told):
    def fail(path):
        raise ValueError(text)

    monkeypatch.setattr("pipeline.workspace.tables._rows_of_csv", fail)
    with pytest.raises(StoreError, match=rf"cannot be read \({told}\)"):
        read_metrics(tmp_path / "metrics.csv")


def test_the_field_that_is_wrong_is_named(tmp_path):
    wrong_types(tmp_path, ".csv")
    with pytest.raises(StoreError, match=r"cannot be read \(value: Input should be a valid number"):
        read_metrics(tmp_path / "metrics.csv")


def test_importing_the_module_is_cheap():
    import subprocess

    code = "import pipeline.workspace.tables, sys; print(sorted({'pyarrow', 'pandas', 'numpy'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
