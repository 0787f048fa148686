from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn import metrics as reference

from pipeline.evaluate.performance import OperatingPoint, Resampling, performance, performance_of_labels

RESAMPLING = Resampling(confidence=0.95, resamples=200, seed=0)
COUNT = 120


def scored(classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits `[N, K]` that know something of the labels `[N]`."""
    generator = np.random.default_rng(seed)
    labels = np.arange(COUNT) % classes
    return generator.standard_normal((COUNT, classes)) + 1.2 * np.eye(classes)[labels], labels


def rows_of(logits, labels, *, columns=None, point=None, groups=None):
    names = tuple(f"c{k}" for k in range(logits.shape[1]))
    groups = np.array([f"c{label}, without" for label in labels], dtype=object) if groups is None else groups
    rows = performance("m", "clean", logits, labels, names, groups, columns or {}, point, RESAMPLING)
    assert all(row.model == "m" and row.world == "clean" for row in rows)
    found = {(row.metric, row.subgroup): row for row in rows}
    assert len(found) == len(rows), "every figure stands once"
    return found


@pytest.mark.parametrize("classes", [2, 4])
def test_figures_of_the_whole_set_are_those_of_an_independent_library(classes):
    logits, labels = scored(classes)
    found, predicted, probabilities = rows_of(logits, labels), logits.argmax(1), softmax(logits, axis=1)
    binary = classes == 2
    one_hot = np.eye(classes)[labels]
    expected = {
        "accuracy": reference.accuracy_score(labels, predicted),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
        "macro_f1": reference.f1_score(labels, predicted, average="macro"),
        "brier_score": ((probabilities - one_hot) ** 2).sum(1).mean(),
    }
    if binary:
        expected["auroc"] = reference.roc_auc_score(labels, probabilities[:, 1])
        expected["average_precision"] = reference.average_precision_score(labels, probabilities[:, 1])
    else:
        expected["macro_auroc"] = reference.roc_auc_score(labels, probabilities, multi_class="ovr")
        expected["macro_average_precision"] = reference.average_precision_score(one_hot, probabilities)
    for name, value in expected.items():
        row = found[name, "all"]
        assert row.value == pytest.approx(value), name
        assert row.lower < row.value < row.upper and row.n == COUNT
    assert (("macro_auroc", "all") in found) != binary and (("auroc", "all") in found) == binary


def test_every_class_has_precision_recall_f1_and_with_several_classes_discrimination():
    logits, labels = scored(3)
    found, predicted, probabilities = rows_of(logits, labels), logits.argmax(1), softmax(logits, axis=1)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(labels, predicted)
    for k in range(3):
        name = f"class=c{k}"
        assert found["precision", name].value == pytest.approx(precision[k])
        assert found["class_accuracy", name].value == pytest.approx(recall[k])
        assert found["f1", name].value == pytest.approx(f1[k])
        area = reference.roc_auc_score(labels == k, probabilities[:, k])
        assert found["auroc", name].value == pytest.approx(area)
        area = reference.average_precision_score(labels == k, probabilities[:, k])
        assert found["average_precision", name].value == pytest.approx(area)


def test_the_worst_group_is_the_smallest_of_the_rows_of_groups():
    logits, labels = scored(2)
    groups = np.array([f"g{index % 3}" for index in range(COUNT)], dtype=object)
    found = rows_of(logits, labels, groups=groups)
    of_groups = [found["accuracy", f"group=g{k}"].value for k in range(3)]
    right = logits.argmax(1) == labels
    assert of_groups == pytest.approx([right[groups == f"g{k}"].mean() for k in range(3)])
    assert found["worst_group_accuracy", "all"].value == min(of_groups)


def test_at_the_operating_point_sensitivity_and_specificity_are_counted():
    logits, labels = scored(2)
    positive = softmax(logits, axis=1)[:, 1] >= 0.3
    found = rows_of(logits, labels, point=OperatingPoint(1, 0.3))
    assert found["sensitivity", "all"].value == pytest.approx(positive[labels == 1].mean())
    assert found["specificity", "all"].value == pytest.approx(1 - positive[labels == 0].mean())
    assert found["sensitivity", "all"].n == (labels == 1).sum()
    assert found["operating_threshold", "all"].value == 0.3
    assert ("sensitivity", "all") not in rows_of(logits, labels)


def test_values_of_columns_are_measured_apart_and_missing_ones_are_no_subgroup():
    logits, labels = scored(2)
    sex = np.array(["f", "m", ""] * (COUNT // 3))
    found = rows_of(logits, labels, columns={"sex": sex})
    right = logits.argmax(1) == labels
    for value in "fm":
        row = found["accuracy", f"sex={value}"]
        assert (row.value, row.n) == (pytest.approx(right[sex == value].mean()), COUNT // 3)
        area = reference.roc_auc_score(labels[sex == value], (logits[:, 1] - logits[:, 0])[sex == value])
        assert found["auroc", f"sex={value}"].value == pytest.approx(area)
    assert not any(subgroup == "sex=" for _, subgroup in found)


def test_equal_probabilities_of_confident_models_still_rank():
    labels = np.array([0, 1] * 20)
    margin = 80.0 + labels + np.linspace(0, 0.1, 40)
    logits = np.stack([np.zeros(40), margin], axis=1)
    assert len(set(softmax(logits, axis=1)[:, 1])) == 1
    assert rows_of(logits, labels)["auroc", "all"].value == 1.0


def test_several_labels_are_scored_one_by_one_and_on_average():
    generator = np.random.default_rng(1)
    flags = generator.random((COUNT, 3)) < 0.4
    logits = generator.standard_normal((COUNT, 3)) + 1.5 * flags - 0.5
    rows = performance_of_labels("m", "asis", logits, flags, ("a", "b", "c"), RESAMPLING)
    found = {(row.metric, row.subgroup): row.value for row in rows}
    probabilities, given = expit(logits), logits > 0
    assert found["exact_match", "all"] == pytest.approx(reference.accuracy_score(flags, given))
    assert found["macro_f1", "all"] == pytest.approx(reference.f1_score(flags, given, average="macro"))
    assert found["macro_auroc", "all"] == pytest.approx(reference.roc_auc_score(flags, probabilities))
    assert found["macro_average_precision", "all"] == pytest.approx(
        reference.average_precision_score(flags, probabilities)
    )
    for place, name in enumerate("abc"):
        truth, said = flags[:, place], given[:, place]
        assert found["f1", f"class={name}"] == pytest.approx(reference.f1_score(truth, said))
        assert found["precision", f"class={name}"] == pytest.approx(reference.precision_score(truth, said))
        assert found["sensitivity", f"class={name}"] == pytest.approx(said[truth].mean())
        assert found["specificity", f"class={name}"] == pytest.approx((~said[~truth]).mean())
