from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from pipeline.errors import DataError
from pipeline.statistics import choose_threshold, sensitivity_specificity, wilson

# Few distinct scores, so that ties are common.
samples = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.7, 0.9, 1.0]), st.booleans()), min_size=2, max_size=30
).filter(lambda rows: 0 < sum(row[1] for row in rows) < len(rows))
levels = st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0])


def columns(rows: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = zip(*rows, strict=True)
    return np.array(scores), np.array(labels)


def shares(scores: np.ndarray, labels: np.ndarray, threshold: float) -> tuple[float, float]:
    return float((scores[labels] >= threshold).mean()), float((scores[~labels] < threshold).mean())


def tried(scores: np.ndarray) -> np.ndarray:
    """A threshold for every way to divide the samples, in rising order."""
    return np.append(np.unique(scores), 2.0)


@settings(deadline=None)
@given(samples)
def test_youdens_threshold_has_the_largest_sum_of_both(rows):
    scores, labels = columns(rows)
    threshold = choose_threshold(scores, labels, "youden")
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert sum(shares(scores, labels, threshold)) == pytest.approx((true - false).max() + 1)


@settings(deadline=None)
@given(samples, levels)
def test_the_level_is_reached_and_the_next_threshold_misses_it(rows, at):
    scores, labels = columns(rows)
    sensitive, specific = (choose_threshold(scores, labels, rule, at) for rule in ("sensitivity", "specificity"))
    assert shares(scores, labels, sensitive)[0] >= at
    assert all(
        shares(scores, labels, each)[0] < at for each in tried(scores) if each > scores[scores >= sensitive].min()
    )
    assert shares(scores, labels, specific)[1] >= at
    above = scores[scores >= specific]
    fewer = [each for each in tried(scores) if each < (above.min() if len(above) else 2.0)]
    assert all(shares(scores, labels, each)[1] < at for each in fewer)


@settings(deadline=None)
@given(samples, levels, st.sampled_from(["youden", "sensitivity", "specificity"]))
def test_thresholds_lie_midway_between_neighbouring_scores(rows, at, rule):
    scores, labels = columns(rows)
    threshold = choose_threshold(scores, labels, rule, None if rule == "youden" else at)
    edges = np.unique(np.concatenate([[0.0], scores, [1.0]]))
    midway = (edges[1:] + edges[:-1]) / 2
    assert np.isclose(threshold, [*midway, 0.0, math.nextafter(1, 2)], rtol=1e-15).any()


def test_closed_forms():
    scores, labels = np.array([0.1, 0.2, 0.4, 0.6, 0.7, 0.9]), np.array([0, 0, 1, 0, 1, 1])
    assert choose_threshold(scores, labels, "sensitivity", 1.0) == pytest.approx(0.3)
    assert choose_threshold(scores, labels, "sensitivity", 0.6) == pytest.approx(0.65)
    assert choose_threshold(scores, labels, "specificity", 1.0) == pytest.approx(0.65)
    assert choose_threshold(scores, labels, "specificity", 0.6) == pytest.approx(0.3)
    assert choose_threshold(scores, labels, "one_half") == 0.5


def test_of_equally_good_thresholds_the_widest_gap_wins_and_then_the_smallest():
    scores, labels = np.array([0.125, 0.25, 0.375, 0.625, 0.75, 0.9]), np.array([0, 0, 1, 0, 1, 1])
    # 1 + 2/3 above the second score and above the fourth; gaps of 1/8 both
    assert choose_threshold(scores, labels, "youden") == 0.3125
    scores[4] = 0.875
    assert choose_threshold(scores, labels, "youden") == 0.75


def test_every_sample_and_none_can_be_positive():
    scores, labels = np.array([0.2, 0.6, 0.8]), np.array([1, 0, 0])
    assert choose_threshold(scores, labels, "sensitivity", 1.0) == pytest.approx(0.1)
    assert choose_threshold(scores, labels, "specificity", 1.0) == pytest.approx(0.9)
    certain = np.array([0.0, 0.5, 1.0])
    assert choose_threshold(certain, np.array([1, 0, 0]), "sensitivity", 1.0) == 0.0
    assert choose_threshold(certain, labels, "specificity", 1.0) == math.nextafter(1.0, 2.0)


def test_scores_without_a_number_between_them_are_still_divided():
    low = 0.7
    scores, labels = np.array([low, math.nextafter(low, 1)]), np.array([0, 1])
    threshold = choose_threshold(scores, labels, "youden")
    assert shares(scores, labels.astype(bool), threshold) == (1, 1)


def test_wrong_inputs_are_named():
    scores, labels = np.array([0.2, 0.7]), np.array([0, 1])
    with pytest.raises(DataError, match="no rule 'best'.*youden, sensitivity, specificity, one_half"):
        choose_threshold(scores, labels, "best")
    with pytest.raises(DataError, match=r"'sensitivity' needs the level.*not None"):
        choose_threshold(scores, labels, "sensitivity")
    with pytest.raises(DataError, match=r"'specificity' needs the level.*not 1.5"):
        choose_threshold(scores, labels, "specificity", 1.5)
    with pytest.raises(DataError, match="both classes, but all 2 are positive"):
        choose_threshold(scores, np.ones(2), "youden")
    with pytest.raises(DataError, match="both classes, but all 2 are negative"):
        choose_threshold(scores, np.zeros(2), "sensitivity", 0.9)
    with pytest.raises(DataError, match="both classes, but there are none"):
        choose_threshold(scores[:0], labels[:0], "youden")
    for wrong in (1.5, -0.1, math.nan):
        with pytest.raises(DataError, match=f"probabilities in .*not {wrong}"):
            choose_threshold(np.array([0.2, wrong]), labels, "youden")
    with pytest.raises(DataError, match="scores has 2, labels has 1"):
        choose_threshold(scores, np.ones(1), "youden")


@settings(deadline=None)
@given(samples, st.sampled_from([0.0, 0.15, 0.5, 0.9, 1.1]))
def test_sensitivity_and_specificity_are_shares_with_wilsons_intervals(rows, threshold):
    scores, labels = columns(rows)
    sensitivity, specificity = sensitivity_specificity(scores, labels, threshold, 0.9)
    assert sensitivity == wilson((scores[labels] >= threshold).sum(), labels.sum(), 0.9)
    assert specificity == wilson((scores[~labels] < threshold).sum(), (~labels).sum(), 0.9)


def test_an_absent_class_and_a_nan_score_have_no_share():
    sensitivity, specificity = sensitivity_specificity(np.array([0.2, 0.7]), np.zeros(2), 0.5)
    assert math.isnan(sensitivity.value) and sensitivity.n == 0 and specificity == wilson(1, 2)
    found = sensitivity_specificity(np.array([np.nan, 0.7, 0.1]), np.array([0, 1, 1]), 0.5)
    assert [each.n for each in found] == [2, 1] and all(math.isnan(each.value) for each in found)
