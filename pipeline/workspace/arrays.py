"""Named arrays in one HDF5 file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .atomic import atomic_path


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays atomically; "/" in a name makes groups, texts are stored as UTF-8.

    Args:
        path: of the HDF5 file.
        arrays: name -> numbers or texts of any shape.
    """
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for name, values in arrays.items():
            values = np.asarray(values)
            if values.dtype.kind in "UO":
                file.create_dataset(name, data=values.astype(object), dtype=h5py.string_dtype())
            else:
                file.create_dataset(name, data=values, compression="gzip" if values.size > 1000 else None)
