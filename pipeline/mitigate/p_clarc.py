"""P-ClArC: the artifact direction is projected to its clean value, without training (Anders et al. 2022)."""

from __future__ import annotations

import copy

import numpy as np
import torch

from pipeline.concepts.cav import Cav
from pipeline.concepts.projection import Projection, insert_projection
from pipeline.config.mitigate import PClarcMethod
from pipeline.models.build import AuditModel
from pipeline.workspace.records import ProjectionChange

from .interface import Correction, Problem


class ProjectiveClarc:
    """A projection behind the layer of every bias's CAV."""

    def __init__(self, config: PClarcMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a copy of the model with the projections inserted."""
        corrected = copy.deepcopy(model)
        changes = []
        for known in problem.biases:
            cav = known.correction_cav(self.config.layer)
            direction = torch.as_tensor(np.asarray(cav.direction), dtype=torch.float32)
            projection = Projection(direction, clean_value(cav, self.config.mode), self.config.mode)
            insert_projection(corrected, cav.layer, projection.to(next(model.parameters()).device))
            changes.append(ProjectionChange(layer=cav.layer, mode=self.config.mode, channels=len(direction)))
        return Correction(corrected, changes=changes)


def clean_value(cav: Cav, mode: str) -> float:
    """Return where the direction is projected to: the mean over clean samples of what the mode projects."""
    return cav.position_without if mode == "position" else cav.mean_without
