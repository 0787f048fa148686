"""Counterfactual augmentation: the artifact is pasted into other classes, or filled where it is; labels stay."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import torch

from pipeline.config.mitigate import CounterfactualMethod
from pipeline.data.augment import Augmenter
from pipeline.data.inpainting import inpaint
from pipeline.data.memory import split_indices
from pipeline.data.randomness import generator
from pipeline.models.build import AuditModel

from .fine_tuning import MaskedBatch, classification_loss, fine_tune
from .interface import Correction, Problem
from .training_masks import TrainingMasks

MOST_DONORS = 64
"""Kept in memory of each class."""


class Donors:
    """Training samples whose masked region can be pasted into samples of other classes.

    Args:
        problem: data set, seed, and augmentation, which donors undergo as any training image.
        masks: regions of the training rows.
    """

    def __init__(self, problem: Problem, masks: TrainingMasks):
        table = problem.dataset.table
        self.labels, self.names = table["label"].to_numpy(), table["id"].to_numpy()
        self.dataset, self.masks = problem.dataset, masks
        self.augment = Augmenter(problem.augment, problem.seed)
        shuffled = generator(problem.seed, "donors").permutation(np.array(sorted(masks.masks), dtype=np.int64))
        rank = pd.Series(self.labels[shuffled]).groupby(self.labels[shuffled]).cumcount().to_numpy()
        self.rows = shuffled[rank < MOST_DONORS]
        self.images = {int(row): problem.dataset[int(row)].x for row in self.rows}

    def draw(self, label: int, position: float) -> int | None:
        """Return the row of a donor of another class; `position` in [0, 1) says which. None where there is none."""
        others = self.rows[self.labels[self.rows] != label]
        return int(others[int(position * len(others))]) if len(others) else None

    def regions(self, rows: list[int], epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images `[B, C, H, W]` of donors and their masks `[B, 1, H, W]`, changed together by augmentation."""
        images = torch.stack([self.images[row] for row in rows])
        return self.augment(images, self.masks.of(np.array(rows)), self.names[rows], epoch)


def paste(images: torch.Tensor, donors: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return images `[B, C, H, W]` with the donors' pixels where the masks `[B, 1, H, W]` are not 0."""
    return torch.where(masks.bool(), donors, images)


class Counterfactual:
    """Plain fine-tuning on images of which a share had the artifact pasted or filled.

    Who is changed, and by which donor, depends on seed, epoch and sample id alone. Where no sample has a mask,
    nothing is changed, and the reporter says so.
    """

    def __init__(self, config: CounterfactualMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a fine-tuned copy of the model."""
        config = self.config
        masks = TrainingMasks(problem, split_indices(problem.dataset, "train"), source=config.masks)
        donors = Donors(problem, masks)
        if not len(donors.rows):
            problem.reporter.say(
                f"    {problem.label or config.method_id}: no training sample has a mask, so no image is changed: "
                "this is plain fine-tuning"
            )

        def losses(network, batch):
            x = counterfactuals(batch, donors, config, problem.seed)
            return {"total": classification_loss(problem, network(x), batch.y)}

        correction = fine_tune(model, problem, config, losses, mask_source=config.masks)
        return dataclasses.replace(correction, notes={"samples with a mask": float(len(masks.masks))})


def counterfactuals(batch: MaskedBatch, donors: Donors, config: CounterfactualMethod, seed: int) -> torch.Tensor:
    """Return the images of a batch `[B, C, H, W]`, some of them changed.

    A sample with a mask can have it filled ("inpaint"), one without can have a region pasted from a sample of another
    class ("paste"); never one of its own class, which would teach the shortcut. Of those that can be, a `share` is.
    """
    names = donors.names[batch.rows]
    draws = np.array([generator(seed, "counterfactual", str(batch.epoch), str(name)).uniform(size=2) for name in names])
    chosen, masked = draws[:, 0] < config.share, batch.masked.cpu().numpy()
    x = batch.x
    if config.mode != "paste" and (filled := np.flatnonzero(chosen & masked)).size:
        x = x.index_copy(0, _index(filled, x), inpaint(x[filled], batch.mask[filled]))
    if config.mode != "inpaint":
        labels = donors.labels[batch.rows]
        found = {place: donors.draw(labels[place], draws[place, 1]) for place in np.flatnonzero(chosen & ~masked)}
        found = {place: row for place, row in found.items() if row is not None}
        if found:
            places = _index(np.array(list(found)), x)
            images, regions = donors.regions(list(found.values()), batch.epoch)
            x = x.index_copy(0, places, paste(x[places], images.to(x), regions.to(x)))
    return x


def _index(places: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(places).to(like.device)
