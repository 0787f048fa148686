"""Relevance through additions: residual sums share it in proportion to what each branch contributed."""

from __future__ import annotations

import torch
from torch.overrides import TorchFunctionMode

STABILIZER = 1e-6
_ADDITIONS = {torch.add, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__add__, torch.Tensor.__iadd__}


class _ProportionalSum(torch.autograd.Function):
    """a + b, whose backward pass gives a the share a / (a + b) of the relevance, and b the rest."""

    @staticmethod
    def forward(ctx, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        return a + b

    @staticmethod
    def backward(ctx, relevance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = ctx.saved_tensors
        total = a + b
        scaled = relevance / (total + torch.where(total >= 0, STABILIZER, -STABILIZER))
        return a * scaled, b * scaled


class ProportionalSums(TorchFunctionMode):
    """While active, additions of two equally shaped tensors that need gradients follow the proportional rule.

    Written as `+`, `+=` or `torch.add` anywhere in a forward pass, so no architecture needs a table of its own
    (the Norm rule of LRP for sums; Montavon et al. 2019, section 10.2).
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Replace qualifying additions; pass everything else on."""
        kwargs = kwargs or {}
        if func in _ADDITIONS and len(args) == 2 and not kwargs and _is_residual(*args):
            return _ProportionalSum.apply(*args)
        return func(*args, **kwargs)


def _is_residual(a: object, b: object) -> bool:
    return (
        isinstance(a, torch.Tensor)
        and isinstance(b, torch.Tensor)
        and a.shape == b.shape
        and a.ndim >= 2
        and a.requires_grad
        and b.requires_grad
    )
