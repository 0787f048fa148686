"""The feature store: activations, relevances and heatmaps of every sample, read by layer and rows."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.errors import StoreError, nearest

if TYPE_CHECKING:
    import h5py

FEATURES = "precompute/features.h5"
STORE_VERSION = 2
NEAR_BYTES = 2**16
"""Rows that lie closer together are read in one go: reading what lies between costs less than another read."""
SLAB_BYTES = 2**24
"""Most that is read in one go, so that memory holds little besides the wanted rows."""

Kept = Literal["sum", "max", "mean", "map"]


def activation_path(layer: str, kept: str) -> str:
    """Return the place in the file of a layer's activations: "max", "mean" or "map"."""
    return f"layers/{layer}/activation_{kept}"


def relevance_path(layer: str, condition: str, kept: Kept = "sum", *, scale: bool = False) -> str:
    """Return the place in the file of a layer's relevance, or of its scale per row."""
    stem = "relevance" if kept == "sum" else f"relevance_{kept}"
    return f"layers/{layer}/{stem}{'_scale' if scale else ''}_{condition}"


def heatmap_path(condition: str, *, scale: bool = False) -> str:
    """Return the place in the file of the heatmaps, or of their scale per row."""
    return f"{'heatmap_scales' if scale else 'heatmaps'}/{condition}"


class FeatureStore:
    """Reads `precompute/features.h5`. The file is opened for each read, so that the store can be shared by processes.

    Rows are in the order of the data set's table. Several processes write shards, which the file then only refers to.
    HDF5 reads a shard that is missing or cut off as if it held the fill value, without a word; here it is an error.

    Raises:
        StoreError: the file, or a shard of it, is missing, damaged, incomplete or of another version.
    """

    def __init__(self, path: Path):
        self.path = path
        self._shard_sizes: dict[Path, int] = {}
        with self._open() as file:
            self._check_header(file, "it")
            key, shards = file.attrs.get("key"), [path.parent / name for name in file.attrs.get("shards", ())]
        for shard in shards:
            with self._open_file(shard) as file:
                self._check_header(file, f"its shard {shard.name}")
                if file.attrs.get("key") != key:
                    raise self._damaged(f"its shard {shard.name} belongs to another run")
        self._shard_sizes = {shard: shard.stat().st_size for shard in shards}

    def _check_header(self, file: h5py.File, what: str) -> None:
        if file.attrs.get("version") != STORE_VERSION or not file.attrs.get("complete"):
            raise self._damaged(f"{what} is incomplete or of another version")

    def _damaged(self, reason: str) -> StoreError:
        return StoreError(
            f"{self.path} cannot be used: {reason}. Start precompute again: it is found stale and rebuilt."
        )

    def _open(self) -> h5py.File:
        for shard, size in self._shard_sizes.items():
            if not shard.exists() or shard.stat().st_size != size:
                raise self._damaged(f"its shard {shard.name} was removed or changed since it was opened")
        return self._open_file(self.path)

    def _open_file(self, path: Path) -> h5py.File:
        import h5py

        what = "it" if path == self.path else f"its shard {path.name}"
        try:
            return h5py.File(path, "r")
        except FileNotFoundError:
            raise self._damaged(f"{what} is missing") from None
        except OSError as error:
            reason = str(error).split("(")[0].strip()
            whose = "the HDF5 file" if path == self.path else what
            raise self._damaged(f"{whose} is cut off or damaged ({reason})") from None

    def _read(self, name: str, rows: np.ndarray | None) -> np.ndarray:
        with self._open() as file:
            if name not in file:
                raise self._absent(file, name)
            try:
                return file[name][()] if rows is None else _read_rows(file[name], np.asarray(rows, dtype=np.int64))
            except OSError as error:
                raise self._damaged(f"the HDF5 file is damaged ({error})") from None

    def _absent(self, file: h5py.File, name: str) -> StoreError:
        folder, _, wanted = name.rpartition("/")
        if folder not in file:
            folder, _, wanted = folder.rpartition("/")
        known = list(file[folder]) if folder in file else []
        return StoreError(
            f"{self.path} has no '{wanted}' under {folder}.{nearest(wanted, known)} Stored: {', '.join(known)}. "
            "Add what is wanted to precompute.layers or precompute.conditions, or see precompute.pooling, "
            "relevance_pooling and positions."
        )

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the stored layers, from input to output."""
        with self._open() as file:
            return tuple(text for text in file["layers"].attrs["order"])

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Kind of each layer: activation, convolution or block."""
        with self._open() as file:
            return {name: file["layers"][name].attrs["kind"] for name in self.layers}

    @cached_property
    def labels(self) -> np.ndarray:
        """Class ids `[N]`, or rows that say which classes are present `[N, K]`."""
        return self._read("labels", None)

    @cached_property
    def ids(self) -> np.ndarray:
        """Sample ids `[N]`."""
        return self._read("ids", None).astype(str)

    @cached_property
    def logits(self) -> np.ndarray:
        """Logits `[N, K]`."""
        return self._read("logits", None)

    def activations(self, layer: str, pooling: str = "max", rows: np.ndarray | None = None) -> np.ndarray:
        """Return activations `[N, C]` pooled over positions by "max" or "mean", float32."""
        return self._read(activation_path(layer, pooling), rows).astype(np.float32)

    def activation_maps(self, layer: str, rows: np.ndarray | None = None) -> np.ndarray:
        """Return activations `[N, C, ...positions]`, channels first for tokens too, float32."""
        return self._read(activation_path(layer, "map"), rows).astype(np.float32)

    def relevances(
        self, layer: str, condition: str = "label", rows: np.ndarray | None = None, kept: Kept = "sum"
    ) -> np.ndarray:
        """Return relevance scaled per sample to a largest magnitude of 1, float32.

        Args:
            layer: name of a stored layer.
            condition: one of `precompute.conditions`.
            rows: which samples; None means all.
            kept: "sum" over positions `[N, C]`; "max" and "mean" of positive relevance over positions `[N, C]`; "map"
                `[N, C, ...positions]`, channels first for tokens too.
        """
        return self._read(relevance_path(layer, condition, kept), rows).astype(np.float32)

    def relevance_scales(
        self, layer: str, condition: str = "label", rows: np.ndarray | None = None, kept: Kept = "sum"
    ) -> np.ndarray:
        """Return the largest magnitude per sample `[N]`, float32: times `relevances` it gives relevance in logits."""
        return self._read(relevance_path(layer, condition, kept, scale=True), rows)

    def heatmaps(self, condition: str = "label", rows: np.ndarray | None = None) -> np.ndarray:
        """Return input heatmaps `[N, H, W]` or `[N, T]`, scaled per sample to a largest magnitude of 1."""
        return self._read(heatmap_path(condition), rows).astype(np.float32)

    def heatmap_scales(self, condition: str = "label", rows: np.ndarray | None = None) -> np.ndarray:
        """Return the largest magnitude per sample `[N]`, float32: times `heatmaps` it gives relevance in logits."""
        return self._read(heatmap_path(condition, scale=True), rows)


def _read_rows(values: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
    """Read neighbouring rows together and distant ones apart; `rows` may come in any order, and more than once."""
    found = np.empty((len(rows), *values.shape[1:]), values.dtype)
    row_bytes = max(1, values.dtype.itemsize * int(np.prod(values.shape[1:])))
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    apart = np.diff(ascending) > max(1, NEAR_BYTES // row_bytes)
    other_slab = np.diff(ascending // max(1, SLAB_BYTES // row_bytes)) > 0
    for part in np.split(order, np.flatnonzero(apart | other_slab) + 1):
        if len(part):
            first, last = rows[part[0]], rows[part[-1]]
            found[part] = values[first : last + 1][rows[part] - first]
    return found
