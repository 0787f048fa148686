"""The last lines of a run say what was found, what got better, and what it cost."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from fake_stages import make_audit

from pipeline.run.summary import summarize
from pipeline.workspace.records import BaselineComparison, BaselineRow, Bias, CavSummary, Finding, GateResult, Metric

FINDING = Finding(
    id="spray-3-a1b2",
    rank=1,
    detector="spray",
    class_id=3,
    class_name="three",
    layer="features.4",
    score=0.915,
    score_parts={},
    sample_ids=["1", "2"],
)
CAV = CavSummary(kind="pattern", layer="features.4", auroc=1, auroc_lower=1, auroc_upper=1, n_positive=2, n_negative=2)
BIAS = Bias(
    id="bias-1",
    finding=FINDING.id,
    class_id=3,
    class_name="three",
    status="unreviewed",
    sample_ids=["1"],
    cav=CAV,
    candidates=[],
)


def metric(model: str, world: str, name: str, value: float, subgroup: str = "all") -> Metric:
    return Metric(model=model, world=world, subgroup=subgroup, metric=name, value=value, lower=0, upper=1, n=9)


def lines(**changes) -> dict[str, str]:
    found = summarize(make_audit(changes.pop("verdict", "no_gate"), **changes), Path("artifacts/trial"))
    assert len(found) == (7 if "baseline" in changes else 6)
    return {line[:20].strip(): line[20:].strip() for line in found}


METRICS = [
    metric("original", "attacked", "artifact_relevance", 0.7, "bias-1"),
    metric("rrr", "attacked", "artifact_relevance", 0.125, "bias-1"),
    metric("original", "attacked", "flip_rate", 0.9),
    metric("rrr", "attacked", "flip_rate", 0.1),
    metric("original", "attacked", "accuracy", 0.4),
    metric("rrr", "attacked", "accuracy", 0.95),
    metric("original", "clean", "accuracy", 0.98),
    metric("rrr", "clean", "accuracy", 0.97),
    metric("isnet", "clean", "accuracy", 0.5),
]


def test_everything_measured():
    assert lines(findings=[FINDING], biases=[BIAS], metrics=METRICS, best_correction="rrr", verdict="fail") == {
        "top finding": "spray-3-a1b2 (spray, class three, features.4): score 0.92, 2 samples; "
        "accepted as bias-1, unreviewed",
        "reliance": "0.700 -> 0.125 (rrr), share of relevance on the artifact",
        "accuracy, attacked": "0.400 -> 0.950 (rrr)",
        "accuracy, clean": "0.980 -> 0.970 (rrr)",
        "gate": "FAIL, 1 of 2 rules passed",
        "report": "artifacts/trial/report/index.html",
    }


def test_nothing_measured():
    found = lines()
    assert found["top finding"] == "none"
    assert found["gate"] == "none declared"
    assert {found[label] for label in ("reliance", "accuracy, attacked", "accuracy, clean")} == {"not measured"}


def test_flip_rate_stands_in_for_relevance_that_was_not_measured():
    found = lines(metrics=METRICS[2:], best_correction="rrr")
    assert found["reliance"] == "0.900 -> 0.100 (rrr), flip rate"


def test_whole_set_comes_before_parts():
    rows = [METRICS[0], metric("original", "attacked", "artifact_relevance", 0.5)]
    assert lines(metrics=rows)["reliance"].startswith("0.500 -> not measured")


def test_without_correction_only_before_is_told():
    assert lines(metrics=METRICS)["accuracy, clean"] == "0.980 -> not measured (no correction)"


def test_figures_that_are_not_finite_are_not_measured():
    rows = [metric("original", "clean", "accuracy", math.nan), METRICS[7]]
    assert lines(metrics=rows, best_correction="rrr")["accuracy, clean"] == "not measured -> 0.970 (rrr)"


def test_best_ranked_finding_is_on_top_also_without_samples():
    second = FINDING.model_copy(update={"rank": 2, "id": "second"})
    first = FINDING.model_copy(update={"id": "neurons-1", "sample_ids": [], "neuron_ids": [4, 5, 6]})
    assert lines(findings=[second, first])["top finding"].startswith("neurons-1 ")
    assert lines(findings=[second, first])["top finding"].endswith("3 neurons; not accepted")


def gate(*statuses: str) -> list[GateResult]:
    return [GateResult(rule="r", status=status, blocking=False) for status in statuses]


def test_what_did_not_pass_is_counted_by_kind():
    statuses = ("pass", "warn", "warn", "not_run", "error")
    expected = "CONDITIONAL, 1 of 5 rules passed, 2 warnings, 1 without a usable figure, 1 not run"
    assert lines(gate=gate(*statuses), verdict="conditional")["gate"] == expected
    assert lines(gate=gate("warn"), verdict="conditional")["gate"] == "CONDITIONAL, 0 of 1 rules passed, 1 warning"
    assert lines(gate=gate("pass"), verdict="pass")["gate"] == "PASS, 1 of 1 rules passed"


@pytest.mark.parametrize(("same_data", "end"), [(True, "since release-1"), (False, "since release-1, on other data")])
def test_with_an_earlier_audit_what_regressed_is_counted(same_data, end):
    rows = [
        BaselineRow(
            model="best", world="asis", subgroup="all", metric="f1", before=0, after=0, lower=0, upper=0, status=status
        )
        for status in ("regressed", "improved", "unclear", "regressed")
    ]
    earlier = BaselineComparison(
        name="release-1",
        digest="0",
        weights_sha256="0",
        verdict="pass",
        same_data=same_data,
        rows=rows,
        only_before=0,
        only_now=0,
    )
    assert lines(baseline=earlier)["baseline"] == f"2 of 4 figures regressed, 1 improved, {end}"
