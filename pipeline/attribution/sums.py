"""Relevance through sums and averages: shared in proportion to what each part contributed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .stabilize import stabilized_ratio

STABILIZER = 1e-6
_ADDITIONS = {torch.add, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__add__, torch.Tensor.__iadd__}
_AVERAGES = {
    torch.mean,
    torch.Tensor.mean,
    F.avg_pool1d,
    F.avg_pool2d,
    F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
}


class _ProportionalSum(torch.autograd.Function):
    """a + b, whose backward pass gives a the share a / (a + b) of the relevance, and b the rest."""

    @staticmethod
    def forward(ctx, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        return a + b

    @staticmethod
    def backward(ctx, relevance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = ctx.saved_tensors
        scaled = stabilized_ratio(relevance, a + b, STABILIZER)
        return a * scaled, b * scaled


class _ProportionalAverage(torch.autograd.Function):
    """average(x), whose backward pass gives every x in a cell its share of the cell's sum."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, average: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.average = average
        return average(x)

    @staticmethod
    def backward(ctx, relevance: torch.Tensor) -> tuple[torch.Tensor, None]:
        x = ctx.saved_tensors[0].detach().requires_grad_(True)
        with torch.enable_grad():
            output = ctx.average(x)
        (weights,) = torch.autograd.grad(output, x, stabilized_ratio(relevance, output.detach(), STABILIZER))
        return x.detach() * weights, None


class ProportionalSums(TorchFunctionMode):
    """While active, additions of two equally shaped tensors that need gradients, and averages, share proportionally.

    Written as `+`, `+=`, `torch.add`, or as a function that averages, anywhere in a forward pass, so no architecture
    needs a table of its own (the Norm rule of LRP for sums; Montavon et al. 2019, section 10.2). Averaging modules have
    zennit's rule, which is the same.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Replace qualifying additions and averages; pass everything else on."""
        kwargs = kwargs or {}
        if func in _ADDITIONS and len(args) == 2 and not kwargs and _is_residual(*args):
            return _ProportionalSum.apply(*args)
        if func in _AVERAGES and args and _is_explained(args[0]):
            return _ProportionalAverage.apply(args[0], lambda x: func(x, *args[1:], **kwargs))
        return func(*args, **kwargs)


def _is_residual(a: object, b: object) -> bool:
    return _is_explained(a) and _is_explained(b) and a.shape == b.shape


def _is_explained(a: object) -> bool:
    return isinstance(a, torch.Tensor) and a.ndim >= 2 and a.requires_grad
