"""What the sections say, as records, before it is a page."""

from __future__ import annotations

import math

import pytest
from parsed_page import page_of

from pipeline.report.causal import causal_evidence
from pipeline.report.contest import shown_models
from pipeline.report.data_tables import data_tables, split_order
from pipeline.report.front import ALL_LINES, KEY_FIGURES, LINES, RULES, fitting, front_page, key_figures
from pipeline.report.html import SECTIONS
from pipeline.report.limits import limits, triggers
from pipeline.report.plots import NAMED, interval_plots, trade_off
from pipeline.report.sheets import baseline_performance, detection_sheet, sanity_sheet
from pipeline.report.tables import MetricIndex
from pipeline.report.traceability import DISCLAIMER, traceability
from pipeline.workspace.records import Declared, GateResult, SearchedAgain, SubgroupCount


def index_of(audit) -> MetricIndex:
    return MetricIndex(audit.metrics, audit.min_n)


# First page


@pytest.mark.parametrize(
    ("verdict", "word"),
    [("pass", "PASS"), ("conditional", "CONDITIONAL"), ("fail", "FAIL"), ("no_gate", "NO GATE")],
)
def test_the_verdict_stands_on_the_first_page_as_a_word_and_a_sign(build_audit, run_dir, verdict, word):
    page = page_of(build_audit(verdict=verdict), run_dir)
    (header,) = page.all("header")
    (shown,) = [each for each in page.all("p") if each.attributes.get("class") == "verdict"]
    assert header.attributes["class"] == verdict and header in shown.parents
    assert shown.text.endswith(word)


def test_every_verdict_has_a_sign_of_its_own(build_audit):
    kinds = ("pass", "conditional", "fail", "no_gate")
    fronts = [front_page(build_audit(verdict=kind), MetricIndex([])) for kind in kinds]
    assert len({front.verdict.sign for front in fronts}) == 4


def test_the_sentence_of_the_verdict_leads_and_is_not_repeated(build_audit):
    said = front_page(build_audit(verdict="fail", summary=["FAIL: 1 of 3 rules.", "b"]), MetricIndex([]))
    assert (said.lead, said.lines) == ("FAIL: 1 of 3 rules.", ["b"])
    silent = front_page(build_audit(verdict="fail", summary=["a", "b"]), MetricIndex([]))
    assert silent.lead == silent.verdict.meaning and silent.lines == ["a", "b"]


def test_rules_that_block_come_first_and_what_does_not_fit_is_counted(build_audit):
    gate = [GateResult(rule=f"passes {n}", status="pass", blocking=False) for n in range(9)]
    gate += [GateResult(rule="warns", status="warn", blocking=False)]
    gate += [GateResult(rule="blocks " + "x " * 200, status="fail", blocking=True)]
    front = front_page(build_audit(gate=gate), MetricIndex([]))
    assert [result.rule.split()[0] for result in front.gate] == ["blocks", "warns", "passes", "passes", "passes"]
    assert len(front.gate) == RULES and front.gate_left_out == 6
    assert front.gate[0].rule.endswith("…")


def test_the_whole_gate_stands_behind_the_first_page_in_the_order_of_its_declaration(build_audit, run_dir):
    gate = [GateResult(rule=f"rule {n}", status="pass", blocking=False, detail=f"d{n}") for n in range(9)]
    rows = page_of(build_audit(gate=gate), run_dir).rows("Every rule, in the order in which it was declared")
    assert [row[1] for row in rows[1:]] == [f"rule {n}" for n in range(9)]


def test_lines_are_as_many_as_fit_and_the_rest_is_counted_and_shown_behind(build_audit, run_dir):
    lines = [f"line {number}." for number in range(12)]
    audit = build_audit(summary=lines)
    front = front_page(audit, MetricIndex([]))
    assert front.lines == lines[:LINES] and front.lines_left_out == 12 - LINES
    text = page_of(audit, run_dir).section("biases").text
    assert all(line in text for line in lines)


def test_texts_fit_together_and_the_first_is_always_there():
    assert fitting(["a" * 50, "b" * 50, "c" * 50], 9, 40, 85) == ["a" * 39 + "…", "b" * 39 + "…"]
    assert fitting(["a" * 500], 9, 400, 85)[0].startswith("aaa")
    assert fitting([], 9, 40, ALL_LINES) == []


def test_key_figures_are_four_with_intervals_before_and_after(audit, build_metric):
    found = key_figures(index_of(audit), "rr_clarc")
    assert len(found) == KEY_FIGURES
    assert found[0].heading == "Balanced accuracy, with the artifact"
    assert (round(found[0].before.value, 3), round(found[0].after.value, 3)) == (0.408, 0.947)
    alone = key_figures(MetricIndex([build_metric("original", "asis")]), "rr_clarc")
    assert [(each.heading, each.after) for each in alone] == [("Accuracy, as it is", None)]


def test_before_and_after_stand_on_the_first_page_with_what_it_changed_and_cost(audit, run_dir):
    text = page_of(audit, run_dir).with_id("front").text
    assert "0.408 → to 0.947" in text
    assert "accuracy with the artifact ▲0.539 [0.519, 0.559], McNemar p = 0.003 adjusted" in text
    assert "flip rate, b-8-glyph filled in 0.560 → 0.019" in text
    assert "most harmed class" in text and "12.5 s to fit" in text


def test_new_biases_of_the_preferred_correction_are_part_of_its_cost(build_audit, audit):
    for accepted, words in (([], "no new bias found in it"), (["x"], "1 new bias found"), (["x", "y"], "2 new biases")):
        again = SearchedAgain(model="rr_clarc", findings=[], accepted=accepted)
        assert any(words in item for item in front_page(build_audit(again=again), index_of(audit)).cost)


def test_without_a_preferred_correction_nothing_is_said_to_have_changed(build_audit, audit, run_dir):
    page = page_of(build_audit(best_correction=None), run_dir)
    text = page.section("front-figures").text
    assert "No correction is preferred." in text and "→" not in text


# Data


def test_classes_and_splits_are_counted_with_totals(audit):
    tables = data_tables(audit.data, audit.min_n)
    assert tables.classes.columns == ["train", "val", "test", "all"]
    names, numbers = tables.classes.rows[-1]
    assert names == ["all"] and [number.n for number in numbers] == [3198, 798, 999, 4995]
    assert tables.samples == 4995
    assert tables.missing == [("site", 117, pytest.approx(117 / 4995))]


def test_subgroups_are_counted_by_class_missing_values_last_and_small_test_cells_marked(audit):
    counts = [
        SubgroupCount(column="sex", value=value, split=split, class_name="0", n=n)
        for value, split, n in [("", "test", 9), ("m", "test", 10), ("m", "train", 3), ("f", "test", 0)]
    ]
    (table,) = data_tables(audit.data.model_copy(update={"subgroups": counts}), 10).subgroups
    assert [names for names, _ in table.rows][-1] == ["(missing)", "test"]
    found = {tuple(names): numbers[0] for names, numbers in table.rows}
    assert {key: (number.n, number.few) for key, number in found.items()} == {
        ("f", "train"): (0, False),
        ("f", "test"): (0, True),
        ("m", "train"): (3, False),
        ("m", "test"): (10, False),
        ("(missing)", "train"): (0, False),
        ("(missing)", "test"): (9, True),
    }


def test_splits_stand_in_their_order():
    assert split_order({"test", "other", "train", "val"}) == ["train", "val", "test", "other"]


# Baseline performance


def test_the_worst_group_is_named_with_its_size(build_audit, build_metric):
    rows = [
        build_metric(world="attacked", subgroup=f"group={name}", value=value, n=n)
        for name, value, n in [("8 with", 0.3, 52), ("8 without", 0.9, 48), ("tiny", 0.0, 4)]
    ]
    (worst,) = baseline_performance(build_audit(metrics=rows), MetricIndex(rows, 10)).worst
    assert (worst.world, worst.name, worst.cell.row.n) == ("attacked", "8 with", 52)


def test_groups_of_the_artifact_are_no_subgroups_of_the_data(build_audit, build_metric, run_dir):
    rows = [build_metric(), build_metric(subgroup="group=8, with")]
    audit = build_audit(metrics=rows)
    found = baseline_performance(audit, index_of(audit))
    assert len(found.groups) == 1 and found.subgroups == []
    page = page_of(audit, run_dir)
    assert "No subgroup was measured" in page.section("baseline-performance").text
    assert page.rows("Classes with and without the artifact: accuracy")[1][0] == "8, with"


def test_without_groups_the_worst_one_has_no_name(audit):
    worst = baseline_performance(audit, index_of(audit)).worst
    assert [each.world for each in worst] == ["asis", "clean", "attacked"]
    assert all(each.name == "" and each.cell.row.n == 104 for each in worst)


def test_small_cells_show_their_number_of_samples_alone(build_audit, build_metric, run_dir):
    few = build_metric(subgroup="site=east", value=0.123, n=4)
    lost = build_metric(subgroup="site=west", n=7).model_copy(update={"value": math.nan})
    rows = [build_metric(), build_metric(subgroup="site=north", n=100), few, lost]
    page = page_of(build_audit(metrics=rows), run_dir)
    text = page.section("baseline-performance").text
    assert "n = 4, too few" in text and "n = 7, too few" in text
    assert "0.123" not in page.text


def test_intervals_are_counted_and_said_not_to_be_adjusted(build_audit, build_metric, run_dir):
    rows = [build_metric(subgroup=f"class={n}", name="class_accuracy", value=0.5) for n in range(39)]
    audit = build_audit(metrics=[*rows, build_metric()])
    assert baseline_performance(audit, index_of(audit)).intervals == 40
    text = page_of(audit, run_dir).section("baseline-performance").text
    assert "shows 40 intervals, none adjusted" in text and "about 2 of so many may miss the truth" in text


def test_discrimination_calibration_and_the_operating_point_have_tables_of_their_own(build_audit, build_metric):
    names = ["accuracy", "macro_auroc", "brier_score", "sensitivity", "operating_threshold", "flip_rate"]
    audit = build_audit(metrics=[build_metric("original", "asis", name, 0.5) for name in names])
    sheets = baseline_performance(audit, index_of(audit)).sheets
    assert {sheet.title: [row.metric for row in sheet.rows] for sheet in sheets} == {
        "Discrimination": ["accuracy", "macro_auroc"],
        "Calibration": ["brier_score"],
        "Operating point": ["sensitivity", "operating_threshold"],
    }


# Detection, causal evidence, sanity


def test_detection_shows_every_score_of_the_bias_but_its_prevalence(audit):
    sheet = detection_sheet(audit.metrics, index_of(audit), "b-8-glyph")
    assert [row.metric for row in sheet.rows] == [
        *("finding_precision", "finding_recall", "retrieval_auroc", "retrieval_auroc_paired", "mask_iou"),
    ]
    assert detection_sheet(audit.metrics, index_of(audit), "b-1-corner") is None


def test_artifacts_and_findings_that_are_no_bias_are_scored_too(build_audit, audit, build_metric, run_dir):
    rows = [*audit.metrics, build_metric("pipeline", "asis", "finding_rank", 7, n=1, subgroup="artifact ruler")]
    rows.append(build_metric("pipeline", "asis", "finding_recall", 0.42, subgroup="artifact ruler"))
    page = page_of(build_audit(metrics=rows), run_dir)
    table = page.rows("Artifact or finding artifact ruler")
    assert [row[0].split()[0] for row in table[1:]] == ["Recall", "Rank"]


def test_causal_evidence_compares_original_and_preferred_and_folds_all_others(audit):
    found = causal_evidence(audit, index_of(audit), shown_models(audit), audit.biases[0])
    assert [block.world for block in found.main.blocks] == ["inserted", "removed"]
    assert [name for name, _ in found.main.blocks[0].rows] == ["original", "rr_clarc"]
    assert len(found.everyone.blocks[0].rows) == 6
    assert found.measured
    nothing = causal_evidence(audit, index_of(audit), shown_models(audit), audit.biases[1])
    assert not nothing.measured and nothing.sentences == []


@pytest.mark.parametrize(
    ("control", "words"),
    [(0.05, "more than the same done elsewhere"), (0.57, "not clearly more than"), (None, "there is no control")],
)
def test_flip_rates_are_held_against_their_control(build_audit, audit, build_metric, control, words):
    rows = [build_metric("original", "inserted", "flip_rate", 0.6, 0.05, subgroup="b-8-glyph")]
    if control is not None:
        rows += [build_metric("original", "inserted", "flip_rate_elsewhere", control, 0.02, subgroup="b-8-glyph")]
    shown = build_audit(metrics=rows)
    (sentence,) = causal_evidence(shown, MetricIndex(rows), ["original"], audit.biases[0]).sentences
    assert words in sentence and "60.0 % [55.0, 65.0]" in sentence


def test_heatmaps_on_trial_show_both_models_and_every_fill(build_audit, build_metric, run_dir):
    rows = [
        build_metric(model, "asis", "aopc_gap", value, subgroup=f"fill={fill}")
        for model, value in (("original", 0.2), ("rr_clarc", 0.25), ("rrr", 0.3))
        for fill in ("mean", "blur")
    ]
    rows.append(build_metric("original", "attacked", "artifact_aopc", 0.4, subgroup="fill=mean"))
    audit = build_audit(metrics=rows)
    sheet = sanity_sheet(audit, MetricIndex(rows), ["original", "rr_clarc"])
    assert sheet.columns == ["original", "rr_clarc"]
    assert [(row.metric, row.subgroup) for row in sheet.rows] == [
        ("artifact_aopc", "fill=mean"),
        ("aopc_gap", "fill=mean"),
        ("aopc_gap", "fill=blur"),
    ]
    assert sheet.rows[1].cells[1].row.value == 0.25
    assert "fill blur" in page_of(audit, run_dir).section("causal").text
    assert sanity_sheet(build_audit(metrics=[]), MetricIndex([]), ["original"]) is None


# Drawings


def test_few_models_are_called_by_name_and_of_many_the_original_the_best_and_the_front(build_metric):
    def plot(count):
        models = ["original", *(f"m{number}" for number in range(count))]
        rows = [build_metric(model, world, value=0.9) for model in models for world in ("clean", "attacked")]
        return trade_off(MetricIndex(rows), models, "m3", ["m1", "m3"], "clean")

    assert plot(NAMED - 1).key == []
    key = dict(plot(25).key)
    assert len(key) == 26 - 3 and not {"original", "m1", "m3"} & set(key.values())
    assert list(key) == [str(number) for number in range(1, 24)]


def test_a_trade_off_needs_two_models_and_both_worlds(build_metric):
    rows = [build_metric("original", "clean"), build_metric("original", "attacked"), build_metric("a", "clean")]
    assert trade_off(MetricIndex(rows), ["original", "a"], None, [], "clean") is None
    without = [build_metric(model, world) for model in ("original", "a") for world in ("asis", "attacked")]
    assert "on the samples as they are" in trade_off(MetricIndex(without), ["original", "a"], None, [], "asis").title


def test_drawings_of_many_models_are_spread_and_all_begin_with_the_original(build_metric):
    models = ["original", *(f"m{number}" for number in range(25))]
    rows = [build_metric(model, "clean", "balanced_accuracy") for model in models]
    plots = interval_plots(MetricIndex(rows), models)
    assert len(plots) == 3 and all(">original<" in plot.drawing for plot in plots)
    assert len({plot.title for plot in plots}) == 3


# Limits and traceability


def test_limits_speak_of_how_the_attacked_world_was_made_and_of_seeds(build_audit, audit):
    def text(attacked_by, repeated):
        provenance = audit.provenance.model_copy(update={"attacked_by": attacked_by})
        return " ".join(limits(build_audit(provenance=provenance), repeated))

    assert "planted artifact is simpler" in text("planting", False)
    assert "made of pasted regions" in text("pasting", False) and "planted" not in text("pasting", False)
    assert "trained once" in text("nothing", False) and "choice of seeds as well" in text("nothing", True)


def test_triggers_name_the_biases_and_a_population_that_was_not_declared(build_audit, audit):
    assert any("b-8-glyph" in trigger for trigger in triggers(audit))
    assert any("population is not declared" in trigger for trigger in triggers(audit))
    declared = build_audit(declared=Declared(population="adults"))
    assert not any("population is not declared" in trigger for trigger in triggers(declared))


def test_topics_lead_to_sections_that_exist_and_those_without_are_the_manufacturers(audit):
    topics = traceability(audit)
    assert {topic.section for topic in topics} - {""} <= set(SECTIONS)
    assert {topic.coverage for topic in topics if not topic.section} == {"manufacturer to supply"}
    assert all(topic.fda or topic.gmlp or topic.ai_act or topic.claim for topic in topics)
    assert len({topic.name for topic in topics}) == len(topics)


def test_what_was_not_declared_or_measured_is_not_said_to_be_shown(build_audit, audit):
    def coverage(shown):
        return {topic.name: topic.coverage for topic in traceability(shown)}

    bare = coverage(build_audit(declared=Declared(), metrics=[], methods=[]))
    assert bare["Intended use"] == "not provided"
    assert bare["Performance with uncertainty"] == bare["Robustness against the artifact"] == "not measured"
    assert bare["Independence of training and test data"] == "shown"
    unchecked = [check for check in audit.data.leakage if check.status == "not_run"]
    data = audit.data.model_copy(update={"leakage": unchecked})
    assert coverage(build_audit(data=data))["Independence of training and test data"] == "not measured"
    full = coverage(build_audit(declared=Declared(intended_use="x", population="y")))
    assert (full["Intended use"], full["Population and users"]) == ("shown", "in part")
    assert full["Changes against an earlier version"] == "not provided"


def test_no_clause_numbers_are_printed_beyond_articles_that_are_certain(audit):
    text = " ".join(f"{topic.fda} {topic.gmlp} {topic.ai_act} {topic.claim}" for topic in traceability(audit))
    numbers = {word.strip(":;,.()") for word in text.split() if any(sign.isdigit() for sign in word)}
    assert numbers <= {"10", "13", "15"}
    assert "compliance" in DISCLAIMER and "complian" not in text and "conform" not in text.replace("conformity doc", "")
