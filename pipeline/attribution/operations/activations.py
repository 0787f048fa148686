"""Functions of single values: relevance passes through unchanged."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .arguments import out_of_place

T = torch.Tensor
NONNEGATIVE = {
    torch.relu, torch.relu_, T.relu, T.relu_, F.relu, F.relu6, F.softplus, torch.abs, T.abs, torch.square, T.square,
    torch.exp, T.exp, torch.sqrt, T.sqrt,
}  # fmt: skip
GATES = {torch.sigmoid, T.sigmoid, torch.sigmoid_, T.sigmoid_, F.sigmoid, F.hardsigmoid}
_RECTIFIERS = {torch.relu_, T.relu_, F.relu, T.relu}


def pass_on(tape, function, args, kwargs):
    """The output's relevance is the input's."""
    x = args[0] if args else kwargs["input"]
    if tape.node(x) is None:
        return function(*args, **kwargs)
    if function in _RECTIFIERS:
        output = torch.relu(x)
    else:
        safe_args, safe_kwargs = out_of_place(function, args, kwargs)
        output = function(*safe_args, **safe_kwargs)
    gate = function in GATES
    tape.record(output, [x], lambda relevance: [relevance], nonnegative=gate or function in NONNEGATIVE, gate=gate)
    return output


HANDLED = {
    pass_on: (
        *NONNEGATIVE, *GATES, F.relu_, F.leaky_relu, F.leaky_relu_, F.elu, F.elu_, F.selu, F.celu, F.gelu, F.silu,
        F.mish, F.hardswish, F.hardtanh, F.hardtanh_, F.prelu, torch.prelu, F.rrelu, F.logsigmoid, F.tanh, torch.tanh,
        T.tanh, torch.tanh_, T.tanh_, F.softsign, F.tanhshrink, F.hardshrink, F.softshrink, F.threshold,
        torch.clamp, T.clamp, torch.clip, T.clip, T.clamp_, T.clamp_min, T.clamp_max, torch.pow, T.pow, T.__pow__,
        torch.log, T.log, torch.log1p, torch.erf, T.erf, torch.sin, torch.cos, torch.sign, torch.rsqrt, T.rsqrt,
        torch.reciprocal, T.reciprocal, torch.neg, T.neg, T.__neg__, F.log_softmax, torch.log_softmax, T.log_softmax,
    ),
}  # fmt: skip
