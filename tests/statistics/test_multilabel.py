from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from pipeline.errors import DataError
from pipeline.statistics import bootstrap, exact_match, multilabel_macro_f1, wilson


@pytest.fixture
def tables() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    flags = rng.random((150, 4)) < [0.5, 0.3, 0.2, 0.1]
    return flags, np.where(rng.random((150, 4)) < 0.85, flags, ~flags)


def test_values_equal_sklearn(tables):
    flags, given = tables
    assert exact_match(flags, given) == wilson(round(150 * accuracy_score(flags, given)), 150)
    found = multilabel_macro_f1(flags, given)
    assert found.value == pytest.approx(f1_score(flags, given, average="macro")) and found.n == 150


def test_the_interval_of_the_mean_is_that_of_resampled_samples(tables):
    flags, given = tables

    def mean_f1(rows):
        return f1_score(rows[:, :4], rows[:, 4:], average="macro", zero_division=0)

    expected = bootstrap(np.concatenate(tables, axis=1).astype(int), mean_f1, resamples=400)
    found = multilabel_macro_f1(flags, given, resamples=4000)
    assert found.upper - found.lower == pytest.approx(expected.upper - expected.lower, rel=0.12)
    assert (found.upper + found.lower) / 2 == pytest.approx(found.value, abs=0.01)
    assert found == multilabel_macro_f1(flags, given, resamples=4000)


def test_labels_that_no_sample_has_are_left_out_and_nothing_is_nan(tables):
    flags, given = tables
    wider = [np.concatenate([each, np.zeros((150, 1), bool)], axis=1) for each in tables]
    wider[1][:5, 4] = True
    assert multilabel_macro_f1(*wider) == multilabel_macro_f1(flags, given)
    assert math.isnan(multilabel_macro_f1(flags & False, given).value)
    assert math.isnan(exact_match(flags[:0], given[:0]).value)


def test_a_label_that_few_have_is_left_out_of_resamples_without_it():
    flags = np.zeros((12, 2), bool)
    flags[:6, 0], flags[0, 1] = True, True
    assert multilabel_macro_f1(flags, flags)[:3] == (1, 1, 1)


def test_wrong_tables_are_named(tables):
    flags, given = tables
    for measure in (exact_match, multilabel_macro_f1):
        with pytest.raises(DataError, match=r"predicted must have .*\[N, 4\], not \(150, 3\)"):
            measure(flags, given[:, :3])
        with pytest.raises(DataError, match="flags has 150, predicted has 149"):
            measure(flags, given[1:])
        with pytest.raises(DataError, match=r"flags must have .*\[N, K\], not \(150,\)"):
            measure(flags[:, 0], given)
        with pytest.raises(DataError, match=r"flags must be 0 and 1.*2"):
            measure(flags * 2, given)
