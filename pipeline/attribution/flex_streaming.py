"""Losses on many LRP-Flex maps, one map in memory at a time, and still one backward pass for the optimizer.

What relevance is computed from (activations, scales of BatchNorm, weights that are computed themselves) is read from
copies cut off from the forward pass, so the graph of a map ends there and at the parameters. Each map's loss is
differentiated as soon as it is there. The gradients, added up, are handed to the real tensors when the optimizer's
backward pass comes along, which then goes through the forward pass once, for all maps and the classification together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from .flex import Explained, seeds_of
from .flex_forward import FlexForward, flex_forward, unchanged

LossOfMap = Callable[[int, torch.Tensor, dict[str, torch.Tensor]], torch.Tensor]
"""Takes the number of a map, its relevance `[N, C, H, W]` and that of layers, returns a scalar."""


def streamed_loss(
    model: nn.Module,
    x: torch.Tensor,
    explained: Explained | Sequence[Explained],
    loss_of_map: LossOfMap,
    *,
    layers: Sequence[str] = (),
    epsilon: float = 1e-2,
    input_rule: str = "zb",
    pixel_range: tuple[float, float] = (0.0, 1.0),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the losses of all maps, and the logits `[N, classes]`.

    Values and gradients are those of the same losses on `flex_maps(..., create_graph=True)`, up to rounding; memory is
    that of one map. Without gradients (`torch.no_grad`) nothing but the values is computed.

    Args:
        model, x, explained, layers, epsilon, input_rule, pixel_range: see `flex_maps`.
        loss_of_map: differentiated once, while this function runs; only gradients to the parameters of the model and to
            `x` are kept, not those to anything else that it reads.

    Raises:
        ValueError: see `flex_maps`.
    """
    keeps_gradients = torch.is_grad_enabled()
    gradients = _Gradients([*model.parameters(), x]) if keeps_gradients else None
    forward = flex_forward(
        model, x, layers, epsilon=epsilon, input_rule=input_rule, pixel_range=pixel_range,
        source=unchanged if gradients is None else gradients.source,
    )  # fmt: skip
    total = forward.logits.new_zeros(())
    for number, seed in enumerate(seeds_of(explained, forward.logits, create_graph=keeps_gradients)):
        total = total + _one_map(forward, number, seed, layers, loss_of_map, gradients)
    return (total, forward.logits.detach()) if gradients is None else (gradients.attach(total), forward.logits)


def _one_map(
    forward: FlexForward, number: int, seed: torch.Tensor, layers, loss_of_map: LossOfMap, gradients: _Gradients | None
) -> torch.Tensor:
    """Return the loss of a map, detached, its gradients added to the others; its graph ends with this function."""
    relevance, at_layers = forward.relevance(
        forward.logits, forward.source(seed), layers, create_graph=gradients is not None, keep=True
    )
    loss = loss_of_map(number, relevance, at_layers)
    if gradients is not None and loss.requires_grad:
        gradients.add(loss)
    return loss.detach()


class _Gradients:
    """Gradients of losses, added up: to leaves of the whole graph, and to tensors in the middle of a forward pass."""

    def __init__(self, leaves: Sequence[torch.Tensor]):
        self._leaves = [leaf for leaf in leaves if leaf.requires_grad]
        self._tensors: dict[int, torch.Tensor] = {}
        self._copies: dict[int, torch.Tensor] = {}
        self._sums: dict[int, torch.Tensor] = {}
        self._anchor = torch.zeros((), requires_grad=True)

    def source(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy of a tensor without its past, always the same one."""
        if not tensor.requires_grad:
            return tensor
        key = id(tensor)
        if key not in self._copies:
            self._tensors[key] = tensor
            self._copies[key] = _Collected.apply(tensor.detach(), self._anchor, key, self._sums)
        return self._copies[key]

    def add(self, loss: torch.Tensor) -> None:
        # where relevance depends on the forward pass by more than copies, as by products of two activations, this goes
        # through its graph, which must stay
        found = torch.autograd.grad(loss, [self._anchor, *self._leaves], retain_graph=True, allow_unused=True)[1:]
        for leaf, gradient in zip(self._leaves, found, strict=True):
            if gradient is not None:
                self._tensors[id(leaf)] = leaf
                _add(self._sums, id(leaf), gradient)

    def attach(self, loss: torch.Tensor) -> torch.Tensor:
        """Return the loss with these gradients."""
        tensors = [self._tensors[key] for key in self._sums]
        return _KnownGradients.apply(loss, tuple(self._sums.values()), *tensors)


def _add(sums: dict[int, torch.Tensor], key: int, gradient: torch.Tensor) -> None:
    # autograd may hand the same tensor to others, so the first one is copied before anything is added to it
    sums[key] = sums[key].add_(gradient) if key in sums else gradient.clone()


class _Collected(torch.autograd.Function):
    """A tensor whose gradients are added up on the side, at once, so that they need not be kept."""

    @staticmethod
    def forward(ctx, tensor, anchor, key, sums):
        ctx.key, ctx.sums = key, sums
        return tensor.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        _add(ctx.sums, ctx.key, gradient)
        return None, None, None, None


class _KnownGradients(torch.autograd.Function):
    """A scalar whose gradients to some tensors are known already."""

    @staticmethod
    def forward(ctx, value, gradients, *tensors):
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, upper):
        return None, None, *(upper * gradient for gradient in ctx.saved_tensors)
