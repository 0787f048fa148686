"""Data sets in memory, views of a part of a data set, and what both need."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ..workspace.hashing import digest_json
from .dataset import SPLITS, AuditDataset, Sample

MAXIMUM = np.float32(255)
MaskSource = Callable[[int], np.ndarray | None]


class NaturalArtifact(NamedTuple):
    """An artifact that the table lists: who shows it, booleans `[N]`, and where (None where no masks are given)."""

    flags: np.ndarray
    mask: MaskSource | None = None


class LabelledSamples:
    """What the data sets of this room share; a subclass says where the pixels come from.

    Attributes:
        table, classes, shape: as in `AuditDataset`.
        skipped: (id, reason) of the bad samples that were left out.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        classes: Sequence[str],
        shape: Sequence[int],
        *,
        roi_masks: MaskSource | None = None,
        artifacts: Mapping[str, NaturalArtifact] | None = None,
        skipped: Sequence[tuple[str, str]] = (),
    ):
        self.table = table
        self.classes = tuple(classes)
        self.shape = tuple(shape)
        self.skipped = list(skipped)
        self._roi_masks = roi_masks
        self._artifacts = dict(artifacts or {})
        # Plain lists: a row of a table costs a hundred times more than an entry of a list.
        self._ids = table["id"].tolist()
        self._labels = table["label"].tolist()

    def pixels_at(self, index: int) -> np.ndarray:
        """Return the pixels of one item, uint8, in the shape of the data set."""
        raise NotImplementedError

    def content(self) -> str:
        """Return a hash over the pixels of all items."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        # With NumPy: torch would start its threads for a single image, and wait for them on a busy machine.
        x = np.divide(self.pixels_at(index), MAXIMUM, dtype=np.float32)
        return Sample(torch.from_numpy(x), self._labels[index], self._ids[index])

    def fingerprint(self) -> str:
        """Return a hash over pixels, ids, labels, splits, group columns and class names; computed once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        columns = {str(name): [str(value) for value in self.table[name]] for name in self.table.columns}
        return digest_json([self.content(), self.shape, self.classes, columns])

    def roi_mask(self, index: int) -> np.ndarray | None:
        """Return the region of interest `[H, W]` as booleans, or None where there is none."""
        return self._roi_masks(index) if self._roi_masks else None

    def artifact_names(self) -> tuple[str, ...]:
        """Return the natural artifacts that the table lists."""
        return tuple(self._artifacts)

    def artifact_flags(self, name: str) -> np.ndarray:
        """Return who is listed as showing the artifact, booleans `[N]`. For scoring only."""
        return self._artifacts[name].flags.copy()

    def artifact_mask(self, name: str, index: int) -> np.ndarray | None:
        """Return the listed mask `[H, W]` of the artifact, or None. For scoring only."""
        mask = self._artifacts[name].mask
        return mask(index) if mask else None


class ArrayDataset(LabelledSamples):
    """A data set whose images stand in one array.

    Args:
        pixels: uint8 `[N, C, H, W]`; item i is `pixels[i] / 255`.
        table: one row per image, see `make_table`.
        classes: class names; `label` indexes them.
        roi_masks: called with a position, returns booleans `[H, W]` or None.
        artifacts: natural artifacts by name.
        skipped: (id, reason) of samples that were left out.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        table: pd.DataFrame,
        classes: Sequence[str],
        *,
        roi_masks: MaskSource | None = None,
        artifacts: Mapping[str, NaturalArtifact] | None = None,
        skipped: Sequence[tuple[str, str]] = (),
    ):
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) != len(table):
            raise ValueError(
                f"{len(table)} images uint8 [N, C, H, W] expected, got {pixels.dtype} {list(pixels.shape)}"
            )
        super().__init__(table, classes, pixels.shape[1:], roi_masks=roi_masks, artifacts=artifacts, skipped=skipped)
        self.pixels = pixels

    def pixels_at(self, index: int) -> np.ndarray:
        """Return the pixels of one item, uint8 `[C, H, W]`."""
        return self.pixels[index]

    def content(self) -> str:
        """Return a hash over the pixels of all items."""
        return hashlib.blake2b(np.ascontiguousarray(self.pixels), digest_size=16).hexdigest()


class Subset:
    """Some rows of a data set, under the same protocol.

    Args:
        dataset: where samples come from.
        indices: positions in `dataset`, in the order of this view.
        splits: splits `[len(indices)]` that replace or supply the column `split`.
    """

    def __init__(self, dataset: AuditDataset, indices: np.ndarray, splits: np.ndarray | None = None):
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64)
        self.table = dataset.table.iloc[self.indices].reset_index(drop=True)
        if splits is not None:
            self.table["split"] = splits
        self.classes = dataset.classes
        self.shape = dataset.shape
        self.skipped = list(getattr(dataset, "skipped", ()))
        self._rows = self.indices.tolist()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self._rows[index]]

    def fingerprint(self) -> str:
        """Return a hash over the whole data set, the chosen rows and their splits."""
        return digest_json([self.dataset.fingerprint(), self._rows, self.table["split"].tolist()])

    def roi_mask(self, index: int) -> np.ndarray | None:
        """Return the region of interest `[H, W]` as booleans, or None where there is none."""
        return self.dataset.roi_mask(self._rows[index])

    def artifact_names(self) -> tuple[str, ...]:
        """Return the natural artifacts that the table lists."""
        return self.dataset.artifact_names()

    def artifact_flags(self, name: str) -> np.ndarray:
        """Return who is listed as showing the artifact, booleans `[N]`. For scoring only."""
        return self.dataset.artifact_flags(name)[self.indices]

    def artifact_mask(self, name: str, index: int) -> np.ndarray | None:
        """Return the listed mask `[H, W]` of the artifact, or None. For scoring only."""
        return self.dataset.artifact_mask(name, self._rows[index])


def make_table(
    ids: Sequence[str],
    labels: Sequence[int] | np.ndarray,
    splits: Sequence[str] | np.ndarray,
    groups: Mapping[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Return the table of a data set: columns id, label, split, then the group columns."""
    columns = {"id": list(ids), "label": np.asarray(labels, dtype=np.int64), "split": list(splits)}
    return pd.DataFrame({**columns, **(groups or {})})


def split_indices(dataset: AuditDataset, split: str) -> np.ndarray:
    """Return the positions of one split, int64, ascending."""
    if split not in SPLITS:
        raise ValueError(f"unknown split '{split}'; allowed are {', '.join(SPLITS)}")
    return np.flatnonzero(dataset.table["split"].to_numpy() == split)


def to_pixels(values: np.ndarray, image_size: int | None) -> np.ndarray:
    """Return images as uint8, resized (bilinear, antialiased) to a square of `image_size` pixels unless it is None.

    Args:
        values: `[N, C, H, W]` in [0, 1].
        image_size: new side, or None to keep the size.
    """
    if image_size is None or values.shape[2:] == (image_size, image_size):
        return np.round(values * 255).astype(np.uint8)
    pixels = np.empty((*values.shape[:2], image_size, image_size), dtype=np.uint8)
    for start in range(0, len(values), 256):
        some = torch.from_numpy(values[start : start + 256].astype(np.float32))
        large = torch.nn.functional.interpolate(some, size=pixels.shape[2:], mode="bilinear", antialias=True)
        pixels[start : start + 256] = (large * 255).round().clamp(0, 255).byte().numpy()
    return pixels
