"""The table of `docs/attribution.md` is what `make attribution-table` writes, as far as that shows in no time."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest

from pipeline.attribution.architectures import SIZES, Examination
from pipeline.attribution.composites import COMPOSITES
from pipeline.workspace.records import Health

PROJECT = Path(__file__).parents[1]
TEXT = (PROJECT / "docs/attribution.md").read_text()


@pytest.fixture(scope="module")
def script():
    # By path, because the folder is no installed package.
    spec = importlib.util.spec_from_file_location("make_attribution_table", PROJECT / "docs/make_attribution_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def examination(conservation: float, bias_share: float = 0.2, composite: str = "epsilon_plus_flat") -> Examination:
    figures = {"conservation": conservation, "bias_share": bias_share}
    health = Health(composite=composite, arch="a", finite=True, healthy=True, layers=[], **figures)
    return Examination(arch="a", composite=composite, size=32, seconds=1, health=health)


def test_rows_are_the_architectures_and_columns_the_composites(script):
    lines = TEXT.partition(script.BEGIN)[2].partition(script.END)[0].splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert [(row[0], row[1]) for row in rows] == [(f"`{arch}`", str(size)) for arch, size in SIZES.items()]
    assert sorted(header) == sorted(["architecture", "pixels", "bias share", *COMPOSITES])
    assert header[2:4] == ["epsilon_plus_flat", "bias share"]


def test_only_what_stands_between_the_markers_is_replaced(script):
    text = f"before\n{script.BEGIN}old\n{script.END}after\n"
    assert script.replaced(text, "| new |\n") == f"before\n{script.BEGIN}| new |\n{script.END}after\n"
    assert TEXT.count(script.BEGIN) == TEXT.count(script.END) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1.000"), (0.951, "0.951"), (0.94, "**0.940**"), (-0.5, "**-0.500**"), (1e20, "**explodes**"),
     (-7.0, "**explodes**"), (math.nan, "**explodes**")],
)  # fmt: skip
def test_what_is_unhealthy_is_bold(script, value, text):
    assert script.conservation(examination(value)) == text


def test_a_row_says_what_failed(script):
    failed = Examination(arch="a", composite="epsilon_plus_flat", size=32, seconds=0, error="no")
    assert (script.conservation(failed), script.bias_share(failed)) == ("**failed**", "")
    found = {name: examination(1.0, -50.0, name) for name in COMPOSITES} | {"epsilon_plus_flat": failed}
    found["epsilon"] = examination(1.0, -50.0)
    (*_, row) = script.table({"a": found}).splitlines()
    assert row.startswith("| `a` | 32 | **failed** |  | 1.000 |")
    assert script.bias_share(found["epsilon"]) == "explodes"


def test_every_composite_is_described():
    assert {name for name in COMPOSITES if f"| `{name}`" not in TEXT} == set()


def test_every_rule_is_described():
    from pipeline.attribution.rules import RULES

    assert {name for name in RULES if f"| `{name}" not in TEXT} == set()
