from __future__ import annotations

import numpy as np
from sklearn.metrics import balanced_accuracy_score

from pipeline.concepts.estimators.search import balanced_accuracy, best_strength, stratified_folds


def test_both_groups_count_the_same_however_many_they_are():
    generator = np.random.default_rng(0)
    decisions, labels = generator.standard_normal((50, 3)), np.arange(50) < 5
    expected = [balanced_accuracy_score(labels, decisions[:, i] > 0) for i in range(3)]
    assert balanced_accuracy(decisions, labels).tolist() == expected


def test_of_equal_strengths_the_first_wins():
    scores = [np.array([0.5, 0.9, 0.7]), np.array([0.7, 0.5, 0.7])]
    assert best_strength((1.0, 2.0, 3.0), scores) == 2.0
    assert best_strength((1.0, 2.0, 3.0), [np.array([0.5, 0.5, 0.5])]) == 1.0


def test_every_sample_is_held_out_once_and_groups_are_spread():
    labels = np.arange(53) < 11
    folds = stratified_folds(labels, seed=3)
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(53))
    assert [labels[held_out].sum() for _, held_out in folds].count(2) == 4
    assert all(not set(fitted) & set(held_out) for fitted, held_out in folds)
    assert len(stratified_folds(np.arange(9) < 3, 0)) == 3
    assert stratified_folds(np.arange(9) < 1, 0) == []
