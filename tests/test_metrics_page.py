"""`docs/metrics.md` is what `make metrics-page` writes, and describes what stands in the tables."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import get_args

import pytest

from pipeline.config.report import GateRule
from pipeline.workspace.metric_catalogue import FAMILIES, METRICS, MetricEntry
from pipeline.workspace.records import Metric

PROJECT = Path(__file__).parents[1]
TEXT = (PROJECT / "docs/metrics.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script():
    # By path, because the folder is no installed package.
    spec = importlib.util.spec_from_file_location("make_metrics_page", PROJECT / "docs/make_metrics_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tables() -> dict[str, list[list[str]]]:
    """Return the rows of the tables in the page by the heading that they stand under."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in TEXT.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| `"):
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_page_is_that_of_the_catalogue(script):
    assert script.text() == TEXT, "run `make metrics-page`"


def test_every_metric_stands_once_under_its_family():
    sections = {heading.partition(":")[0].lower(): rows for heading, rows in tables().items() if ":" in heading}
    assert list(sections) == list(FAMILIES)
    for family, rows in sections.items():
        assert [row[0].strip("`") for row in rows] == [name for name in METRICS if METRICS[name].family == family]
        assert all(len(row) == 5 and row[2] == METRICS[row[0].strip("`")].meaning for row in rows)


def test_columns_and_worlds_are_all_explained():
    first = [name for row in tables()["Metrics"] for name in re.findall(r"`(\w+)`", row[0])]
    assert set(Metric.model_fields) <= set(first)
    assert set(get_args(GateRule.model_fields["world"].annotation)) <= set(first)


@pytest.mark.parametrize(
    ("entry", "good", "notes"),
    [
        (MetricEntry("H", "paired", "none", "m", "largest", "Holm 1979"), "", 'Holm 1979; over trainings: "largest"'),
        (MetricEntry("H", "paired", "control", "m", counts="directions"), "near its control", "n counts directions"),
        (MetricEntry("H", "paired", "higher", "m"), "higher", ""),
    ],
)
def test_a_row_says_what_is_good_and_what_is_special(script, entry, good, notes):
    assert script.row("name", entry) == ["`name`", "H", "m", good, notes]


def test_writing_changes_the_page_and_nothing_else(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "DOCUMENT", tmp_path / "metrics.md")
    script.main()
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.md"]
    assert (tmp_path / "metrics.md").read_text(encoding="utf-8") == TEXT
