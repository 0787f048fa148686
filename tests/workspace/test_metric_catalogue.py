"""Every metric is described, every metric that is written stands in the catalogue, and the catalogue has no others."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from pipeline.workspace.metric_catalogue import FAMILIES, METRICS, Family, MetricEntry

PACKAGE = Path(__file__).parents[2] / "pipeline"
WRITERS = sorted([*(PACKAGE / "evaluate").glob("*.py"), *(PACKAGE / "report").glob("*.py")])
RESAMPLING = {"confidence", "resamples", "seed"}
"""Keys of the other kind of dictionary in functions that measure."""
LONGEST_MEANING = 120


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def written_metrics(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of every metric that a module names where it makes rows.

    These are literals passed to `record(model, world, subgroup, metric, interval)`, and, in functions that pass it a
    name from elsewhere or return figures by metric, the keys of dictionaries.
    """
    for function in ast.walk(module):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        by_name = function.returns is not None and "dict[str, Interval]" in ast.unparse(function.returns)
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] == "record":
                metric = metric_argument(call)
                if isinstance(metric, ast.Constant) and isinstance(metric.value, str):
                    yield call.lineno, metric.value
                else:
                    by_name = True
        if by_name:
            yield from ((line, key) for line, key in keys(function) if key not in RESAMPLING)


def metric_argument(call: ast.Call) -> ast.expr | None:
    """Return what a call of `record` passes as the metric; None where it hides in something unpacked."""
    for keyword in call.keywords:
        if keyword.arg == "metric":
            return keyword.value
    plain = [each for each in call.args[:4] if not isinstance(each, ast.Starred)]
    return plain[3] if len(plain) == 4 else None


def keys(function: ast.FunctionDef) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of the literal keys of dictionaries that a function writes down or extends."""
    for node in ast.walk(function):
        found = node.keys if isinstance(node, ast.Dict) else []
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            found = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        for key in found:
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.lineno, key.value


def names(module: ast.Module) -> set[str]:
    """Return all literal texts of a module, and the fields of its dataclasses, whose names can become those of rows."""
    nodes = list(ast.walk(module))
    literal = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return literal | {node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and is_name(node.target)}


def is_name(node: ast.expr) -> bool:
    return isinstance(node, ast.Name)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", METRICS)
def test_entry_is_complete(name):
    entry = METRICS[name]
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
    assert entry.family in FAMILIES
    for field in ("better", "over_seeds", "counts"):
        assert getattr(entry, field) in get_args(get_type_hints(MetricEntry)[field]), field
    assert entry.heading and entry.heading == entry.heading.strip()


@pytest.mark.parametrize("name", METRICS)
def test_meaning_is_one_clause_that_stands_alone(name):
    meaning = METRICS[name].meaning
    assert 0 < len(meaning) <= LONGEST_MEANING
    assert "." not in re.sub(r"\d\.\d", "", meaning), "no full stop"
    assert meaning[0].islower() or meaning.split()[0].isupper() or meaning.split()[0] in ("McNemar", "DeLong")
    assert "the same," not in meaning and not meaning.startswith(("the same", "that "))
    assert meaning == " ".join(meaning.split()) and "|" not in meaning, "it stands in a table"


def test_headings_tell_metrics_apart():
    assert [text for text, count in Counter(entry.heading for entry in METRICS.values()).items() if count > 1] == []
    assert len({entry.meaning for entry in METRICS.values()}) == len(METRICS)


def test_families_are_those_of_the_type_and_none_is_empty():
    assert set(FAMILIES) == set(get_args(Family)) == {entry.family for entry in METRICS.values()}


def test_p_values_of_several_trainings_are_the_largest():
    assert {name for name in METRICS if re.search(r"_p(_|$)", name)} == {
        name for name, entry in METRICS.items() if entry.over_seeds == "largest"
    }


@pytest.mark.parametrize("path", WRITERS, ids=name_of)
def test_no_metric_goes_undocumented(path):
    unknown = [f"{name_of(path)}:{line} {name}" for line, name in written_metrics(parse(path)) if name not in METRICS]
    assert not unknown, "describe it in workspace/metric_catalogue.py"


def test_every_metric_of_the_catalogue_is_measured_somewhere():
    measured = set().union(*(names(parse(path)) for path in WRITERS if path.parent.name == "evaluate"))
    assert set(METRICS) - measured == set()


def test_the_scan_sees_the_forms_in_which_metrics_are_written():
    code = """
def one(): return record(model, world, "all", "a", interval)
def two(): return rows.record(model, world, f"class={name}", metric="b", interval=x)
def three():
    resampling = {"seed": 0}
    figures = {"c": 1} | {"d": 2}
    figures["e"] = figures["no"]
    figures["f"], figures["g"] = both
    return [record(model, world, "all", name, each) for name, each in figures.items()]
def four(): return [record(model, world, "all", *each) for each in {"h": 1}.items()]
def five() -> dict[str, Interval]: return {"i": 1}
def six(): return {"no": 1}
"""
    assert sorted(name for _, name in written_metrics(ast.parse(code))) == list("abcdefghi")


def test_the_scan_finds_what_is_written_today():
    found = {name for path in WRITERS for _, name in written_metrics(parse(path))}
    assert {"accuracy", "prevalence", "mcnemar_p", "finding_rank"} <= found and len(found) > 30
