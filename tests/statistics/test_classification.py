from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_recall_fscore_support,
    recall_score,
)

from pipeline.errors import DataError
from pipeline.statistics import (
    accuracy,
    balanced_accuracy,
    bootstrap,
    class_f1,
    class_precision,
    class_scores,
    macro_f1,
    per_class_accuracy,
    wilson,
    worst_group,
)

REFERENCE = Path(__file__).parents[2] / "../shared/reference/isnet/eval.npz"

predictions = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@settings(deadline=None)
@given(predictions)
def test_values_equal_sklearn(rows):
    y, predicted = np.array(rows).T
    classes = np.unique(y)
    found = accuracy(y, predicted)
    assert found == wilson((y == predicted).sum(), len(y))
    assert found.value == pytest.approx(accuracy_score(y, predicted))
    recalls = per_class_accuracy(y, predicted)
    assert list(recalls) == list(classes)
    expected = recall_score(y, predicted, labels=classes, average=None, zero_division=0)
    assert [each.value for each in recalls.values()] == pytest.approx(list(expected))
    assert [each.n for each in recalls.values()] == list(np.bincount(y)[classes])
    # sklearn's balanced accuracy, too, leaves out classes without samples, but warns of predictions of them.
    balanced = balanced_accuracy(y, predicted, resamples=50)
    assert balanced.value == pytest.approx(np.mean(expected))
    assert balanced.lower <= balanced.upper
    assert balanced.n == len(y)


def test_balanced_accuracy_equals_sklearn():
    rng = np.random.default_rng(0)
    y, predicted = rng.integers(0, 3, 100), rng.integers(0, 3, 100)
    assert balanced_accuracy(y, predicted).value == pytest.approx(balanced_accuracy_score(y, predicted))


def test_balanced_accuracy_has_the_interval_of_the_stratified_bootstrap():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [300, 60, 20])
    predicted = np.where(rng.uniform(size=380) < np.array([0.9, 0.7, 0.5])[y], y, (y + 1) % 3)

    def mean_recall(rows):
        return np.mean([rows[rows[:, 0] == c, 1].mean() for c in range(3)])

    rows = np.stack([y, y == predicted], axis=1)
    expected = bootstrap(rows, mean_recall, strata=y, resamples=3000)
    found = balanced_accuracy(y, predicted, resamples=3000)
    assert found[:3] == pytest.approx(expected[:3], abs=0.012)
    assert found.upper - found.lower > 0.1


def test_balanced_accuracy_depends_on_the_seed_alone():
    y, predicted = np.arange(40) % 2, np.arange(40) % 3 % 2
    assert balanced_accuracy(y, predicted, seed=1) == balanced_accuracy(y, predicted, seed=1)
    order = np.random.default_rng(0).permutation(40)
    assert balanced_accuracy(y, predicted) == balanced_accuracy(y[order], predicted[order])


def test_balanced_accuracy_of_one_class_is_close_to_the_interval_of_a_share():
    for right, n in ((30, 40), (57, 60), (200, 400)):
        found = balanced_accuracy(np.zeros(n, int), (np.arange(n) >= right).astype(int), resamples=4000)
        assert found[:3] == pytest.approx(wilson(right, n)[:3], abs=0.03)


def test_perfect_predictions_leave_room_for_errors_that_few_samples_cannot_show():
    for measure in (balanced_accuracy, macro_f1):
        few, many = (measure(np.arange(n) % 3, np.arange(n) % 3) for n in (12, 1200))
        assert few.value == few.upper == many.upper == 1 and few.n == 12
        assert 0.4 < few.lower < 0.9 and 0.99 < many.lower < 1


def test_no_samples_give_nan():
    empty = np.empty(0, int)
    assert math.isnan(accuracy(empty, empty).value)
    assert math.isnan(balanced_accuracy(empty, empty).lower)
    assert per_class_accuracy(empty, empty) == {}
    group, found = worst_group(empty, empty, [])
    assert group is None
    assert found.n == 0
    assert math.isnan(found.value)


def test_the_worst_group_is_found_and_small_groups_are_passed_over():
    y = np.zeros(45, int)
    predicted = np.concatenate([np.zeros(20), np.zeros(8), np.ones(12), np.ones(5)]).astype(int)
    groups = [("nevus", False)] * 20 + [("nevus", True)] * 20 + [("melanoma", True)] * 5
    assert worst_group(y, predicted, groups) == (("nevus", True), wilson(8, 20))
    assert worst_group(y, predicted, groups, min_n=5) == (("melanoma", True), wilson(0, 5))
    assert worst_group(y, predicted, groups, min_n=21)[0] is None


def test_rows_without_a_group_are_left_out():
    y = np.zeros(40, int)
    predicted = np.repeat([1, 0], 20)
    missing = np.array([np.nan] * 10 + [None] * 10 + ["a"] * 20, dtype=object)
    assert worst_group(y, predicted, missing) == ("a", wilson(20, 20))


def test_of_equally_bad_groups_the_larger_is_reported():
    y = np.zeros(30, int)
    assert worst_group(y, y + 1, np.repeat([7, 8], [12, 18])) == (8, wilson(0, 18))


def test_lengths_must_agree():
    with pytest.raises(DataError, match="y has 3, predicted has 2"):
        accuracy(np.zeros(3), np.zeros(2))
    with pytest.raises(DataError, match="y has 2, groups has 1"):
        worst_group(np.zeros(2), np.zeros(2), ["a"])


@settings(deadline=None)
@given(predictions)
def test_precision_recall_and_f1_equal_sklearn(rows):
    y, predicted = np.array(rows).T * 3  # class ids need not be 0, 1, 2
    found = class_scores(y, predicted)
    assert found.classes.tolist() == np.unique(y).tolist()
    expected = precision_recall_fscore_support(y, predicted, labels=found.classes, zero_division=0)
    for ours, theirs in zip(found[1:], expected, strict=False):
        assert ours == pytest.approx(theirs)
    mean = macro_f1(y, predicted, resamples=50)
    assert mean.value == pytest.approx(expected[2].mean()) and mean.n == len(y)
    assert 0 <= mean.lower <= mean.upper <= 1


def test_macro_f1_has_the_interval_of_the_stratified_bootstrap():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [300, 60, 20])
    predicted = np.where(rng.uniform(size=380) < np.array([0.9, 0.7, 0.5])[y], y, (y + rng.integers(1, 4, 380)) % 4)

    def mean_f1(rows):
        return f1_score(rows[:, 0], rows[:, 1], labels=[0, 1, 2], average="macro", zero_division=0)

    expected = bootstrap(np.stack([y, predicted], 1), mean_f1, strata=y, resamples=400)
    found = macro_f1(y, predicted, resamples=3000)
    assert found[:3] == pytest.approx(expected[:3], abs=0.02)
    assert found.upper - found.lower > 0.1


def test_macro_f1_depends_on_the_seed_alone():
    y, predicted = np.arange(40) % 2, np.arange(40) % 3 % 2
    order = np.random.default_rng(0).permutation(40)
    assert macro_f1(y, predicted, seed=1) == macro_f1(y[order], predicted[order], seed=1)
    assert macro_f1(y, predicted, seed=1) != macro_f1(y, predicted, seed=2)
    assert math.isnan(macro_f1(y[:0], y[:0]).value)
    with pytest.raises(DataError, match="y has 3, predicted has 2"):
        macro_f1(np.zeros(3), np.zeros(2))


@settings(deadline=None)
@given(predictions)
def test_precision_and_f1_of_a_class_equal_sklearn(rows):
    y, predicted = np.array(rows).T
    for class_id in range(4):
        precision, f1 = (measure(y, predicted, class_id) for measure in (class_precision, class_f1))
        assert precision.n == (predicted == class_id).sum() and f1.n == len(y)
        if precision.n:
            expected = wilson((y[predicted == class_id] == class_id).sum(), precision.n)
            assert precision == expected
        else:
            assert math.isnan(precision.value)
        if (y == class_id).any():
            expected = f1_score(y == class_id, predicted == class_id, zero_division=0)
            assert f1.value == pytest.approx(expected) and 0 <= f1.lower <= f1.value <= f1.upper <= 1
        else:
            assert math.isnan(f1.value) and math.isnan(f1.upper)


def test_the_f1_of_a_class_has_the_interval_of_the_stratified_bootstrap():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [200, 100, 80])
    predicted = np.where(rng.uniform(size=380) < 0.8, y, (y + 1) % 3)

    def f1(rows):
        return f1_score(rows[:, 0] == 2, rows[:, 1] == 2)

    expected = bootstrap(np.stack([y, predicted], 1), f1, strata=y == 2, resamples=400)
    found = class_f1(y, predicted, 2, resamples=4000)
    assert found[:3] == pytest.approx(expected[:3], abs=0.02) and found.upper - found.lower > 0.1
    assert found == class_f1(y, predicted, 2, resamples=4000) != class_f1(y, predicted, 2, resamples=4000, seed=1)


@pytest.mark.real_data
def test_the_published_implementation_agrees_on_a_confusion_matrix():
    if not REFERENCE.exists():
        pytest.skip(f"needs the reference numbers at {REFERENCE}")
    reference = np.load(REFERENCE)
    y, predicted = reference["labels"], reference["out"].argmax(1)
    found = class_scores(y, predicted)
    assert found.classes.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(np.diagonal(reference["confusion"]) / reference["confusion"].sum(1), found.recall)
    # rounded to three decimals there; the last row holds the means
    np.testing.assert_allclose(np.stack(found[1:], 1), reference["performance"][:-1], atol=0.5e-3 + 1e-6)
    np.testing.assert_allclose(np.mean(found[1:], 1), reference["performance"][-1], atol=0.5e-3 + 1e-6)
    assert macro_f1(y, predicted).value == pytest.approx(reference["performance"][-1, 2], abs=0.5e-3 + 1e-6)
    assert balanced_accuracy(y, predicted).value == pytest.approx(reference["performance"][-1, 1], abs=0.5e-3 + 1e-6)
    assert [each.value for each in per_class_accuracy(y, predicted).values()] == pytest.approx(list(found.recall))
    assert accuracy(y, predicted).value == pytest.approx(float(reference["acc"]))
