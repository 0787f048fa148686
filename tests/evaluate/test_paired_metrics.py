from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluate.paired import adjusted, paired_metrics
from pipeline.statistics import delong_paired, mcnemar
from pipeline.workspace.records import Metric

LABELS = np.array([0, 1] * 40)


def logits_with_errors(errors: int, classes: int = 2) -> np.ndarray:
    """Return logits that are wrong on the first samples."""
    predicted = np.where(np.arange(len(LABELS)) < errors, 1 - LABELS, LABELS)
    return np.eye(classes)[predicted] * 2 + np.random.default_rng(errors).standard_normal((len(LABELS), classes)) * 0.01


def figures(before, after):
    rows = paired_metrics("rrr", "attacked", before, after, LABELS, 0.95)
    return {row.metric: row for row in rows}


def test_gain_is_the_difference_of_the_accuracies_on_the_same_samples():
    before, after = logits_with_errors(30), logits_with_errors(10)
    found = figures(before, after)
    gain = found["accuracy_gain"]
    assert gain.value == pytest.approx(20 / 80) and 0 < gain.lower < gain.value < gain.upper
    right = before.argmax(1) == LABELS, after.argmax(1) == LABELS
    assert found["mcnemar_p"].value == pytest.approx(mcnemar(*right)) and found["mcnemar_p"].value < 0.001


def test_a_loss_is_negative_and_p_values_have_no_width():
    found = figures(logits_with_errors(10), logits_with_errors(30))
    assert found["accuracy_gain"].upper < 0
    assert found["mcnemar_p"].lower == found["mcnemar_p"].value == found["mcnemar_p"].upper


def test_with_two_classes_areas_are_compared_by_delong():
    before, after = logits_with_errors(30), logits_with_errors(10)
    found = figures(before, after)
    scores = [each[:, 1] - each[:, 0] for each in (before, after)]
    assert found["delong_p"].value == pytest.approx(delong_paired(*scores, LABELS == 1))
    assert found["auroc_gain"].value > 0
    assert "delong_p" not in figures(logits_with_errors(30, 3), logits_with_errors(10, 3))


def row(model: str, value: float, world: str = "attacked", metric: str = "mcnemar_p") -> Metric:
    return Metric(model=model, world=world, subgroup="all", metric=metric, value=value, lower=value, upper=value, n=80)


def test_p_values_are_adjusted_for_the_models_of_the_same_world_and_not_for_single_seeds():
    rows = [
        row("a", 0.01),
        row("b", 0.04),
        row("a_seed-0", 0.005),
        row("a", 0.03, "clean"),
        row("a", 0.9, "clean", "f1"),
    ]
    found = {(each.model, each.world): each for each in adjusted(rows, ["a", "b"])}
    assert set(found) == {("a", "attacked"), ("b", "attacked"), ("a", "clean")}
    assert found["a", "attacked"].value == pytest.approx(0.02)
    assert found["b", "attacked"].value == pytest.approx(0.04)
    assert found["a", "clean"].value == pytest.approx(0.03)
    assert {each.metric for each in found.values()} == {"mcnemar_p_adjusted"}
