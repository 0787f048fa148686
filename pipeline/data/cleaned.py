"""A world in which localized artifacts are filled in: what is left when they are taken away."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .dataset import AuditDataset, Sample
from .inpainting import inpaint


class CleanedView:
    """A data set whose masked regions are filled smoothly from what surrounds them; all else is the data set's own.

    Args:
        dataset: the samples.
        mask: sample id -> region `[H, W]` to fill, or None where there is none.
    """

    def __init__(self, dataset: AuditDataset, mask: Callable[[str], np.ndarray | None]):
        self.dataset, self.mask = dataset, mask
        self.table, self.classes, self.shape = dataset.table, dataset.classes, dataset.shape

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        region = self.mask(sample.id)
        if region is None or not region.any():
            return sample
        return sample._replace(x=inpaint(sample.x[None], torch.from_numpy(region)[None, None])[0])
