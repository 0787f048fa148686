from __future__ import annotations

import pandas as pd
import torch

from pipeline.data.dataset import Sample
from pipeline.data.remembered import Remembered
from pipeline.data.worlds import WorldView


class Counting:
    """A data set that counts how often each sample is decoded."""

    classes = ("a", "b")
    shape = (1, 4, 4)

    def __init__(self, count: int = 8):
        ids = [f"s{row}" for row in range(count)]
        self.table = pd.DataFrame({"id": ids, "label": [row % 2 for row in range(count)], "split": "test"})
        self.decoded = [0] * count

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Sample:
        self.decoded[index] += 1
        return Sample(torch.full((1, 4, 4), index / 10), index % 2, f"s{index}")

    def roi_mask(self, index: int):
        return index


def test_a_sample_is_decoded_once_for_all_views_of_a_batch():
    counting = Counting()
    once = Remembered(counting, 4)
    views = [WorldView(once, None, world, 0) for world in ("asis", "clean", "attacked")]
    for rows in ([0, 1, 2, 3], [4, 5, 6, 7]):
        for view in views:
            for row in rows:
                assert torch.equal(view[row].x, torch.full((1, 4, 4), row / 10))
    assert counting.decoded == [1] * 8


def test_no_more_samples_are_kept_than_asked_for():
    counting = Counting()
    once = Remembered(counting, 2)
    for row in (0, 1, 2, 0):
        once[row]
    assert counting.decoded[0] == 2 and counting.decoded[2] == 1


def test_everything_else_is_the_data_sets_own():
    counting = Counting()
    once = Remembered(counting, 2)
    assert (
        len(once) == 8 and once.classes == counting.classes and once.roi_mask(3) == 3 and once.table is counting.table
    )
