"""Projections that take a concept out of a layer (Anders et al. 2022, ClArC)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from pipeline.models.replacement import layer_within

ProjectionMode = Literal["position", "pooled"]


class Projection(nn.Module):
    """Move activations along a unit direction h to their clean value z.

    "position": a' = a + (z - h.a) h at every position. "pooled": every position is shifted by the same
    (z - h.max(a)) h, where the largest value of each channel is taken over positions.
    """

    def __init__(self, direction: torch.Tensor, clean_value: float, mode: ProjectionMode):
        super().__init__()
        self.mode = mode
        self.register_buffer("direction", torch.as_tensor(direction, dtype=torch.float32))
        self.register_buffer("clean_value", torch.tensor(float(clean_value)))

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        """Return the projected activation `[N, C, ...]`."""
        shape = (1, -1, *[1] * (activation.ndim - 2))
        direction = self.direction.view(shape)
        if self.mode == "position" or activation.ndim == 2:
            value = (activation * direction).sum(1, keepdim=True)
        else:
            value = (activation.flatten(2).amax(2).view(*activation.shape[:2], *shape[2:]) * direction).sum(
                1, keepdim=True
            )
        return activation + (self.clean_value - value) * direction


class Projected(nn.Module):
    """A layer followed by projections; `layer` is the untouched original."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        self.projections = nn.ModuleList()

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the layer's projected output."""
        output = self.layer(*inputs)
        for projection in self.projections:
            output = projection(output)
        return output


def insert_projection(model: nn.Module, layer: str, projection: Projection) -> None:
    """Put a projection behind a layer of the model, in place; several behind one layer act in turn."""
    parent_name, _, name = layer.rpartition(".")
    parent = model.get_submodule(parent_name)
    child = getattr(parent, name)
    if not isinstance(child, Projected):
        child = Projected(child)
        setattr(parent, name, child)
    child.projections.append(projection)


def own_layer(model: nn.Module, layer: str) -> str | None:
    """Return under which name a corrected model holds a layer's own output, before any projection; None: not at all.

    Args:
        model: original or corrected.
        layer: name in the original.
    """
    found = layer_within(model, layer)
    return f"{found}.layer" if found and isinstance(model.get_submodule(found), Projected) else found
