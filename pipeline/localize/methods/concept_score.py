"""The score of a concept as a network with one output, so that any explanation of logits explains it."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.attribution.baselines.explained_quantity import kept_from_in_place_changes
from pipeline.attribution.recording import record_outputs
from pipeline.concepts.cav import Cav
from pipeline.concepts.localization import cells_over

ADAPTIVE_MEANS = {1: nn.functional.adaptive_avg_pool1d, 2: nn.functional.adaptive_avg_pool2d}


class ConceptScore(nn.Module):
    """Inputs `[N, ...]` -> pooled activation @ direction `[N, 1]`, differentiable.

    Args:
        model: the network; it is used as it is, not copied.
        cav: the concept; its layer, direction and pooling count, its intercept does not.
        axis: where the layer has its channels, 1 or -1.
    """

    def __init__(self, model: nn.Module, cav: Cav, axis: int):
        super().__init__()
        self.model, self.cav, self.axis = model, cav, axis

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scores `[N, 1]`."""
        layer = self.cav.layer
        with record_outputs(self.model, [layer]) as outputs, kept_from_in_place_changes(self.model, [layer]):
            self.model(x)
        features = pooled(outputs[layer].movedim(self.axis, 1), self.cav)
        return (features @ torch.as_tensor(self.cav.direction).to(features))[:, None]


def pooled(activation: torch.Tensor, cav: Cav) -> torch.Tensor:
    """Return the features `[N, D]` in which a CAV lives, from `[N, C, ...positions]`.

    Raises:
        DataError: pooling "full", and the direction does not belong to such a layer.
    """
    if activation.ndim == 2:
        return activation
    if cav.pooling == "full":
        cells = cells_over(len(cav.direction), activation.shape[1], tuple(activation.shape[2:]))
        return ADAPTIVE_MEANS[len(cells)](activation, cells).flatten(1)
    flat = activation.flatten(2)
    return flat.amax(2) if cav.pooling == "max" else flat.mean(2)
