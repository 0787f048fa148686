"""Digits in two classes, small (0 to 4) and large (5 to 9): a task whose background can be made to tell the class."""

from __future__ import annotations

import numpy as np

from pipeline.config.data import Mnist5kData
from pipeline.data.memory import ArrayDataset, make_table
from pipeline.data.mnist5k import load


def small_or_large(**params) -> ArrayDataset:
    """Return the 5,000 digits of `mnist5k`; `params` are keys of that kind of data set."""
    digits = load(Mnist5kData(kind="mnist5k", **params))
    table = digits.table
    large = (table["label"].to_numpy() >= 5).astype(np.int64)
    pixels = np.stack([digits.pixels_at(row) for row in range(len(digits))])
    return ArrayDataset(pixels, make_table(table["id"].tolist(), large, table["split"].tolist()), ("small", "large"))
