from __future__ import annotations

import math
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from pipeline.errors import DataError
from pipeline.statistics import accuracy_gain, bootstrap, mcnemar, paired_mean_change


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_p_value_is_exact(rows):
    a, b = np.array(rows).T
    few, many = sorted([int((a & ~b).sum()), int((b & ~a).sum())])
    tail = Fraction(2 * sum(comb(few + many, k) for k in range(few + 1)), 2 ** (few + many))
    assert mcnemar(a, b) == pytest.approx(float(min(Fraction(1), tail)), rel=1e-12)
    assert mcnemar(a, b) == mcnemar(b, a)


def test_large_samples_equal_scipy():
    a, b = np.zeros(20_000, bool), np.zeros(20_000, bool)
    a[:9_000], b[9_000:18_300] = True, True
    assert mcnemar(a, b) == pytest.approx(stats.binomtest(9_000, 18_300).pvalue, rel=1e-8)


def test_agreeing_classifiers_do_not_differ():
    assert mcnemar(np.array([1, 0, 1]), np.array([1, 0, 1])) == 1.0
    assert mcnemar(np.empty(0, bool), np.empty(0, bool)) == 1.0


def test_samples_on_which_both_agree_do_not_count():
    a, b = np.array([1, 1, 1, 1, 1, 0], bool), np.array([0, 0, 0, 0, 0, 1], bool)
    agreeing = np.arange(1000) % 2 == 0
    assert mcnemar(np.append(a, agreeing), np.append(b, agreeing)) == mcnemar(a, b)


def test_wrong_inputs_are_named():
    with pytest.raises(DataError, match="correct_a has 2, correct_b has 1"):
        mcnemar(np.array([1, 0]), np.array([1]))
    with pytest.raises(DataError, match="correct_b must be a row of 0 and 1.*3"):
        mcnemar(np.array([1, 0]), np.array([1, 3]))


def right_on(gains: int, losses: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two classifiers: only the second is right `gains` times, only the first `losses` times."""
    samples = np.arange(n)
    return (samples >= gains), (samples < gains) | (samples >= gains + losses)


def likeliest_loss(gains: int, losses: int, n: int, difference: float) -> float:
    """Maximise the multinomial likelihood where gains are likelier than losses by the difference."""

    def unlikely(loss):
        shares = np.array([loss + difference, loss, 1 - 2 * loss - difference])
        return -(np.array([gains, losses, n - gains - losses]) * np.log(np.maximum(shares, 1e-300))).sum()

    ends = max(0.0, -difference), (1 - difference) / 2
    return optimize.minimize_scalar(unlikely, bounds=ends, method="bounded", options={"xatol": 1e-12}).x


@pytest.mark.parametrize(("gains", "losses", "n"), [(1, 7, 21), (6, 16, 161), (40, 20, 160), (3, 0, 12), (9, 9, 30)])
def test_the_bounds_of_the_gain_are_where_the_score_test_turns(gains, losses, n):
    found = accuracy_gain(*right_on(gains, losses, n), confidence=0.9)
    assert found.value == pytest.approx((gains - losses) / n) and found.n == n
    for bound, side in ((found.lower, 1), (found.upper, -1)):
        loss = likeliest_loss(gains, losses, n, bound)
        variance = n * (2 * loss + bound * (1 - bound))
        assert (gains - losses - n * bound) / math.sqrt(variance) == pytest.approx(
            side * stats.norm.ppf(0.95), abs=1e-4
        )


def test_the_published_example_of_the_gain():
    # 21 children, 1 and 7 discordant pairs: Fagerland, Lydersen & Laake, Statistics in Medicine 2014
    found = accuracy_gain(*right_on(1, 7, 21))
    assert found[1:3] == pytest.approx((-0.517, -0.026), abs=5e-4)


@settings(deadline=None)
@given(st.integers(0, 25), st.integers(0, 25), st.integers(0, 60))
def test_the_gain_leaves_out_0_exactly_where_mcnemars_statistic_is_significant(gains, losses, agreeing):
    n = gains + losses + agreeing
    first, second = right_on(gains, losses, n)
    found, back = accuracy_gain(first, second), accuracy_gain(second, first)
    if n == 0:
        assert math.isnan(found.value) and found.n == 0
        return
    assert found.value == second.mean() - first.mean() or found.value == pytest.approx(second.mean() - first.mean())
    assert -1 <= found.lower <= found.value <= found.upper <= 1
    assert back[:3] == pytest.approx((-found.value, -found.upper, -found.lower), abs=1e-12)
    statistic = (gains - losses) ** 2 / max(gains + losses, 1)
    assert (not found.lower <= 0 <= found.upper) == (statistic > stats.chi2.ppf(0.95, 1))


def test_classifiers_that_are_right_on_the_same_samples_may_still_differ():
    squared = stats.norm.ppf(0.975) ** 2
    found = accuracy_gain(*right_on(0, 0, 50))
    assert found[:3] == pytest.approx((0, -squared / (50 + squared), squared / (50 + squared)))
    found = accuracy_gain(*right_on(50, 0, 50))
    assert found[:3] == pytest.approx((1, (50 - squared) / (50 + squared), 1))


def test_wrong_inputs_of_the_gain_are_named():
    with pytest.raises(DataError, match="correct_a has 2, correct_b has 1"):
        accuracy_gain(np.array([1, 0]), np.array([1]))


def test_the_mean_change_is_the_bootstrap_of_the_differences():
    rng = np.random.default_rng(0)
    before, after = rng.random(40), rng.random(40) + 0.2
    found = paired_mean_change(before, after, resamples=200, confidence=0.9, seed=3)
    assert found == bootstrap(after - before, resamples=200, confidence=0.9, seed=3)
    # what both have in common does not widen it
    common = 100 * rng.random(40)
    assert paired_mean_change(before + common, after + common)[:3] == pytest.approx(
        paired_mean_change(before, after)[:3]
    )
    before[3] = np.nan
    assert math.isnan(paired_mean_change(before, after).value) and paired_mean_change(before, after).n == 40
    assert math.isnan(paired_mean_change(before[:0], after[:0]).value)
    with pytest.raises(DataError, match="before has 40, after has 39"):
        paired_mean_change(before, after[1:])
