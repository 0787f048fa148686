import math

import pytest

from pipeline.config.report import GateRule
from pipeline.report.gate import check_gate, rule_text


def rule(**changes) -> GateRule:
    return GateRule(**{"metric": "accuracy", "model": "rr_clarc", "at_least": 0.9} | changes)


def check(one: GateRule, metrics, best=None):
    results = check_gate([one], metrics, best)
    assert len(results) == 1
    return results[0]


@pytest.mark.parametrize(
    ("on", "bound", "status"),
    [("point", 0.93, "pass"), ("point", 0.9301, "fail"), ("lower", 0.91, "pass"), ("lower", 0.92, "fail")],
)
def test_at_least_compares_the_chosen_end_of_the_interval(build_metric, on, bound, status):
    row = build_metric("rr_clarc", value=0.93).model_copy(update={"lower": 0.91, "upper": 0.95})
    result = check(rule(on=on, at_least=bound), [row])
    assert result.status == status
    assert result.measured == (0.93 if on == "point" else 0.91)
    assert result.n == row.n


@pytest.mark.parametrize(
    ("on", "bound", "status"), [("point", 0.1, "pass"), ("upper", 0.1, "fail"), ("upper", 0.13, "pass")]
)
def test_at_most_compares_the_chosen_end_of_the_interval(build_metric, on, bound, status):
    row = build_metric("rr_clarc", name="artifact_relevance", value=0.1).model_copy(update={"upper": 0.13})
    assert check(rule(metric="artifact_relevance", at_least=None, at_most=bound, on=on), [row]).status == status


def test_best_stands_for_the_best_correction(build_metric):
    rows = [build_metric("original", value=0.4), build_metric("isnet", value=0.8), build_metric("rr_clarc", value=0.95)]
    assert check(rule(model="best"), rows, best="rr_clarc").status == "pass"
    assert check(rule(model="best"), rows, best="isnet").status == "fail"


def test_best_without_a_correction_is_not_run(build_metric):
    result = check(rule(model="best"), [build_metric("original", value=1.0)], best=None)
    assert result.status == "not_run"
    assert "no best correction" in result.detail


def test_an_absent_metric_is_not_run_and_the_nearest_ones_are_named(build_metric):
    rows = [
        build_metric("rr_clarc", "clean", "flip_rate"),
        build_metric("rr_clarc", "attacked", "accuracy"),
        build_metric("isnet", "asis", "tcav_quotient"),
        build_metric("isnet", "asis", "tcav_random"),
    ]
    result = check(rule(metric="acuracy"), rows)
    assert (result.status, result.measured, result.n) == ("not_run", None, None)
    assert "acuracy of rr_clarc in world attacked" in result.detail
    assert result.detail.split("nearest: ")[1].startswith("accuracy of rr_clarc in world attacked")


@pytest.mark.parametrize("other", [{"world": "clean"}, {"model": "isnet"}, {"subgroup": "class=8"}])
def test_every_part_of_the_name_must_match(build_metric, other):
    assert check(rule(), [build_metric("rr_clarc", value=0.99)]).status == "pass"
    assert check(rule(**other), [build_metric("rr_clarc", value=0.99)]).status == "not_run"


def test_no_metrics_at_all_is_not_run():
    assert "no metric was measured at all" in check(rule(), []).detail


def test_nan_is_not_run_even_where_only_the_bound_is_nan(build_metric):
    row = build_metric("rr_clarc", value=0.95)
    assert check(rule(), [row.model_copy(update={"value": math.nan})]).status == "not_run"
    no_lower = row.model_copy(update={"lower": math.nan})
    assert check(rule(on="lower"), [no_lower]).status == "not_run"
    assert check(rule(on="point"), [no_lower]).status == "pass"


def test_too_few_samples_is_not_run_and_says_how_many(build_metric):
    row = build_metric("rr_clarc", value=0.99, n=49)
    result = check(rule(min_n=50), [row])
    assert result.status == "not_run"
    assert "49" in result.detail and "50" in result.detail
    assert check(rule(min_n=49), [row]).status == "pass"


def test_two_rows_of_one_name_are_not_run(build_metric):
    row = build_metric("rr_clarc", value=0.99)
    result = check(rule(), [row, row])
    assert result.status == "not_run"
    assert "2 rows" in result.detail


def test_results_keep_the_order_of_the_rules(build_metric):
    rules = [rule(at_least=0.99), rule(at_least=0.1), rule(metric="auroc")]
    results = check_gate(rules, [build_metric("rr_clarc", value=0.9)], None)
    assert [result.status for result in results] == ["fail", "pass", "not_run"]


def test_rules_read_as_sentences():
    assert rule_text(rule(on="lower"), None) == "accuracy of rr_clarc in world attacked, lower bound >= 0.90"
    assert rule_text(rule(model="best", at_least=None, at_most=0.125, min_n=30, subgroup="b1"), "isnet") == (
        "accuracy of isnet (best correction) in world attacked, subgroup b1 <= 0.125, on at least 30 samples"
    )
