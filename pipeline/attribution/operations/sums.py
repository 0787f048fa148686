"""Sums and differences of two tensors: relevance is shared in proportion to the two (the Norm rule of zennit)."""

from __future__ import annotations

import torch

from ..stabilize import stabilized_ratio
from .constants import handed_back

T = torch.Tensor
SUBTRACTIONS = {torch.sub, torch.subtract, T.sub, T.sub_, T.__sub__, T.__isub__}
REVERSED = {T.__rsub__, torch.rsub}


def add(tape, function, args, kwargs):
    """R_a = a R / (a + b), R_b = b R / (a + b); a constant takes its share and keeps it."""
    a, b = args[0] if args else kwargs["input"], args[1] if len(args) > 1 else kwargs["other"]
    if tape.node(a) is None and tape.node(b) is None:
        return function(*args, **kwargs)
    if function in REVERSED:
        a, b = b, a
    if (factor := kwargs.get("alpha", 1)) != 1:
        b = scaled_by(tape, b, factor)
    if function in SUBTRACTIONS or function in REVERSED:
        b = scaled_by(tape, b, -1)
    output = torch.add(a, b)
    both = tape.node(a) is not None and tape.node(b) is not None
    if both:
        _record_shares(tape, a, b, output)
    else:
        _record_constant(tape, *((a, b) if tape.node(b) is None else (b, a)), output)
    return output


def add_product(tape, function, args, kwargs):
    """x + value a b, taken apart into a product and a sum."""
    kwargs = dict(kwargs)
    x, a, b = args
    value = kwargs.pop("value", 1)
    if not tape.explained([x, a, b]):
        return function(*args, value=value, **kwargs)
    with tape:
        return x + (a * b if value == 1 else value * (a * b))


def scaled_by(tape, value, factor: float):
    """Return factor * value; relevance passes."""
    scaled = factor * value
    if tape.node(value) is not None:
        tape.record(scaled, [value], lambda relevance: [relevance])
    return scaled


def _record_shares(tape, a: T, b: T, output: T) -> None:
    def back(relevance):
        # added again instead of kept: in deep networks these sums would be a third of the memory
        scaled = stabilized_ratio(relevance, torch.add(a, b), tape.composite.stabilizer)
        of_a = sum_to(a * scaled, a.shape)
        # the ratio is not needed again: without a graph its memory can hold the second share
        of_b = b * scaled if torch.is_grad_enabled() or b.shape != scaled.shape else scaled.mul_(b)
        return [of_a, sum_to(of_b, b.shape)]

    tape.record(output, [a, b], back, nonnegative=tape.node(a).nonnegative and tape.node(b).nonnegative)


def _record_constant(tape, x: T, constant: object, output: T) -> None:
    node = tape.node(x)
    same_shape = x.shape == output.shape
    nothing = isinstance(constant, (int, float)) and constant == 0  # sum() of a list begins with it
    # preparation of the pixels, such as subtracting their mean, passes: zero has no meaning there yet
    if same_shape and (nothing or node.depth == 0):
        tape.record(output, [x], lambda relevance: [relevance])
        return

    def back(relevance):
        if not tape.keeps_biases and not same_shape:
            return [sum_to(relevance, x.shape)]
        epsilon = tape.composite.stabilizer
        found = x * sum_to(stabilized_ratio(relevance, output, epsilon), x.shape)
        if tape.keeps_biases:
            return [found]
        return handed_back(relevance, [x], [found], epsilon)

    tape.record(output, [x], back)


def sum_to(values: T, shape: torch.Size) -> T:
    """Sum over the axes along which a tensor of `shape` was broadcast."""
    return values if values.shape == shape else values.sum_to_size(shape)


HANDLED = {
    add_product: (torch.addcmul, T.addcmul, T.addcmul_),
    add: (torch.add, T.add, T.add_, T.__add__, T.__radd__, T.__iadd__, *SUBTRACTIONS, *REVERSED),
}
