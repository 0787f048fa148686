"""Derivatives of losses on relevance against central differences, in double precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pipeline.attribution import Explainer

STEPS = (5e-6, 1e-6, 2e-7)
"""Wide ones cross where an output is nearly zero and shares explode, narrow ones round; what is wrong is so at all."""
TOLERANCE = 1e-5


def masked_relevance(explainer: Explainer, x: torch.Tensor, layer: str | None = None, **options) -> torch.Tensor:
    """A loss on relevance, as a correction would have it: weighted by a mask, signed and squared."""
    found = explainer.attribute(x, **({"target": 1} | options), layers=[layer] if layer else [], create_graph=True)
    relevance = found.relevances[layer] if layer else found.relevance
    mask = torch.linspace(-1, 1, relevance.numel(), dtype=x.dtype).mul(7).sin().view(relevance.shape)
    return (relevance * mask).sum() + (relevance * mask).square().sum()


def worst_derivative(loss: Callable[[], torch.Tensor], groups: dict[str, list[torch.Tensor]]) -> tuple[float, str]:
    """Compare derivatives along a random direction of every group; return the largest relative difference."""
    generator = torch.Generator().manual_seed(0)
    start = loss()
    smallest = 1e-3 * abs(float(start.detach()))  # below, differences are rounding
    every = [tensor for tensors in groups.values() for tensor in tensors]
    remaining = iter(torch.autograd.grad(start, every, allow_unused=True, materialize_grads=True))
    worst = 0.0, ""
    for name, tensors in groups.items():
        gradients = [next(remaining) for _ in tensors]
        directions = [torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in tensors]
        found = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
        length, best = max(float(gradient.norm()) for gradient in gradients), float("inf")
        for step in STEPS:
            expected = along(loss, tensors, directions, step)
            best = min(best, abs(found - expected) / max(abs(expected), length, smallest))
            if best <= TOLERANCE:
                break
        worst = max(worst, (best, name))
    return worst


def groups_of(network: nn.Module, x: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    """Parameters by kind of layer and name, and the pixels."""
    groups: dict[str, list[torch.Tensor]] = {"pixels": [x]}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            kind = "normalisation" if "Norm" in type(module).__name__ else "linear map"
            groups.setdefault(f"{name} of {kind}", []).append(parameter)
    return groups


def along(loss: Callable[[], torch.Tensor], tensors: list, directions: list, step: float) -> float:
    """Central difference of fourth order along a direction."""
    values = []
    for side in (1, -1, 2, -2):
        with torch.no_grad():
            torch._foreach_add_(tensors, directions, alpha=side * step)
        values.append(float(loss().detach()))
        with torch.no_grad():
            torch._foreach_sub_(tensors, directions, alpha=side * step)
    return (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * step)


def check(network: nn.Module, x: torch.Tensor, composite, start: dict | None = None, layer=None, **options) -> None:
    network, x = network.double().eval(), x.double().requires_grad_()
    explainer = Explainer(network, x.detach(), composite, **options)
    difference, name = worst_derivative(
        lambda: masked_relevance(explainer, x, layer, **(start or {})), groups_of(network, x)
    )
    assert difference <= TOLERANCE, name
