from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.data.batches import Batches, split_rows, stream


def visited(batches: Batches) -> list[int]:
    return [int(index) for batch in batches for index in batch.index]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_hold_the_chosen_rows_in_order_the_last_one_smaller(small_dataset, workers):
    dataset, rows = small_dataset(), np.array([7, 3, 50, 3, 11])
    batches = list(Batches(dataset, rows, 2, workers=workers))
    assert [len(batch.y) for batch in batches] == [2, 2, 1]
    assert len(Batches(dataset, rows, 2)) == 3
    for batch in batches:
        assert batch.x.shape == (len(batch.y), *dataset.shape) and batch.y.dtype == torch.int64
        for x, y, index in zip(batch.x, batch.y, batch.index, strict=True):
            assert torch.equal(x, dataset[index].x) and int(y) == dataset[index].y
    assert visited(Batches(dataset, rows, 2)) == rows.tolist()


def test_without_rows_there_is_no_batch(small_dataset):
    batches = Batches(small_dataset(), np.array([], dtype=int), 4)
    assert len(batches) == 0 and list(batches) == []


def test_an_order_belongs_to_seed_and_epoch_and_has_every_row_once(small_dataset):
    rows = np.arange(5, 45)
    orders = {}
    for seed, epoch in [(0, 1), (0, 2), (1, 1)]:
        batches = Batches(small_dataset(), rows, 8, shuffle_seed=seed)
        batches.epoch = epoch
        orders[seed, epoch] = visited(batches)
        assert orders[seed, epoch] == visited(batches), "the same epoch twice is the same order"
        assert sorted(orders[seed, epoch]) == rows.tolist()
    assert len({tuple(order) for order in orders.values()}) == 3


def test_the_order_does_not_depend_on_the_global_generator(small_dataset):
    orders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        orders.append(visited(Batches(small_dataset(), np.arange(30), 8, shuffle_seed=0)))
    assert orders[0] == orders[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_yields_the_batches_that_were_asked_for(small_dataset, workers):
    wanted = [np.array([4, 1]), np.array([9]), np.array([4, 5, 6])]
    found = list(stream(small_dataset(), wanted, workers=workers))
    assert [batch.index.tolist() for batch in found] == [rows.tolist() for rows in wanted]


def test_rows_are_split_in_order_the_last_part_smaller():
    assert [part.tolist() for part in split_rows(np.array([5, 3, 8, 1, 2]), 2)] == [[5, 3], [8, 1], [2]]
    assert split_rows(np.array([], dtype=int), 2) == []


@pytest.mark.parametrize("make", [np.array, torch.tensor, list], ids=["numpy", "torch", "list"])
def test_several_labels_are_stacked_as_rows(small_dataset, make):
    class SeveralLabels(type(small_dataset())):
        def __getitem__(self, index):
            return super().__getitem__(index)._replace(y=make([index % 2, 0, 1]))

    dataset = small_dataset()
    dataset.__class__ = SeveralLabels
    (batch,) = Batches(dataset, np.array([2, 3, 5]), 4)
    assert batch.y.tolist() == [[0, 0, 1], [1, 0, 1], [1, 0, 1]]
    assert batch.y.dtype == torch.int64
