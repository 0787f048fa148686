from __future__ import annotations

import numpy as np
import pytest

from pipeline.concepts.alignment import Null, alignment, cosines, random_alignment
from pipeline.errors import DataError


def planted(strength: float, count: int = 120, dimension: int = 20):
    generator = np.random.default_rng(7)
    direction = generator.standard_normal(dimension)
    direction /= np.linalg.norm(direction)
    return direction, strength * direction + 0.2 * generator.standard_normal((count, dimension))


def test_cosines_do_not_depend_on_lengths_and_are_unknown_for_no_change():
    found = cosines(np.array([3.0, 0.0]), np.array([[2.0, 0.0], [0.0, 5.0], [-1.0, -1.0], [0.0, 0.0]]))
    np.testing.assert_allclose(found, [1, 0, -np.sqrt(0.5), np.nan])


def test_alignment_is_the_mean_over_pairs_that_change_with_its_error():
    direction, changes = planted(1.0)
    changes = np.concatenate([changes, np.zeros((5, 20))])
    found = alignment(2 * direction, changes)
    values = changes[:120] @ direction / np.linalg.norm(changes[:120], axis=1)
    assert found.cosine.n == 120
    np.testing.assert_allclose(found.cosine.value, values.mean())
    np.testing.assert_allclose(found.standard_error, values.std(ddof=1) / np.sqrt(120))
    reach = (found.cosine.upper - found.cosine.lower) / 2
    np.testing.assert_allclose(reach, 1.96 * found.standard_error, rtol=0.15)
    assert found == alignment(direction, changes) and found != alignment(direction, changes, seed=1)


def test_without_a_pair_that_changes_there_is_no_alignment():
    assert np.isnan(alignment(np.ones(3), np.zeros((4, 3))).cosine.value)
    one = alignment(np.ones(3), np.ones((1, 3)))
    assert one.cosine.value == pytest.approx(1) and np.isnan(one.standard_error)
    with pytest.raises(DataError, match="No pair differs"):
        random_alignment(np.ones(3), np.zeros((4, 3)))


def test_the_observed_counts_among_the_draws():
    assert Null(0.9, np.array([0.5, 0.9, 0.95, 0.2])).p_value == 3 / 5
    assert Null(2.0, np.zeros(99)).p_value == 0.01


def test_a_planted_direction_beats_random_ones_and_a_random_one_does_not():
    direction, changes = planted(3.0)
    aligned = random_alignment(direction, changes)
    assert aligned.p_value == 1 / 201
    np.testing.assert_allclose(random_alignment(-3 * direction, changes).observed, aligned.observed)
    other = np.random.default_rng(9).standard_normal(20)
    assert random_alignment(other, changes).p_value > 0.05


def test_the_null_of_the_cosine_is_that_of_the_sphere():
    """With D dimensions, the cosine of a random direction with any fixed one has mean square 1 / D."""
    null = random_alignment(np.eye(25)[0], np.tile(np.eye(25)[3], (4, 1)), draws=4000, seed=2)
    np.testing.assert_allclose((null.draws**2).mean(), 1 / 25, rtol=0.08)
    assert len(null.draws) == 4000 and null.observed == 0 and null.p_value == 1
    again = random_alignment(np.eye(25)[0], np.tile(np.eye(25)[3], (4, 1)), draws=4000, seed=2)
    assert np.array_equal(null.draws, again.draws)
