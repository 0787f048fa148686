"""Projections that take concepts out of a layer, or set them to a value (Anders et al. 2022, ClArC)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import nn

from pipeline.models.replacement import layer_within

ProjectionMode = Literal["position", "pooled"]
SAME_DIRECTION = 1e-3
"""Below which share of the largest singular value directions count as one: about 4 degrees between two of them."""


def joint_solution(measured: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Return S `[k, k]` with which a + V S (z - M^T a) has the values z along all measured directions M at once.

    One direction after the other would undo what the ones before reached, unless they are orthogonal. Directions that
    are nearly the same count as one, which takes the mean of their values.

    Args:
        measured: M `[D, k]`, along which values are measured.
        moving: V `[D, k]`, along which activations are moved; M itself for an orthogonal projection.
    """
    return np.linalg.pinv(measured.T @ moving, rcond=SAME_DIRECTION)


def columns(activation: torch.Tensor, channel_axis: int, pooling: str) -> torch.Tensor:
    """Return activations as `[N, D, P]`: D channels at P positions, or, with pooling "full", the flat map as one."""
    if pooling == "full":
        return activation.movedim(channel_axis, 1).flatten(1).unsqueeze(-1)
    if activation.ndim == 2:
        return activation.unsqueeze(-1)
    return activation.flatten(2) if channel_axis == 1 else activation.flatten(1, -2).transpose(1, 2)


def from_columns(values: torch.Tensor, like: torch.Tensor, channel_axis: int, pooling: str) -> torch.Tensor:
    """Return what `columns` made of an activation in that activation's shape."""
    if pooling == "full":
        return values.reshape(like.movedim(channel_axis, 1).shape).movedim(1, channel_axis)
    if like.ndim == 2 or channel_axis == 1:
        return values.reshape(like.shape)
    return values.transpose(1, 2).reshape(like.shape)


def pooled(values: torch.Tensor, pooling: str) -> torch.Tensor:
    """Return features `[N, D, 1]` of `[N, D, P]`, as CAVs are fitted on: the largest or the mean value of a channel."""
    return values.mean(-1, keepdim=True) if pooling == "mean" else values.amax(-1, keepdim=True)


class Projection(nn.Module):
    """Move activations along directions V to their clean values z along directions M: a' = a + V S (z - M^T a).

    S is the `joint_solution`, so that afterwards M^T a' = z for all directions. "position": every position by its own
    values. "pooled": every position by the same shift, measured on pooled features, which then have the clean values.

    Args:
        measured: M, `[D]` for one direction or `[D, k]`; D = channels (pooling "full": channels * positions).
        clean_value: z, a number or `[k]`.
        mode: "position" or "pooled".
        moving: V, in the shape of M; default: M.
        pooling: "max", "mean" or "full", as that of the CAV.
        channel_axis: 1 as in `[N, C, H, W]`, or -1 as in tokens `[N, T, C]`.
    """

    def __init__(
        self,
        measured: torch.Tensor | np.ndarray,
        clean_value: float | torch.Tensor | np.ndarray,
        mode: ProjectionMode,
        *,
        moving: torch.Tensor | np.ndarray | None = None,
        pooling: str = "max",
        channel_axis: int = 1,
    ):
        super().__init__()
        self.mode, self.pooling, self.channel_axis = mode, pooling, channel_axis
        measure = _matrix(measured)
        move = measure if moving is None else _matrix(moving)
        move = move @ joint_solution(measure, move)
        self.register_buffer("measured", torch.tensor(measure, dtype=torch.float32))
        self.register_buffer("moved", torch.tensor(move, dtype=torch.float32))
        values = np.asarray(clean_value, dtype=np.float64).reshape(-1)
        self.register_buffer("clean_value", torch.tensor(values, dtype=torch.float32))

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        """Return the projected activation, in its shape."""
        values = columns(activation, self.channel_axis, self.pooling)
        source = pooled(values, self.pooling) if self.mode == "pooled" else values
        gap = self.clean_value.unsqueeze(-1) - torch.matmul(self.measured.T, source)
        shifted = values + torch.matmul(self.moved, gap)
        return from_columns(shifted, activation, self.channel_axis, self.pooling)


class Amplification(Projection):
    """While training, randomly chosen samples are given a concept; in evaluation nothing happens.

    Args:
        maps: values `[B, k, P]` along the k directions at every position, of samples that have the concept: a chosen
            sample gets those of a random one. None: it is projected to the constant value, as in `Projection`.
        share: of the samples that are chosen in each step, in (0, 1]; the rest of the arguments as in `Projection`.
    """

    def __init__(self, *arguments, maps: np.ndarray | None = None, share: float = 1.0, **options):
        super().__init__(*arguments, **options)
        self.share = share
        self.register_buffer("maps", None if maps is None else torch.tensor(maps, dtype=torch.float32))

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        """Return the activation with some samples moved."""
        if not self.training:
            return activation
        drawn = torch.rand(len(activation), device=activation.device) < self.share
        moved = super().forward(activation) if self.maps is None else self._with_maps(activation)
        return torch.where(drawn.view(-1, *[1] * (activation.ndim - 1)), moved, activation)

    def _with_maps(self, activation: torch.Tensor) -> torch.Tensor:
        values = columns(activation, self.channel_axis, self.pooling)
        chosen = self.maps[torch.randint(len(self.maps), (len(values),), device=values.device)]
        shifted = values + torch.matmul(self.moved, chosen - torch.matmul(self.measured.T, values))
        return from_columns(shifted, activation, self.channel_axis, self.pooling)


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


def insert_projection(model: nn.Module, layer: str, projection: nn.Module) -> None:
    """Put a projection behind a layer of the model, in place; several behind one layer act in turn.

    Args:
        model: original or corrected.
        layer: name in the original.
        projection: takes and returns the layer's output.

    Raises:
        ValueError: the model has no such layer.
    """
    found = layer_within(model, layer)
    if found is None:
        raise ValueError(f"layer '{layer}' is no module of the model")
    parent_name, _, name = found.rpartition(".")
    parent = model.get_submodule(parent_name)
    child = getattr(parent, name)
    if not isinstance(child, Projected):
        child = Projected(child)
        setattr(parent, name, child)
    child.projections.append(projection)


def remove_projections(model: nn.Module) -> None:
    """Undo every `insert_projection`, in place: the layers are again what they were, with the weights they have now."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Projected):
                setattr(parent, name, child.layer)


def own_layer(model: nn.Module, layer: str) -> str | None:
    """Return under which name a corrected model holds a layer's own output, before any projection; None: not at all.

    Args:
        model: original or corrected.
        layer: name in the original.
    """
    found = layer_within(model, layer)
    return f"{found}.layer" if found and isinstance(model.get_submodule(found), Projected) else found


def _matrix(directions: torch.Tensor | np.ndarray) -> np.ndarray:
    values = np.asarray(directions, dtype=np.float64)
    return values.reshape(len(values), -1)
