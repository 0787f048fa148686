from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.data import SplitConfig
from pipeline.data.splits import assign_splits, first_rows, refuse_group_column
from pipeline.errors import ConfigError

NAMES = ("train", "val", "test")
shares = st.tuples(st.floats(0.05, 0.45), st.floats(0.05, 0.45))


def rows(n):
    return [f"id{row}" for row in range(n)]


def counts(splits, chosen):
    return np.array([(splits[chosen] == name).sum() for name in NAMES])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), shares, st.integers(0, 5))
def test_class_counts_are_within_one_of_their_share(labels, val_test, seed):
    labels, (val, test) = np.array(labels), val_test
    splits = assign_splits(rows(len(labels)), labels, None, SplitConfig(val=val, test=test, seed=seed))
    for label in np.unique(labels):
        here = counts(splits, labels == label)
        exact = here.sum() * np.array([1 - val - test, val, test])
        assert here.sum() == (labels == label).sum()
        if here.sum() >= 3:
            assert here.min() >= 1
        if exact.min() >= 0.5:
            assert np.abs(here - exact).max() < 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_order_of_rows_does_not_matter(seed, grouped):
    rng = np.random.default_rng(seed)
    n = 40
    ids, labels = np.array(rows(n)), rng.integers(0, 3, n)
    names = [f"g{each}" if each else "" for each in rng.integers(0, 12, n)]
    groups = np.array(names, dtype=object) if grouped else None
    order = rng.permutation(n)
    config = SplitConfig(seed=seed)
    splits = assign_splits(ids.tolist(), labels, groups, config)
    again = assign_splits(ids[order].tolist(), labels[order], groups[order] if grouped else None, config)
    assert np.array_equal(again, splits[order])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 25), st.integers(1, 90), shares)
def test_groups_stay_whole_and_shares_are_met_within_one_group(seed, n_groups, n, val_test):
    rng = np.random.default_rng(seed)
    # A few groups are much larger than the others.
    weights = rng.pareto(1.0, n_groups) + 0.1
    groups = np.array([f"g{each}" for each in rng.choice(n_groups, n, p=weights / weights.sum())])
    labels, (val, test) = rng.integers(0, 3, n), val_test
    splits = assign_splits(rows(n), labels, groups, SplitConfig(val=val, test=test, seed=seed))
    assert all(len(set(splits[groups == group])) == 1 for group in set(groups))
    largest = max((groups == group).sum() for group in set(groups))
    exact = n * np.array([1 - val - test, val, test])
    assert np.abs(counts(splits, slice(None)) - exact).max() <= largest + 1e-6


def test_groups_are_stratified_where_they_allow_it():
    groups = np.repeat([f"g{each}" for each in range(200)], 2)
    labels = np.repeat((np.arange(200) % 10 == 0).astype(int), 2)
    splits = assign_splits(rows(400), labels, groups, SplitConfig(val=0.15, test=0.2))
    assert np.abs(counts(splits, labels == 1) - 40 * np.array([0.65, 0.15, 0.2])).max() <= 2
    assert np.abs(counts(splits, labels == 0) - 360 * np.array([0.65, 0.15, 0.2])).max() <= 2


def test_rare_class_of_three_groups_reaches_every_split():
    groups = [f"g{row // 2}" for row in range(100)]
    labels = np.array([1] * 6 + [0] * 94)
    for seed in range(5):
        splits = assign_splits(rows(100), labels, groups, SplitConfig(seed=seed))
        assert counts(splits, labels == 1).tolist() == [2, 2, 2]


def test_shares_are_met_even_if_every_group_is_a_class():
    groups = np.repeat([f"g{each}" for each in range(50)], 2)
    splits = assign_splits(rows(100), np.arange(100) // 2, groups, SplitConfig(val=0.15, test=0.2))
    assert np.abs(counts(splits, slice(None)) - [65, 15, 20]).max() <= 2


def test_rows_without_a_group_are_groups_of_their_own():
    splits = assign_splits(rows(100), np.zeros(100, int), [""] * 100, SplitConfig(val=0.2, test=0.2))
    assert counts(splits, slice(None)).tolist() == [60, 20, 20]


def test_seed_changes_the_draw_and_nothing_else_does():
    labels = np.arange(200) % 2
    first, again, other = (
        assign_splits(rows(200), labels, None, SplitConfig(seed=seed)).tolist() for seed in (0, 0, 1)
    )
    assert first == again and first != other


def test_draw_does_not_follow_the_order_of_ids():
    splits = assign_splits(rows(300), np.zeros(300, int), None, SplitConfig(val=0.3, test=0.3))
    assert all(20 < (splits[part] == "val").sum() < 40 for part in (slice(0, 100), slice(100, 200), slice(200, 300)))


def test_shares_must_leave_something_to_train_on():
    with pytest.raises(ConfigError, match="data.split: val 0.5 . test 0.5"):
        assign_splits(["a"], np.array([0]), None, SplitConfig(val=0.5, test=0.5))


def test_first_rows_of_each_split_and_class():
    splits = np.array(["train", "val", "train", "train", "train", "val", "train"])
    labels = np.array([0, 0, 1, 0, 0, 0, 1])
    assert first_rows(labels, splits, 1).tolist() == [0, 1, 2]
    assert first_rows(labels, splits, 2).tolist() == [0, 1, 2, 3, 5, 6]
    assert first_rows(labels, splits, 99).tolist() == list(range(7))


def test_group_column_is_refused_where_there_are_no_columns():
    refuse_group_column(SplitConfig(), "digits")
    with pytest.raises(ConfigError, match="'patient'.*'digits'.*kind: table"):
        refuse_group_column(SplitConfig(group_column="patient"), "digits")
