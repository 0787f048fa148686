"""Averages and sums over positions: relevance is shared in proportion (Montavon et al. 2019, section 10.2.2)."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..stabilize import stabilized_ratio
from .transposed import transposed

T = torch.Tensor


def share(tape, function, args, kwargs):
    """R = x J^T (R / f(x)), where f is linear in its one input."""
    x = args[0] if args else kwargs["input"]
    node = tape.node(x)
    if node is None:
        return function(*args, **kwargs)
    output = function(*args, **kwargs)
    rest = args[1:]
    named = {name: value for name, value in kwargs.items() if name != "input"}

    def back(relevance):
        scaled = stabilized_ratio(relevance, output, tape.composite.stabilizer)
        (weights,) = transposed(lambda place: function(place, *rest, **named), [x], [scaled])
        return [x * weights]

    overshoots = named.get("mode") == "bicubic" or "bicubic" in rest
    tape.record(output, [x], back, nonnegative=node.nonnegative and not overshoots)
    return output


HANDLED = {
    share: (
        torch.mean, T.mean, torch.sum, T.sum, torch.cumsum, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d,
        F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.interpolate, F.upsample, F.grid_sample,
        F.fold, F.lp_pool1d, F.lp_pool2d,
    ),
}  # fmt: skip
