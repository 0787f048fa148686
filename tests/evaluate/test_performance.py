from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from pipeline.evaluate.performance import flip_rate, performance, subgroup_accuracy

LABELS = np.array([0] * 30 + [1] * 20)


def logits_of(predicted: np.ndarray) -> np.ndarray:
    return np.eye(2)[predicted] + np.linspace(0, 0.1, len(predicted))[:, None]


def by_metric(rows):
    return {(row.metric, row.subgroup): row for row in rows}


def test_metrics_agree_with_an_independent_library():
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((50, 2))
    groups = ["with" if index % 2 else "without" for index in range(50)]
    rows = by_metric(
        performance("m", "clean", logits, LABELS, ("no", "yes"), groups, confidence=0.95, resamples=200, seed=0)
    )
    predicted = logits.argmax(1)
    assert rows["accuracy", "all"].value == pytest.approx((predicted == LABELS).mean())
    assert rows["balanced_accuracy", "all"].value == pytest.approx(balanced_accuracy_score(LABELS, predicted))
    assert rows["auroc", "all"].value == pytest.approx(roc_auc_score(LABELS, logits[:, 1] - logits[:, 0]))
    assert rows["class_accuracy", "class=yes"].value == pytest.approx((predicted[LABELS == 1] == 1).mean())
    correct = predicted == LABELS
    worst = min(correct[::2].mean(), correct[1::2].mean())
    assert rows["worst_group_accuracy", "all"].value == pytest.approx(worst)
    assert all(
        row.lower <= row.value <= row.upper and row.model == "m" and row.world == "clean" for row in rows.values()
    )


def test_a_flip_is_any_change_of_the_predicted_class():
    clean, attacked = logits_of(np.array([0, 0, 1, 1])), logits_of(np.array([0, 1, 0, 1]))
    row = flip_rate("m", clean, attacked, 0.95)
    assert (row.value, row.n, row.world) == (0.5, 4, "attacked")


def test_subgroups_are_counted_apart():
    values = np.array(["f", "m"] * 25)
    rows = subgroup_accuracy("m", "asis", LABELS, LABELS, "sex", values, 0.95)
    assert [(row.subgroup, row.n, row.value) for row in rows] == [("sex=f", 25, 1.0), ("sex=m", 25, 1.0)]
