import math

import pytest

from pipeline.report.plain_words import percent, severity, summary, verdict_sentence
from pipeline.workspace.records import GateResult, Metric, SearchedAgain

BIAS = "b-8-glyph"


def row(name, value, lower, upper, *, model="original", world="removed", subgroup=BIAS, n=83) -> Metric:
    return Metric(
        model=model, world=world, subgroup=subgroup, metric=name, value=value, lower=lower, upper=upper, n=n
    )  # fmt: skip


PREVALENCE = row("prevalence", 0.12, 0.09, 0.15, model="pipeline", world="asis", n=400)
LOGIT = row("relative_logit_shift", -0.38, -0.45, -0.31)
FLIPS = row("flip_rate", 0.21, 0.13, 0.31)
TURNED = row("flip_to_class_rate", 0.64, 0.6, 0.68, world="inserted", n=500)


def results(*statuses: str) -> list[GateResult]:
    """Return results of rules; a status that ends with "!" blocks."""
    return [GateResult(rule="r", status=text.rstrip("!"), blocking=text.endswith("!")) for text in statuses]


@pytest.fixture
def lines(audit):
    """Return a function that writes the lines for metrics; the audit's first bias alone, without a correction."""

    def write(metrics, **changes):
        values = {
            "gate": [],
            "verdict": "no_gate",
            "findings": audit.findings,
            "biases": audit.biases[:1],
            "metrics": metrics,
            "best": None,
            "attacked_by": "planting",
            "confidence": 0.95,
            "min_n": 10,
        }
        return summary(**values | changes)

    return write


# The verdict


@pytest.mark.parametrize(
    ("gate", "verdict", "sentence"),
    [
        ([], "no_gate", "No gate was declared, so there is no verdict."),
        (results("pass"), "pass", "PASS: the one rule is met."),
        (results("pass", "pass", "pass"), "pass", "PASS: all 3 rules are met."),
        (
            results("pass", "fail!", "not_run!", "warn"),
            "fail",
            "FAIL: 2 of 4 rules are not met (1 missed, 1 not run).",
        ),
        (results("error!"), "fail", "FAIL: 1 of 1 rule is not met (1 without a usable figure)."),
        (
            results("pass", "warn", "warn", "not_run"),
            "conditional",
            "CONDITIONAL: no rule that blocks is missed, but 3 of 4 rules are not met (2 missed, a warning, 1 not "
            "run); each needs a person's decision.",
        ),
    ],
)
def test_the_first_line_is_the_verdict(lines, gate, verdict, sentence):
    assert verdict_sentence(gate, verdict) == sentence
    assert lines([], gate=gate, verdict=verdict)[0] == sentence


# What the model leans on


def test_a_bias_is_told_with_its_size_and_what_it_does(lines):
    assert lines([PREVALENCE, LOGIT, FLIPS, TURNED])[1] == (
        "The model leans on bias b-8-glyph (class 8, 12 % of its training images): removing it lowers the logit of 8 "
        "by 38 % [31, 45] and changes 21 % of predictions (n = 83); pasting it into others turns "
        "64 % of them into 8 (n = 500)."
    )


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        (
            [LOGIT],
            "The model leans on bias b-8-glyph (class 8): removing it lowers the logit of 8 by 38 % [31, 45] ",
        ),
        (
            [FLIPS],
            "The model leans on bias b-8-glyph (class 8): removing it changes 21 % of predictions ",
        ),
        ([TURNED], "The model leans on bias b-8-glyph (class 8): pasting it into others turns 64 % "),
        ([PREVALENCE], "Bias b-8-glyph (class 8, 12 % of its training images) was found; what it does to predictions"),
    ],
)
def test_each_part_is_told_only_where_it_was_measured(lines, metrics, text):
    (line,) = [line for line in lines(metrics) if BIAS in line]
    assert line.startswith(text)
    others = {"logit": LOGIT, "of predictions": FLIPS, "pasting": TURNED, "training images": PREVALENCE}
    assert all((word in line) == (part in metrics) for word, part in others.items())


def test_a_figure_that_was_left_out_is_not_told(lines):
    nothing = LOGIT.model_copy(update={"value": math.nan, "lower": math.nan, "upper": math.nan})
    assert "logit" not in lines([nothing, FLIPS])[1]
    assert "logit" not in lines([LOGIT.model_copy(update={"n": 9}), FLIPS])[1]


def test_a_logit_that_rises_and_one_that_does_not_move_are_told_as_such(lines):
    rising = row("relative_logit_shift", 0.2, 0.1, 0.3)
    assert "removing it raises the logit of 8 by 20 % [10, 30]" in lines([rising])[1]
    still = row("relative_logit_shift", -0.02, -0.06, 0.03)
    assert lines([still])[1] == (
        "No clear effect of bias b-8-glyph (class 8) on the predictions: removing it makes no clear change of the "
        "logit of 8 (-2 % [-6, 3]) (n = 83)."
    )


def test_a_model_that_reacts_to_any_region_alike_does_not_lean_on_the_bias(lines):
    elsewhere = row("flip_rate_elsewhere", 0.19, 0.12, 0.29)
    assert lines([FLIPS])[1].startswith("The model leans on")
    told = lines([FLIPS, elsewhere])[1]
    assert told.startswith("No clear effect")
    assert "(n = 83; the same done elsewhere: 19 %)" in told
    little = row("flip_rate_elsewhere", 0.02, 0.0, 0.05)
    assert lines([FLIPS, little])[1].startswith("The model leans on")
    falling = row("relative_logit_shift_elsewhere", -0.3, -0.4, -0.2)
    assert lines([LOGIT])[1].startswith("The model leans on")
    assert lines([LOGIT, falling])[1].startswith("No clear effect"), "any region lowers the logit as much"
    assert lines([LOGIT, row("relative_logit_shift_elsewhere", -0.1, -0.2, 0)])[1].startswith("The model leans on")
    # pasting: flips to the class are held against flips to the class
    high, low = (
        row("flip_to_class_rate_elsewhere", rate, rate - 0.1, rate + 0.1, world="inserted") for rate in (0.7, 0.2)
    )
    assert lines([TURNED, high])[1].startswith("No clear effect")
    assert lines([TURNED, low])[1].startswith("The model leans")
    assert "64 % of them into 8 (n = 500; the same done elsewhere: 20 %)" in lines([TURNED, low])[1]


def test_nothing_changes_nothing(lines):
    none = row("flip_rate", 0.0, 0.0, 0.04)
    assert lines([none])[1].startswith("No clear effect of bias")
    assert "changes 0 % of predictions" in lines([none])[1]


def test_without_a_bias_the_most_suspicious_finding_is_told(lines, audit):
    found = lines([], biases=[])
    assert found[1] == "Nothing suspicious enough to be taken for a bias was found."
    assert f"{len(audit.findings[0].sample_ids)} samples of class 8" in found[2]
    assert len(lines([], biases=[], findings=[])) == 2


# What the correction changed and cost


def performance(model, world, value):
    return row("balanced_accuracy", value, value - 0.01, value + 0.01, model=model, world=world, subgroup="all", n=1000)


CORRECTED = [
    performance("original", "attacked", 0.678),
    performance("rrr", "attacked", 0.963),
    performance("original", "clean", 0.934),
    performance("rrr", "clean", 0.967),
    row("accuracy_gain", 0.285, 0.25, 0.32, model="rrr", world="attacked", subgroup="all"),
    row("accuracy_gain", -0.001, -0.011, 0.009, model="rrr", world="clean", subgroup="all"),
    row("mcnemar_p_adjusted", 0.001, 0.001, 0.001, model="rrr", world="attacked", subgroup="all"),
    row("mcnemar_p_adjusted", 0.7, 0.7, 0.7, model="rrr", world="clean", subgroup="all"),
    row("flip_rate", 0.4, 0.37, 0.43, world="attacked", subgroup="all"),
    row("flip_rate", 0.03, 0.02, 0.04, world="attacked", subgroup="all", model="rrr"),
]


def test_the_correction_is_told_with_what_it_changed_and_cost(lines):
    assert lines(CORRECTED, best="rrr")[2:] == [
        "With the preferred correction, rrr, balanced accuracy with the artifact planted in every test image goes from "
        "67.8 % [66.8, 68.8] to 96.3 % [95.3, 97.3]; accuracy changes by +28.5 points [25.0, 32.0], more than chance "
        "explains.",
        "With rrr, balanced accuracy on clean test images goes from 93.4 % [92.4, 94.4] to 96.7 % [95.7, 97.7]; "
        "accuracy changes by -0.1 points [-1.1, 0.9], no clear change, no more than chance explains.",
        "Predictions that change with the artifact planted in every test image: 40 % [37, 43] before, 3 % [2, 4] after "
        "rrr.",
    ]


@pytest.mark.parametrize(("confidence", "words"), [(0.95, "no more than chance"), (0.9, "points [25.0, 32.0], more")])
def test_the_level_of_the_test_is_that_of_the_intervals(lines, confidence, words):
    p = row("mcnemar_p_adjusted", 0.07, 0.07, 0.07, model="rrr", world="attacked", subgroup="all")
    assert words in lines([*CORRECTED[:5], p], best="rrr", confidence=confidence)[2]


def test_where_nothing_was_planted_the_test_images_as_they_are_show_the_cost(lines):
    rows = [performance("original", "asis", 0.8), performance("rrr", "asis", 0.79)]
    assert lines(rows, best="rrr", attacked_by="nothing")[2:] == [
        "With rrr, balanced accuracy on the test images as they are goes from 80.0 % [79.0, 81.0] to 79.0 % "
        "[78.0, 80.0]."
    ]


def test_without_an_attacked_world_flips_are_told_bias_by_bias(lines):
    rows = [
        row("flip_rate", value, value - 0.01, value + 0.01, world=world, model=model)
        for world, before, after in (("removed", 0.3, 0.1), ("inserted", 0.6, 0.2))
        for model, value in (("original", before), ("rrr", after))
    ]
    assert lines(rows, best="rrr")[2:] == [
        "Predictions that change by filling in bias b-8-glyph: 30 % [29, 31] before, 10 % [9, 11] after rrr.",
        "Predictions that change by pasting in bias b-8-glyph: 60 % [59, 61] before, 20 % [19, 21] after rrr.",
    ]


def test_no_preferred_correction_is_said(lines):
    assert lines([PREVALENCE])[-1].startswith("No correction is preferred")


def test_the_second_search_is_told(lines, audit):
    again = SearchedAgain(model="rrr", findings=[], accepted=[])
    assert lines([], again=again)[-1] == "The detectors searched rrr again and found no new bias."
    again = SearchedAgain(model="rrr", findings=[], accepted=["b-2", "b-3"])
    assert lines([], again=again)[-1] == "The detectors searched rrr again and accepted 2 new biases: b-2, b-3."


# Severity


def test_severity_names_prevalence_effect_and_declared_harm_and_multiplies_nothing(build_audit):
    audit = build_audit(metrics=[PREVALENCE, FLIPS])
    found = severity(audit, audit.biases[0])
    assert (found.prevalence, found.effect, found.harm) == (0.12, 0.21, "high")
    assert found.text == "prevalence 12 %, removing it changes 21 % of predictions, harm: high"
    assert severity(audit, audit.biases[1]).text == (
        "prevalence not measured, effect on predictions not measured, harm: not declared"
    )


def test_severity_takes_what_pasting_does_where_filling_in_was_not_measured(build_audit):
    flips = FLIPS.model_copy(update={"world": "inserted", "value": 0.64})
    nothing = FLIPS.model_copy(update={"value": math.nan})
    audit = build_audit(metrics=[flips, nothing])
    assert "pasting it into others changes 64 % of predictions" in severity(audit, audit.biases[0]).text
    assert severity(audit, audit.biases[0]).prevalence is None


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.004, "0.4 %"), (0.384, "38 %"), (0.996, "99.6 %"), (1.0, "100 %"), (-0.0001, "0.0 %")],
)
def test_little_is_not_written_as_nothing(share, text):
    assert percent(share) == text
