from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.errors import DataError
from pipeline.statistics import Interval, bootstrap, over_seeds, wilson
from pipeline.statistics.intervals import CHUNK_VALUES, enclosing, widened

counted = st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(deadline=None)
@given(counted, st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_scipy(counts, confidence):
    successes, n = counts
    expected = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    found = wilson(successes, n, confidence)
    assert found.value == successes / n
    assert found.n == n
    assert (found.lower, found.upper) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= found.lower <= found.value <= found.upper <= 1


def test_wilson_of_nothing_is_nan():
    found = wilson(0, 0)
    assert found.n == 0
    assert all(math.isnan(figure) for figure in found[:3])


@pytest.mark.parametrize("successes", [-1, 6])
def test_wilson_refuses_impossible_counts(successes):
    with pytest.raises(DataError, match=f"{successes} successes in 5 trials"):
        wilson(successes, 5)


def test_bootstrap_of_the_mean_is_close_to_the_normal_interval():
    values = np.random.default_rng(1).normal(3, 2, size=400)
    found = bootstrap(values, resamples=4000)
    reach = 1.96 * values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    assert (found.lower, found.upper) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.1 * reach)
    assert found.n == 400


def test_bootstrap_equals_scipy_up_to_the_noise_of_resampling():
    values = np.random.default_rng(2).exponential(size=60)
    found = bootstrap(values, np.median, resamples=4000)
    expected = stats.bootstrap((values,), np.median, n_resamples=4000, method="percentile", rng=3).confidence_interval
    assert (found.lower, found.upper) == pytest.approx((expected.low, expected.high), abs=0.05)


@pytest.mark.parametrize("shape", [(37,), (37, 3)])
@pytest.mark.parametrize("stratified", [False, True])
def test_the_vectorised_mean_equals_the_mean_as_any_other_statistic(shape, stratified):
    values = np.random.default_rng(4).normal(size=shape)
    strata = np.arange(37) % 4 if stratified else None
    found = bootstrap(values, strata=strata, resamples=50)
    assert found == pytest.approx(bootstrap(values, lambda rows: rows.mean(), strata=strata, resamples=50))


def test_chunks_do_not_repeat_each_other():
    values = np.random.default_rng(5).normal(size=CHUNK_VALUES // 2)
    means = []
    bootstrap(values, lambda rows: means.append(rows.mean()) or means[-1], resamples=3)
    assert len(set(means[:3])) == 3


def test_strata_keep_their_sizes_in_every_resample():
    strata = np.array(["b", "a", "a", "c", "b", "a"])
    values = np.stack([np.array([ord(s) for s in strata]), np.arange(6)], axis=1)
    seen = []
    bootstrap(values, lambda rows: seen.append(rows) or 0.0, strata=strata, resamples=40)
    assert all(sorted(rows[:, 0]) == sorted(values[:, 0]) for rows in seen)
    assert len({tuple(rows[:, 1]) for rows in seen}) > 20


def test_strata_that_explain_everything_leave_no_width():
    strata = np.array([0, 1, 1, 2, 2, 2])
    found = bootstrap(strata.astype(float), strata=strata)
    assert found == Interval(found.value, found.value, found.value, 6)


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.integers(1, 40), st.integers(1, 4), st.booleans())
def test_constant_input_has_no_width(value, n, columns, stratified):
    strata = np.arange(n) % 2 if stratified else None
    found = bootstrap(np.full((n, columns), value), strata=strata, resamples=20)
    assert found.lower == found.value == found.upper == pytest.approx(value)


def test_bootstrap_of_nothing_is_nan():
    found = bootstrap(np.empty((0, 2)), strata=np.empty(0))
    assert found.n == 0
    assert all(math.isnan(figure) for figure in found[:3])


def test_the_seed_decides():
    values = np.arange(30.0) ** 2
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    assert bootstrap(values, seed=1) != bootstrap(values, seed=2)


def test_more_confidence_is_wider():
    values = np.arange(30.0)
    narrow, wide = bootstrap(values, confidence=0.5), bootstrap(values, confidence=0.99)
    assert wide.lower < narrow.lower < narrow.upper < wide.upper


def test_strata_of_another_length_are_refused():
    with pytest.raises(DataError, match="values has 3, strata has 2"):
        bootstrap(np.zeros(3), strata=np.zeros(2))


def test_one_seed_keeps_its_interval():
    only = Interval(0.5, 0.4, 0.7, 90)
    assert over_seeds([only]) == only


def test_equal_seeds_keep_the_interval_of_the_samples():
    found = over_seeds([Interval(0.5, 0.4, 0.7, 90)] * 3)
    assert found == pytest.approx((0.5, 0.4, 0.7, 90))


def test_seeds_that_differ_widen_the_interval_by_students_of_their_mean():
    values = [0.4, 0.5, 0.6]
    found = over_seeds([Interval(value, value, value, 90) for value in values])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.lower, found.upper) == pytest.approx((max(0, expected.low), min(1, expected.high)))


def test_shares_stay_shares():
    found = over_seeds([Interval(0.9, 0.8, 1.0, 9), Interval(1.0, 0.9, 1.0, 9), Interval(0.8, 0.7, 0.9, 9)])
    assert found.upper == 1.0 and found.lower >= 0


def test_a_seed_without_a_figure_leaves_the_mean_open():
    assert math.isnan(over_seeds([Interval(0.5, 0.4, 0.6, 9), Interval(math.nan, math.nan, math.nan, 9)]).value)


@pytest.mark.parametrize("n", [4, 30, 1000])
def test_percentiles_widened_for_few_rows_reach_as_far_as_students_interval(n):
    # resampled means of normal values are about normal, with the variance of the sample, divided by n not n - 1
    reach = stats.norm.ppf(0.5 + widened(0.9, n) / 2) * math.sqrt((n - 1) / n)
    assert reach == pytest.approx(stats.t.ppf(0.95, n - 1))


def test_one_row_and_many_are_not_widened():
    assert widened(0.9, 1) == 0.9
    assert widened(0.9, 10**7) == pytest.approx(0.9, abs=1e-6)
    assert bootstrap(np.array([3.0])) == Interval(3.0, 3.0, 3.0, 1)


def test_bounds_that_pass_the_value_by_are_moved_to_it():
    assert enclosing(0.5, 0.6, 0.7, 3) == Interval(0.5, 0.5, 0.7, 3)
    assert enclosing(0.5, 0.2, 0.4, 3) == Interval(0.5, 0.2, 0.5, 3)
