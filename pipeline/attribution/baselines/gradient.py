"""The gradient: how much the explained quantity changes with each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..targets import Target
from .explained_quantity import gradients

if TYPE_CHECKING:
    from ..explainer import Attribution


def gradient(
    model: nn.Module,
    x: torch.Tensor,
    target: Target = None,
    *,
    layers: Sequence[str] = (),
    create_graph: bool = False,
) -> Attribution:
    """Return d explained / d x, and d explained / d activation of `layers`, signed.

    The values are logits per unit of the input (saliency; Simonyan et al., Deep inside convolutional networks, 2014,
    section 3, without the absolute value).

    Args:
        model: any module, pixels -> logits; evaluated in evaluation mode and left as it was.
        x: `[N, C, H, W]` or `[N, C, T]`.
        target: class id, ids `[N]`, logit weights `[N, K]`, or None for the predicted class.
        layers: names of modules at whose output the gradient is returned, too.
        create_graph: keep the graph, so that a loss on the result can be trained on.

    Raises:
        ValueError: a target that does not fit, or a layer that does not run exactly once.
    """
    from ..explainer import Attribution

    found = gradients(model, x, target, layers=layers, create_graph=create_graph)
    return Attribution(
        relevance=found.of_x, logits=found.logits, relevances=found.of_layers, activations=found.activations
    )
