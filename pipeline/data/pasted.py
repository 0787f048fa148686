"""A world in which a localized artifact is pasted into every sample: the causal test where none was planted."""

from __future__ import annotations

import numpy as np
import torch

from .dataset import AuditDataset, Sample
from .randomness import uniform


class PastedView:
    """A data set whose every sample carries the region of a donor; table, classes and shape are the data set's own.

    Which donor a sample gets depends on seed and sample id alone. A donor never pastes into itself.

    Args:
        dataset: the receivers.
        donors: images `[D, C, H, W]`.
        masks: what is cut out of each donor, booleans `[D, H, W]`.
        donor_ids: their ids.
        seed: of the choice.
    """

    def __init__(self, dataset: AuditDataset, donors: torch.Tensor, masks: np.ndarray, donor_ids: list[str], seed: int):
        if len(donors) < 2:
            raise ValueError(f"pasting needs at least 2 donors, got {len(donors)}")
        self.dataset, self.donors, self.masks, self.donor_ids = dataset, donors, torch.as_tensor(masks), donor_ids
        self.table, self.classes, self.shape = dataset.table, dataset.classes, dataset.shape
        draws = uniform(seed, dataset.table["id"].astype(str).tolist(), "donor")
        self.choice = np.minimum((draws * len(donors)).astype(int), len(donors) - 1)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        donor = self._donor(index, sample.id)
        return sample._replace(x=torch.where(self.masks[donor][None], self.donors[donor], sample.x))

    def planted_mask(self, index: int) -> np.ndarray:
        """Return the region `[H, W]` that was pasted into a sample."""
        return self.masks[self._donor(index, str(self.table["id"].iloc[index]))].numpy()

    def _donor(self, index: int, sample_id: str) -> int:
        donor = int(self.choice[index])
        return donor if self.donor_ids[donor] != sample_id else (donor + 1) % len(self.donors)
