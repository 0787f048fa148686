"""P-ClArC: the artifact direction is projected to its clean value, without training (Anders et al. 2022)."""

from __future__ import annotations

import copy

import numpy as np
import torch

from pipeline.concepts.cav import Cav
from pipeline.concepts.projection import Projection, insert_projection
from pipeline.config.mitigate import PClarcMethod
from pipeline.models.build import AuditModel

from .interface import Correction, Insertion, Problem


class ProjectiveClarc:
    """A projection behind the layer of every bias's CAV."""

    def __init__(self, config: PClarcMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a copy of the model with the projections inserted."""
        insertions = [
            Insertion(cav.layer, cav.direction, clean_value(cav, self.config.mode), self.config.mode)
            for cav in (known.correction_cav(self.config.layer) for known in problem.biases)
        ]
        corrected = copy.deepcopy(model)
        insert_all(corrected, insertions)
        return Correction(corrected, insertions=insertions)


def clean_value(cav: Cav, mode: str) -> float:
    """Return where the direction is projected to: the mean over clean samples of what the mode projects."""
    return cav.position_without if mode == "position" else cav.mean_without


def insert_all(model: AuditModel, insertions: list[Insertion]) -> None:
    """Put projections into the model, in place and on its device."""
    device = next(model.parameters()).device
    for insertion in insertions:
        direction = torch.as_tensor(np.asarray(insertion.direction), dtype=torch.float32)
        projection = Projection(direction, insertion.clean_value, insertion.mode).to(device)
        insert_projection(model, insertion.layer, projection)
