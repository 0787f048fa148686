"""What the statistics ask of their inputs."""

from __future__ import annotations

import numpy as np

from ..errors import DataError


def equal_lengths(**arrays: np.ndarray) -> int:
    """Return the common number of rows; raise DataError, naming every length, when they differ."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        described = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise DataError(f"Each array needs one row per sample, but {described}. Pass arrays of the same samples.")
    return next(iter(lengths.values()))


def binary(name: str, values: np.ndarray) -> np.ndarray:
    """Return the values as booleans `[N]`; raise DataError for anything but 0, 1, False and True."""
    values = np.asarray(values)
    wrong = ~np.isin(values, (0, 1))
    if values.ndim != 1 or wrong.any():
        found = f"{values[wrong].flat[0]!r}" if wrong.any() else f"the shape {values.shape}"
        raise DataError(f"{name} must be a row of 0 and 1 (or booleans), not {found}. Compare with one class first.")
    return values.astype(bool)


def binary_table(name: str, values: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Return the values as booleans `[N, K]`; raise DataError for other shapes and other values than 0 and 1."""
    values = np.asarray(values)
    wrong = ~np.isin(values, (0, 1))
    if values.ndim != 2 or (columns is not None and values.shape[1] != columns):
        wanted = "K" if columns is None else columns
        raise DataError(f"{name} must have a row per sample and a column per label, [N, {wanted}], not {values.shape}.")
    if wrong.any():
        raise DataError(f"{name} must be 0 and 1 (or booleans), not {values[wrong].flat[0]!r}.")
    return values.astype(bool)
