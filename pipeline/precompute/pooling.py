"""What is kept of a layer's activation and relevance."""

from __future__ import annotations

import torch


def pool_activation(activation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (largest, mean) over positions, both `[N, C]`, of an activation `[N, C, ...]`."""
    flat = activation.flatten(2) if activation.ndim > 2 else activation[..., None]
    return flat.amax(2), flat.mean(2)


def pool_relevance(relevance: torch.Tensor) -> torch.Tensor:
    """Return relevance summed over positions `[N, C]`, scaled per sample to a largest magnitude of 1."""
    flat = relevance.flatten(2).sum(2) if relevance.ndim > 2 else relevance
    return scale_rows(flat)


def scale_rows(values: torch.Tensor) -> torch.Tensor:
    """Divide each sample by its largest magnitude, so that half precision keeps small values; all-zero stays zero."""
    largest = values.flatten(1).abs().amax(1).clamp(min=1e-30)
    return values / largest.view(-1, *[1] * (values.ndim - 1))
