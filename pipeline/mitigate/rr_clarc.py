"""RR-ClArC: no latent gradient along the artifact direction (Dreyer et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pipeline.concepts.projection import columns
from pipeline.config.mitigate import PenaltyPositions, RrClarcAggregation, RrClarcMethod
from pipeline.errors import ConfigError
from pipeline.models.build import AuditModel
from pipeline.models.split import watched

from .directions import CorrectedLayer, corrected_layers
from .explained import explained_quantity
from .fine_tuning import MaskedBatch, classification_loss, fine_tune
from .interface import Correction, Problem


def rr_clarc_loss(
    gradient: torch.Tensor,
    direction: torch.Tensor,
    aggregation: RrClarcAggregation = "scale_free",
    positions: PenaltyPositions = "each",
) -> torch.Tensor:
    """Return how far the gradient g of a decision goes along the direction h of an artifact, averaged over samples.

    "scale_free": per sample, sum over positions (g . h)^2 / sum over positions |g|^2, which is the mean of cos^2
    weighted by squared length, in [0, 1]. The published forms (Dreyer et al., AAAI 2024) are means over positions: "l2"
    of (g . h)^2, "l1" of |g . h|, and "cosine" of |cos(g, h)|, in [0, 1]. "scale_free" and "cosine" do not change with
    the scale of g. A gradient of 0 counts as 0.

    Args:
        gradient: `[B, C, ...]`.
        direction: unit vector `[C]`.
        positions: "each" compares at every position; "mean" the mean of the gradient over positions, which does not see
            what cancels between them.
    """
    values = gradient.flatten(2) if gradient.ndim > 2 else gradient[..., None]
    if positions == "mean":
        values = values.mean(2, keepdim=True)
    if aggregation in ("scale_free", "cosine"):
        # squares of small gradients would be 0; of ratios the scale makes no difference
        largest = values.detach().abs().amax((1, 2), keepdim=True)
        values = values / largest.clamp(min=torch.finfo(values.dtype).tiny)
    along, energy = torch.einsum("bcp,c->bp", values, direction), values.pow(2).sum(1)
    if aggregation == "l1":
        return along.abs().mean()
    if aggregation == "l2":
        return along.pow(2).mean()
    if aggregation == "cosine":
        return (along.abs() / energy.clamp(min=1e-30).sqrt()).mean()
    return (along.pow(2).sum(1) / energy.sum(1).clamp(min=1e-30)).mean()


class RightReasonClarc:
    """Fine-tuning with `rr_clarc_loss` beside the classification loss, for the CAVs of all biases at once.

    By default what the layers of the CAVs depend on stays as it is, since the directions were fitted in them.
    """

    def __init__(self, config: RrClarcMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a corrected copy of the model."""
        layers = corrected_layers(model, problem, self.config.layer)
        names = [layer.name for layer in layers]

        def losses(network: nn.Module, batch: MaskedBatch) -> dict[str, torch.Tensor]:
            return rr_clarc_losses(network, batch, problem, self.config, layers)

        frozen = names if self.config.train == "above" else None
        return fine_tune(model, problem, self.config, losses, frozen_up_to=frozen, watched=names)


def rr_clarc_losses(
    network: nn.Module, batch: MaskedBatch, problem: Problem, config: RrClarcMethod, layers: Sequence[CorrectedLayer]
) -> dict[str, torch.Tensor]:
    """Return "total" = "classification" + weight * "penalty", the mean of `rr_clarc_loss` over CAVs, for one batch.

    Args:
        network: the model, or the head that is left of it where the layers below are computed once.
        layers: with the CAVs of all biases.
    """
    logits, activations = watched(network, batch.x, [layer.name for layer in layers])
    classification = classification_loss(problem, logits, batch.y)
    if not layers:
        return {"total": classification, "classification": classification, "penalty": logits.new_zeros(())}
    explained = explained_quantity(logits, batch.y, config.explained)
    gradients = torch.autograd.grad(explained, list(activations.values()), create_graph=True)
    penalties = []
    for layer, gradient in zip(layers, gradients, strict=True):
        values = columns(gradient, layer.channel_axis, layer.pooling)
        for known, cav in layer.biases:
            direction = torch.as_tensor(cav.direction, dtype=values.dtype, device=values.device)
            if len(direction) != values.shape[1]:
                raise ConfigError(
                    f"mitigate.methods: the CAV of bias '{known.bias.id}' in layer '{layer.name}' has {len(direction)} "
                    f"values, and the layer {values.shape[1]}: it was fitted on cells of a grid. Set "
                    "precompute.positions: full, or name another layer."
                )
            penalties.append(rr_clarc_loss(values, direction, config.aggregation, config.positions))
    penalty = torch.stack(penalties).mean()
    return {
        "total": classification + config.weight * penalty,
        "classification": classification,
        "penalty": penalty,
    }
