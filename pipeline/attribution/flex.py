"""LRP-Flex: the epsilon rule as a modified backward pass, differentiable a second time.

Bassi et al., Faster ISNet (2024): at every activation the gradient is multiplied by a / (z + epsilon sign z) instead of
the derivative; gradient times activation is then LRP-epsilon relevance, with LRP-0 through everything linear. The
modified derivative acts only while relevance is computed; the optimizer's own backward pass, also through the factors
themselves, uses the true derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .recording import record_outputs
from .stabilize import stabilized_ratio
from .targets import StartRelevance, Target, logit_weights, start_at
from .zb import record_first_block, zb_rule

INPUT_RULES = ("zb", "gradient_x_input")
_ACTIVATIONS: dict[Callable, Callable[[torch.Tensor], torch.Tensor]] = {
    torch.relu: torch.relu,
    torch.relu_: torch.relu,
    torch.Tensor.relu: torch.relu,
    torch.Tensor.relu_: torch.relu,
    F.relu: torch.relu,
    F.relu6: F.relu6,
    F.hardtanh: F.relu6,
}
_REFUSED = {
    *(F.gelu, F.silu, F.mish, F.leaky_relu, F.elu, F.selu, F.celu, F.rrelu, F.softplus, F.hardswish, F.hardsigmoid),
    *(torch.prelu, torch.sigmoid, torch.Tensor.sigmoid, torch.tanh, torch.Tensor.tanh),
    *(F.softmax, torch.softmax, torch.Tensor.softmax, F.scaled_dot_product_attention),
    *(F.layer_norm, F.group_norm, F.instance_norm),
}


@dataclass
class _Pass:
    """Whether a backward pass computes relevance (True) or ordinary gradients (False)."""

    relevance: bool = False
    epsilon: float = 1e-2


class _FlexActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: torch.Tensor, activation: Callable, state: _Pass) -> torch.Tensor:
        ctx.state, ctx.activation = state, activation
        ctx.save_for_backward(z)
        return activation(z)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (z,) = ctx.saved_tensors
        if ctx.state.relevance:
            # `z` is part of the outer graph: with create_graph the factor is differentiated too, by true derivatives.
            return gradient * activation_ratio(z, ctx.activation, ctx.state.epsilon), None, None
        upper = (z < 6) if ctx.activation is F.relu6 else True
        return gradient * ((z > 0) & upper).to(z), None, None


def activation_ratio(z: torch.Tensor, activation: Callable, epsilon: float) -> torch.Tensor:
    """Return a / (z + epsilon sign z), 0 where z is 0; for ReLU this is z / (z + epsilon) on active units."""
    return stabilized_ratio(activation(z), z, epsilon)


class _FlexMode(TorchFunctionMode):
    """Routes activations through `_FlexActivation` during a forward pass."""

    def __init__(self, state: _Pass):
        super().__init__()
        self.state = state

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _REFUSED or (func is F.hardtanh and not _is_relu6(kwargs)):
            raise ValueError(
                f"LRP-Flex has no rule for {func.__name__}: it is derived for ReLU and ReLU6 networks. "
                "Use another correction for this architecture."
            )
        if func in _ACTIVATIONS:
            return _FlexActivation.apply(args[0] if args else kwargs["input"], _ACTIVATIONS[func], self.state)
        return func(*args, **kwargs)


def _is_relu6(bounds: dict) -> bool:
    """`nn.ReLU6` calls `hardtanh` with these bounds."""
    return (bounds.get("min_val"), bounds.get("max_val")) == (0, 6)


def lrp_flex(
    model: nn.Module,
    x: torch.Tensor,
    target: Target | Callable[[torch.Tensor], torch.Tensor] = None,
    *,
    layers: Sequence[str] = (),
    start_layer: str | None = None,
    start_relevance: StartRelevance = None,
    create_graph: bool = False,
    epsilon: float = 1e-2,
    input_rule: str = "zb",
    pixel_range: tuple[float, float] = (0.0, 1.0),
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return (relevance `[N, ...x.shape]`, logits `[N, K]`, relevances and activations by layer).

    Args:
        model: a network of ReLU or ReLU6 activations with BatchNorm in evaluation mode.
        x: pixels `[N, C, H, W]` within `pixel_range`.
        target: class id, ids `[N]`, weights `[N, K]`, None for the predicted class, or a function from logits to one
            value per sample (ISNet's Selective explains a margin).
        layers: module names at whose output relevance is returned as well.
        start_layer, start_relevance: start inside the network instead of at the logits.
        create_graph: keep the graph, for a loss on the relevance.
        epsilon: stabiliser of the epsilon rule; 0 gives gradient times input.
        input_rule: "zb" (relevance of the first activation goes to bounded pixels by the Zb rule; Montavon et al.
            2017, eq. 14) or "gradient_x_input".
        pixel_range: lowest and highest pixel value, before the model's own normalisation.

    Raises:
        ValueError: an unknown input rule, an activation or normalisation without rule, BatchNorm in training mode or
            without running statistics, no first convolution for "zb", or a layer that does not run exactly once.
    """
    if input_rule not in INPUT_RULES:
        raise ValueError(f"input_rule '{input_rule}' is unknown; allowed are {', '.join(INPUT_RULES)}.")
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) and _mixes_samples(m) for m in model.modules()):
        raise ValueError(
            "LRP-Flex needs BatchNorm in evaluation mode, with running statistics: "
            "those of the batch would mix its samples. Call model.eval()."
        )
    state = _Pass(epsilon=epsilon)
    recorded = [*layers, *([start_layer] if start_layer and start_layer not in layers else [])]
    x = x if x.requires_grad else x.detach().requires_grad_(True)
    with (
        torch.enable_grad(),
        record_first_block(model, x, enabled=input_rule == "zb") as first,
        record_outputs(model, recorded) as outputs,
        _FlexMode(state),
    ):
        logits = model(x)
    start, seed = _starting_point(logits, target, outputs, start_layer, start_relevance)
    bottom = first.output if first else x
    wanted = [bottom, *(outputs[name] for name in layers)]
    state.relevance = True
    try:
        with torch.enable_grad():
            gradients = torch.autograd.grad(start, wanted, seed, create_graph=create_graph, allow_unused=True)
    finally:
        state.relevance = False
    relevances = [
        torch.zeros_like(tensor) if gradient is None else gradient * tensor
        for tensor, gradient in zip(wanted, gradients, strict=True)
    ]
    relevance = zb_rule(first, relevances[0], model, pixel_range, epsilon) if first else relevances[0]
    by_layer = dict(zip(layers, relevances[1:], strict=True))
    activations = {name: outputs[name] for name in layers}
    if not create_graph:
        relevance, logits = relevance.detach(), logits.detach()
        by_layer = {name: value.detach() for name, value in by_layer.items()}
        activations = {name: value.detach() for name, value in activations.items()}
    return relevance, logits, by_layer, activations


def _mixes_samples(norm: nn.Module) -> bool:
    return norm.training or norm.running_mean is None


def _starting_point(logits, target, outputs, start_layer, start_relevance) -> tuple[torch.Tensor, torch.Tensor | None]:
    if start_layer is not None:
        start = outputs[start_layer]
        relevance = start_at(start, start_relevance)
        # gradient times activation is the convention below the start, so the seed is relevance over activation
        return start, relevance / torch.where(start.detach() == 0, torch.ones_like(start), start.detach())
    if callable(target):
        return target(logits).sum(), None
    return (logits * logit_weights(logits, target)).sum(), None
