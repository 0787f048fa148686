"""How relevance / value goes back through each function of PyTorch in LRP-Block (`block_flow`).

A handler runs the function and records the way back: `(tape, function, args, kwargs) -> result`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from .block_arithmetic import batch_norm as batch_norm_in_training
from .block_arithmetic import share, transposed_convolution
from .block_flow import Flow, added
from .block_sources import Average, Joined, Layer, along_channels, split
from .operations import products, routing, sums
from .operations.arguments import argument, per_axis
from .operations.normalization import given_to_batch_norm
from .operations.sums import sum_to
from .operations.transposed import transposed

T = torch.Tensor
_CONVOLUTIONS = {F.conv1d: 1, torch.conv1d: 1, F.conv2d: 2, torch.conv2d: 2, F.conv3d: 3, torch.conv3d: 3}
_RELU_IN_PLACE = {torch.relu_, T.relu_}


class Routed:
    """A tape for handlers that only move values: they take and give relevance as tensors, of one map at a time."""

    def __init__(self, tape):
        self.tape = tape
        self.node, self.explained = tape.node, tape.explained

    def record(
        self,
        outputs: torch.Tensor | Sequence[torch.Tensor],
        inputs: Sequence[torch.Tensor],
        back: Callable[..., Sequence[torch.Tensor | None]],
        **known: bool,
    ) -> None:
        """Add an operation, see `Recorder.record`."""

        def mapwise(*flows: Flow | None) -> list[Flow]:
            gradients = [None if flow is None else self._gradient(flow) for flow in flows]
            count = next(len(each) for each in gradients if each is not None)
            maps = [back(*(None if each is None else each[k] for each in gradients)) for k in range(count)]
            found = [shares[0][None] if count == 1 else torch.stack(shares) for shares in zip(*maps, strict=True)]
            return [self._flow(node, x, each) for node, x, each in zip(nodes, inputs, found, strict=True)]

        nodes: list = [self.node(x) for x in inputs]
        mixed = len({node.depth == 0 for node in nodes}) > 1
        if mixed:
            raise ValueError("LRP-Block has no rule for joining pixels with what layers made of them.")
        self.tape.record(outputs, inputs, mapwise, **known)

    def _gradient(self, flow: Flow) -> torch.Tensor:
        return flow.gradient if flow.value is None and flow.taken is None else flow.plain(self.tape.rule)

    @staticmethod
    def _flow(node, x: torch.Tensor, gradient: torch.Tensor) -> Flow:
        return Flow(gradient) if node.depth == 0 else Flow(gradient, x)


def linear(tape, function, args, kwargs):
    """y = x W^T + b, features last of two axes."""
    x, weight, bias = (argument(args, kwargs, at, name) for at, name in enumerate(("input", "weight", "bias")))
    if x.ndim != 2:
        raise ValueError(f"LRP-Block takes linear layers of [N, features], not of {list(x.shape)}.")

    def transpose(outgoing: T, *weights: T) -> T:
        return outgoing @ (weights[0] if len(weights) == 1 else torch.cat(weights, 1))

    return _layer(tape, x, weight, bias, function(*args, **kwargs), F.linear, transpose, groups=1)


def convolution(tape, function, args, kwargs):
    """Convolutions of one to three dimensions, in groups or not."""
    x, weight, bias = (argument(args, kwargs, at, name) for at, name in enumerate(("input", "weight", "bias")))
    axes = _CONVOLUTIONS[function]
    stride = per_axis(argument(args, kwargs, 3, "stride", 1), axes)
    padding = argument(args, kwargs, 4, "padding", 0)
    dilation = per_axis(argument(args, kwargs, 5, "dilation", 1), axes)
    groups = argument(args, kwargs, 6, "groups", 1)
    settings = stride, _padding(padding, weight, dilation, axes), dilation, groups

    def run(values: T, kernel: T, shift: T | None) -> T:
        return function(values, kernel, shift, *settings)

    def transpose(outgoing: T, *kernels: T) -> T:
        found = transposed_convolution(outgoing.flatten(0, 1), kernels, x.shape[2:], settings)
        return found.unflatten(0, outgoing.shape[:2])

    return _layer(tape, x, weight, bias, run(x, weight, bias), run, transpose, groups=groups)


def _padding(padding, weight: T, dilation: tuple[int, ...], axes: int) -> tuple[int, ...]:
    if not isinstance(padding, str):
        return per_axis(padding, axes)
    total = [0 if padding == "valid" else d * (size - 1) for d, size in zip(dilation, weight.shape[2:], strict=True)]
    if any(each % 2 for each in total):
        raise ValueError("LRP-Block has no rule for padding='same' with an even kernel, which pads one side more.")
    return tuple(each // 2 for each in total)


def _layer(tape, x, weight, bias, output, run, transpose, *, groups: int) -> T:
    node = tape.node(x)
    if node is None or tape.node(weight) is not None:
        raise ValueError("LRP-Block has no rule for weights that depend on the image. Use another correction.")
    first = tape.padded.get(x, tape.first) if node.depth == 0 else None
    nonnegative = node.nonnegative
    if first is not None:
        first.require(x)
    layer = Layer(
        x, weight, bias, output, run, transpose, groups, nonnegative, first, tape.epsilon, tape.constant_biases
    )
    tape.sources[output] = layer
    tape.record(output, [x], lambda flow: [layer.back(tape.rule, flow)], deeper=True)
    return output


def batch_norm(tape, function, args, kwargs):
    """y = scale x + shift, one linear map with the layer before; statistics of a batch are constants of the map."""
    given = given_to_batch_norm(function, args, kwargs)
    x = given["input"]
    tape.require_depth(function, [x])
    output, mean, inverse = normalized(given)
    factor, bias = given["weight"], given["bias"]
    scale = inverse if factor is None else inverse * factor
    if bias is None:
        shift = -mean * scale
    else:
        shift = torch.addcmul(bias.detach() if tape.constant_biases else bias, mean, scale, value=-1)
    scale, shift = along_channels(scale, x), along_channels(shift, x)
    source, sign = tape.source(x), tape.sign(factor)
    source.adopt(sign)

    def back(flow: Flow) -> list[Flow]:
        flow = flow.settled(tape.rule)
        base, moved = None, None
        if tape.constant_biases or source.signed(tape.rule):
            base, moved = source.terms(tape.rule, sign, scale, shift)
        known = flow.rectified if base is None else source.nonnegative(tape.rule)
        values = share(flow.gradient, flow.value, base, scale, moved, epsilon=tape.epsilon, nonnegative=known)
        return [split(values, source.opposed(tape.rule, sign), x)]

    tape.record(output, [x], back)
    return output


def normalized(given: dict) -> tuple[T, T, T]:
    """Return the output of a BatchNorm, and the mean and 1 / the deviation `[C]` that it used.

    Raises:
        ValueError: one value per channel, in training mode.
    """
    x, mean, variance = given["input"], given["running_mean"], given["running_var"]
    if given["training"]:
        if x.numel() == x.shape[1]:
            raise ValueError(f"BatchNorm in training mode needs several values per channel, not {list(x.shape)}")
        return batch_norm_in_training(
            x, given["weight"], given["bias"], mean, variance, given["momentum"], given["eps"]
        )
    output = F.batch_norm(x, mean, variance, given["weight"], given["bias"], False, 0.0, given["eps"])
    return output, mean, torch.rsqrt(variance + given["eps"])


def relu(tape, function, args, kwargs):
    """Relevance passes: the output is what the gradient is multiplied with."""
    x = args[0] if args else kwargs["input"]
    tape.require_depth(function, [x])
    output = torch.relu(x)
    if function in _RELU_IN_PLACE or kwargs.get("inplace") or (len(args) > 1 and args[1]):
        tape.overwrite(x)

    def back(flow: Flow) -> list[Flow]:
        flow = flow.settled(tape.rule)
        return [Flow(flow.gradient, flow.value, rectified=True)]

    tape.record(output, [x], back, nonnegative=True)
    return output


def relu6(tape, function, args, kwargs):
    """Relevance passes: an input x above 6 has relevance gradient * 6, so relevance / value is gradient * 6 / x."""
    x = args[0] if args else kwargs["input"]
    tape.require_depth(function, [x])
    at = 1 if function is F.relu6 else 3
    if function is F.hardtanh:
        bounds = argument(args, kwargs, 1, "min_val", -1.0), argument(args, kwargs, 2, "max_val", 1.0)
        if bounds != (0, 6):
            raise ValueError(
                f"LRP-Block has no rule for hardtanh between {bounds[0]} and {bounds[1]}, only for ReLU and ReLU6. "
                "Use another correction."
            )
    output = F.relu6(x)
    if argument(args, kwargs, at, "inplace", False):
        tape.overwrite(x)

    def back(flow: Flow) -> list[Flow]:
        flow = flow.settled(tape.rule)
        return [Flow(flow.gradient * (6 / x.clamp(min=6)), torch.relu(x), rectified=True)]

    tape.record(output, [x], back, nonnegative=True)
    return output


def drop_out(tape, function, args, kwargs):
    """Dropout: what was drawn is part of the linear map."""
    x = args[0] if args else kwargs["input"]
    rest, named = args[1:], {name: value for name, value in kwargs.items() if name not in ("input", "inplace")}
    if not argument(args, kwargs, 2, "train" if function is torch.dropout else "training", True):
        return x
    if kwargs.get("inplace") or (len(args) > 3 and args[3]):
        tape.overwrite(x)
    noise = function(torch.ones_like(x), *rest, **named)
    return _scaled(tape, x, noise, x * noise)


def max_pool(tape, function, args, kwargs):
    """Stabilised, then all to the winner, summed where windows overlap."""
    x = args[0] if args else kwargs["input"]
    tape.require_depth(function, [x])
    usual = function is F.max_pool2d or function is torch.max_pool2d
    if not usual or kwargs.get("return_indices") or len(args) > 6 or x.ndim != 4:
        return _max_of_any_kind(tape, function, x, args, kwargs)
    defaults = {"kernel_size": None, "stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
    given = defaults | dict(zip(("input", *defaults), args, strict=False)) | kwargs
    window = [list(_pair(given[name])) for name in ("kernel_size", "stride", "padding", "dilation")]
    output, winners = torch.ops.aten.max_pool2d_with_indices(x, *window, given["ceil_mode"])
    size, nonnegative = x.shape, tape.node(x).nonnegative

    def back(flow: Flow) -> list[Flow]:
        scaled = _at_maximum(tape, flow, nonnegative)
        maps, count = scaled.shape[:2]
        place = scaled.new_empty((maps * count, *size[1:]))
        indices = winners if maps == 1 else winners.repeat(maps, 1, 1, 1)
        arguments = (*window, given["ceil_mode"], indices)
        found = torch.ops.aten.max_pool2d_with_indices_backward(scaled.flatten(0, 1), place, *arguments)
        return [tape.to_input(x, found.unflatten(0, (maps, count)), x)]

    tape.record(output, [x], back, nonnegative=nonnegative)
    return output


def _max_of_any_kind(tape, function, x: T, args, kwargs):
    result = function(*args, **kwargs)
    output = result if isinstance(result, T) else result[0]
    rest, named = args[1:], {name: value for name, value in kwargs.items() if name != "input"}
    nonnegative = tape.node(x).nonnegative

    def run(place: T) -> T:
        found = function(place, *rest, **named)
        return found if isinstance(found, T) else found[0]

    def back(flow: Flow) -> list[Flow]:
        scaled = _at_maximum(tape, flow, nonnegative)
        return [tape.to_input(x, torch.stack([transposed(run, [x], [each])[0] for each in scaled]), x)]

    tape.record(output, [x], back, nonnegative=nonnegative)
    return result


def _at_maximum(tape, flow: Flow, nonnegative: bool) -> T:
    """Return what goes to the winners: stabilised, but for a BatchNorm, with which the pooling is one linear map."""
    own = None
    if flow.gradient is not None:
        known = nonnegative or flow.rectified
        own = share(flow.gradient, flow.value, epsilon=tape.epsilon, nonnegative=known)
    through_norm = Flow(same=flow.same, opposite=flow.opposite, taken=flow.taken)
    return own if flow.same is None else added(own, through_norm.plain(tape.rule))


def _pair(value) -> tuple:
    return () if value is None else per_axis(value, 2)


def average(tape, function, args, kwargs):
    """Averages and sums over positions: linear maps of weights that are not negative."""
    x = args[0] if args else kwargs["input"]
    tape.require_depth(function, [x])
    rest, named = args[1:], {name: value for name, value in kwargs.items() if name != "input"}
    output = function(x, *rest, **named)
    if output.shape[:1] != x.shape[:1]:
        raise ValueError(f"LRP-Block has no rule for {function.__name__} over samples.")
    nonnegative = tape.node(x).nonnegative
    source = Average(output, x, lambda values: function(values, *rest, **named), nonnegative)
    tape.sources[output] = source

    def transpose(outgoing: T) -> T:
        # only the shape of the place counts
        place = outgoing.new_zeros(()).expand(outgoing.shape[0] * outgoing.shape[1], *x.shape[1:])
        (found,) = transposed(source.run, [place], [outgoing.flatten(0, 1)])
        return found.unflatten(0, outgoing.shape[:2])

    def back(flow: Flow) -> list[Flow]:
        signed = tape.rule == "z_plus" and not nonnegative
        supporting = flow.same
        if flow.gradient is not None:
            base = source.parts()[0] if signed else None
            known = nonnegative or flow.rectified or signed
            own = share(flow.gradient, flow.value, base, epsilon=tape.epsilon, nonnegative=known)
            supporting = added(supporting, own)
        gradient = transpose(supporting)
        if not signed:
            return [tape.to_input(x, gradient, x)]
        if flow.opposite is None:
            return [tape.to_input(x, gradient, torch.relu(x), rectified=True)]
        return [tape.to_input(x, torch.where(x > 0, gradient, transpose(flow.opposite)), x)]

    tape.record(output, [x], back, nonnegative=nonnegative)
    return output


def add(tape, function, args, kwargs):
    """Shared in proportion to the two; by z+, to what they hold above 0. A constant keeps its share."""
    a, b = args[0] if args else kwargs["input"], args[1] if len(args) > 1 else kwargs["other"]
    if _writes(function):
        tape.overwrite(a)
    if isinstance(b, (int, float)) and b == 0 and function is T.__radd__:
        return a  # sum() of a list begins with it
    if function in sums.REVERSED:
        a, b = b, a
    factor = kwargs.get("alpha", 1) * (-1 if function in sums.SUBTRACTIONS or function in sums.REVERSED else 1)
    if factor != 1:
        b = b * factor if tape.node(b) is None else _scaled(tape, b, factor, b * factor)
    output = torch.add(a, b)
    inputs = [each for each in (a, b) if tape.node(each) is not None]
    if all(tape.node(each).depth == 0 for each in inputs):
        if len(inputs) > 1:
            tape.require_depth(function, inputs)
        tape.record(output, inputs, lambda flow: [Flow(_sum_to(flow.gradient, inputs[0]))])
        return output
    known = all(tape.node(each) is not None and tape.node(each).nonnegative for each in (a, b))

    def supporting(each: T | float) -> T | float:
        node = tape.node(each)
        if node is not None and node.nonnegative:
            return each
        return torch.relu(each) if isinstance(each, T) else max(each, 0)

    def back(flow: Flow) -> list[Flow]:
        flow = flow.settled(tape.rule)
        parts, base = {id(each): each for each in inputs}, None
        if tape.rule == "z_plus" and not known:
            of_a, of_b = supporting(a), supporting(b)
            parts, base = {id(a): of_a, id(b): of_b}, of_a + of_b
        positive = known or flow.rectified or base is not None
        scaled = share(flow.gradient, flow.value, base, epsilon=tape.epsilon, nonnegative=positive)
        return [
            tape.to_input(each, _sum_to(scaled, each), parts[id(each)], rectified=parts[id(each)] is not each)
            for each in inputs
        ]

    tape.record(output, inputs, back, nonnegative=known)
    return output


def _writes(function: Callable) -> bool:
    """Tell whether an operation writes its result over its first argument; `+=` comes as `add_`."""
    return function.__name__.endswith("_") and not function.__name__.endswith("__")


def _sum_to(values: T, like: T) -> T:
    """Sum over axes along which an input was broadcast; maps are one axis more."""
    return sum_to(values, torch.Size([len(values), *like.shape]))


def multiply(tape, function, args, kwargs):
    """Products with constants: relevance passes."""
    a, b = args[0] if args else kwargs["input"], args[1] if len(args) > 1 else kwargs["other"]
    if _writes(function):
        tape.overwrite(a)
    divides = function in products.QUOTIENTS
    x, constant = (a, b) if tape.node(a) is not None else (b, a)
    if tape.node(constant) is not None or kwargs.get("rounding_mode") or (divides and x is b):
        raise ValueError(
            f"LRP-Block has no rule for {function.__name__} with values that depend on the image, such as gates. "
            "Use another correction."
        )
    if divides:
        return _scaled(tape, x, 1 / constant, torch.div(x, constant))
    return _scaled(tape, x, constant, x * constant)


def _scaled(tape, x: T, factor: T | float, output: T) -> T:
    prepares = tape.node(x).depth == 0

    def back(flow: Flow) -> list[Flow]:
        if prepares:
            return [Flow(_sum_to(flow.gradient, x))]
        return [Flow(_sum_to(flow.plain(tape.rule) * factor, x), x)]

    tape.record(output, [x], back)
    return output


def join(tape, function, args, kwargs):
    """Concatenation: every part has its own; along channels, a BatchNorm sees through it."""
    tensors = tuple(args[0] if args else kwargs["tensors"])
    axis = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    output = torch.cat(tensors, axis)
    if axis % output.ndim != 1:
        return routing.route(Routed(tape), function, args, kwargs)
    widths = [tensor.shape[1] for tensor in tensors]
    starts = [sum(widths[:at]) for at in range(len(widths))]
    known = [tape.node(tensor) for tensor in tensors]
    prepares = all(node is None or node.depth == 0 for node in known)
    if not prepares:
        tape.sources[output] = Joined([tape.source(tensor) for tensor in tensors], widths)
    inputs = list({id(t): t for t, node in zip(tensors, known, strict=True) if node is not None}.values())

    def back(flow: Flow) -> list[Flow]:
        found: dict[int, Flow] = {}
        for tensor, node, start, width in zip(tensors, known, starts, widths, strict=True):
            if node is None:
                continue
            part = flow.slice(start, width)
            if not prepares and node.depth == 0:
                part = part.settled(tape.rule)
                part = Flow(part.gradient * part.value)
            found[id(tensor)] = found[id(tensor)] + part if id(tensor) in found else part
        return [found[id(tensor)] for tensor in inputs]

    nonnegative = all(node is not None and node.nonnegative for node in known)
    tape.record(output, inputs, back, nonnegative=nonnegative)
    return output


def pad(tape, function, args, kwargs):
    """Padding moves values; of zeros around pixels, first layers know that they are no pixels."""
    output = routing.route(Routed(tape), function, args, kwargs)
    x, width = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "pad")
    constant = argument(args, kwargs, 2, "mode", "constant") == "constant"
    known = tape.padded.get(x, tape.first)
    # another value than 0 is noticed by the first layer
    if constant and tape.node(x).depth == 0 and x.shape == known.prepared.shape:
        tape.padded[output] = known.padded(width)
    return output


_ROUTED = (routing.reshape, routing.route, routing.forget, routing.refuse_writing)
ROUTED: dict[Callable, Callable] = {
    function: handler for handler in _ROUTED for function in routing.HANDLED[handler]
}  # fmt: skip
_POOLS = (
    F.max_pool1d, torch.max_pool1d, F.max_pool2d, torch.max_pool2d, F.max_pool3d, torch.max_pool3d,
    F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d,
    F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices,
    F.adaptive_max_pool1d_with_indices, F.adaptive_max_pool2d_with_indices, F.adaptive_max_pool3d_with_indices,
)  # fmt: skip
_AVERAGES = (
    torch.mean, T.mean, torch.sum, T.sum, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d,
    F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
)  # fmt: skip
HANDLED: dict[Callable, Callable] = {
    function: handler
    for handler, functions in {
        linear: (F.linear,),
        convolution: tuple(_CONVOLUTIONS),
        batch_norm: (F.batch_norm, torch.batch_norm),
        relu: (torch.relu, T.relu, F.relu, *_RELU_IN_PLACE),
        relu6: (F.relu6, F.hardtanh),
        pad: (F.pad,),
        drop_out: (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout),
        max_pool: _POOLS,
        average: _AVERAGES,
        add: sums.HANDLED[sums.add],
        multiply: tuple(each for each in products.HANDLED[products.multiply] if each not in products.REVERSED),
        join: routing.HANDLED[routing.join],
    }.items()
    for function in functions
}
