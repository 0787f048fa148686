"""The one protocol behind every data set, and the in-memory form that all adapters produce."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch

SPLITS = ("train", "val", "test")


class Sample(NamedTuple):
    """One item.

    Attributes:
        x: float32 image `[C, H, W]` (or signal `[C, T]`) with values in [0, 1].
        y: class id.
        id: stable name of the sample.
    """

    x: torch.Tensor
    y: int
    id: str


class AuditDataset(Protocol):
    """What a stage may ask of a data set.

    Attributes:
        table: one row per sample, in item order. Columns: `id` (unique text), `label` (class id), `split`
            (train, val or test), and the group columns under their own names.
        classes: class names; `label` indexes them.
        shape: shape of every `x`.
    """

    table: pd.DataFrame
    classes: tuple[str, ...]
    shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def fingerprint(self) -> str:
        """Return a hash over pixels, labels, ids and splits."""
        ...

    def roi_mask(self, index: int) -> np.ndarray | None:
        """Return the region of interest `[H, W]` as booleans, or None where there is none."""
        ...

    def artifact_names(self) -> tuple[str, ...]:
        """Return the natural artifacts that the table lists."""
        ...

    def artifact_flags(self, name: str) -> np.ndarray:
        """Return who is listed as showing the artifact, booleans `[N]`. For scoring only."""
        ...

    def artifact_mask(self, name: str, index: int) -> np.ndarray | None:
        """Return the listed mask `[H, W]` of the artifact, or None. For scoring only."""
        ...
