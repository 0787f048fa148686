"""Finished rows on disk, chunk by chunk, and their assembly into one HDF5 file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import StoreError
from pipeline.workspace.atomic import atomic_path
from pipeline.workspace.features import STORE_VERSION

if TYPE_CHECKING:
    import h5py

CHUNK_BYTES = 2**15
"""Size of an HDF5 chunk, unless one row is larger. 64 single rows of 1 KB are read three times as fast from 32 KB as
from 128 KB, all rows in a quarter more time; maps and heatmaps are fastest with one row per chunk."""


class ChunkFolder:
    """Chunks of rows as NPZ files, each written atomically and bearing the key of what it was computed from.

    Chunks depend on the key alone, not on who computes them: processes of any number share a folder.

    Args:
        folder: where chunks lie; chunks of another key are ignored.
        key: hash of model, data and settings.
        total: number of rows of the data set.
        size: rows of a chunk.
        numbers: the chunks that are meant; default: all.
    """

    def __init__(self, folder: Path, key: str, total: int, size: int, numbers: range | None = None):
        self.folder, self.key, self.total, self.size = folder, key, total, size
        self.numbers = range(-(-total // size)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, rows) of every chunk."""
        for number in self.numbers:
            start = number * self.size
            yield number, np.arange(start, min(start + self.size, self.total))

    @property
    def rows(self) -> range:
        """The rows of all chunks."""
        return range(self.numbers.start * self.size, min(self.numbers.stop * self.size, self.total))

    def part(self, number: int, of: int) -> ChunkFolder:
        """Return the contiguous part of these chunks that is the share of one of several processes, maybe empty."""
        count = len(self.numbers)
        shares = self.numbers[count * number // of : count * (number + 1) // of]
        return ChunkFolder(self.folder, self.key, self.total, self.size, shares)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}-{self.key[:16]}.npz"

    def missing(self) -> list[tuple[int, np.ndarray]]:
        """Return the chunks that still have to be computed; the others were read and found sound."""
        return [(number, rows) for number, rows in self if self.read(number, len(rows)) is None]

    def written(self) -> int:
        """Return how many of these chunks are there, without reading them."""
        return sum(self._path(number).exists() for number in self.numbers)

    def write(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
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


def assemble(path: Path, chunks: ChunkFolder, layers: Mapping[str, str], attributes: Mapping[str, str]) -> None:
    """Write all chunks into one HDF5 file: it appears complete, or not at all. Memory holds one chunk at a time.

    Args:
        path: the HDF5 file.
        chunks: every chunk must be present.
        layers: name -> kind, from input to output.
        attributes: what the file was made from.

    Raises:
        StoreError: a chunk is missing or damaged.
    """
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for number, rows in chunks:
            _copy(file, chunks, number, rows)
        write_header(file, layers, attributes)


def _copy(file: h5py.File, chunks: ChunkFolder, number: int, rows: np.ndarray) -> None:
    arrays = chunks.read(number, len(rows))
    if arrays is None:
        raise StoreError(f"chunk {number} below {chunks.folder} vanished. Start the same command again.")
    start = rows[0] - chunks.rows.start
    for name, array in arrays.items():
        if array.dtype.kind == "U":
            array = np.char.encode(array, "utf-8")
        _dataset(file, name, array, len(chunks.rows))[start : start + len(rows)] = array


def write_header(file: h5py.File, layers: Mapping[str, str], attributes: Mapping[str, object]) -> None:
    """Write what describes the data, and at last that they are complete."""
    group = file.require_group("layers")
    group.attrs["order"] = list(layers)
    for name, kind in layers.items():
        group[name].attrs["kind"] = kind
    file.attrs.update(attributes)
    file.attrs["version"] = STORE_VERSION
    file.attrs["complete"] = True


def _dataset(file: h5py.File, name: str, array: np.ndarray, total: int) -> h5py.Dataset:
    import h5py

    if name in file:
        return file[name]
    kind = h5py.string_dtype() if array.dtype.kind == "S" else array.dtype
    shape = (total, *array.shape[1:])
    rows = max(1, min(total, CHUNK_BYTES // max(1, array.itemsize * int(np.prod(array.shape[1:])))))
    # not LZF: equal arrays come out of it as different bytes, and equal features would make all later stages stale
    options = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if array.ndim > 1 else {}
    return file.create_dataset(name, shape, kind, chunks=(rows, *array.shape[1:]), **options)
