"""Finished rows on disk, chunk by chunk, and their assembly into the feature store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.workspace.atomic import atomic_path
from pipeline.workspace.features import STORE_VERSION


class ChunkFolder:
    """Chunks of rows as NPZ files, each written atomically and bearing the key of what it was computed from.

    Args:
        folder: where chunks lie; chunks of another key are ignored.
        key: hash of model, data and settings.
        total: number of rows.
        size: rows of a chunk.
    """

    def __init__(self, folder: Path, key: str, total: int, size: int):
        self.folder, self.key, self.total, self.size = folder, key, total, size

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, rows) of every chunk."""
        for number, start in enumerate(range(0, self.total, self.size)):
            yield number, np.arange(start, min(start + self.size, self.total))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}-{self.key[:16]}.npz"

    def missing(self) -> list[tuple[int, np.ndarray]]:
        """Return the chunks that still have to be computed."""
        return [(number, rows) for number, rows in self if self.read(number, len(rows)) is None]

    def write(self, number: int, arrays: dict[str, np.ndarray]) -> None:
        """Store a chunk."""
        with atomic_path(self._path(number)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    def read(self, number: int, rows: int) -> dict[str, np.ndarray] | None:
        """Return a chunk, or None where it is absent or damaged."""
        try:
            with np.load(self._path(number), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except Exception:
            return None
        return arrays if all(len(array) == rows for array in arrays.values()) else None


def assemble(path: Path, chunks: ChunkFolder, layers: dict[str, str], attributes: dict[str, str]) -> None:
    """Write the feature store from all chunks: it appears complete, or not at all.

    Args:
        path: the HDF5 file.
        chunks: every chunk must be present.
        layers: name -> kind, from input to output.
        attributes: what the file was made from.
    """
    import h5py

    with atomic_path(path) as temporary:
        with h5py.File(temporary, "w") as file:
            for number, rows in chunks:
                for name, array in chunks.read(number, len(rows)).items():
                    if array.dtype.kind == "U":
                        array = np.char.encode(array, "utf-8")
                    _dataset(file, name, array, chunks.total)[rows[0] : rows[-1] + 1] = array
            group = file.require_group("layers")
            group.attrs["order"] = list(layers)
            for name, kind in layers.items():
                group[name].attrs["kind"] = kind
            file.attrs.update(attributes)
            file.attrs["version"] = STORE_VERSION
            file.attrs["complete"] = True


def _dataset(file, name: str, array: np.ndarray, total: int):
    import h5py

    if name in file:
        return file[name]
    kind = h5py.string_dtype() if array.dtype.kind == "S" else array.dtype
    shape = (total, *array.shape[1:])
    rows = max(1, min(total, 2**16 // max(1, int(np.prod(array.shape[1:])))))
    # not LZF: equal arrays come out of it as different bytes, and equal features would make all later stages stale
    options = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if array.ndim > 1 else {}
    return file.create_dataset(name, shape, kind, chunks=(rows, *array.shape[1:]), **options)
