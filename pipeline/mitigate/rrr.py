"""Right for the Right Reasons: no input gradient, or no relevance, inside the artifact (Ross et al. 2017)."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.config.mitigate import RrrAggregation, RrrMethod
from pipeline.models.build import AuditModel

from .explained import explained_quantity
from .fine_tuning import MaskedBatch, fine_tune
from .interface import Correction, Problem
from .masked_penalty import masked_penalty_losses
from .relevance_rrr import InputRelevance


def rrr_loss(gradient: torch.Tensor, mask: torch.Tensor, aggregation: RrrAggregation = "energy_share") -> torch.Tensor:
    """Return how much of the input gradients g lies inside the masks m, averaged over samples that have one.

    Samples without mask do not count, other than in published code where they lower the mean: so a weight means the
    same however common the artifact is. 0 where no sample of the batch has a mask.

    Args:
        gradient: `[B, C, ...]`; relevance will do as well.
        mask: `[B, 1, ...]` in [0, 1], 1 = artifact.
        aggregation: "energy_share" sum m g^2 / sum g^2; "l1" sum m |g| / sum |g|; "cosine" of m and |sum over channels
            of g|. These lie in [0, 1] and do not change with the scale of g. "squared" is the original sum (m g)^2,
            which does (Ross et al. 2017, eq. 1).
    """
    present = mask.flatten(1).any(1)
    if not present.any():
        return gradient.sum() * 0.0
    gradient, mask = gradient[present], mask[present].to(gradient)
    if aggregation == "squared":
        return (mask * gradient).pow(2).flatten(1).sum(1).mean()
    return _SHARES[aggregation](_of_unit_size(gradient), mask).mean()


def _of_unit_size(gradient: torch.Tensor) -> torch.Tensor:
    """Scale each sample's largest value to 1: shares do not change, but squares of small gradients would be 0."""
    largest = gradient.detach().flatten(1).abs().amax(1).clamp(min=torch.finfo(gradient.dtype).tiny)
    return gradient / largest.view(-1, *[1] * (gradient.ndim - 1))


def _energy_share(gradient: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _share(gradient.pow(2).sum(1, keepdim=True), mask)


def _absolute_share(gradient: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _share(gradient.abs().sum(1, keepdim=True), mask)


def _cosine(gradient: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    size, mask = gradient.sum(1).abs().flatten(1), mask.flatten(1)
    lengths = (size.pow(2).sum(1) * mask.pow(2).sum(1)).clamp(min=TINY).sqrt()
    return (size * mask).sum(1) / lengths


def _share(size: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (size * mask).flatten(1).sum(1) / size.flatten(1).sum(1).clamp(min=TINY)


TINY = 1e-30
_SHARES = {"energy_share": _energy_share, "l1": _absolute_share, "cosine": _cosine}


def input_gradient(
    network: nn.Module, x: torch.Tensor, y: torch.Tensor, explained: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradient of `explained_quantity` at the pixels, differentiable again, and the logits."""
    x = x.detach().requires_grad_(True)
    logits = network(x)
    (gradient,) = torch.autograd.grad(explained_quantity(logits, y, explained), x, create_graph=True)
    return gradient, logits


class RightForTheRightReasons:
    """Fine-tuning with `rrr_loss` beside the classification loss."""

    def __init__(self, config: RrrMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a corrected copy of the model."""
        config = self.config
        relevance = InputRelevance(config.relevance_composite, config.explained, len(problem.dataset.classes))

        def penalty(network: nn.Module, batch: MaskedBatch) -> tuple[torch.Tensor, torch.Tensor]:
            if config.quantity == "relevance":
                found, logits = relevance(network, batch.x, batch.y)
            else:
                found, logits = input_gradient(network, batch.x, batch.y, config.explained)
            return rrr_loss(found, batch.mask, config.aggregation), logits

        def losses(network: nn.Module, batch: MaskedBatch) -> dict[str, torch.Tensor]:
            return masked_penalty_losses(network, batch, problem, config.weight, penalty)

        return fine_tune(
            model, problem, config, losses, frozen_up_to=config.layer, needs_images=True, mask_source=config.masks
        )
