from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.metrics import average_precision_score

from pipeline.errors import DataError
from pipeline.statistics import Interval, auroc, average_precision, kendall_tau, macro_average_precision, wilson

# Few distinct scores, so that ties are common.
samples = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: 0 < sum(row[1] for row in rows) < len(rows)
)


def columns(rows: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = zip(*rows, strict=True)
    return np.array(scores, dtype=float), np.array(labels)


@settings(deadline=None)
@given(samples)
def test_average_precision_equals_sklearn(rows):
    scores, labels = columns(rows)
    found = average_precision(scores, labels, resamples=20)
    assert found.value == pytest.approx(average_precision_score(labels, scores))
    assert found.n == len(rows) and 0 <= found.lower <= found.upper <= 1


def test_average_precision_closed_form():
    scores, labels = np.array([4, 3, 2, 1]), np.array([1, 0, 1, 0])
    assert average_precision(scores, labels).value == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.zeros(4), labels).value == pytest.approx(0.5)
    assert average_precision(np.array([4, 1, 3, 2]), labels).value == 1


def test_a_perfect_ranking_has_the_lower_bound_of_as_many_successes_and_one_positive_leaves_the_bounds_open():
    for count in (2, 30):
        labels = np.arange(100) < count
        found = average_precision(-np.arange(100), labels)
        assert found == Interval(1.0, wilson(count, count).lower, 1.0, 100)
    assert average_precision(np.array([1, 3, 2, 0]), np.array([0, 0, 1, 0])) == Interval(0.5, 0.0, 1.0, 4)


def drawn_precisions(scores, labels, strata, count, rng):
    """Resamples of flags `[N, K]` within strata, one at a time."""
    members = [np.flatnonzero(strata == each) for each in np.unique(strata)]
    found = []
    for _ in range(count):
        rows = np.concatenate([rng.choice(each, len(each)) for each in members])
        found.append(
            np.mean([average_precision_score(labels[rows, k], scores[rows, k]) for k in range(labels.shape[1])])
        )
    return np.array(found)


def on_the_logit_scale(value, drawn, positives):
    """The interval's definition: Student's, centred as far below the value as the resamples lie above it."""
    centre = 2 * special.logit(value) - special.logit(drawn.mean())
    deviation = drawn.std() * np.sqrt(positives / (positives - 1)) / (value * (1 - value))
    return special.expit(centre + stats.t.ppf([0.05, 0.95], positives - 1) * deviation)


def test_the_interval_is_that_of_resamples_within_the_classes():
    rng = np.random.default_rng(0)
    labels = np.arange(80) < 30
    scores = np.round(rng.normal(size=80) + labels, 1)
    drawn = drawn_precisions(scores[:, None], labels[:, None], labels, 800, rng)
    found = average_precision(scores, labels, resamples=2000, confidence=0.9)
    assert found[1:3] == pytest.approx(on_the_logit_scale(found.value, drawn, 30), abs=0.01)
    assert found == average_precision(scores, labels, resamples=2000, confidence=0.9)


def test_the_mean_over_classes_is_that_of_resamples_of_all_classes_at_once():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    flags = labels[:, None] == np.arange(3)
    scores = flags + rng.normal(size=(90, 1)) + 0.5 * rng.normal(size=(90, 3))
    found = macro_average_precision(scores, labels, resamples=2000, confidence=0.9)
    assert found.value == pytest.approx(average_precision_score(flags, scores, average="macro")) and found.n == 90
    drawn = drawn_precisions(scores, flags, labels, 500, rng)
    assert found[1:3] == pytest.approx(on_the_logit_scale(found.value, drawn, 30), abs=0.015)
    # flags do not keep the sizes of the classes
    loose = macro_average_precision(scores, flags, resamples=2000, confidence=0.9)
    drawn = drawn_precisions(scores, flags, np.zeros(90), 500, rng)
    assert loose[1:3] == pytest.approx(on_the_logit_scale(found.value, drawn, 30), abs=0.015)


@settings(deadline=None)
@given(samples)
def test_the_mean_over_one_class_has_its_value_and_classes_without_positives_are_left_out(rows):
    scores, labels = columns(rows)
    expected = average_precision(scores, labels, resamples=20).value
    found = macro_average_precision(np.stack([scores] * 3, 1), np.stack([labels, ~labels & False, labels | True], 1))
    assert found.value == pytest.approx(expected) and 0 <= found.lower <= found.value <= found.upper <= 1


def test_class_ids_keep_the_sizes_of_the_classes_in_every_resample_and_flags_do_not():
    # of equal scores the average precision is the share of the class
    labels = np.repeat([0, 1, 2], [5, 10, 15])
    flags = labels[:, None] == np.arange(3)
    scores = np.where([True, False, False], 0.0, flags)
    kept, free = (macro_average_precision(scores, each, resamples=100) for each in (labels, flags))
    assert kept.lower == pytest.approx(kept.value) == kept.upper == pytest.approx((5 / 30 + 2) / 3)
    assert free.value == kept.value and free.upper - free.lower > 0.02


def test_means_over_no_class_and_of_nan_are_nan():
    scores = np.zeros((3, 2))
    assert math.isnan(macro_average_precision(scores, np.zeros((3, 2))).value)
    scores[0, 0] = np.nan
    assert math.isnan(macro_average_precision(scores, np.array([0, 1, 1])).value)
    with pytest.raises(DataError, match=r"class ids in 0\.\.1"):
        macro_average_precision(np.zeros((3, 2)), np.array([0, 1, 2]))


@settings(deadline=None)
@given(samples)
def test_kendalls_tau_equals_scipy_and_its_interval_is_that_of_the_auroc(rows):
    scores, labels = columns(rows)
    found, p = kendall_tau(scores, labels)
    if len(set(scores)) == 1:
        assert math.isnan(found.value) and math.isnan(p)
        return
    expected = stats.kendalltau(scores, labels)
    assert (found.value, p) == pytest.approx((expected.statistic, expected.pvalue), abs=1e-9)
    area = auroc(scores, labels)
    assert found.n == len(rows) and -1 <= found.lower <= found.value <= found.upper <= 1
    # the bounds are those of the area, stretched as the value is
    if area.value != 0.5:
        stretch = found.value / (area.value - 0.5)
        bounds = [np.clip(stretch * (bound - 0.5), -1, 1) for bound in area[1:3]]
        assert found[1:3] == pytest.approx(bounds, abs=1e-9)


def test_kendalls_tau_of_binary_scores_reaches_1():
    labels = np.array([0, 1] * 10)
    area = auroc(labels, labels)
    assert kendall_tau(labels, labels)[0][:3] == pytest.approx((1, 2 * area.lower - 1, 1))
    assert kendall_tau(-labels, labels)[0][:3] == pytest.approx((-1, -1, 1 - 2 * area.lower))
    assert kendall_tau(labels, labels)[1] < 1e-4


def test_bounds_of_kendalls_tau_stay_within_minus_1_and_1():
    assert kendall_tau(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 0]))[0].lower == -1


def test_the_interval_of_kendalls_tau_holds_its_level():
    rng = np.random.default_rng(0)
    labels = np.arange(60) < 30
    truth = (2 * stats.norm.cdf(1 / math.sqrt(2)) - 1) * math.sqrt(30 * 30 / (60 * 59 / 2))
    intervals = [kendall_tau(rng.normal(size=60) + labels, labels, 0.9)[0] for _ in range(400)]
    assert 0.86 < np.mean([each.lower <= truth <= each.upper for each in intervals]) < 0.94


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], []])
def test_an_absent_class_gives_nan(labels):
    labels = np.array(labels)
    scores = np.arange(len(labels))
    for found in (average_precision(scores, labels), kendall_tau(scores, labels)[0]):
        assert found.n == len(labels) and all(math.isnan(figure) for figure in found[:3])
    assert math.isnan(kendall_tau(scores, labels)[1])


def test_a_nan_score_gives_nan():
    scores, labels = np.array([0.1, np.nan, 0.3]), np.array([0, 1, 0])
    for found in (average_precision(scores, labels), kendall_tau(scores, labels)[0]):
        assert math.isnan(found.value)


@pytest.mark.parametrize("measure", [average_precision, kendall_tau])
def test_wrong_inputs_are_named(measure):
    with pytest.raises(DataError, match="scores has 3, labels has 2"):
        measure(np.arange(3), np.array([0, 1]))
    with pytest.raises(DataError, match="labels must be a row of 0 and 1.*2"):
        measure(np.arange(3), np.array([0, 1, 2]))
