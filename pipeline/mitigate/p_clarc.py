"""P-ClArC: artifact directions are projected to their clean values, without training (Anders et al. 2022)."""

from __future__ import annotations

import copy

from pipeline.concepts.projection import Projection, insert_projection
from pipeline.config.mitigate import PClarcMethod
from pipeline.models.build import AuditModel
from pipeline.workspace.records import ProjectionChange

from .directions import CorrectedLayer, corrected_layers, layer_directions
from .interface import Correction, Problem


class ProjectiveClarc:
    """A projection behind every layer that CAVs act in, of all its biases at once."""

    def __init__(self, config: PClarcMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a copy of the model with the projections inserted."""
        corrected, changes = copy.deepcopy(model), []
        for layer in corrected_layers(model, problem, self.config.layer):
            found = layer_directions(model, problem, self.config, layer, self.config.mode)
            projection = Projection(
                found.measured,
                found.values,
                self.config.mode,
                moving=found.moving,
                pooling=layer.pooling,
                channel_axis=layer.channel_axis,
            )
            changes.append(insert(corrected, layer, projection))
        return Correction(corrected, changes=changes)


def insert(model: AuditModel, layer: CorrectedLayer, projection: Projection) -> ProjectionChange:
    """Put a projection behind a layer, on its device, and return the record of it."""
    insert_projection(model, layer.name, projection.to(next(model.parameters()).device))
    channels, rank = projection.measured.shape
    return ProjectionChange(
        layer=layer.name,
        mode=projection.mode,
        channels=channels,
        rank=rank,
        pooling=layer.pooling,
        channel_axis=layer.channel_axis,
    )
