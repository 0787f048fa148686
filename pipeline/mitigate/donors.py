"""The validation world in which what was localized is pasted into every sample: no ground truth is needed for it."""

from __future__ import annotations

import torch

from pipeline.data.pasted import PastedView
from pipeline.data.worlds import WorldView
from pipeline.workspace.stage import StageContext

from .interface import KnownBias

MOST_DONORS = 64


def pasted_world(context: StageContext, dataset: WorldView, known: list[KnownBias]) -> PastedView | None:
    """Return the data set with the first bias's regions pasted in; None where there are fewer than two donors.

    Donors are training samples of the finding.
    """
    if not known:
        return None
    ids = dataset.table["id"].to_numpy()
    wanted = set(known[0].bias.sample_ids)
    rows = [row for row in range(len(dataset)) if ids[row] in wanted and dataset.table["split"].iloc[row] == "train"]
    found = [(row, mask) for row in rows if (mask := known[0].mask(str(ids[row]))) is not None][:MOST_DONORS]
    if len(found) < 2:
        return None
    donors = torch.stack([dataset[row].x for row, _ in found])
    return PastedView(
        dataset, donors, torch.stack([torch.from_numpy(mask) for _, mask in found]).numpy(),
        [str(ids[row]) for row, _ in found], context.config.seed,
    )  # fmt: skip
