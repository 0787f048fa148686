from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import write_store

from pipeline.errors import DataError, StoreError
from pipeline.reveal import references as module
from pipeline.reveal.references import TopSamples, reference_samples

ROWS, NEURONS = 50, 7


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, NEURONS)).astype(np.float32)


@pytest.fixture
def store(tmp_path, values):
    store = write_store(tmp_path, {"a": values})
    store.labels = np.arange(ROWS) % 3
    return store


def sorted_rows(values: np.ndarray, count: int, rows: np.ndarray | None = None) -> np.ndarray:
    """Every neuron's rows by a sort of everything, the smaller row first among equals."""
    rows = np.arange(len(values)) if rows is None else rows
    return np.stack([rows[np.lexsort((rows, -column))][:count] for column in values.T])


@given(st.data())
def test_one_pass_over_blocks_in_any_order_finds_what_a_sort_of_everything_finds_ties_included(data):
    generator = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    total, neurons, count = (data.draw(st.integers(1, most)) for most in (60, 5, 12))
    values = generator.integers(-3, 4, (total, neurons)).astype(np.float32)
    rows = generator.permutation(1000)[:total]
    top = TopSamples(neurons, count)
    for part in np.array_split(np.arange(total), data.draw(st.integers(1, 8))):
        top.update(rows[part], values[part])
    found = top.result()
    assert np.array_equal(found.rows, sorted_rows(values, count, rows))
    value_of = dict(zip(rows.tolist(), values, strict=True))
    expected = [[value_of[row][neuron] for row in found.rows[neuron]] for neuron in range(neurons)]
    np.testing.assert_array_equal(found.values, expected)
    np.testing.assert_allclose(found.mean, values.mean(0), atol=1e-6)


def test_values_that_are_no_number_are_passed_over():
    top = TopSamples(2, 3)
    top.update(np.arange(4), np.array([[np.nan, 1], [2, 2], [np.nan, 3], [-5, 0]]))
    found = top.result()
    assert found.rows.tolist() == [[1, 3, -1], [2, 1, 0]]
    np.testing.assert_array_equal(found.values[0], [2, -5, np.nan])
    assert found.of(0).tolist() == [1, 3]


def test_nothing_seen_is_nothing_found():
    found = TopSamples(4, 3).result()
    assert found.rows.shape == found.values.shape == (4, 0)
    assert np.isnan(found.mean).all()


def test_no_reference_samples_cannot_be_asked_for():
    with pytest.raises(ValueError, match="at least one"):
        TopSamples(4, 0)


def test_memory_holds_one_block_and_the_best_samples(store, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 8)
    read = []
    whole = store.relevances
    store.relevances = lambda layer, condition, rows: read.append(len(rows)) or whole(layer, condition, rows)
    reference_samples(store, np.arange(ROWS), "a", 5)
    assert read == [8] * 6 + [2]


@pytest.mark.parametrize("block", [7, 1024])
def test_references_by_activation_are_the_samples_of_largest_activation(store, values, monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    rows = np.arange(5, 45)
    found = reference_samples(store, rows, "a", 6, by="activation")
    assert np.array_equal(found.rows, sorted_rows(values[rows], 6, rows))
    np.testing.assert_array_equal(found.values[2], np.sort(values[rows, 2])[::-1][:6])


def test_references_by_relevance_do_not_depend_on_the_size_of_a_samples_relevance(tmp_path, store, values):
    shares = values / np.abs(values).sum(1, keepdims=True)
    scales = np.random.default_rng(1).uniform(0.01, 10, (ROWS, 1)).astype(np.float32)
    scaled = write_store(tmp_path / "scaled", {"a": values * scales})
    for each in (store, scaled):
        found = reference_samples(each, np.arange(ROWS), "a", 6)
        assert np.array_equal(found.rows, sorted_rows(shares, 6))
        np.testing.assert_allclose(found.mean, shares.mean(0), atol=1e-6)


def test_references_of_a_class_are_its_own_samples(store, values):
    found = reference_samples(store, np.arange(40), "a", 4, by="activation", class_id=1)
    rows = np.arange(1, 40, 3)
    assert np.array_equal(found.rows, sorted_rows(values[rows], 4, rows))


def test_with_rows_of_labels_a_sample_belongs_to_every_class_that_is_present(store, values):
    store.labels = np.stack([np.ones(ROWS), np.arange(ROWS) % 2], axis=1)
    found = reference_samples(store, np.arange(ROWS), "a", 4, by="activation", class_id=1)
    rows = np.arange(1, ROWS, 2)
    assert np.array_equal(found.rows, sorted_rows(values[rows], 4, rows))


def test_only_wanted_neurons_are_returned_with_shares_of_the_whole_layer(store):
    whole = reference_samples(store, np.arange(ROWS), "a", 4)
    some = reference_samples(store, np.arange(ROWS), "a", 4, neurons=[5, 2])
    assert np.array_equal(some.rows, whole.rows[[5, 2]])
    np.testing.assert_array_equal(some.values, whole.values[[5, 2]])


def test_fewer_samples_than_asked_for_are_all_returned(store):
    found = reference_samples(store, np.arange(3), "a", 40)
    assert found.rows.shape == (NEURONS, 3)
    assert (np.sort(found.rows, axis=1) == np.arange(3)).all()


def test_the_condition_chooses_whose_relevance(store, values):
    store.relevances = lambda layer, condition, rows: values[rows] * (-1 if condition == "predicted" else 1)
    largest = [
        reference_samples(store, np.arange(ROWS), "a", 1, condition=name).values for name in ("label", "predicted")
    ]
    shares = values / np.abs(values).sum(1, keepdims=True)
    np.testing.assert_allclose(largest[0][:, 0], shares.max(0), rtol=1e-6)
    np.testing.assert_allclose(largest[1][:, 0], (-shares).max(0), rtol=1e-6)


def test_a_class_without_samples_and_an_unknown_layer_are_refused(store):
    with pytest.raises(DataError, match="no samples of class 7"):
        reference_samples(store, np.arange(ROWS), "a", 4, class_id=7)
    with pytest.raises(DataError, match="no samples of any class"):
        reference_samples(store, np.arange(0), "a", 4)
    with pytest.raises(StoreError, match="'?b"):
        reference_samples(store, np.arange(ROWS), "b", 4)
