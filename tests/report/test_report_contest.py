from __future__ import annotations

import pytest

from pipeline.report.contest import contest_rows, front_models, harm, shown_models


def with_more(audit, **changes):
    """Return the audit with a second seed of rrr and a member of a grid that lost."""
    rrr = next(each for each in audit.contest.contestants if each.id == "rrr")
    more = [
        rrr.model_copy(update={"id": "rrr_seed-1", "seed": 1}),
        rrr.model_copy(update={"id": "rrr_weight-9", "chosen": False}),
    ]
    method = next(each for each in audit.methods if each.id == "rrr")
    methods = [method.model_copy(update={"id": each.id}) for each in more]
    contest = audit.contest.model_copy(update={"contestants": [*audit.contest.contestants, *more]})
    return audit.model_copy(update={"contest": contest, "methods": [*audit.methods, *methods]} | changes)


def test_tables_compare_the_original_with_one_of_every_family(audit):
    assert shown_models(with_more(audit)) == ["original", "fine_tune", "rrr", "rr_clarc", "p_clarc", "isnet"]


def test_the_front_holds_chosen_methods_alone(audit):
    assert front_models(with_more(audit)) == ["fine_tune", "rr_clarc"]


def test_further_seeds_and_losers_stand_by_themselves(audit):
    rows, others = contest_rows(with_more(audit))
    assert [row.method.id for row in rows] == ["fine_tune", "rrr", "rr_clarc", "p_clarc", "isnet"]
    assert [row.method.id for row in others] == ["rrr_seed-1", "rrr_weight-9"]
    assert {row.method.id: row.seeds for row in rows} == {
        "fine_tune": 1, "rrr": 2, "rr_clarc": 1, "p_clarc": 1, "isnet": 1,
    }  # fmt: skip


def test_harm_is_the_change_on_clean_samples_and_of_the_class_that_lost_most(build_metric):
    rows = [
        build_metric(model, world, name, value, subgroup=subgroup)
        for model, world, name, subgroup, value in [
            ("original", "clean", "accuracy", "all", 0.9),
            ("mine", "clean", "accuracy", "all", 0.85),
            ("original", "clean", "class_accuracy", "class=a", 0.9),
            ("mine", "clean", "class_accuracy", "class=a", 0.95),
            ("original", "clean", "class_accuracy", "class=b", 0.9),
            ("mine", "clean", "class_accuracy", "class=b", 0.6),
            ("original", "attacked", "class_accuracy", "class=c", 0.9),
            ("mine", "attacked", "class_accuracy", "class=c", 0.0),
            ("original", "clean", "calibration_error", "all", 0.02),
            ("mine", "clean", "calibration_error", "all", 0.05),
        ]
    ]
    found = harm(rows, "mine")
    assert (found.world, found.worst_class) == ("clean", "b")
    assert found.accuracy == pytest.approx(-0.05)
    assert found.class_change == pytest.approx(-0.3)
    assert found.calibration == pytest.approx(0.03)


def test_without_a_clean_world_harm_is_measured_as_it_is_and_may_be_unknown(build_metric):
    rows = [build_metric("original", "asis", "accuracy", 0.9), build_metric("mine", "asis", "accuracy", 0.8)]
    found = harm(rows, "mine")
    assert (found.world, found.worst_class, found.class_change, found.calibration) == ("asis", None, None, None)
    assert found.accuracy == pytest.approx(-0.1)


def test_a_class_on_too_few_samples_is_never_the_most_harmed(build_metric):
    rows = [
        build_metric(model, "asis", "class_accuracy", value, n=n, subgroup=f"class={name}")
        for name, n, lost in (("few", 4, 0.9), ("many", 40, 0.1))
        for model, value in (("original", 0.95), ("mine", 0.95 - lost))
    ]
    assert harm(rows, "mine", min_n=10).worst_class == "many"
    assert harm(rows, "mine").worst_class == "few"
