"""Reference samples of neurons: those that activate a neuron most, or on which it carries most of the relevance.

Activation maximisation by samples, and relevance maximisation (Achtibat et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.errors import DataError
from pipeline.workspace.features import FeatureStore

from .spaces import BLOCK, normalize_rows

By = Literal["activation", "relevance"]
NONE = -1


@dataclass(frozen=True)
class References:
    """Samples with the largest values of every neuron, the largest first.

    Attributes:
        rows: `[C, k]`, rows of the store; -1 where there are fewer than k samples with a number.
        values: `[C, k]`, float32; NaN there.
        mean: `[C]`, mean value over all samples that were seen, float64; NaN where there was none.
    """

    rows: np.ndarray
    values: np.ndarray
    mean: np.ndarray

    def of(self, neuron: int) -> np.ndarray:
        """Return the rows of one neuron, at most k, the best first."""
        return self.rows[neuron][self.rows[neuron] != NONE]


class TopSamples:
    """Keeps the `count` largest values of every neuron in one pass over samples, in memory of `[C, count]`.

    Of equal values the smaller row wins, so that the result depends neither on blocks nor on the order of samples.
    Values that are no number are passed over.

    Args:
        neurons: C.
        count: samples kept of each neuron, at least 1.
    """

    def __init__(self, neurons: int, count: int):
        if count < 1:
            raise ValueError(f"count is {count}; at least one reference sample is needed.")
        self._values = np.full((neurons, count), -np.inf, dtype=np.float32)
        self._rows = np.full((neurons, count), np.iinfo(np.int64).max)
        self._sums = np.zeros(neurons)
        self._seen = 0

    def update(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Take in values `[n, C]` of samples; each row of the store may come once."""
        values, rows = np.asarray(values, dtype=np.float32), np.asarray(rows, dtype=np.int64)
        self._sums += values.sum(0, dtype=np.float64)
        self._seen += len(rows)
        worst, last = self._values[:, -1], self._rows[:, -1]
        better = (values > worst) | ((values == worst) & (rows[:, None] < last))
        neurons, samples = np.nonzero(better.T)
        if not len(neurons):
            return
        # only a few of many samples get in, so they are packed together before anything is sorted
        changed, first, counts = np.unique(neurons, return_index=True, return_counts=True)
        count = self._values.shape[1]
        pool = np.full((len(changed), count + counts.max()), -np.inf, dtype=np.float32)
        owner = np.full(pool.shape, np.iinfo(np.int64).max)
        pool[:, :count], owner[:, :count] = self._values[changed], self._rows[changed]
        place = np.repeat(np.arange(len(changed)), counts)
        column = count + np.arange(len(neurons)) - np.repeat(first, counts)
        pool[place, column], owner[place, column] = values[samples, neurons], rows[samples]
        order = np.lexsort((owner, -pool))[:, :count]
        self._values[changed] = np.take_along_axis(pool, order, 1)
        self._rows[changed] = np.take_along_axis(owner, order, 1)

    def result(self) -> References:
        """Return what was found so far, with k = count, or the number of samples where there were fewer."""
        kept = slice(min(self._values.shape[1], self._seen))
        missing = self._rows[:, kept] == np.iinfo(np.int64).max
        return References(
            np.where(missing, NONE, self._rows[:, kept]),
            np.where(missing, np.float32(np.nan), self._values[:, kept]),
            self._sums / self._seen if self._seen else np.full(len(self._sums), np.nan),
        )


def reference_samples(
    store: FeatureStore,
    rows: np.ndarray,
    layer: str,
    count: int = 40,
    *,
    by: By = "relevance",
    condition: str = "label",
    class_id: int | None = None,
    neurons: Sequence[int] | None = None,
) -> References:
    """Return the reference samples of the neurons of a layer, in one pass over the store, block by block.

    Args:
        store: activations (pooled by max) and relevances (summed over positions).
        rows: samples to choose from.
        layer: name of a stored layer.
        count: samples for each neuron.
        by: "activation" takes the largest activation, "relevance" the relevance as a share of the sum of magnitudes
            over all neurons of the layer, so that samples with large logits do not stand for every neuron.
        condition: whose relevance is read; without effect on activations.
        class_id: only samples of this class; with rows of labels those in which it is present.
        neurons: channels that are wanted, in this order; None means all.

    Raises:
        DataError: there is no sample to choose from.
        StoreError: the layer or the condition is not stored.
    """
    rows = np.asarray(rows, dtype=np.int64)
    if class_id is not None:
        labels = store.labels[rows]
        rows = rows[labels == class_id if labels.ndim == 1 else labels[:, class_id] > 0]
    if not len(rows):
        whose = "any class" if class_id is None else f"class {class_id}"
        raise DataError(
            f"there are no samples of {whose} to choose reference samples for layer '{layer}' from. "
            "Choose a class that occurs in the training or validation split."
        )
    found: TopSamples | None = None
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        if by == "activation":
            values = store.activations(layer, "max", block)
        else:
            values = normalize_rows(store.relevances(layer, condition, block))
        values = values if neurons is None else values[:, list(neurons)]
        found = found or TopSamples(values.shape[1], count)
        found.update(block, values)
    return found.result()
