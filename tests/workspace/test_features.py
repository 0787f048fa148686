from __future__ import annotations

import os

import h5py
import numpy as np
import pytest
from tiny import write_store

from pipeline.errors import StoreError
from pipeline.workspace.features import FeatureStore, _read_rows

COUNT = 150


@pytest.fixture
def values():
    return np.random.default_rng(0).standard_normal((COUNT, 5)).astype(np.float16)


@pytest.fixture
def store(tmp_path, values):
    heatmaps = np.random.default_rng(1).standard_normal((COUNT, 6, 4)).astype(np.float16)
    return write_store(tmp_path, {"block.relu1": values, "block.relu2": -values, "a": values}, heatmaps)


def test_layers_are_in_the_order_of_the_network_not_of_the_alphabet(store):
    assert store.layers == ("block.relu1", "block.relu2", "a")
    assert store.kinds == dict.fromkeys(store.layers, "activation")


def test_ids_and_labels_are_read_as_text_and_numbers(store):
    assert store.ids.tolist() == [f"s{row}" for row in range(COUNT)]
    assert store.labels.tolist() == [0] * COUNT
    assert store.logits.shape == (COUNT, 2)


@pytest.mark.parametrize("rows", [[3], [140, 2, 2, 77], range(COUNT), []], ids=["one", "any order", "all", "none"])
def test_rows_are_returned_as_asked_for(store, values, rows):
    rows = np.array(rows, dtype=int)
    found = store.relevances("block.relu2", rows=rows)
    assert found.dtype == np.float32
    assert np.array_equal(found, -values[rows].astype(np.float32))
    assert np.array_equal(store.heatmaps("label", rows), store.heatmaps("label")[rows])


def test_near_rows_are_read_together_and_distant_ones_apart(tmp_path):
    """Rows of 64 KB: only neighbours are near, and all 600 take several slabs."""
    values = np.repeat(np.arange(600, dtype=np.float16), 2**15).reshape(600, 2**15)
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=values, chunks=(1, 2**15))
        reads = []

        class Counted:
            dtype, shape = file["x"].dtype, file["x"].shape

            def __getitem__(self, rows):
                reads.append((rows.start, rows.stop))
                return file["x"][rows]

        rows = np.array([8, 590, 0, 9, 1, 8])
        assert np.array_equal(_read_rows(Counted(), rows), values[rows])
        assert reads == [(0, 2), (8, 10), (590, 591)]
        reads.clear()
        assert np.array_equal(_read_rows(Counted(), np.arange(600)), values)
        assert max(stop - start for start, stop in reads) * 2**16 <= 2**24


def test_a_row_that_is_not_there_is_an_error(store):
    for row in (COUNT, -1):
        with pytest.raises(IndexError):
            store.heatmaps("label", np.array([0, row]))


def test_the_store_is_read_by_processes_that_were_forked_from_one_that_read_it(store, values):
    store.activations("a")
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        ok = np.array_equal(store.activations("a", rows=np.array([7])), values[[7]].astype(np.float32))
        os.write(write, b"same" if ok else b"other")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"same"


def test_a_missing_store_names_the_file_and_the_next_step(tmp_path):
    with pytest.raises(StoreError, match=r"features\.h5 cannot be used: it is missing. Start precompute again"):
        FeatureStore(tmp_path / "features.h5")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_store_names_the_file_and_the_next_step(store, share):
    content = store.path.read_bytes()
    store.path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(StoreError, match=r"features\.h5 cannot be used: .*cut off or damaged.*Start precompute again"):
        FeatureStore(store.path)


@pytest.mark.parametrize("change", [{"complete": False}, {"version": 1}, {"version": 99}])
def test_an_incomplete_store_or_one_of_another_version_is_refused(store, change):
    with h5py.File(store.path, "a") as file:
        file.attrs.update(change)
    with pytest.raises(StoreError, match="incomplete or of another version"):
        FeatureStore(store.path)


def test_an_unknown_layer_gets_the_nearest_name_and_all_stored_ones(store):
    with pytest.raises(StoreError, match=r"'block.relu3'.*Did you mean 'block.relu[12]'\? Stored: a, block.relu1"):
        store.activations("block.relu3")


def test_a_condition_that_was_not_computed_is_named_with_the_stored_ones(store):
    with h5py.File(store.path, "a") as file:
        del file["heatmaps/predicted"], file["layers/a/relevance_predicted"]
    with pytest.raises(StoreError, match="'predicted' under heatmaps. Stored: label. .*precompute.conditions"):
        store.heatmaps("predicted")
    with pytest.raises(StoreError, match="'relevance_predicted' under layers/a.*precompute.conditions"):
        store.relevances("a", "predicted")
