"""Products and quotients: a gate leaves relevance to what it weighs; equals share it."""

from __future__ import annotations

import torch

from .sums import sum_to

T = torch.Tensor
QUOTIENTS = {torch.div, torch.divide, torch.true_divide, T.div, T.div_, T.__truediv__, T.__itruediv__}
REVERSED = {T.__rtruediv__}


def multiply(tape, function, args, kwargs):
    """Relevance goes to the signal: not to constants, outputs of sigmoid or softmax, broadcast factors or divisors.

    Two factors of equal standing get half each (Achtibat et al. 2024, proposition 3.3).
    """
    a, b = args[0] if args else kwargs["input"], args[1] if len(args) > 1 else kwargs["other"]
    node_a, node_b = tape.node(a), tape.node(b)
    if node_a is None and node_b is None:
        return function(*args, **kwargs)
    if function in REVERSED:
        output = torch.div(b, a)
    elif function in QUOTIENTS:
        output = torch.div(a, b, rounding_mode=kwargs.get("rounding_mode"))
    else:
        output = torch.mul(a, b)
    divides = function in QUOTIENTS or function in REVERSED
    share_a, share_b = _shares(node_a, node_b, a, b, quotient=divides, numerator_last=function in REVERSED)
    inputs = [x for x, node in ((a, node_a), (b, node_b)) if node is not None]
    shares = [share for share, node in ((share_a, node_a), (share_b, node_b)) if node is not None]

    def back(relevance):
        return [
            None if share == 0 else sum_to(relevance if share == 1 else relevance * share, x.shape)
            for x, share in zip(inputs, shares, strict=True)
        ]

    nodes = [tape.node(x) for x in inputs]
    nonnegative = len(nodes) == 2 and all(node.nonnegative for node in nodes)
    tape.record(output, inputs, back, nonnegative=nonnegative)
    return output


def _shares(node_a, node_b, a, b, *, quotient: bool, numerator_last: bool) -> tuple[float, float]:
    if node_a is None or node_b is None:
        return (0.0, 1.0) if node_a is None else (1.0, 0.0)
    if quotient:
        return (0.0, 1.0) if numerator_last else (1.0, 0.0)
    if node_a.gate != node_b.gate:
        return (0.0, 1.0) if node_a.gate else (1.0, 0.0)
    if a.numel() != b.numel():
        return (0.0, 1.0) if a.numel() < b.numel() else (1.0, 0.0)
    return 0.5, 0.5


HANDLED = {
    multiply: (
        torch.mul, torch.multiply, T.mul, T.mul_, T.__mul__, T.__rmul__, T.__imul__, *QUOTIENTS, *REVERSED,
    ),
}  # fmt: skip
