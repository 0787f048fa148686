"""The world in which what was localized is pasted into every sample: a causal test that needs no ground truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pipeline.data.dataset import AuditDataset
from pipeline.data.pasted import PastedView
from pipeline.workspace.masks import MaskSet
from pipeline.workspace.records import Bias

from .localization import dilate

MOST_DONORS = 64


def pasted_world(root: Path, dataset: AuditDataset, biases: list[Bias], grow: float, seed: int) -> PastedView | None:
    """Return the data set with the first bias's regions pasted into every sample; None with fewer than two donors.

    Donors are training samples of the finding whose mask is not empty; the region is the mask, grown as for training.

    Args:
        root: run directory.
        dataset: the training world.
        biases: accepted biases, the most suspicious first.
        grow: how far the region reaches beyond the mask, as a share of the image side.
        seed: of the choice of donors.
    """
    if not biases:
        return None
    masks = MaskSet(root / f"localize/{biases[0].id}")
    entries = [each for each in masks.index() if each.shows_artifact and each.split == "train"][:MOST_DONORS]
    if len(entries) < 2:
        return None
    row_of = {sample_id: row for row, sample_id in enumerate(dataset.table["id"].astype(str))}
    ids = [entry.id for entry in entries]
    donors = torch.stack([dataset[row_of[sample_id]].x for sample_id in ids])
    regions = dilate(np.stack([masks.read(sample_id) for sample_id in ids]), grow)
    return PastedView(dataset, donors, regions, ids, seed)
