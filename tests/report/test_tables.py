import math

import pytest

from pipeline.report.tables import comparison, is_class_metric, is_other_metric, subgroup_matrices

METHODS = ["fine_tune", "rrr", "rr_clarc", "p_clarc", "isnet"]


def cell(metrics, models, world, model, name, subgroup="all"):
    columns, blocks = comparison(metrics, models)
    position = [(column.metric, column.subgroup) for column in columns].index((name, subgroup))
    block = next(block for block in blocks if block.world == world)
    return dict(block.rows)[model][position]


def test_the_best_of_a_column_is_highest_lowest_or_nearest_to_random(build_metric):
    rows = []
    for model, accuracy, relevance, quotient in [
        ("original", 0.4, 0.6, 1.0),
        ("a", 0.9, 0.2, 0.3),
        ("b", 0.8, 0.1, 0.45),
    ]:
        rows += [build_metric(model, value=accuracy), build_metric(model, name="artifact_relevance", value=relevance)]
        rows += [
            build_metric(model, name="tcav_quotient", value=quotient),
            build_metric(model, name="tcav_random", value=0.5),
        ]
    best = {
        name: [
            model
            for model in ("original", "a", "b")
            if cell(rows, ["original", "a", "b"], "attacked", model, name).best
        ]
        for name in ("accuracy", "artifact_relevance", "tcav_quotient")
    }
    assert best == {"accuracy": ["a"], "artifact_relevance": ["b"], "tcav_quotient": ["b"]}


def test_figures_that_read_the_same_are_both_best_and_one_model_alone_is_not(build_metric):
    rows = [build_metric("a", value=0.90001), build_metric("b", value=0.90002)]
    assert all(cell(rows, ["a", "b"], "attacked", model, "accuracy").best for model in ("a", "b"))
    assert not cell(rows[:1], ["a"], "attacked", "a", "accuracy").best


def test_change_is_against_the_original_of_the_same_world(build_metric):
    rows = [build_metric("original", "clean", value=0.9), build_metric("original", "attacked", value=0.4)]
    rows.append(build_metric("a", "attacked", value=0.7))
    assert cell(rows, ["original", "a"], "attacked", "a", "accuracy").change == pytest.approx(0.3)
    assert cell(rows, ["original", "a"], "attacked", "original", "accuracy").change is None


def test_a_nan_is_neither_shown_nor_best(build_metric):
    lost = build_metric("a", value=0.5).model_copy(update={"value": math.nan})
    rows = [lost, build_metric("b", value=0.5), build_metric("c", value=0.4)]
    assert cell(rows, ["a", "b", "c"], "attacked", "a", "accuracy").metric is None
    assert cell(rows, ["a", "b", "c"], "attacked", "b", "accuracy").best


def test_metrics_of_a_bias_are_columns_with_their_own_control(build_metric):
    rows = [
        build_metric("original", name="tcav_quotient", value=0.9, subgroup="b1"),
        build_metric("original", name="tcav_random", value=0.5, half=0.2, subgroup="b1"),
        build_metric("original", name="tcav_quotient", value=0.6, subgroup="b2"),
        build_metric("original", name="tcav_random", value=0.5, half=0.2, subgroup="b2"),
    ]
    assert not cell(rows, ["original"], "attacked", "original", "tcav_quotient", "b1").inside_control
    assert cell(rows, ["original"], "attacked", "original", "tcav_quotient", "b2").inside_control


def test_every_row_of_a_model_is_shown_exactly_once(audit, build_metric):
    extra = [
        build_metric("rrr", "clean", "ece", 0.04),
        build_metric("rrr", "clean", "accuracy", 0.9, subgroup="sex=female"),
    ]
    metrics = [*audit.metrics, *extra]
    models = ["original", *METHODS]
    columns, blocks = comparison(metrics, models)
    shown = [cell.metric for block in blocks for _, cells in block.rows for cell in cells if cell.metric]
    shown += [cell.control for block in blocks for _, cells in block.rows for cell in cells if cell.control]
    for wanted in (is_class_metric, is_other_metric):
        matrices = subgroup_matrices(metrics, models, wanted)
        shown += [row for matrix in matrices for _, figures in matrix.rows for row in figures if row]
    expected = [row for row in metrics if row.model != "pipeline"]
    assert sorted(map(str, shown)) == sorted(map(str, expected))


def test_many_models_are_spread_over_matrices_that_all_begin_with_the_original(build_metric):
    models = ["original", *(f"m{index}" for index in range(11))]
    rows = [build_metric(model, name="class_accuracy", subgroup="class=a") for model in models]
    matrices = subgroup_matrices(rows, models, is_class_metric)
    assert all(matrix.models[0] == "original" and len(matrix.models) <= 6 for matrix in matrices)
    assert [model for matrix in matrices for model in matrix.models[1:]] == models[1:]
