"""The division of every LRP rule."""

from __future__ import annotations

import torch


def stabilized_ratio(numerator: torch.Tensor, z: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return numerator / (z + epsilon sign z), where zero counts as positive; a denominator of 0 is taken as 1."""
    step = z.new_full((), epsilon)
    denominator = z + torch.where(z >= 0, step, -step)
    return numerator / torch.where(denominator == 0, torch.ones_like(z), denominator)
