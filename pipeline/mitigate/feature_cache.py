"""What a frozen trunk says about the training samples, computed once and kept while the head trains."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.data.batches import Batch, Batches
from pipeline.data.dataset import AuditDataset, Sample
from pipeline.models.split import Split, split_network

from .interface import Problem

MEMORY_MEGABYTES = 1024
"""What is larger lies in a file without a name, which disappears with the process."""
SHOWN = 4
"""Samples on which a network and its parts are compared."""


class NoRoom(ValueError):
    """The features fit neither into the memory that they may take nor onto the disk; the message says how large."""


class CachedRows:
    """A data set whose images are replaced by features `[D]`; only rows that were computed can be asked for.

    Args:
        ids: of all samples.
        rows: the rows that will be computed.
        width: D.
        folder: where the features lie if they do not fit into memory.

    Raises:
        NoRoom: they do not fit onto the disk either.
    """

    def __init__(self, ids: list[str], rows: np.ndarray, width: int, folder: Path):
        self.ids = ids
        self.place = {int(row): place for place, row in enumerate(rows)}
        self.features = _storage(len(rows), width, folder)
        self.labels: dict[int, int | np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        features = torch.from_numpy(self.features[self.place[index]])
        return Sample(features, self.labels[index], self.ids[index])

    def write(self, batch: Batch, features: torch.Tensor) -> None:
        """Keep the features `[B, D]` and labels of a batch."""
        self.features[[self.place[int(row)] for row in batch.index]] = features.cpu().numpy()
        self.labels |= {int(row): y.numpy() if y.ndim else int(y) for row, y in zip(batch.index, batch.y, strict=True)}


def _storage(rows: int, width: int, folder: Path) -> np.ndarray:
    size = rows * width * np.dtype(np.float32).itemsize
    if size <= MEMORY_MEGABYTES * 1_000_000:
        return np.zeros((rows, width), np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    if size > shutil.disk_usage(folder).free / 2:
        raise NoRoom(f"what they pass on takes {size / 1e9:.1f} GB, more than half of what is free in {folder}")
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, np.float32, "w+", shape=(rows, width))


def split_trained(model: nn.Module, problem: Problem, rows: np.ndarray, layers: Iterable[str]) -> Split:
    """Return the frozen and the trained part of a model, which is in the mode in which it trains.

    Raises:
        CannotSplit: no part could be computed once.
    """
    shown = np.resize(rows, max(2, min(SHOWN, len(rows))))
    x = torch.stack([problem.dataset[int(row)].x for row in shown]).to(problem.device)
    return split_network(model, x, layers)


def cache_features(split: Split, problem: Problem, rows: np.ndarray, batch_size: int, label: str) -> CachedRows:
    """Return what the trunk says about rows of the data set, as a data set.

    Batches are those of the sorted rows, whatever the order of the training, so that a training that goes on after it
    was killed finds the same values.

    Raises:
        NoRoom: there is too little memory and disk.
    """
    folder = problem.state_path.parent if problem.state_path else Path(tempfile.gettempdir())
    dataset: AuditDataset = problem.dataset
    cached = CachedRows(dataset.table["id"].tolist(), rows, split.head.width, folder)
    batches = Batches(dataset, rows, batch_size)
    with torch.no_grad():
        for batch in problem.reporter.track(batches, f"{label}, features of the frozen layers"):
            cached.write(batch, split.trunk(batch.x.to(problem.device)))
    return cached
