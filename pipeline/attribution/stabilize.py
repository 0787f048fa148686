"""The division of every LRP rule, and arithmetic that takes memory again where no graph is kept."""

from __future__ import annotations

import torch


def stabilized_ratio(numerator: torch.Tensor, z: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return numerator / (z + epsilon sign z), where zero counts as positive; a denominator of 0 is taken as 1."""
    if epsilon > 0:
        # never 0: z and the step have the same sign
        step = torch.copysign(z.new_tensor(epsilon), z)
        return ratio_into(numerator, z + step if torch.is_grad_enabled() else step.add_(z))
    return numerator / torch.where(z == 0, torch.ones_like(z), z)


def ratio_into(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """Return numerator / denominator; without a graph written over the denominator, which must be of no more use."""
    fits = numerator.shape == denominator.shape and numerator.dtype == denominator.dtype
    if torch.is_grad_enabled() or not fits:
        return numerator / denominator
    return torch.div(numerator, denominator, out=denominator)


def product_into(values: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Return values * factor; without a graph written over the values, which must be of no more use."""
    fits = values.shape == factor.shape and values.dtype == factor.dtype
    return values * factor if torch.is_grad_enabled() or not fits else values.mul_(factor)
