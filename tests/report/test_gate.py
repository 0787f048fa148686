import math

import pytest

from pipeline.config.report import GateRule
from pipeline.report.gate import check_gate, rule_text, verdict
from pipeline.workspace.records import GateResult


def rule(**changes) -> GateRule:
    return GateRule(**{"metric": "accuracy", "model": "rr_clarc", "at_least": 0.9} | changes)


def worse(**changes) -> GateRule:
    return rule(**{"at_least": None, "worse_by_at_most": 0.02} | changes)


def check(one: GateRule, metrics, best=None, **more):
    results = check_gate([one], metrics, best, **more)
    assert len(results) == 1
    return results[0]


@pytest.mark.parametrize(
    ("on", "bound", "status"),
    [("point", 0.93, "pass"), ("point", 0.9301, "fail"), ("lower", 0.91, "pass"), ("lower", 0.92, "fail")],
)
def test_at_least_compares_the_chosen_end_of_the_interval(build_metric, on, bound, status):
    row = build_metric("rr_clarc", value=0.93).model_copy(update={"lower": 0.91, "upper": 0.95})
    result = check(rule(on=on, at_least=bound), [row])
    assert (result.status, result.blocking) == (status, status == "fail")
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
    assert (result.status, result.blocking) == ("not_run", True)
    assert "no best correction" in result.detail


# What can be missing


def test_an_absent_metric_is_not_run_and_the_nearest_ones_are_named(build_metric):
    rows = [
        build_metric("rr_clarc", "clean", "flip_rate"),
        build_metric("rr_clarc", "attacked", "accuracy"),
        build_metric("isnet", "asis", "tcav_quotient"),
        build_metric("isnet", "asis", "tcav_random"),
    ]
    result = check(rule(metric="class_accuracy"), rows)
    assert (result.status, result.blocking, result.measured, result.n) == ("not_run", True, None, None)
    assert "class_accuracy of rr_clarc in world attacked" in result.detail
    assert result.detail.split("nearest: ")[1].startswith("accuracy of rr_clarc in world attacked")


def test_a_metric_that_does_not_exist_is_not_run_and_the_catalogue_names_the_nearest(build_metric):
    result = check(rule(metric="balanced_acuracy"), [build_metric("rr_clarc")])
    assert (result.status, result.blocking) == ("not_run", True)
    assert result.detail.startswith("there is no metric 'balanced_acuracy'; nearest: balanced_accuracy, ")


@pytest.mark.parametrize("other", [{"world": "clean"}, {"model": "isnet"}, {"subgroup": "class=8"}])
def test_every_part_of_the_name_must_match(build_metric, other):
    assert check(rule(), [build_metric("rr_clarc", value=0.99)]).status == "pass"
    assert check(rule(**other), [build_metric("rr_clarc", value=0.99)]).status == "not_run"


def test_no_metrics_at_all_is_not_run():
    assert "no metric was measured at all" in check(rule(), []).detail


def test_too_few_samples_is_not_run_and_says_how_many(build_metric):
    row = build_metric("rr_clarc", value=0.99, n=49)
    result = check(rule(min_n=50), [row])
    assert (result.status, result.n) == ("not_run", 49)
    assert "49" in result.detail and "50" in result.detail
    assert check(rule(min_n=49), [row]).status == "pass"


def test_a_figure_that_the_evaluation_left_out_for_its_few_samples_is_not_run_and_says_so(build_metric):
    nothing = dict.fromkeys(("value", "lower", "upper"), math.nan)
    row = build_metric("rr_clarc", n=9).model_copy(update=nothing)
    result = check(rule(), [row], min_n=10)
    assert (result.status, result.blocking, result.n) == ("not_run", True, 9)
    assert "not given on 9 samples: figures on fewer than 10 are left out (evaluate.min_n)" in result.detail
    assert check(rule(), [row], min_n=9).status == "error"


# What is wrong with a figure


def test_nan_is_an_error_even_where_only_the_bound_is_nan(build_metric):
    row = build_metric("rr_clarc", value=0.95)
    result = check(rule(), [row.model_copy(update={"value": math.nan})], min_n=10)
    assert (result.status, result.blocking) == ("error", True)
    assert "no finite value" in result.detail
    assert check(rule(), [row.model_copy(update={"value": math.inf})]).status == "error"
    no_lower = row.model_copy(update={"lower": math.nan})
    assert check(rule(on="lower"), [no_lower]).status == "error"
    assert check(rule(on="point"), [no_lower]).status == "pass"


def test_two_rows_of_one_name_are_an_error(build_metric):
    row = build_metric("rr_clarc", value=0.99)
    result = check(rule(), [row, row])
    assert (result.status, result.blocking) == ("error", True)
    assert "2 rows" in result.detail


# What does not block


def test_a_missed_rule_that_is_a_warning_warns_and_does_not_block(build_metric):
    rows = [build_metric("rr_clarc", value=0.8)]
    result = check(rule(severity="warning"), rows)
    assert (result.status, result.blocking, result.measured) == ("warn", False, 0.8)
    assert result.detail.endswith("missed by 0.1000")
    assert check(rule(severity="warning", at_least=0.8), rows).status == "pass"


@pytest.mark.parametrize(
    ("changes", "blocking"),
    [({}, True), ({"not_run": "warn"}, False), ({"severity": "warning"}, False)],
)
def test_what_was_not_run_blocks_unless_the_rule_says_otherwise(changes, blocking):
    result = check(rule(**changes), [])
    assert (result.status, result.blocking) == ("not_run", blocking)


@pytest.mark.parametrize(
    ("changes", "blocking"),
    [({}, True), ({"not_run": "warn"}, True), ({"severity": "warning"}, False)],
)
def test_an_error_is_no_missing_figure_so_only_the_severity_excuses_it(build_metric, changes, blocking):
    row = build_metric("rr_clarc").model_copy(update={"value": math.nan})
    result = check(rule(**changes), [row])
    assert (result.status, result.blocking) == ("error", blocking)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], "no_gate"),
        (["pass", "pass"], "pass"),
        (["pass", "warn"], "conditional"),
        (["not_run"], "conditional"),
        (["error", "pass"], "conditional"),
        (["pass", "warn", "fail!"], "fail"),
        (["not_run!"], "fail"),
        (["error!", "pass"], "fail"),
    ],
)
def test_verdict(statuses, expected):
    results = [GateResult(rule="r", status=text.removesuffix("!"), blocking=text.endswith("!")) for text in statuses]
    assert verdict(results) == expected


def test_a_rule_on_every_bias_is_held_against_each_of_them(build_metric):
    rows = [
        build_metric("rr_clarc", "removed", "flip_rate", value, subgroup=name)
        for name, value in (("a", 0.05), ("b", 0.2))
    ]
    one = rule(metric="flip_rate", world="removed", subgroup="every_bias", at_least=None, at_most=0.1)
    results = check_gate([rule(), one], [build_metric("rr_clarc"), *rows], None, bias_ids=["a", "b"])
    assert [result.status for result in results] == ["pass", "pass", "fail"]
    assert ["subgroup b" in result.rule for result in results] == [False, False, True]
    missing = check_gate([one], rows, None, bias_ids=["a", "c"])
    assert [result.status for result in missing] == ["pass", "not_run"], "each needs its own figure"


def test_without_a_bias_a_rule_on_every_bias_is_not_run(build_metric):
    one = rule(metric="flip_rate", world="removed", subgroup="every_bias", at_least=None, at_most=0.1)
    result = check(one, [build_metric("rr_clarc", "removed", "flip_rate", 0.05, subgroup="a")])
    assert (result.status, result.blocking) == ("not_run", True) and "no bias was accepted" in result.detail


def test_results_keep_the_order_of_the_rules(build_metric):
    rules = [rule(at_least=0.99), rule(at_least=0.1), rule(metric="auroc")]
    results = check_gate(rules, [build_metric("rr_clarc", value=0.9)], None)
    assert [result.status for result in results] == ["fail", "pass", "not_run"]


# Against an earlier audit


@pytest.mark.parametrize(
    ("name", "before", "after", "status"),
    [
        ("accuracy", 0.90, 0.88, "pass"),
        ("accuracy", 0.90, 0.879, "fail"),
        ("accuracy", 0.90, 0.99, "pass"),
        ("flip_rate", 0.10, 0.12, "pass"),
        ("flip_rate", 0.10, 0.121, "fail"),
        ("flip_rate", 0.10, 0.01, "pass"),
    ],
)
def test_worse_by_at_most_looks_in_the_direction_that_is_bad(build_metric, build_audit, name, before, after, status):
    earlier = build_audit(metrics=[build_metric("rr_clarc", name=name, value=before)])
    result = check(worse(metric=name), [build_metric("rr_clarc", name=name, value=after)], before=earlier)
    assert (result.status, result.n) == (status, 1000)
    assert result.measured == pytest.approx(before - after if name == "accuracy" else after - before)
    assert f"{before:.4f} [" in result.detail and f"{after:.4f} [" in result.detail


@pytest.mark.parametrize(("on", "measured"), [("point", 0.05), ("lower", 0.05 - 0.05), ("upper", 0.05 + 0.05)])
def test_worse_by_at_most_takes_the_bounds_of_the_change(build_metric, build_audit, on, measured):
    # 3, 4, 5: the side of the change is the root of the squares of the two sides.
    earlier = build_audit(metrics=[build_metric("rr_clarc", value=0.90, half=0.03)])
    row = build_metric("rr_clarc", value=0.85, half=0.04)
    result = check(worse(on=on, worse_by_at_most=0.06), [row], before=earlier)
    assert result.measured == pytest.approx(measured)
    assert result.status == ("fail" if on == "upper" else "pass")


def test_best_is_compared_with_the_best_of_the_earlier_audit(build_metric, build_audit):
    earlier = build_audit(
        metrics=[build_metric("isnet", value=0.90), build_metric("rr_clarc", value=0.5)], best_correction="isnet"
    )
    rows = [build_metric("rr_clarc", value=0.80)]
    assert check(worse(model="best"), rows, best="rr_clarc", before=earlier).measured == pytest.approx(0.1)
    assert check(worse(model="rr_clarc"), rows, best="rr_clarc", before=earlier).status == "pass"
    without = earlier.model_copy(update={"best_correction": None})
    result = check(worse(model="best"), rows, best="rr_clarc", before=without)
    assert result.status == "not_run"
    assert "no best correction in the earlier audit" in result.detail


def test_without_a_counterpart_in_the_earlier_audit_nothing_is_compared(build_metric, build_audit):
    rows = [build_metric("rr_clarc")]
    result = check(worse(), rows)
    assert (result.status, result.blocking) == ("not_run", True)
    assert "--baseline" in result.detail
    elsewhere = build_audit(metrics=[build_metric("rr_clarc", world="clean")])
    result = check(worse(), rows, before=elsewhere)
    assert result.status == "not_run"
    assert "no metric of the earlier audit" in result.detail
    few = build_audit(metrics=[build_metric("rr_clarc", n=49)])
    assert check(worse(min_n=50), rows, before=few).status == "not_run"


def test_a_change_without_a_finite_bound_is_an_error(build_metric, build_audit):
    row = build_metric("rr_clarc").model_copy(update={"lower": math.nan, "upper": math.nan})
    earlier = build_audit(metrics=[build_metric("rr_clarc")])
    assert check(worse(on="upper"), [row], before=earlier).status == "error"
    assert check(worse(on="point"), [row], before=earlier).status == "pass"


@pytest.mark.parametrize(("name", "better"), [("logit_shift", "none"), ("tcav_quotient", "control")])
def test_worse_needs_a_metric_with_a_better_direction(build_metric, build_audit, name, better):
    rows = [build_metric("rr_clarc", name=name)]
    result = check(worse(metric=name), rows, before=build_audit(metrics=rows))
    assert (result.status, result.blocking) == ("error", True)
    assert name in result.detail and f"'{better}'" in result.detail
    assert "'higher' or 'lower'" in result.detail


def test_rules_read_as_sentences():
    assert rule_text(rule(on="lower"), None) == "accuracy of rr_clarc in world attacked, lower bound >= 0.90"
    assert rule_text(rule(model="best", at_least=None, at_most=0.125, min_n=30, subgroup="b1"), "isnet") == (
        "accuracy of isnet (best correction) in world attacked, subgroup b1 <= 0.125, on at least 30 samples"
    )
    assert rule_text(worse(on="upper", severity="warning"), None) == (
        "accuracy of rr_clarc in world attacked, worse than the baseline (upper bound) by at most 0.02 (warning only)"
    )
