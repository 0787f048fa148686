from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.statistics import holm


def rejected(p_values: list[float], level: float) -> set[int]:
    """Holm's procedure: from the smallest p value on, until one is too large."""
    found = set()
    for step, place in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        if p_values[place] > level / (len(p_values) - step):
            break
        found.add(place)
    return found


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.001, 0.004, 0.011, 0.013, 0.02, 0.03, 0.2, 0.9, 1.0]), min_size=1, max_size=12))
def test_adjusted_values_reject_what_the_procedure_rejects(p_values):
    adjusted = holm(np.array(p_values))
    for level in (0.01, 0.047, 0.1, 0.5):
        assert set(np.flatnonzero(adjusted <= level)) == rejected(p_values, level)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=20))
def test_adjusted_values_keep_the_order_and_lie_between_the_p_value_and_its_multiple(p_values):
    values = np.array(p_values)
    adjusted = holm(values)
    assert (adjusted >= values).all() and (adjusted <= np.minimum(1, len(values) * values)).all()
    order = np.argsort(values)
    assert (np.diff(adjusted[order]) >= 0).all()
    assert len(values) == 0 or adjusted.min() == min(1, len(values) * values.min())


def test_closed_form():
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.02])).tolist() == [0.02]
    assert holm(np.array([])).shape == (0,)


def test_what_was_not_tested_does_not_count():
    found = holm(np.array([np.nan, 0.01, np.nan, 0.04]))
    assert found[[1, 3]].tolist() == pytest.approx([0.02, 0.04]) and np.isnan(found[[0, 2]]).all()
    assert np.isnan(holm(np.array([np.nan]))).all()
