"""Guided backpropagation: the gradient without what speaks against the class, at every rectifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..targets import Target
from .explained_quantity import gradients
from .parameters import refuse

if TYPE_CHECKING:
    from ..explainer import Attribution

_RECTIFIERS = {
    torch.relu: torch.relu,
    torch.relu_: torch.relu,
    torch.Tensor.relu: torch.relu,
    torch.Tensor.relu_: torch.relu,
    F.relu: torch.relu,
    F.relu6: F.relu6,
}


def guided(
    model: nn.Module,
    x: torch.Tensor,
    target: Target = None,
    *,
    layers: Sequence[str] = (),
    create_graph: bool = False,
) -> Attribution:
    """Return the gradient at the input and at `layers`, negative parts dropped on the way down at every rectifier.

    The values are logits per unit of the input (Springenberg et al., Striving for simplicity, 2015, section 3.4).

    Args:
        model: a network of ReLU or ReLU6 activations; evaluated in evaluation mode and left as it was.
        x: `[N, C, H, W]` or `[N, C, T]`.
        target: class id, ids `[N]`, logit weights `[N, K]`, or None for the predicted class.
        layers: names of modules at whose output the guided gradient is returned, too.
        create_graph: refused.

    Raises:
        ValueError: a graph is requested, the network has no rectifier, a target that does not fit, or a layer that does
            not run exactly once.
    """
    from ..explainer import Attribution

    refuse("guided", create_graph=create_graph)
    with _GuidedRectifiers() as mode:
        found = gradients(model, x, target, layers=layers)
    if not mode.met:
        raise ValueError("'guided' needs a network of ReLU or ReLU6 activations, and met none; use 'gradient'.")
    return Attribution(
        relevance=found.of_x, logits=found.logits, relevances=found.of_layers, activations=found.activations
    )


class _GuidedRectifier(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: torch.Tensor, rectifier) -> torch.Tensor:
        output = rectifier(z)
        ctx.save_for_backward((z > 0) & (output == z))
        return output

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (passes,) = ctx.saved_tensors
        return gradient.clamp(min=0) * passes, None


class _GuidedRectifiers(TorchFunctionMode):
    """Routes rectifiers through `_GuidedRectifier` and remembers whether there were any."""

    def __init__(self):
        super().__init__()
        self.met = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        rectifier = _RECTIFIERS.get(func)
        if func is F.hardtanh and (kwargs.get("min_val"), kwargs.get("max_val")) == (0, 6):
            rectifier = F.relu6  # as `nn.ReLU6` calls it
        if rectifier is not None:
            self.met = True
            return _GuidedRectifier.apply(args[0] if args else kwargs["input"], rectifier)
        return func(*args, **kwargs)
