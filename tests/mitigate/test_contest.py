from __future__ import annotations

import numpy as np
import pytest
from corrections import quick_section

from pipeline.mitigate.contest import (
    ValidationLogits,
    family_winners,
    hold_contest,
    standing,
    validation_figures,
    with_seeds,
)
from pipeline.mitigate.selection import Standing
from pipeline.workspace.records import MethodRecord

ORIGINAL = Standing(0.9, 0.2)


def record(method, clean: float, worst: float, seed: int = 0) -> MethodRecord:
    return MethodRecord(
        key="0",
        id=method.method_id,
        kind=method.kind,
        family=method.family_id,
        seed=seed,
        parameters={},
        trained=True,
        frozen="nothing",
        told_truth=method.told_truth,
        biases=[],
        status="unreviewed",
        seconds=1.0,
        peak_megabytes=None,
        validation={"balanced_accuracy": clean, "worst_group_accuracy": worst},
    )


@pytest.fixture
def grid():
    return [
        quick_section("rrr", id="rrr_weight-1", family="rrr", weight=1),
        quick_section("rrr", id="rrr_weight-9", family="rrr", weight=9),
        quick_section("p_clarc"),
        quick_section("fine_tune"),
    ]


def test_one_of_every_family_goes_on(grid):
    records = [record(method, 0.9, worst) for method, worst in zip(grid, (0.4, 0.6, 0.5, 0.9), strict=True)]
    winners = family_winners(grid, records, ORIGINAL, 0.02)
    assert [each.method_id for each in winners] == ["rrr_weight-9", "p_clarc", "fine_tune"]


def test_a_contest_tells_who_was_chosen_who_is_preferred_and_who_is_on_the_front(grid):
    records = [record(method, 0.9, worst) for method, worst in zip(grid, (0.4, 0.6, 0.5, 0.9), strict=True)]
    contest = hold_contest(records, family_winners(grid, records, ORIGINAL, 0.02), ORIGINAL, 0.02, ["beware"])
    assert [each.id for each in contest.chosen()] == ["rrr_weight-9", "p_clarc", "fine_tune"]
    assert contest.recommended == "rrr_weight-9", "plain fine-tuning is for comparison"
    assert [each.on_front for each in contest.contestants] == [False, False, False, True]
    assert (contest.original_clean, contest.original_worst, contest.warnings) == (0.9, 0.2, ["beware"])


def test_over_several_seeds_the_mean_decides():
    rrr, clarc = quick_section("rrr"), quick_section("p_clarc")
    records = [
        record(rrr, 0.9, 0.7),
        record(clarc, 0.9, 0.6),
        *(record(each, 0.9, 0.1, seed=number) for number, each in enumerate(with_seeds(rrr, 3)) if number),
    ]
    contest = hold_contest(records, [rrr, clarc], ORIGINAL, 0.02)
    assert contest.recommended == "p_clarc"
    assert [each.id for each in contest.chosen()] == ["rrr", "p_clarc", "rrr_seed-1", "rrr_seed-2"]
    assert [each.family for each in contest.chosen()] == ["rrr", "p_clarc", "rrr", "rrr"]


def test_who_was_told_the_truth_is_never_preferred():
    told = quick_section("rrr", masks="truth")
    records = [record(told, 0.9, 0.9)]
    assert hold_contest(records, [told], ORIGINAL, 0.02).recommended is None


def test_without_corrections_nobody_is_preferred():
    contest = hold_contest([], [], ORIGINAL, 0.02)
    assert contest.recommended is None and contest.chosen() == []


def test_further_seeds_keep_the_parameters_and_the_family():
    methods = with_seeds(quick_section("rrr", id="mine", weight=3), 3)
    assert [each.method_id for each in methods] == ["mine", "mine_seed-1", "mine_seed-2"]
    assert {each.family_id for each in methods} == {"mine"} and {each.weight for each in methods} == {3}


def logits_of(predicted: list[int]) -> np.ndarray:
    return np.eye(2)[predicted] * 4.0


def test_the_worst_group_is_sought_with_and_without_the_artifact():
    labels, carriers = np.repeat([0, 1], 40), np.tile(np.repeat([True, False], 20), 2)
    plain = labels.copy()
    plain[25:40] = 1  # class 0 without the artifact: 5 of 20 are right
    figures = validation_figures(ValidationLogits(logits_of(plain)), labels, carriers)
    assert figures["worst_group_accuracy"] == 0.25
    assert figures["accuracy"] == pytest.approx(65 / 80)
    pasted, cleaned = np.zeros(80, dtype=int), labels.copy()
    cleaned[:4] = 1
    right, stamped, filled = (logits_of(each) for each in (labels, pasted, cleaned))
    figures = validation_figures(ValidationLogits(right, pasted=stamped), labels, carriers)
    assert (figures["worst_group_accuracy"], figures["pasted_balanced_accuracy"]) == (0.0, 0.5)
    figures = validation_figures(ValidationLogits(right, cleaned=filled), labels, carriers)
    assert (figures["worst_group_accuracy"], figures["cleaned_balanced_accuracy"]) == (0.9, pytest.approx(0.95))


def test_a_shortcut_that_helps_on_the_samples_as_they_are_does_not_count():
    figures = {"balanced_accuracy": 0.99, "cleaned_balanced_accuracy": 0.6, "worst_group_accuracy": 0.1}
    assert standing(figures) == Standing(0.6, 0.1)


def test_where_no_group_is_large_enough_the_classes_together_stand_for_it():
    labels = np.repeat([0, 1], 4)
    logits = ValidationLogits(logits_of([0, 0, 0, 0, 1, 1, 0, 0]))
    figures = validation_figures(logits, labels, np.zeros(8, bool))
    assert np.isnan(figures["worst_group_accuracy"])
    assert standing(figures) == Standing(0.75, 0.75)
