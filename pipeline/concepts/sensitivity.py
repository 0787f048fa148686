"""TCAV: does a logit rise when the activation moves along a concept? (Kim et al. 2018)."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

NEGLIGIBLE = 1e-5


def layer_gradients(model: nn.Module, x: torch.Tensor, layer: str, class_id: int) -> np.ndarray:
    """Return d logit / d activation `[N, C]` at a layer, averaged over positions."""
    kept: list[torch.Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _, __, output: kept.append(output))
    try:
        with torch.enable_grad():
            logits = model(x.detach().requires_grad_(True))
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, class_id].sum(), kept)
    return gradient.flatten(2).mean(2).cpu().numpy() if gradient.ndim > 2 else gradient.cpu().numpy()


def concept_signs(gradients: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return per sample 1 where the logit rises along the direction, 0 where it falls, 1/2 where it does not change.

    Their mean is the TCAV quotient; independence gives 1/2.

    Args:
        gradients: `[N, C]`.
        direction: unit vector `[C]`.
    """
    slope = gradients @ direction
    size = np.linalg.norm(gradients, axis=1)
    return np.where(np.abs(slope) <= NEGLIGIBLE * np.maximum(size, 1e-30), 0.5, (slope > 0).astype(float))


def random_directions(count: int, dimension: int, seed: int) -> np.ndarray:
    """Return unit vectors `[count, dimension]` drawn uniformly: the control beside every TCAV."""
    drawn = np.random.default_rng(seed).standard_normal((count, dimension))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
