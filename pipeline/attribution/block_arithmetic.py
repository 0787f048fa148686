"""Arithmetic of LRP-Block whose second derivatives would be slow, or take memory twice, if left to PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.autograd.function import once_differentiable

Values = torch.Tensor | None


def share(
    gradient: torch.Tensor,
    value: torch.Tensor,
    base: Values = None,
    scale: Values = None,
    shift: Values = None,
    *,
    epsilon: float,
    nonnegative: bool = False,
) -> torch.Tensor:
    """Return scale * gradient * value / (z + epsilon sign z) with z = scale * base + shift, or z = value without base.

    Zero counts as positive; a denominator of 0 is taken as 1.

    Args:
        gradient: `[K, N, ...]`.
        value, base: `[N, ...]`.
        scale, shift: of shapes that broadcast to `base`; None for 1 and 0.
        nonnegative: z is known to be, up to rounding; saves the look at its sign.
    """
    return _Share.apply(gradient, value, base, scale, shift, epsilon, nonnegative)


class _Share(torch.autograd.Function):
    """Its derivatives, written into few tensors: on most processors, memory is what these operations wait for."""

    @staticmethod
    def forward(ctx, gradient, value, base, scale, shift, epsilon, nonnegative):
        ctx.epsilon, ctx.nonnegative = epsilon, nonnegative
        ctx.save_for_backward(gradient, value, base, scale, shift)
        denominator = _denominator(value, base, scale, shift, epsilon, nonnegative)
        factor = torch.div(value, denominator, out=denominator)
        if scale is not None:
            factor *= scale
        return factor.mul_(gradient[0])[None] if len(gradient) == 1 else gradient * factor

    @staticmethod
    @once_differentiable
    def backward(ctx, upper):
        gradient, value, base, scale, shift = ctx.saved_tensors
        wants_gradient, wants_value, wants_base, wants_scale, wants_shift, *_ = ctx.needs_input_grad
        of_gradient = of_value = of_base = of_scale = of_shift = None
        denominator = _denominator(value, base, scale, shift, ctx.epsilon, ctx.nonnegative)
        ratio = value / denominator
        if wants_gradient:
            of_gradient = upper * ratio if scale is None else (upper * scale).mul_(ratio)
        if wants_value or wants_base or wants_scale or wants_shift:
            # summed over the maps: upper * gradient is the derivative in scale * value / (z + epsilon)
            arriving = upper[0] * gradient[0] if len(gradient) == 1 else (upper * gradient).sum(0)
            if wants_scale:
                of_scale = (arriving * ratio).sum_to_size(scale.shape)
            of_value = arriving.div_(denominator)
            if scale is not None:
                of_value *= scale
            of_z = torch.mul(of_value, ratio, out=ratio).neg_()
            if base is None:
                of_value += of_z
            else:
                if wants_shift:
                    of_shift = of_z.sum_to_size(shift.shape)
                if wants_scale:
                    of_scale += torch.mul(of_z, base, out=denominator).sum_to_size(scale.shape)
                if wants_base:
                    of_base = of_z if scale is None else of_z.mul_(scale)
        return of_gradient, of_value, of_base, of_scale, of_shift, None, None


def _denominator(value, base, scale, shift, epsilon: float, nonnegative: bool) -> torch.Tensor:
    """Return z + epsilon sign z in memory of its own."""
    step = epsilon if nonnegative else 0.0
    if base is None:
        z = value + step if step or epsilon == 0 else value
    elif scale is None:
        z = base + step if shift is None else base + (shift + step)
    else:
        z = base * scale if shift is None else torch.addcmul(shift + step, base, scale)
        z = z.add_(step) if shift is None and step else z
    if epsilon == 0:
        return z.masked_fill_(z == 0, 1)
    return z if nonnegative else torch.copysign(z.new_tensor(epsilon), z).add_(z)


def transposed_convolution(
    outgoing: torch.Tensor, weights: Sequence[torch.Tensor], size: torch.Size, settings: tuple
) -> torch.Tensor:
    """Return what convolutions of inputs `[n, C, *size]` send back `[n, C, *size]`, of each in turn within a group.

    Args:
        outgoing: `[n, channels out, ...]`.
        weights: of one or several convolutions of the same shape.
        size: of positions.
        settings: stride, padding and dilation, one number per axis each, and the number of groups.
    """
    return _TransposedConvolution.apply(outgoing, size, settings, *weights)


class _TransposedConvolution(torch.autograd.Function):
    """s W^T; its derivatives are an ordinary convolution and an ordinary derivative of one in its weights.

    Several weights go back in one run, since few channels cost as much as one, and apart in the derivatives.
    """

    @staticmethod
    def forward(ctx, outgoing, size, settings, *weights):
        ctx.settings = settings
        ctx.save_for_backward(outgoing, *weights)
        weight = weights[0] if len(weights) == 1 else torch.cat(weights, 1)
        # of the input, only the shape is read: memory that is reserved and never written costs nothing
        place = outgoing.new_empty((len(outgoing), weight.shape[1] * settings[3], *size))
        return _convolution_backward(outgoing, place, weight, settings, of_weight=False)

    @staticmethod
    @once_differentiable
    def backward(ctx, upper):
        outgoing, *weights = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        of_outgoing, of_weights = None, []
        divided = upper.unflatten(1, (groups, len(weights), -1)).unbind(2)
        for at, (weight, part) in enumerate(zip(weights, divided, strict=True)):
            part = part.flatten(1, 2)
            if ctx.needs_input_grad[0]:
                settings = (stride, padding, dilation, False, [0] * len(stride), groups)
                found = torch.ops.aten.convolution(part, weight, None, *settings)
                of_outgoing = found if of_outgoing is None else of_outgoing.add_(found)
            wanted = ctx.needs_input_grad[3 + at]
            of_weights.append(
                _convolution_backward(outgoing, part, weight, ctx.settings, of_weight=True) if wanted else None
            )
        return of_outgoing, None, None, *of_weights


def _convolution_backward(outgoing, place, weight, settings, *, of_weight: bool) -> torch.Tensor:
    stride, padding, dilation, groups = settings
    settings = (stride, padding, dilation, False, [0] * len(stride), groups)
    wanted = [not of_weight, of_weight, False]
    return torch.ops.aten.convolution_backward(outgoing, place, weight, None, *settings, wanted)[int(of_weight)]


def batch_norm(x, weight, bias, running_mean, running_var, momentum: float, eps: float) -> tuple[torch.Tensor, ...]:
    """Return BatchNorm in training mode, the mean of the batch and 1 / its deviation `[C]`, all with derivatives.

    Running statistics are updated as ever.
    """
    return _BatchNorm.apply(x, weight, bias, running_mean, running_var, momentum, eps)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, momentum, eps):
        found = torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps)
        ctx.eps = eps
        ctx.save_for_backward(x, weight, *found[1:])
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx, of_output, of_mean, of_inverse):
        x, weight, mean, inverse = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[2]]
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            of_output, x, weight, None, None, mean, inverse, True, ctx.eps, wanted
        )
        if of_x is not None:
            # d inverse / d x = -inverse^3 (x - mean) / count
            count = x.numel() / x.shape[1]
            slope = of_inverse * inverse.pow(3) / -count
            shape = (1, -1, *[1] * (x.ndim - 2))
            level = of_mean / count - slope * mean
            of_x += torch.addcmul(level.view(shape), x, slope.view(shape))
        return of_x, of_weight, of_bias, None, None, None, None
