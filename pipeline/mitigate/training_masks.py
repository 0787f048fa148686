"""Masks of the training samples, in memory: what a corrected model should not use."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from pipeline.config.mitigate import MaskedBackground, MaskSource

from .interface import Problem
from .truth import true_masks


class TrainingMasks:
    """One mask per sample: the union of the artifacts of all biases, all outside the region of interest, or both.

    Args:
        problem: biases with their masks, and the data set with its regions of interest.
        rows: samples that may be asked for.
        background: "artifact", "roi" or "union". A sample that has neither has no mask.
        source: masks that localize made, or the true ones of planted and listed artifacts.
    """

    def __init__(
        self,
        problem: Problem,
        rows: Iterable[int],
        background: MaskedBackground = "artifact",
        source: MaskSource = "localized",
    ):
        dataset = problem.dataset
        ids = dataset.table["id"].tolist()
        self.size = tuple(dataset.shape[1:])
        self.masks: dict[int, torch.Tensor] = {}
        for row in map(int, rows):
            parts = []
            if background != "roi":
                found = [known.mask(str(ids[row])) for known in problem.biases]
                parts += true_masks(dataset, row) if source == "truth" else [m for m in found if m is not None]
            if background != "artifact" and (roi := dataset.roi_mask(row)) is not None:
                parts.append(~roi)
            if parts:
                self.masks[row] = torch.from_numpy(np.logical_or.reduce(parts))

    def of(self, rows: np.ndarray) -> torch.Tensor:
        """Return masks `[B, 1, H, W]` as float32, all 0 for samples without mask."""
        nothing = torch.zeros(self.size, dtype=torch.bool)
        return torch.stack([self.masks.get(int(row), nothing) for row in rows])[:, None].float()
