"""Convolutions and linear layers: relevance goes back by the rule that the composite names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ..folding import Ahead, Folded
from ..rules.linear_operation import LinearOperation
from .arguments import argument, per_axis
from .transposed import transposed

T = torch.Tensor
_CONVOLUTIONS = {
    F.conv1d: 1, torch.conv1d: 1, F.conv2d: 2, torch.conv2d: 2, F.conv3d: 3, torch.conv3d: 3,
}  # fmt: skip


def linear(tape, function, args, kwargs):
    """y = x W^T + b over the last axis."""
    x, weight, bias = _arguments(args, kwargs)
    folded = tape.weights.get(weight, bias)

    def forward(values: T, matrix: T, shift: T | None) -> T:
        return F.linear(values, matrix, shift)

    def transpose(outgoing: T, matrix: T) -> T:
        return torch.matmul(outgoing, matrix)

    output = forward(x, folded.weight.tensor, None if folded.bias is None else folded.bias.tensor)
    _record(
        tape,
        x,
        output,
        folded,
        forward,
        transpose,
        weight,
        lambda: function(*args, **kwargs),
        axis=-1,
        convolution=False,
        depthwise=False,
    )
    return output


def convolution(tape, function, args, kwargs):
    """Convolutions of one to three dimensions, in groups or not."""
    x, weight, bias = _arguments(args, kwargs)
    dimensions = _CONVOLUTIONS[function]
    stride = per_axis(argument(args, kwargs, 3, "stride", 1), dimensions)
    padding = argument(args, kwargs, 4, "padding", 0)
    dilation = per_axis(argument(args, kwargs, 5, "dilation", 1), dimensions)
    groups = argument(args, kwargs, 6, "groups", 1)
    if tape.weights.channels_last and all(size == 1 for size in weight.shape[2:]):
        # A kernel of one position has no gaps to widen. PyTorch takes the faster library (oneDNN) for dilated kernels,
        # also in small batches on one thread, where it would multiply matrices: 2.3 times as fast.
        dilation = (2,) * dimensions
    if padding == "valid":
        padding = 0
    padding = padding if isinstance(padding, str) else per_axis(padding, dimensions)
    folded = tape.weights.get(weight, bias)
    convolve = torch.nn.functional.__dict__[f"conv{dimensions}d"]

    def forward(values: T, kernel: T, shift: T | None) -> T:
        return convolve(values, kernel, shift, stride, padding, dilation, groups)

    def transpose(outgoing: T, kernel: T) -> T:
        # rules that sum over channels first ask with fewer of them; only the shape of `place` counts
        channels = kernel.shape[1] * groups
        place = x if channels == x.shape[1] else x[:, :channels]
        if isinstance(padding, str):
            return transposed(
                lambda values: convolve(values, kernel, None, stride, padding, dilation, groups), [place], [outgoing]
            )[0]
        settings = (stride, padding, dilation, False, [0] * dimensions, groups)
        of_input = [True, False, False]
        return torch.ops.aten.convolution_backward(outgoing, place, kernel, None, *settings, of_input)[0]

    output = convolve(
        x, folded.weight.tensor, None if folded.bias is None else folded.bias.tensor, stride, padding, dilation, groups
    )
    depthwise = groups > 1 and weight.shape[1] == 1
    _record(
        tape,
        x,
        output,
        folded,
        forward,
        transpose,
        weight,
        lambda: function(*args, **kwargs),
        axis=-dimensions - 1,
        convolution=True,
        depthwise=depthwise,
    )
    return output


def transposed_convolution(tape, function, args, kwargs):
    """Transposed convolutions, by the rule of convolutions."""
    x, weight, bias = _arguments(args, kwargs)
    output = function(*args, **kwargs)
    if tape.node(x) is None:
        return output
    rest, named = args[3:], {name: value for name, value in kwargs.items() if name not in ("input", "weight", "bias")}

    def forward(values: T, kernel: T, shift: T | None) -> T:
        return function(values, kernel, shift, *rest, **named)

    def transpose(outgoing: T, kernel: T) -> T:
        return transposed(lambda values: forward(values, kernel, None), [x], [outgoing])[0]

    folded = tape.weights.get(weight, bias)
    axis = -weight.ndim + 1
    _record(
        tape,
        x,
        output,
        folded,
        forward,
        transpose,
        weight,
        lambda: function(*args, **kwargs),
        axis=axis,
        convolution=True,
        depthwise=False,
        transposes=True,
    )
    return output


def _record(
    tape,
    x: T,
    output: T,
    folded: Folded,
    forward,
    transpose,
    weight: T,
    run,
    *,
    axis: int,
    convolution: bool,
    depthwise: bool,
    transposes: bool = False,
) -> None:
    if folded.norm is not None:
        tape.folded[output] = Ahead(folded.norm, folded.undo, run)
    node = tape.node(x)
    if node is None:
        return
    rule = tape.composite.rule(path=folded.path, depth=node.depth, convolution=convolution, depthwise=depthwise)
    read = output if getattr(rule, "reads_output", True) else None
    operation = LinearOperation(
        x, read, output.shape, folded.weight, folded.bias, forward, transpose, axis % output.ndim,
        transposes=transposes, nonnegative=node.nonnegative, keeps_biases=tape.keeps_biases,
        pixel_range=tape.pixel_range, present=tape.padded.get(x),
    )  # fmt: skip
    tape.record(output, [x], lambda relevance: [rule(operation, relevance)], deeper=True)
    # folding scales the first axis of weights and the second of outputs, along which BatchNorm counts channels
    if not transposes and axis % output.ndim == 1:
        tape.plan.notice_layer(output, weight, tape.node(output))


def _arguments(args: Sequence, kwargs: dict) -> tuple[T, T, T | None]:
    return tuple(argument(args, kwargs, at, name) for at, name in enumerate(("input", "weight", "bias")))


HANDLED = {
    linear: (F.linear,),
    convolution: tuple(_CONVOLUTIONS),
    transposed_convolution: (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
}
