"""What is kept of a layer's activation and relevance. Everywhere here channels come first: `[N, C, ...positions]`."""

from __future__ import annotations

import torch
from torch import nn

ADAPTIVE_MEANS = {1: nn.functional.adaptive_avg_pool1d, 2: nn.functional.adaptive_avg_pool2d}


def channels_first(values: torch.Tensor, channel_axis: int) -> torch.Tensor:
    """Return `[N, C, ...positions]`: tokens `[N, T, C]` and `[N, H, W, C]` (channel axis -1) with their axes moved."""
    return values if channel_axis == 1 else values.movedim(-1, 1)


def largest(values: torch.Tensor) -> torch.Tensor:
    """Return the largest value over positions `[N, C]`."""
    return values.amax(_positions(values)) if values.ndim > 2 else values


def mean(values: torch.Tensor) -> torch.Tensor:
    """Return the mean over positions `[N, C]`."""
    return values.mean(_positions(values)) if values.ndim > 2 else values


def total(values: torch.Tensor) -> torch.Tensor:
    """Return the sum over positions `[N, C]`."""
    return values.sum(_positions(values)) if values.ndim > 2 else values


def _positions(values: torch.Tensor) -> tuple[int, ...]:
    # axes instead of `flatten`, which would copy values whose channels lie last in memory
    return tuple(range(2, values.ndim))


POOLINGS = {"max": largest, "mean": mean}


def to_grid(values: torch.Tensor, cells: int) -> torch.Tensor:
    """Return means over a grid of at most `cells` cells along each axis of positions (one or two axes).

    Cells that do not divide an axis evenly overlap by one position, as in adaptive average pooling.
    """
    shape = [min(cells, length) for length in values.shape[2:]]
    return ADAPTIVE_MEANS[len(shape)](values, shape)


def scale_rows(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide each sample by its largest magnitude, so that half precision keeps small values.

    Returns:
        Values in [-1, 1] in the shape given, and the largest magnitudes `[N]`; their product is what was given, up to
        rounding. A sample of zeros stays one, with scale 0.
    """
    scale = values.flatten(1).abs().amax(1)
    divisor = torch.where(scale > 0, scale, 1.0)
    return values / divisor.view(-1, *[1] * (values.ndim - 1)), scale
