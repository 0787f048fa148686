"""Grad-CAM: where the channels of a layer that speak for a class are active."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.models.trace import trace_layers

from ..targets import Target
from .explained_quantity import gradients, kept_from_in_place_changes
from .parameters import refuse, require_floating

if TYPE_CHECKING:
    from ..explainer import Attribution

MOST_PREFIX_TOKENS = 8
"""Class, distillation and register tokens of vision transformers together stay below this."""


def grad_cam(
    model: nn.Module,
    x: torch.Tensor,
    target: Target = None,
    *,
    layers: Sequence[str] = (),
    create_graph: bool = False,
    layer: str | None = None,
) -> Attribution:
    """Return ReLU(sum of channels, each weighted by its mean gradient), enlarged to the input, at least 0.

    Selvaraju et al. 2017, eq. 1 and 2. The map is shared equally by the input's channels, so that `heatmap` is the map
    itself. It is enlarged linearly, pixel centres at their places; its sum has no unit to compare with.

    Args:
        model: any module, pixels -> logits; evaluated in evaluation mode and left as it was.
        x: `[N, C, H, W]` or `[N, C, T]`.
        target: class id, ids `[N]`, logit weights `[N, K]`, or None for the predicted class.
        layers, create_graph: refused.
        layer: a module with output `[N, channels, *positions]`, or for images `[N, H, W, channels]` or tokens
            `[N, T, channels]`, class and register tokens first. None takes `last_map`, which in a transformer is the
            embedding of the patches: name a norm of its last block there.

    Raises:
        ValueError: layers or a graph are requested, no layer has positions, the tokens of `layer` make no grid, or a
            target that does not fit.
    """
    from ..explainer import Attribution

    refuse("grad_cam", layers, create_graph)
    require_floating(x)
    name = last_map(model, x) if layer is None else layer
    found = gradients(model, x, target, layers=[name])
    activation = channels_first(found.activations[name], x.shape[2:], name)
    slope = channels_first(found.of_layers[name], x.shape[2:], name)
    positions = tuple(range(2, slope.ndim))
    seen = F.relu((slope.mean(positions, keepdim=True) * activation).sum(1, keepdim=True))
    mode = "bilinear" if x.ndim == 4 else "linear"
    enlarged = F.interpolate(seen, size=x.shape[2:], mode=mode, align_corners=False)
    return Attribution(relevance=(enlarged / x.shape[1]).expand_as(x).contiguous(), logits=found.logits)


def last_map(model: nn.Module, x: torch.Tensor) -> str:
    """Return the name of the last layer that has the positions of the last convolution with more than one.

    So normalisation, activation and residual sum after that convolution are included, pooling is not. Of modules that
    end together it is the outermost, as `layer4` of a ResNet.

    Raises:
        ValueError: no convolution has positions.
    """
    # Copies are known apart: tracing lists a tensor once, under its first name, also if it is written to afterwards.
    with kept_from_in_place_changes(model, (name for name, _ in model.named_modules())):
        traced = trace_layers(model, x[:1].detach().clone())
    found = [layer for layer in traced if len(layer.shape) == x.ndim - 1]
    convolved = [layer for layer in found if layer.kind == "convolution" and math.prod(layer.shape[1:]) > 1]
    if not convolved:
        raise ValueError(
            f"grad_cam finds no convolution with more than one position for inputs {tuple(x.shape)}. "
            "Name a layer with positions: layer='...'."
        )
    positions = convolved[-1].shape[1:]
    return [layer for layer in found if layer.shape[1:] == positions][-1].name


def channels_first(output: torch.Tensor, size: Sequence[int], name: str) -> torch.Tensor:
    """Return a layer's output as `[N, channels, *positions]`.

    Args:
        output: `[N, channels, *positions]`; for images also `[N, H, W, channels]`, known by positions in the
            proportions of the image, or tokens `[N, T, channels]`.
        size: positions of the input, `(H, W)` or `(T,)`.
        name: of the layer, for the message.

    Raises:
        ValueError: neither fits.
    """
    if len(size) == 2 and output.ndim == 3:
        prefix, rows, columns = token_grid(output.shape[1], size, name)
        return output[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))
    if output.ndim != len(size) + 2:
        raise ValueError(
            f"layer '{name}' has output {tuple(output.shape)}, which has no positions for an input of size "
            f"{tuple(size)}. Name a layer before the positions are pooled."
        )
    last = len(size) == 2 and _proportional(output.shape[1:3], size) and not _proportional(output.shape[2:], size)
    return output.movedim(-1, 1) if last else output


def token_grid(tokens: int, size: Sequence[int], name: str) -> tuple[int, int, int]:
    """Return (tokens before the grid, rows, columns): the fewest that leave a grid in the proportions of the image.

    Raises:
        ValueError: up to `MOST_PREFIX_TOKENS` leave none.
    """
    unit = math.gcd(*size)
    height, width = size[0] // unit, size[1] // unit
    for prefix in range(min(MOST_PREFIX_TOKENS, tokens - 1) + 1):
        scale = math.isqrt((tokens - prefix) // (height * width))
        if scale * scale * height * width == tokens - prefix:
            return prefix, scale * height, scale * width
    raise ValueError(
        f"layer '{name}' gives {tokens} tokens, which with 0 to {MOST_PREFIX_TOKENS} class and register tokens make no "
        f"grid in the proportions of images of {size[0]} x {size[1]} pixels. Name a layer that keeps all patches."
    )


def _proportional(grid: Sequence[int], size: Sequence[int]) -> bool:
    """Whether a grid has the proportions of the image, but for rounding."""
    return abs(grid[0] * size[1] - grid[1] * size[0]) <= max(size)
