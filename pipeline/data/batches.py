"""Batches of a data set in a reproducible order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .dataset import AuditDataset, Sample


class Batch(NamedTuple):
    """Several samples.

    Attributes:
        x: float32 `[B, C, H, W]`.
        y: class ids `[B]`.
        index: positions in the data set `[B]`.
    """

    x: torch.Tensor
    y: torch.Tensor
    index: np.ndarray


class _Items(Dataset):
    def __init__(self, dataset: AuditDataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Sample]:
        return index, self.dataset[index]


def _collate(items: list[tuple[int, Sample]]) -> Batch:
    indices, samples = zip(*items, strict=True)
    return Batch(
        torch.stack([sample.x for sample in samples]),
        torch.tensor([sample.y for sample in samples]),
        np.array(indices),
    )


class Batches:
    """Iterable over batches of chosen rows.

    Args:
        dataset: where samples come from.
        indices: rows to visit, in this order unless shuffled.
        batch_size: rows in a batch; the last one may be smaller.
        shuffle_seed: None keeps the order; a number gives one order per (seed, epoch).
        workers: processes that read samples; 0 reads in this process.
    """

    def __init__(
        self,
        dataset: AuditDataset,
        indices: np.ndarray,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        workers: int = 0,
    ):
        self.dataset = dataset
        self.indices = np.asarray(indices)
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.workers = workers
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order = self.indices
        if self.shuffle_seed is not None:
            order = np.random.default_rng([self.shuffle_seed, self.epoch]).permutation(order)
        return iter(
            DataLoader(
                _Items(self.dataset),
                batch_size=self.batch_size,
                sampler=order.tolist(),
                collate_fn=_collate,
                num_workers=self.workers,
            )
        )
