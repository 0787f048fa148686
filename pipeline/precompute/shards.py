"""Shards: the part of the rows that one of several processes writes, and the store that refers to all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import StoreError
from pipeline.workspace.atomic import atomic_path
from pipeline.workspace.progress import Reporter
from pipeline.workspace.waiting import NotYet, wait_for

from .chunks import ChunkFolder, write_header
from .seals import is_sealed, seal_path

if TYPE_CHECKING:
    import h5py

FOLDER = "shards"


def shard_path(folder: Path, number: int, of: int) -> Path:
    """Return the shard of one process, below the stage's folder."""
    return folder / FOLDER / f"{number}-of-{of}.h5"


def wait_for_shards(
    folder: Path, chunks: ChunkFolder, of: int, patience_minutes: float, reporter: Reporter
) -> list[Path]:
    """Return the shards in the order of their rows, once all are finished.

    Raises:
        StoreError: a process has not got on for `patience_minutes`; the message names it.
    """
    waiting = [number for number in range(of) if len(chunks.part(number, of))]
    shards = [shard_path(folder, number, of) for number in waiting]

    def look() -> list[Path] | NotYet:
        # Once found finished, a shard is not hashed again.
        waiting[:] = [number for number in waiting if not is_sealed(shard_path(folder, number, of), chunks.key)]
        if not waiting:
            return shards
        parts = [(number, chunks.part(number, of)) for number in waiting]
        done = tuple((number, part.written()) for number, part in parts)
        texts = [f"rank {number} ({part.written()} of {len(part)} chunks)" for number, part in parts]
        return NotYet(", ".join(texts), done)

    return wait_for(look, patience_minutes, reporter)


def join(path: Path, shards: Sequence[Path], layers: Mapping[str, str], attributes: Mapping[str, str]) -> None:
    """Write the store that refers to the shards by paths relative to itself; no data are copied.

    Args:
        path: the HDF5 file.
        shards: in the order of their rows.
        layers: name -> kind, from input to output.
        attributes: what the shards were made from.

    Raises:
        StoreError: the shards do not hold the same data sets.
    """
    import h5py

    relative = [str(shard.relative_to(path.parent)) for shard in shards]
    described = [_described(shard) for shard in shards]
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for name, (_, shape, kind) in described[0].items():
            parts = [each.get(name, (0, None, None)) for each in described]
            if any((part[1], part[2]) != (shape, kind) for part in parts):
                raise StoreError(f"the shards of {path} differ in '{name}'. Remove {path.parent}, and start again.")
            _create_virtual(
                file, name, [(source, part[0]) for source, part in zip(relative, parts, strict=True)], shape, kind
            )
        write_header(file, layers, {**attributes, "shards": relative})


def _create_virtual(
    file: h5py.File, name: str, sources: Sequence[tuple[str, int]], shape: tuple[int, ...], kind: np.dtype
) -> None:
    """Create a virtual data set over the rows of the sources, each a file with its number of rows.

    By HDF5's own functions, because the data set's time of creation must not be stored: the same shards give the same
    bytes.
    """
    from h5py import h5d, h5p, h5s, h5t

    whole = h5s.create_simple((sum(rows for _, rows in sources), *shape))
    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_obj_track_times(False)
    if kind.kind == "f":
        # What HDF5 returns for a shard that is missing: not zeros, which would look like data.
        creation.set_fill_value(np.array(np.nan, kind))
    start = 0
    for source, rows in sources:
        if not rows:
            continue
        part = whole.copy()
        part.select_hyperslab((start, *(0 for _ in shape)), (rows, *shape))
        creation.set_virtual(part, source.encode(), name.encode(), h5s.create_simple((rows, *shape)))
        start += rows
    links = h5p.create(h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    h5d.create(file.id, name.encode(), h5t.py_create(kind, logical=True), whole, creation, links)


def remove_other_shards(shards: Sequence[Path], folder: Path) -> None:
    """Remove what lies among the shards and does not belong to these, such as shards of another number of processes."""
    wanted = {*shards, *map(seal_path, shards)}
    for path in (folder / FOLDER).glob("*") if (folder / FOLDER).is_dir() else ():
        if path not in wanted:
            path.unlink()


def _described(shard: Path) -> dict[str, tuple[int, tuple[int, ...], np.dtype]]:
    """Return name -> (rows, shape of a row, type) of every data set."""
    import h5py

    found = {}
    with h5py.File(shard) as file:
        file.visititems(
            lambda name, item: (
                found.__setitem__(name, (len(item), item.shape[1:], item.dtype))
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    return found
