"""A penalty on samples that have a mask, beside the classification of all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from .fine_tuning import MaskedBatch, classification_loss
from .interface import Problem

Penalty = Callable[[nn.Module, MaskedBatch], tuple[torch.Tensor, torch.Tensor]]
"""Takes a network and samples that all have a mask; returns a scalar, and the logits `[B, K]`, made on the way."""


def masked_penalty_losses(
    network: nn.Module, batch: MaskedBatch, problem: Problem, weight: float, penalty: Penalty
) -> dict[str, torch.Tensor]:
    """Return "total" = "classification" + weight * "penalty" of a batch; the penalty is 0 where no sample has a mask.

    Samples without mask run through the network apart, since what a penalty looks at is expensive.

    Args:
        network: in training or evaluation mode; BatchNorm uses its running statistics.
    """
    x, y, present = batch.x, batch.y, batch.masked
    if not present.any():
        logits, value = network(x), x.new_zeros(())
    elif present.all():
        value, logits = penalty(network, batch)
    else:
        masked = MaskedBatch(x[present], y[present], batch.mask[present], batch.epoch)
        value, logits = penalty(network, masked)
        logits, y = torch.cat([logits, network(x[~present])]), torch.cat([masked.y, y[~present]])
    classification = classification_loss(problem, logits, y)
    return {"total": classification + weight * value, "classification": classification, "penalty": value}
