"""The feature store: pooled activations, relevances and heatmaps of every sample, read by layer and rows."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.errors import StoreError, nearest

FEATURES = "precompute/features.h5"
STORE_VERSION = 1
LEAST_BLOCK = 64


class FeatureStore:
    """Reads `precompute/features.h5`. The file is opened for each read, so that the store can be shared by processes.

    Rows are in the order of the data set's table.
    """

    def __init__(self, path: Path):
        self.path = path
        with self._open() as file:
            if file.attrs.get("version") != STORE_VERSION or not file.attrs.get("complete"):
                raise self._damaged("it is incomplete or of another version")

    def _damaged(self, reason: str) -> StoreError:
        return StoreError(
            f"{self.path} cannot be used: {reason}. Start precompute again: it is found stale and rebuilt."
        )

    def _open(self):
        import h5py

        try:
            return h5py.File(self.path, "r")
        except FileNotFoundError:
            raise self._damaged("it is missing") from None
        except OSError as error:
            raise self._damaged(f"the HDF5 file is cut off or damaged ({str(error).split('(')[0].strip()})") from None

    def _read(self, name: str, rows: np.ndarray | None) -> np.ndarray:
        with self._open() as file:
            if name not in file:
                raise self._absent(file, name)
            try:
                return file[name][()] if rows is None else _read_rows(file[name], np.asarray(rows))
            except OSError as error:
                raise self._damaged(f"the HDF5 file is damaged ({error})") from None

    def _absent(self, file, name: str) -> StoreError:
        folder, _, wanted = name.rpartition("/")
        if folder not in file:
            folder, _, wanted = folder.rpartition("/")
        known = list(file[folder])
        return StoreError(
            f"{self.path} has no '{wanted}' under {folder}.{nearest(wanted, known)} Stored: {', '.join(known)}. "
            "Add what is wanted to precompute.layers or precompute.conditions."
        )

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the stored layers, from input to output."""
        with self._open() as file:
            return tuple(text for text in file["layers"].attrs["order"])

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Kind of each layer: activation or convolution."""
        with self._open() as file:
            return {name: file["layers"][name].attrs["kind"] for name in self.layers}

    @cached_property
    def labels(self) -> np.ndarray:
        """Class ids `[N]`."""
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
        return self._read(f"layers/{layer}/activation_{pooling}", rows).astype(np.float32)

    def relevances(self, layer: str, condition: str = "label", rows: np.ndarray | None = None) -> np.ndarray:
        """Return relevance `[N, C]` summed over positions, scaled per sample to a largest magnitude of 1."""
        return self._read(f"layers/{layer}/relevance_{condition}", rows).astype(np.float32)

    def heatmaps(self, condition: str = "label", rows: np.ndarray | None = None) -> np.ndarray:
        """Return input heatmaps `[N, H, W]`, scaled per sample to a largest magnitude of 1."""
        return self._read(f"heatmaps/{condition}", rows).astype(np.float32)


def _read_rows(values, rows: np.ndarray) -> np.ndarray:
    """Read block by block, so that memory holds little besides the wanted rows."""
    found = np.empty((len(rows), *values.shape[1:]), values.dtype)
    block = max(values.chunks[0], LEAST_BLOCK)
    for start in range(0, len(values), block):
        here = np.flatnonzero((rows >= start) & (rows < start + block))
        if len(here):
            first, last = rows[here].min(), rows[here].max()
            found[here] = values[first : last + 1][rows[here] - first]
    return found
