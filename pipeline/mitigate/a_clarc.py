"""A-ClArC: layers above are fine-tuned with the artifact put into activations (Anders et al. 2022)."""

from __future__ import annotations

import copy

import numpy as np

from pipeline.concepts.projection import Amplification, insert_projection, remove_projections
from pipeline.config.mitigate import AClarcMethod
from pipeline.models.build import AuditModel
from pipeline.models.trace import trace_layers

from .directions import MOST_DONORS, CorrectedLayer, carriers_of, corrected_layers, features_at, layer_directions
from .fine_tuning import classification_loss, fine_tune
from .interface import Correction, Problem


class AugmentiveClarc:
    """Fine-tuning of the layers above the CAVs, with the artifact in samples of all classes, so that it tells nothing.

    A share of the samples of every step is given the artifact's values along the directions. The layers up to the
    lowest CAV stay as they are. Validation sees activations as they are, and the corrected model is the plain
    architecture.
    """

    def __init__(self, config: AClarcMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a fine-tuned copy of the model."""

        def losses(network, batch):
            return {"total": classification_loss(problem, network(batch.x), batch.y)}

        layers = corrected_layers(model, problem, self.config.layer)
        if not layers:
            return fine_tune(model, problem, self.config, losses)
        order = [layer.name for layer in trace_layers(model, problem.dataset[0].x[None].to(problem.device))]
        lowest = min((layer.name for layer in layers), key=order.index)
        amplified = copy.deepcopy(model)
        for layer in layers:
            found = layer_directions(model, problem, self.config, layer, "pooled", "with")
            maps = None if self.config.mode == "pooled" else value_maps(model, problem, layer, found.measured)
            projection = Amplification(
                found.measured,
                found.values,
                "pooled",
                moving=found.moving,
                pooling=layer.pooling,
                channel_axis=layer.channel_axis,
                maps=maps,
                share=self.config.amplified,
            )
            insert_projection(amplified, layer.name, projection.to(problem.device))
        correction = fine_tune(amplified, problem, self.config, losses, frozen_up_to=lowest)
        remove_projections(correction.model)
        return correction


def value_maps(model: AuditModel, problem: Problem, layer: CorrectedLayer, measured: np.ndarray) -> np.ndarray | None:
    """Return the values along all directions at every position, `[B, k, P]`, of samples that carry a bias.

    Args:
        model: under audit.
        problem: with biases.
        layer: see `corrected_layers`.
        measured: directions `[D, k]`.

    Returns:
        None where no sample of the class of a bias is known to carry it.
    """
    found = [carriers_of(problem, known) for known, _ in layer.biases]
    rows = np.unique(np.concatenate([each.rows[each.members][:MOST_DONORS] for each in found]))
    if not len(rows):
        return None
    flat = features_at(model, problem.dataset, rows, layer, "full")
    return np.einsum("dk,ndp->nkp", measured, flat.reshape(len(rows), len(measured), -1))
