import math

import pytest

from pipeline.report.tables import (
    CAUSAL,
    INTERVENTIONS,
    PAIRED,
    PERFORMANCE,
    RELIANCE,
    MetricIndex,
    breakdowns,
    comparison,
    remaining,
    spread,
    world_order,
)
from pipeline.workspace.metric_catalogue import METRICS

METHODS = ["fine_tune", "rrr", "rr_clarc", "p_clarc", "isnet"]
EVERY_COLUMN = dict.fromkeys([*PERFORMANCE, *RELIANCE, *PAIRED, *CAUSAL])


def cell(metrics, models, world, model, name, subgroup="all", min_n=0):
    found = comparison(MetricIndex(metrics, min_n), models, list(EVERY_COLUMN), world_order(metrics), subgroup)
    block = next(block for block in found.blocks if block.world == world)
    return dict(block.rows)[model][found.columns.index(name)]


def test_every_column_of_a_comparison_is_in_the_catalogue():
    assert set(EVERY_COLUMN) <= set(METRICS)


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
    models = ["original", "a", "b"]
    best = {
        name: [model for model in models if cell(rows, models, "attacked", model, name).best]
        for name in ("accuracy", "artifact_relevance", "tcav_quotient")
    }
    assert best == {"accuracy": ["a"], "artifact_relevance": ["b"], "tcav_quotient": ["b"]}


def test_where_no_direction_is_good_nothing_is_best_and_no_change_is_shown(build_metric):
    rows = [
        build_metric(model, name=name, value=value)
        for model, value in (("original", 0.2), ("a", 0.4))
        for name in ("relative_logit_shift", "mcnemar_p")
    ]
    for name in ("relative_logit_shift", "mcnemar_p"):
        found = [cell(rows, ["original", "a"], "attacked", model, name) for model in ("original", "a")]
        assert not any(each.best for each in found)
        assert [each.change for each in found] == [None, None]


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
    assert cell(rows, ["a", "b", "c"], "attacked", "a", "accuracy").row is None
    assert cell(rows, ["a", "b", "c"], "attacked", "b", "accuracy").best


def test_on_too_few_samples_only_their_number_is_given(build_metric):
    held_back = build_metric("a", n=4).model_copy(update={"value": math.nan})
    rows = [held_back, build_metric("b", value=0.99, n=9), build_metric("c", value=0.4, n=10)]
    models = ["a", "b", "c"]
    found = {model: cell(rows, models, "attacked", model, "accuracy", min_n=10) for model in models}
    assert [found[model].too_few for model in models] == [True, True, False]
    assert [found[model].row.n for model in models] == [4, 9, 10]
    assert not found["b"].best
    index = MetricIndex(rows, 10)
    assert index.find("b", "attacked", "all", "accuracy") is None
    assert index.find("c", "attacked", "all", "accuracy").value == 0.4


def test_a_number_that_does_not_count_samples_is_never_too_few(build_metric):
    index = MetricIndex([build_metric("a", name="tcav_random", value=0.5, n=5)], 10)
    assert not index.cell("a", "attacked", "all", "tcav_random").too_few


def test_metrics_of_a_bias_are_a_table_with_their_own_control(build_metric):
    rows = [
        build_metric("original", name="tcav_quotient", value=0.9, subgroup="b1"),
        build_metric("original", name="tcav_random", value=0.5, half=0.2, subgroup="b1"),
        build_metric("original", name="tcav_quotient", value=0.6, subgroup="b2"),
        build_metric("original", name="tcav_random", value=0.5, half=0.2, subgroup="b2"),
    ]
    assert not cell(rows, ["original"], "attacked", "original", "tcav_quotient", "b1").inside_control
    assert cell(rows, ["original"], "attacked", "original", "tcav_quotient", "b2").inside_control


def test_columns_and_worlds_without_figures_are_left_out(build_metric):
    rows = [build_metric("original", "clean"), build_metric("original", "inserted", "flip_rate", subgroup="b")]
    found = comparison(MetricIndex(rows), ["original"], PERFORMANCE, ("asis", "clean", "attacked"))
    assert found.columns == ["accuracy"] and [block.world for block in found.blocks] == ["clean"]
    assert comparison(MetricIndex(rows), ["original"], CAUSAL, INTERVENTIONS, "b").columns == ["flip_rate"]


def test_worlds_stand_in_their_order_and_strange_ones_behind(build_metric):
    worlds = ["removed", "elsewhere", "attacked", "inserted", "asis", "clean"]
    rows = [build_metric(world=world) for world in worlds]
    assert world_order(rows) == ["asis", "clean", "attacked", "inserted", "removed", "elsewhere"]


def test_every_row_of_a_model_is_shown_exactly_once(audit, build_metric):
    extra = [
        build_metric("rrr", "clean", "calibration_error", 0.04),
        build_metric("rrr", "clean", "brier_score", 0.04),
        build_metric("rrr", "clean", "accuracy", 0.9, subgroup="sex=female"),
        build_metric("rrr", "clean", "accuracy", 0.9, subgroup="group=8 with artifact"),
        build_metric("rrr", "attacked", "artifact_aopc", 0.2, subgroup="fill=mean"),
        build_metric("rrr", "attacked", "flip_rate", 0.2, subgroup="class=8"),
        build_metric("rrr", "attacked", "logit_shift", 0.2, subgroup="all"),
        build_metric("original", "asis", "aopc_gap", 0.2, subgroup="fill=blur"),
    ]
    metrics = [*audit.metrics, *extra]
    models = ["original", *METHODS]
    index = MetricIndex(metrics)
    worlds = ("asis", "clean", "attacked")
    tables = [comparison(index, models, columns, worlds) for columns in (PERFORMANCE, PAIRED, RELIANCE)]
    for bias in ("b-8-glyph", "b-1-corner"):
        tables += [comparison(index, models, RELIANCE, worlds, bias)]
        tables += [comparison(index, models, CAUSAL, INTERVENTIONS, bias)]
    cells = [each for table in tables for block in table.blocks for _, row in block.rows for each in row]
    cells += [each for matrix in remaining(metrics, index, models) for _, row in matrix.rows for each in row]
    shown = [each.row for each in cells if each.row] + [each.control for each in cells if each.control]
    expected = [row for row in metrics if row.model != "pipeline"]
    assert sorted(map(str, shown)) == sorted(map(str, expected))


def test_many_classes_are_spread_over_tables_with_a_row_for_every_model(build_metric):
    models = ["original", *(f"m{index}" for index in range(25))]
    rows = [
        build_metric(model, name="class_accuracy", subgroup=f"class={name}")
        for model in models
        for name in "abcdefghijkl"
    ]
    matrices = remaining(rows, MetricIndex(rows), models)
    assert [matrix.columns for matrix in matrices] == [
        [f"class {name}" for name in "abcdef"],
        [f"class {name}" for name in "ghijkl"],
    ]
    assert all([name for name, _ in matrix.rows] == models for matrix in matrices)
    assert len({matrix.title for matrix in matrices}) == 2


def test_every_table_of_the_remaining_has_a_title_of_its_own(build_metric):
    subgroups = ("class=8", "group=8, with", "sex=female", "sex=male")
    rows = [build_metric(subgroup=subgroup) for subgroup in subgroups]
    titles = [matrix.title for matrix in remaining(rows, MetricIndex(rows), ["original"])]
    assert [title.rpartition("by ")[2] for title in titles] == ["class", "group", "sex"]


def test_a_model_without_a_figure_has_no_row_among_the_remaining(build_metric):
    rows = [build_metric("original", name="brier_score")]
    (matrix,) = remaining(rows, MetricIndex(rows), ["original", "rrr"])
    assert [name for name, _ in matrix.rows] == ["original"]


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (6, [6]), (7, [4, 3]), (13, [5, 5, 3]), (12, [6, 6])])
def test_items_are_spread_over_parts_of_about_equal_size(count, sizes):
    parts = spread(range(count), 6)
    assert [len(part) for part in parts] == sizes
    assert [item for part in parts for item in part] == list(range(count))


def test_of_one_metric_worlds_stand_beside_each_other_and_of_several_the_metrics(build_metric):
    rows = [
        build_metric(world=world, name=name, subgroup=f"{family}={value}", value=0.5)
        for world in ("asis", "attacked")
        for family, names in (("group", ["accuracy"]), ("site", ["accuracy", "macro_f1"]))
        for name in names
        for value in ("n", "s")
    ]
    index = MetricIndex(rows)
    (group,) = breakdowns(index, rows, "original", ["asis", "clean", "attacked"], "group", "Groups")
    assert (group.columns, group.of_metrics) == (["asis", "attacked"], False)
    assert [name for name, _ in group.rows] == ["n", "s"]
    sites = breakdowns(index, rows, "original", ["asis", "clean", "attacked"], "site", "By site")
    assert [matrix.title for matrix in sites] == ["By site, world asis", "By site, world attacked"]
    assert all(matrix.columns == ["accuracy", "macro_f1"] and matrix.of_metrics for matrix in sites)
    assert breakdowns(index, rows, "original", ["asis"], "sex", "By sex") == []
