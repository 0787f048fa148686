"""What is known to be true about artifacts: for corrections that say so, to compare with those that must find out."""

from __future__ import annotations

import numpy as np

from pipeline.data.worlds import WorldView


def true_masks(dataset: WorldView, row: int) -> list[np.ndarray]:
    """Return the masks `[H, W]` of the artifacts that are planted in, or listed for, a sample."""
    listed = [dataset.artifact_mask(name, row) for name in dataset.artifact_names()]
    return [mask for mask in (dataset.truth_mask(row), *listed) if mask is not None]


def true_carriers(dataset: WorldView) -> np.ndarray:
    """Return which samples carry the planted artifact, or, where none is planted, any listed one; booleans `[N]`."""
    planted = dataset.attacked_flags()
    listed = [dataset.artifact_flags(name) for name in dataset.artifact_names()]
    return planted if planted.any() or not listed else np.logical_or.reduce(listed)
