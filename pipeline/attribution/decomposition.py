"""Contextual decomposition: the share of a region in every activation, on the way from pixels to logits.

Murdoch et al. 2018 (arXiv:1801.05453); for convolutional networks Singh et al. 2019 (arXiv:1806.05337). Every value v
is split into a relevant part r, which comes from the region, and the rest v - r. PyTorch's functions are intercepted
while the model computes its logits, so that the split goes along through any network written in Python; nothing of the
model is replaced. All of it is ordinary differentiable arithmetic, so a loss on the parts trains the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils.weak import WeakIdKeyDictionary

from .operations.arguments import argument, out_of_place

T = torch.Tensor


@dataclass(frozen=True)
class Decomposition:
    """Logits in two parts.

    Attributes:
        logits: `[N, K]`, those of the model.
        relevant: the part that comes from the region `[N, K]`.
    """

    logits: torch.Tensor
    relevant: torch.Tensor

    @property
    def irrelevant(self) -> torch.Tensor:
        """The rest `[N, K]`."""
        return self.logits - self.relevant


def contextual_decomposition(model: nn.Module, x: torch.Tensor, mask: torch.Tensor) -> Decomposition:
    """Split the logits into what comes from a region of the pixels, and the rest.

    Linear maps apply to both parts, maxima take both at the winner's place, an activation f gives f(r) - f(0), and
    dropout that is on drops the same values of both. A constant (bias, shift of BatchNorm, mean that is subtracted,
    f(0)) belongs to the region as far as its place lies in it: to the share of the mask there, or, behind the last map
    of positions, in the image. So all is relevant under a mask of ones, and nothing under a mask of zeros.

    Published is a share of |r| : |v - r| instead. Where both are small beside the constant, its derivatives have no
    bound; with the shifts of BatchNorm, errors of rounding alone grew to half of the logits in a ResNet.

    Args:
        model: pixels -> logits `[N, K]`, in the mode it is in; BatchNorm must use its running statistics.
        x: `[N, C, ...]`.
        mask: `[N, 1, ...]` in [0, 1], 1 = region.

    Raises:
        ValueError: the network does something that has no such rule, such as to multiply two activations.
    """
    pixels, mode = x.detach().clone(), _Splitting(mask.to(x))
    mode.relevant[pixels] = mask.to(x) * pixels
    with mode:
        logits = model(pixels)
    if logits not in mode.relevant:
        raise ValueError(
            "contextual decomposition cannot see how the logits come from the input: TorchScript and compiled modules "
            "hide it. Give the network as ordinary Python modules that return one tensor of logits."
        )
    return Decomposition(logits, mode.relevant[logits])


class _Splitting(TorchFunctionMode):
    """Carries relevant parts along while active as a context.

    Attributes:
        mask: `[N, 1, ...]`.
        relevant: activation -> its relevant part.
    """

    def __init__(self, mask: T):
        super().__init__()
        self.mask = mask
        self.relevant = WeakIdKeyDictionary()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Run a function of PyTorch on activations and on their relevant parts."""
        kwargs = kwargs or {}
        split = [each for each in _tensors([*args, *kwargs.values()]) if each in self.relevant]
        if not split or function in _FORGETFUL:
            return function(*args, **kwargs)
        rule = _RULES.get(function)
        if rule is None:
            output = function(*args, **kwargs)
            if any(each.is_floating_point() for each in _tensors(output)):
                _refuse(function)
            return output
        call = _Call(function, args, kwargs, split, [self.relevant[each] for each in split], self.mask)
        output, relevant = rule(call)
        for value, part in zip(_tensors(output), _tensors(relevant), strict=True):
            self.relevant[value] = part
        return output


@dataclass(frozen=True)
class _Call:
    """A call of a function with activations among its arguments.

    Attributes:
        split: these activations.
        parts: their relevant parts.
        mask: of the pixels `[N, 1, ...]`.
    """

    function: Callable
    args: tuple
    kwargs: dict
    split: list[T]
    parts: list[T]
    mask: T

    def of_region(self, constant: T, whole: T) -> T:
        """Return what belongs to the region of a constant that was added, given the whole sum."""
        if whole.ndim != self.mask.ndim:
            return constant * self.mask.flatten(1).mean(1).view(-1, *[1] * (whole.ndim - 1))
        pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[whole.ndim - 3]
        return constant * (self.mask if whole.shape[2:] == self.mask.shape[2:] else pool(self.mask, whole.shape[2:]))

    def run(self) -> Any:
        """Return what the network gets; the function may write into its argument."""
        return self.function(*self.args, **self.kwargs)

    def on(self, parts: list[T], *, constants: bool = True) -> Any:
        """Return the function of other values in place of the activations, with other tensors as they are, or 0."""

        def exchanged(value: Any) -> Any:
            if isinstance(value, T):
                place = next((place for place, each in enumerate(self.split) if each is value), None)
                if place is not None:
                    return parts[place]
                return torch.zeros_like(value) if value.is_floating_point() and not constants else value
            if isinstance(value, (list, tuple)) and _tensors(value):
                return type(value)(exchanged(each) for each in value)
            return value

        args = [exchanged(each) for each in self.args]
        args, kwargs = out_of_place(self.function, args, {name: exchanged(each) for name, each in self.kwargs.items()})
        return self.function(*args, **kwargs)

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument, given by position or by name."""
        return argument(self.args, self.kwargs, position, name, default)


def _linear_map(call: _Call) -> tuple[T, T]:
    """Convolutions and linear layers, whose weights are no activations."""
    weight, bias = call.argument(1, "weight"), call.argument(2, "bias")
    if len(call.split) > 1 or call.argument(0, "input") is not call.split[0]:
        _refuse(call.function, "with weights that depend on the input")
    named = {name: value for name, value in call.kwargs.items() if name not in ("input", "weight", "bias")}
    output, relevant = call.run(), call.function(call.parts[0], weight, None, *call.args[3:], **named)
    if bias is None:
        return output, relevant
    return output, relevant + call.of_region(bias.view(-1, *[1] * (weight.ndim - 2)), output)


def _batch_norm(call: _Call) -> tuple[T, T]:
    """BatchNorm with running statistics: scale x + shift."""
    names = ("running_mean", "running_var", "weight", "bias")
    mean, variance, weight, bias = (call.argument(place, name) for place, name in enumerate(names, 1))
    if call.argument(5, "training", False) or mean is None:
        _refuse(call.function, "with statistics of the batch, which mix samples; freeze them")
    eps = call.argument(7, "eps", 1e-5)
    scale = torch.rsqrt(variance + eps) * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * scale
    axes = [1] * (call.parts[0].ndim - 2)
    output, relevant = call.run(), scale.view(-1, *axes) * call.parts[0]
    return output, relevant + call.of_region(shift.view(-1, *axes), output)


def _activation(call: _Call) -> tuple[T, T]:
    """Functions of single values with f(0) = 0: f(r) is relevant, f(v) - f(r) the rest."""
    relevant = call.on(call.parts)
    return call.run(), relevant


def _shifted_activation(call: _Call) -> tuple[T, T]:
    """Functions of single values whose f(0) may be another constant."""
    if len(call.split) > 1:
        _refuse(call.function, "with bounds that depend on the input")
    at_zero = call.on([torch.zeros_like(call.split[0])])
    relevant, output = call.on(call.parts) - at_zero, call.run()
    return output, relevant + call.of_region(at_zero, output)


def _max_pool(call: _Call) -> tuple[T, T]:
    """The largest value of each window wins, with both of its parts."""
    pool = _POOLS[call.function]
    output, winners = pool(*call.args, **call.kwargs | {"return_indices": True})
    relevant = call.parts[0].flatten(2).gather(2, winners.flatten(2)).view_as(winners)
    return output, relevant


def _linear(call: _Call) -> tuple[Any, Any]:
    """Functions that are linear in their activations; constants that are joined to them are no part of the region."""
    relevant = call.on(call.parts, constants=False)
    return call.run(), relevant


def _pad(call: _Call) -> tuple[T, T]:
    """Padding; a constant that is filled in is no part of the region."""
    mode = call.argument(2, "mode", "constant")
    return call.run(), F.pad(call.parts[0], call.argument(1, "pad"), mode)


def _sum(call: _Call) -> tuple[T, T]:
    """Sums and differences, also with constants."""
    return _linear(call) if len(call.split) > 1 else _shifted_activation(call)


def _multiple(call: _Call) -> tuple[T, T]:
    """Products with, and quotients by, a constant."""
    if len(call.split) > 1:
        _refuse(call.function, "of two values that both depend on the input")
    if call.function in _QUOTIENTS and call.argument(0, "input") is not call.split[0]:
        _refuse(call.function, "by a value that depends on the input")
    if call.kwargs.get("rounding_mode") is not None:
        _refuse(call.function, "with rounding")
    relevant = call.on(call.parts)
    return call.run(), relevant


def _dropout(call: _Call) -> tuple[T, T]:
    """What is dropped is dropped of both parts."""
    (value,), (relevant,) = call.split, call.parts
    kept = call.on([torch.ones_like(value)])
    return value * kept, relevant * kept


def _tensors(values: Any) -> list[T]:
    """Return the tensors among values, also those within lists."""
    if isinstance(values, T):
        return [values]
    return [tensor for each in values for tensor in _tensors(each)] if isinstance(values, (list, tuple)) else []


def _refuse(function: Callable, how: str = "") -> NoReturn:
    name = resolve_name(function) or getattr(function, "__name__", str(function))
    raise ValueError(
        f"contextual decomposition has no rule for {name}{' ' + how if how else ''}. It knows convolutions, linear "
        "layers, BatchNorm with running statistics, activations, pooling, sums, concatenation and "
        "changes of shape; take another method for this network."
    )


_QUOTIENTS = {torch.div, torch.true_divide, T.div, T.div_, T.__truediv__}
_POOLS = {
    torch.max_pool1d: F.max_pool1d, F.max_pool1d: F.max_pool1d,
    torch.max_pool2d: F.max_pool2d, F.max_pool2d: F.max_pool2d,
    torch.max_pool3d: F.max_pool3d, F.max_pool3d: F.max_pool3d,
    F.adaptive_max_pool1d: F.adaptive_max_pool1d, torch.adaptive_max_pool1d: F.adaptive_max_pool1d,
    F.adaptive_max_pool2d: F.adaptive_max_pool2d, F.adaptive_max_pool3d: F.adaptive_max_pool3d,
}  # fmt: skip
_FORGETFUL = {
    T.new_zeros, T.new_ones, T.new_full, T.new_empty, torch.zeros_like, torch.ones_like, torch.empty_like,
    torch.full_like, torch.rand_like, torch.randn_like,
}  # fmt: skip
"""New tensors that take from an activation no more than shape and type."""
_FAMILIES: dict[Callable[[_Call], tuple[Any, Any]], tuple[Callable, ...]] = {
    _linear_map: (
        F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
    ),
    _batch_norm: (F.batch_norm,),
    _activation: (
        F.relu, F.relu_, torch.relu, torch.relu_, T.relu, T.relu_, F.relu6, F.leaky_relu, F.leaky_relu_, F.elu, F.elu_,
        F.selu, F.celu, F.gelu, F.silu, F.mish, F.hardswish, F.prelu, torch.prelu, F.tanh, torch.tanh, torch.tanh_,
        T.tanh, T.tanh_, F.softsign, F.tanhshrink, F.hardshrink, F.softshrink,
    ),
    _shifted_activation: (
        F.hardtanh, F.hardtanh_, torch.clamp, T.clamp, T.clamp_, torch.clip, T.clip, T.clamp_min, T.clamp_max,
        torch.sigmoid, T.sigmoid, F.sigmoid, F.hardsigmoid, F.softplus, F.logsigmoid,
    ),
    _max_pool: tuple(_POOLS),
    _linear: (
        F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
        torch.mean, T.mean, torch.sum, T.sum, F.interpolate, torch.neg, T.neg, T.__neg__, torch.flatten, T.flatten,
        torch.reshape, T.reshape, T.view, T.contiguous, torch.squeeze, T.squeeze, torch.unsqueeze, T.unsqueeze,
        T.unflatten, torch.permute, T.permute, torch.transpose, T.transpose, torch.chunk, T.chunk, torch.split, T.split,
        torch.unbind, T.unbind, T.__getitem__, torch.narrow, T.narrow, torch.cat, torch.concat, torch.concatenate,
        torch.stack, torch.roll, T.roll, torch.flip, T.flip, T.expand, T.repeat, torch.clone, T.clone, T.to, T.float,
        T.double,
    ),
    _pad: (F.pad,),
    _sum: (
        torch.add, T.add, T.add_, T.__add__, T.__radd__, torch.sub, torch.subtract, T.sub, T.sub_, T.__sub__,
        T.__rsub__, torch.rsub,
    ),
    _multiple: (
        torch.mul, torch.multiply, T.mul, T.mul_, T.multiply, T.__mul__, T.__rmul__, *_QUOTIENTS,
    ),
    _dropout: (
        F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.feature_alpha_dropout, torch.dropout, torch.dropout_,
        torch.feature_dropout,
    ),
}  # fmt: skip
_RULES = {function: rule for rule, functions in _FAMILIES.items() for function in functions}
