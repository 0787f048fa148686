"""Batches of a data set in a reproducible order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .dataset import AuditDataset, Sample


class Batch(NamedTuple):
    """Several samples.

    Attributes:
        x: float32 `[B, C, H, W]` (or signals `[B, C, T]`).
        y: class ids `[B]`, or one row per sample that says which classes are present `[B, K]`.
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
        torch.from_numpy(np.array([np.asarray(sample.y) for sample in samples])),
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
        order: epoch -> rows to visit, instead of `indices` or their permutation; some may come twice, others never.
        part: (number, of): of every batch only each of-th row, from that number on; where nothing is left, the first.
    """

    def __init__(
        self,
        dataset: AuditDataset,
        indices: np.ndarray,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        workers: int = 0,
        order: Callable[[int], np.ndarray] | None = None,
        part: tuple[int, int] = (0, 1),
    ):
        self.dataset = dataset
        self.part = part
        self.order = order
        self.indices = np.asarray(indices if order is None else order(0))
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.workers = workers
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order = self.indices if self.order is None else np.asarray(self.order(self.epoch))
        if len(order) != len(self.indices):
            raise ValueError(f"order gave {len(order)} rows in epoch {self.epoch} and {len(self.indices)} before")
        if self.order is None and self.shuffle_seed is not None:
            order = np.random.default_rng([self.shuffle_seed, self.epoch]).permutation(order)
        number, of = self.part
        whole = split_rows(order, self.batch_size)
        parts = [rows[number::of] if len(rows) > number else rows[:1] for rows in whole]
        return stream(self.dataset, parts, workers=self.workers)

    def count(self, step: int) -> tuple[int, int]:
        """Return how many rows of a batch belong to this part, and how many the batch has."""
        number, of = self.part
        size = min(self.batch_size, len(self.indices) - step * self.batch_size)
        return len(range(number, size, of)), size


def split_rows(rows: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Return the rows of each batch, in order; the last one may be smaller."""
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def stream(dataset: AuditDataset, batches: Sequence[np.ndarray], *, workers: int = 0) -> Iterator[Batch]:
    """Return an iterator over the batches that hold the given rows, with one set of worker processes for all of them.

    Args:
        dataset: where samples come from.
        batches: the rows of each batch.
        workers: processes that read samples, each up to two batches ahead; 0 reads in this process.
    """
    return iter(
        DataLoader(
            _Items(dataset),
            batch_sampler=[rows.tolist() for rows in batches],
            collate_fn=_collate,
            num_workers=workers,
        )
    )
