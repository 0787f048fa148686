"""A data set that remembers the samples it gave last, so that several views of it decode each of them once."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from .dataset import AuditDataset, Sample


class Remembered:
    """A data set under the same protocol whose last samples are kept; everything else is the data set's own.

    Args:
        dataset: where samples come from.
        capacity: how many samples are kept; at least as many as one batch has.
    """

    def __init__(self, dataset: AuditDataset, capacity: int):
        self.dataset, self.capacity = dataset, capacity
        self._samples: OrderedDict[int, Sample] = OrderedDict()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self._samples.get(index)
        if sample is None:
            sample = self._samples[index] = self.dataset[index]
            if len(self._samples) > self.capacity:
                self._samples.popitem(last=False)
        return sample

    def __getattr__(self, name: str) -> Any:
        return getattr(self.dataset, name)
