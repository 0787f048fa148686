"""What a map `[N, 1, H, W]` in [0, 1] should be: small, in one piece, and closed where nothing is to be used.

Rio-Torto et al., Pattern Recognition Letters 2020. Every term is one value per image; batches take their mean.
"""

from __future__ import annotations

import torch

EPSILON = 1e-6


def sparsity(opening: torch.Tensor) -> torch.Tensor:
    """Return the mean of |z| `[N]`, the share of the image that is open; in [0, 1]."""
    return opening.abs().flatten(1).mean(1)


def contiguity(opening: torch.Tensor) -> torch.Tensor:
    """Return the total variation `[N]`: the mean |difference| of vertical neighbors plus that of horizontal ones.

    Two means, as in the published code, not one over both kinds of neighbors; in [0, 2], 0 where there are none.
    """
    means = []
    for axis in (-2, -1):
        steps = opening.diff(dim=axis).abs().flatten(1)
        means.append(steps.sum(1) / max(1, steps.shape[1]))
    return means[0] + means[1]


def openness_within(opening: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of z in the mask `[N]`: what the map leaves open of that which should not be used.

    The published weak term, whose mask of the region of interest is 1 - mask. 0 for images with an empty mask.

    Args:
        opening: `[N, 1, H, W]`.
        mask: the same shape, in [0, 1], 1 = should not be used.
    """
    inside = (mask * opening).flatten(1).sum(1)
    return (inside / (mask.flatten(1).sum(1) + EPSILON)).abs()


def explanation_loss(
    opening: torch.Tensor, sparsity_share: float, mask: torch.Tensor | None = None, mask_weight: float = 1.0
) -> torch.Tensor:
    """Return beta S + (1 - beta) T `[N]`; with masks, the hybrid loss: + gamma P.

    Args:
        opening: `[N, 1, H, W]`.
        sparsity_share: beta in [0, 1].
        mask: see `openness_within`; None leaves the term out.
        mask_weight: gamma.
    """
    loss = sparsity_share * sparsity(opening) + (1 - sparsity_share) * contiguity(opening)
    return loss if mask is None else loss + mask_weight * openness_within(opening, mask)


def joint_loss(classification: torch.Tensor, explanation: torch.Tensor, classification_share: float) -> torch.Tensor:
    """Return alpha classification + (1 - alpha) explanation, alpha in [0, 1]."""
    return classification_share * classification + (1 - classification_share) * explanation
