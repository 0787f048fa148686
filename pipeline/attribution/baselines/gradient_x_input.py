"""Gradient times input: the first-order share of each pixel in the explained quantity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..targets import Target
from .explained_quantity import gradients

if TYPE_CHECKING:
    from ..explainer import Attribution


def gradient_x_input(
    model: nn.Module,
    x: torch.Tensor,
    target: Target = None,
    *,
    layers: Sequence[str] = (),
    create_graph: bool = False,
) -> Attribution:
    """Return x * d explained / d x, and activation * d explained / d activation of `layers`.

    The values are logits. In a network of linear layers, ReLU and max pooling without biases they sum to the explained
    logit (Shrikumar et al., Not just a black box, 2016; Ancona et al., Towards better understanding of gradient-based
    attribution methods, 2018, table 1).

    Args:
        model: any module, pixels -> logits; evaluated in evaluation mode and left as it was.
        x: `[N, C, H, W]` or `[N, C, T]`.
        target: class id, ids `[N]`, logit weights `[N, K]`, or None for the predicted class.
        layers: names of modules at whose output the product is returned, too.
        create_graph: keep the graph, so that a loss on the result can be trained on.

    Raises:
        ValueError: a target that does not fit, or a layer that does not run exactly once.
    """
    from ..explainer import Attribution

    found = gradients(model, x, target, layers=layers, create_graph=create_graph)
    return Attribution(
        relevance=found.x * found.of_x,
        logits=found.logits,
        relevances={name: found.activations[name] * slope for name, slope in found.of_layers.items()},
        activations=found.activations,
    )
