from __future__ import annotations

import numpy as np
import pytest

from pipeline.concepts.alignment import (
    Null,
    alignment,
    cosines,
    permuted_evidence,
    random_alignment,
    random_separation,
)
from pipeline.concepts.cav import held_out_auroc
from pipeline.errors import DataError
from pipeline.statistics import auroc


def planted(strength: float, count: int = 120, dimension: int = 20):
    generator = np.random.default_rng(7)
    direction = generator.standard_normal(dimension)
    direction /= np.linalg.norm(direction)
    labels = np.arange(count) < count // 3
    features = generator.standard_normal((count, dimension))
    changes = strength * direction + 0.2 * generator.standard_normal((count, dimension))
    return features + labels[:, None] * changes, labels, direction, changes


def test_cosines_do_not_depend_on_lengths_and_are_unknown_for_no_change():
    found = cosines(np.array([3.0, 0.0]), np.array([[2.0, 0.0], [0.0, 5.0], [-1.0, -1.0], [0.0, 0.0]]))
    np.testing.assert_allclose(found, [1, 0, -np.sqrt(0.5), np.nan])


def test_alignment_is_the_mean_over_pairs_that_change_with_its_error():
    _, _, direction, changes = planted(1.0)
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
    features, labels, direction, changes = planted(3.0)
    separation, aligned = random_separation(direction, features, labels), random_alignment(direction, changes)
    assert separation.observed == auroc(features @ direction, labels).value
    assert separation.p_value == aligned.p_value == 1 / 201
    other = np.random.default_rng(9).standard_normal(20)
    assert random_separation(other, features, labels).p_value > 0.05
    assert random_alignment(other, changes).p_value > 0.05
    assert random_separation(-direction, features, labels).p_value == 1


def test_the_null_of_the_cosine_is_that_of_the_sphere():
    """With D dimensions, the cosine of a random direction with any fixed one has mean square 1 / D."""
    null = random_alignment(np.eye(25)[0], np.tile(np.eye(25)[3], (4, 1)), draws=4000, seed=2)
    np.testing.assert_allclose((null.draws**2).mean(), 1 / 25, rtol=0.08)
    assert len(null.draws) == 4000 and null.observed == 0 and null.p_value == 1
    again = random_alignment(np.eye(25)[0], np.tile(np.eye(25)[3], (4, 1)), draws=4000, seed=2)
    assert np.array_equal(null.draws, again.draws)


def test_random_directions_separate_whichever_way_they_point():
    features, labels, direction, _ = planted(3.0)
    draws = random_separation(direction, features, labels).draws
    assert draws.min() >= 0.5 and draws.max() < 1 and len(draws) == 200


def test_shuffled_labels_leave_chance_and_a_real_concept_stands_out():
    features, labels, _, _ = planted(3.0)
    null = permuted_evidence(features, labels, draws=30)
    assert null.observed == held_out_auroc(features, labels, "pattern").value > 0.9
    assert null.p_value == 1 / 31 and abs(null.draws.mean() - 0.5) < 0.05 and null.draws.std() > 0.02


def test_on_noise_the_p_value_of_shuffled_labels_is_not_small():
    generator = np.random.default_rng(3)
    values = [
        permuted_evidence(generator.standard_normal((40, 10)), np.arange(40) < 15, draws=15, seed=seed).p_value
        for seed in range(6)
    ]
    assert np.mean(values) > 0.25
