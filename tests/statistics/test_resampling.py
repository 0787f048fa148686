from __future__ import annotations

import numpy as np
import pytest

from pipeline.statistics.resampling import CHUNK_VALUES, resampled_counts


def all_counts(*arguments) -> np.ndarray:
    return np.concatenate(list(resampled_counts(*arguments)))


@pytest.mark.parametrize("n", [1, 7, 300, CHUNK_VALUES + 1])
def test_every_resample_has_as_many_rows_as_there_are(n):
    counts = all_counts(n, 5, 0)
    assert counts.shape == (5, n) and (counts.sum(1) == n).all() and counts.min() >= 0


def test_counts_are_multinomial():
    counts = all_counts(20, 20_000, 0)
    assert counts.mean(0) == pytest.approx(np.ones(20), abs=0.03)
    expected = np.eye(20) - np.full((20, 20), 1 / 20)
    assert np.cov(counts.T) == pytest.approx(expected, abs=0.04)


def test_strata_keep_their_sizes_and_do_not_know_each_other():
    strata = np.array(["b", "a", "a", "c", "b", "a"])
    counts = all_counts(6, 20_000, 0, strata)
    for each in "abc":
        assert (counts[:, strata == each].sum(1) == (strata == each).sum()).all()
    assert (counts[:, 3] == 1).all()
    assert counts.mean(0) == pytest.approx(np.ones(6), abs=0.03)
    assert np.cov(counts[:, 0], counts[:, 1])[0, 1] == pytest.approx(0, abs=0.02)


def test_the_seed_decides_and_chunks_do_not_repeat_each_other():
    n = CHUNK_VALUES // 3
    counts = all_counts(n, 7, 1)
    assert np.array_equal(counts, all_counts(n, 7, 1)) and not np.array_equal(counts, all_counts(n, 7, 2))
    assert len({row.tobytes() for row in counts}) == 7
