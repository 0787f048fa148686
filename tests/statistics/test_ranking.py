from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score

from pipeline.errors import DataError
from pipeline.statistics.auroc import auroc
from pipeline.statistics.ranking import average_precision, kendall_tau

# Few distinct scores, so that ties are common.
samples = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: 0 < sum(row[1] for row in rows) < len(rows)
)


def columns(rows: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = zip(*rows, strict=True)
    return np.array(scores, dtype=float), np.array(labels)


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
    assert average_precision(np.array([4, 1, 3, 2]), labels)[:3] == (1, 1, 1)


def test_the_interval_is_that_of_resamples_within_the_classes():
    rng = np.random.default_rng(0)
    labels = np.arange(80) < 30
    scores = np.round(rng.normal(size=80) + labels, 1)
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(800):
        rows = np.concatenate([rng.choice(np.flatnonzero(labels == flag), (labels == flag).sum()) for flag in (0, 1)])
        drawn.append(average_precision_score(labels[rows], scores[rows]))
    found = average_precision(scores, labels, resamples=800, confidence=0.9)
    assert found[1:3] == pytest.approx(np.quantile(drawn, [0.05, 0.95]), abs=0.02)
    assert found == average_precision(scores, labels, resamples=800, confidence=0.9)


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


def test_kendalls_tau_of_binary_scores_reaches_1_and_its_interval_closes():
    labels = np.array([0, 1] * 10)
    assert kendall_tau(labels, labels)[0][:3] == (1, 1, 1)
    assert kendall_tau(-labels, labels)[0][:3] == (-1, -1, -1)
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
