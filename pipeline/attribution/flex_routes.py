"""LRP-Flex operation by operation: ordinary values and derivatives, and another way back for relevance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from .stabilize import stabilized_ratio

_RELU = {torch.relu, torch.Tensor.relu, F.relu}
_RELU_IN_PLACE = {torch.relu_, torch.Tensor.relu_}
_RELU6 = {F.relu6, F.hardtanh}
_MAX_POOL = {F.max_pool2d, torch.max_pool2d}
_REFUSED = {
    *(F.gelu, F.silu, F.mish, F.leaky_relu, F.elu, F.selu, F.celu, F.rrelu, F.softplus, F.hardswish, F.hardsigmoid),
    *(F.leaky_relu_, F.elu_, torch.selu, torch.selu_, torch.celu, torch.celu_, torch.rrelu, torch.rrelu_, F.hardtanh_),
    *(torch.prelu, F.threshold, torch.threshold, torch.threshold_, F.glu, F.logsigmoid, F.softsign, F.tanhshrink),
    *(torch.sigmoid, torch.sigmoid_, torch.Tensor.sigmoid, torch.Tensor.sigmoid_, torch.special.expit),
    *(torch.tanh, torch.tanh_, torch.Tensor.tanh, torch.Tensor.tanh_, F.hardshrink, F.softshrink),
    *(F.softmax, torch.softmax, torch.Tensor.softmax, F.scaled_dot_product_attention),
    *(F.layer_norm, F.group_norm, F.instance_norm),
}

Source = Callable[[torch.Tensor], torch.Tensor]
"""Takes a tensor of the forward pass that relevance depends on, returns the one that relevance is computed from."""

Rule = Callable[..., torch.Tensor]
"""Takes what arrives at an output and what the operation depends on, returns what goes on to its input."""


@dataclass
class Direction:
    """Whether a backward pass computes relevance (True) or ordinary gradients (False)."""

    relevance: bool = False


class _Route(torch.autograd.Function):
    """Hand on `y`, computed from `x`; gradients go back to `y`, relevance skips it and goes to `x` by a rule.

    What the rule depends on keeps its own graph, so relevance is differentiated by true derivatives.
    """

    @staticmethod
    def forward(ctx, x, y, rule, direction, saved):
        ctx.set_materialize_grads(False)
        ctx.rule, ctx.direction = rule, direction
        ctx.save_for_backward(*saved)
        return y.detach()

    @staticmethod
    def backward(ctx, gradient):
        if gradient is None or not ctx.direction.relevance:
            return None, gradient, None, None, None
        return ctx.rule(gradient, *ctx.saved_tensors), None, None, None, None


class _ReluRatio(torch.autograd.Function):
    """a / (a + epsilon), for outputs `a` of a ReLU."""

    @staticmethod
    def forward(ctx, a, epsilon):
        ctx.save_for_backward(a)
        ctx.epsilon = epsilon
        ratio = a + epsilon
        return torch.div(a, ratio, out=ratio)

    @staticmethod
    @once_differentiable
    def backward(ctx, upper):
        (a,) = ctx.saved_tensors
        square = (a + ctx.epsilon).square_()
        return torch.div(upper, square, out=square).mul_(ctx.epsilon), None


class _InverseDeviation(torch.autograd.Function):
    """1 / sqrt(variance + eps) of a batch, as BatchNorm itself computed it, with its derivative in the batch."""

    @staticmethod
    def forward(ctx, x, mean, inverse):
        ctx.save_for_backward(x, mean, inverse)
        return inverse.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, mean, inverse = ctx.saved_tensors
        slope = gradient * inverse.pow(3) * (-x.shape[1] / x.numel())
        # slope * (x - mean) in one go
        return F.batch_norm(x, mean, torch.ones_like(mean), weight=slope.to(mean), eps=0.0), None, None


@dataclass(frozen=True)
class Affine:
    """A BatchNorm as relevance sees it, y = scale (x - mean) + shift, all `[C]`; mean and shift carry no gradient."""

    scale: torch.Tensor
    mean: torch.Tensor
    shift: torch.Tensor | None


@dataclass(frozen=True)
class Convolution:
    """A convolution as it ran, together with the padding by zeros right before it.

    Attributes:
        input: before that padding `[N, C, H, W]`.
        pads: what that padding adds: left, right, top, bottom.
        padding: what the convolution adds itself, a word as PyTorch takes it or one number for both sides of an axis.
        output: `[N, C', H', W']`.
    """

    input: torch.Tensor
    pads: tuple[int, int, int, int]
    weight: torch.Tensor
    bias: torch.Tensor | None
    stride: int | Sequence[int]
    padding: str | int | Sequence[int]
    dilation: int | Sequence[int]
    groups: int
    output: torch.Tensor


class FlexMode(TorchFunctionMode):
    """Sends relevance its own way through activations, BatchNorm, convolutions and pooling while a model runs.

    Activations and BatchNorm have rules of their own. Convolutions and pooling send relevance where gradients go, by
    operations that are cheap to differentiate again and, unlike PyTorch's, do not lead back into the forward pass.

    Args:
        epsilon: stabiliser of the epsilon rule.
        source: what relevance is to be computed from, given a tensor of the forward pass.

    Attributes:
        direction: of the backward passes through what ran.
        norms: what BatchNorm got -> what it did.
        first: the convolution that ran first.
    """

    def __init__(self, epsilon: float, source: Source):
        super().__init__()
        self.direction = Direction()
        self.norms = WeakIdKeyDictionary()
        self.first: Convolution | None = None
        self._epsilon, self._source = epsilon, source
        self._padded = WeakIdKeyDictionary()
        self._overwritten = WeakIdKeyDictionary()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Run a function of PyTorch; where it has a rule, remember the way back for relevance."""
        kwargs = kwargs or {}
        if function in _REFUSED or (function is F.hardtanh and not _is_relu6(*args, **kwargs)):
            raise ValueError(
                f"LRP-Flex has no rule for {function.__name__}: it is derived for ReLU and ReLU6 networks. "
                "Use another correction for this architecture."
            )
        self._refuse_overwritten(function, args)
        if function in _RELU or function in _RELU_IN_PLACE:
            return self._relu(function in _RELU_IN_PLACE, *args, **kwargs)
        if function in _RELU6:
            return self._relu6(*args, **kwargs)
        if function is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if function is torch.batch_norm:
            return self._batch_norm(*_arguments_of_batch_norm(*args, **kwargs))
        if function is torch.conv2d:
            return self._convolution(*args, **kwargs)
        if function is F.pad:
            return self._pad(*args, **kwargs)
        if function in _MAX_POOL:
            return self._max_pool(*args, **kwargs)
        if function is F.avg_pool2d:
            return self._average_pool(*args, **kwargs)
        if function is F.adaptive_avg_pool2d:
            return self._adaptive_average_pool(*args, **kwargs)
        return function(*args, **kwargs)

    def _route(self, x: torch.Tensor, y: torch.Tensor, rule: Rule, *saved: torch.Tensor) -> torch.Tensor:
        # within a tuple they get no gradients of their own in the ordinary direction
        return _Route.apply(x, y, rule, self.direction, tuple(map(self._source, saved)))

    def _relu(self, always_in_place: bool, input: torch.Tensor, inplace: bool = False) -> torch.Tensor:
        a = torch.relu(input)
        self._overwrite(input, inplace or always_in_place)
        return self._route(input, a, torch.mul, relu_ratio(a, self._epsilon))

    def _relu6(self, input: torch.Tensor, inplace: bool = False, **_bounds) -> torch.Tensor:
        a = F.relu6(input)
        self._overwrite(input, inplace)
        return self._route(input, a, torch.mul, stabilized_ratio(a, input, self._epsilon))

    def _batch_norm(
        self, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
    ) -> torch.Tensor:
        if training:
            if input.numel() <= input.shape[1]:
                raise ValueError(
                    f"BatchNorm in training mode needs several values per channel; its input is {tuple(input.shape)}. "
                    "Take larger batches, or evaluation mode."
                )
            y, mean, inverse = torch.native_batch_norm(
                input, weight, bias, running_mean, running_var, True, momentum, eps
            )
            inverse = _InverseDeviation.apply(input, mean, inverse)
        else:
            y = F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
            mean, inverse = running_mean, torch.rsqrt(running_var + eps)
        scale = inverse if weight is None else inverse * weight
        self.norms[input] = Affine(scale, mean.detach(), None if bias is None else bias.detach())
        return self._route(input, y, torch.mul, scale.to(y.dtype).view(-1, *[1] * (input.ndim - 2)))

    def _convolution(self, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> torch.Tensor:
        y = torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
        if input.ndim == 4 and not isinstance(padding, str):  # else its own derivative is right, and slower
            rule = partial(
                transposed_convolution,
                size=input.shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups,
            )  # fmt: skip
            y = self._route(input, y, rule, weight)
        if self.first is None:
            unpadded = self._padded.get(input, (input, (0, 0, 0, 0)))
            self.first = Convolution(*unpadded, weight, bias, stride, padding, dilation, groups, y)
        return y

    def _pad(self, input, pad, mode="constant", value=None) -> torch.Tensor:
        """Pad, and remember what zeros are around, for the first convolution: pixels have bounds, padding is 0."""
        y = F.pad(input, pad, mode, value)
        if self.first is None and mode == "constant" and not value and len(pad) <= 4 and min(pad) >= 0:
            unpadded, around = self._padded.get(input, (input, (0, 0, 0, 0)))
            self._padded[y] = unpadded, tuple(map(sum, zip_longest(around, pad, fillvalue=0)))
        return y

    def _max_pool(
        self, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        y, winners = F.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices=True)
        if return_indices:
            return y, winners

        def rule(gradient: torch.Tensor, x: torch.Tensor, winners: torch.Tensor) -> torch.Tensor:
            return torch.ops.aten.max_pool2d_with_indices_backward(
                gradient, x, _pair(kernel_size), _pair(stride or kernel_size), _pair(padding), _pair(dilation),
                ceil_mode, winners,
            )  # fmt: skip

        return self._route(input, y, rule, input.detach(), winners)

    def _average_pool(
        self, input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    ) -> torch.Tensor:
        y = F.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)

        def rule(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.aten.avg_pool2d_backward(
                gradient, x, _pair(kernel_size), _pair(stride or kernel_size), _pair(padding), ceil_mode,
                count_include_pad, divisor_override,
            )  # fmt: skip

        return self._route(input, y, rule, input.detach())

    def _adaptive_average_pool(self, input, output_size) -> torch.Tensor:
        y = F.adaptive_avg_pool2d(input, output_size)
        return self._route(input, y, torch.ops.aten._adaptive_avg_pool2d_backward, input.detach())

    def _overwrite(self, tensor: torch.Tensor, in_place: bool) -> None:
        """Remember a tensor that the model would have written over, and the one of which it is a part."""
        if in_place:
            self._overwritten[tensor] = True
            if tensor._base is not None:
                self._overwritten[tensor._base] = True

    def _refuse_overwritten(self, function: Callable, arguments: Any) -> None:
        if not self._overwritten or getattr(function, "__name__", "") == "__get__":
            return
        for argument in arguments:
            if isinstance(argument, (list, tuple)):
                self._refuse_overwritten(function, argument)
            elif isinstance(argument, torch.Tensor) and argument in self._overwritten:
                raise ValueError(
                    "LRP-Flex needs the input of every activation as it was, but the model lets a ReLU write over "
                    f"it and uses it again ({function.__name__}). Set inplace=False."
                )


def _is_relu6(input, min_val=-1.0, max_val=1.0, inplace=False) -> bool:
    """`nn.ReLU6` calls `hardtanh` with these bounds."""
    return (min_val, max_val) == (0, 6)


def _arguments_of_batch_norm(
    input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled
) -> tuple:
    return input, running_mean, running_var, weight, bias, training, momentum, eps


def relu_ratio(a: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return a / (a + epsilon) for outputs `a` of a ReLU: 0 where it is inactive, also with epsilon 0."""
    return _ReluRatio.apply(a, epsilon) if epsilon > 0 else (a > 0).to(a)


def transposed_convolution(
    gradient: torch.Tensor, weight: torch.Tensor, *, size, stride, padding, dilation, groups: int
) -> torch.Tensor:
    """Return what a convolution of images of this size sends back `[N, C, *size]`.

    A transposed convolution, since that is differentiated again at the cost of an ordinary layer.
    """
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    remainder = [
        size[axis]
        - ((gradient.shape[2 + axis] - 1) * stride[axis] - 2 * padding[axis]
           + dilation[axis] * (weight.shape[2 + axis] - 1) + 1)
        for axis in (0, 1)
    ]  # fmt: skip
    return F.conv_transpose2d(gradient, weight, None, stride, padding, tuple(remainder), groups, dilation)
