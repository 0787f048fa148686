from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.errors import DataError
from pipeline.statistics import mcnemar


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
