"""The Zb rule: relevance of the first activation goes to pixels that lie in a known range (Montavon et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.models.trace import ACTIVATIONS

from .composites import normalization
from .composites import pixel_range as network_range
from .stabilize import stabilized_ratio


@dataclass
class FirstBlock:
    """The first convolution, the BatchNorm right after it if any, and the output of the activation right after that.

    Attributes:
        end: output of what was found so far; the next part is the module that takes this very tensor.
    """

    convolution: nn.Conv2d | None = None
    norm: nn.BatchNorm2d | None = None
    input: torch.Tensor | None = None
    end: torch.Tensor | None = None
    output: torch.Tensor | None = None


@contextmanager
def record_first_block(model: nn.Module, x: torch.Tensor, *, enabled: bool) -> Iterator[FirstBlock | None]:
    """Watch the forward pass of `x` and fill in the first block; yield None when not enabled.

    Raises:
        ValueError: the network does not start with convolution, optional BatchNorm, ReLU, or changes the pixels before.
    """
    if not enabled:
        yield None
        return
    block = FirstBlock()

    def watch(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if block.output is not None:
            return
        if block.convolution is None and isinstance(module, nn.Conv2d):
            _require_plain(module)
            block.convolution, block.input, block.end = module, inputs[0], output
        elif inputs[0] is not block.end:
            return
        elif isinstance(module, nn.BatchNorm2d) and block.norm is None:
            block.norm, block.end = module, output
            if isinstance(getattr(module, "act", None), ACTIVATIONS):
                block.output = output
        elif isinstance(module, ACTIVATIONS):
            block.output = output

    kinds = (nn.Conv2d, nn.BatchNorm2d, *ACTIVATIONS)
    handles = [module.register_forward_hook(watch) for module in model.modules() if isinstance(module, kinds)]
    try:
        yield block
    finally:
        for handle in handles:
            handle.remove()
    if block.output is None:
        raise ValueError(
            "input_rule 'zb' needs a network that starts with the modules convolution, (BatchNorm,) ReLU; "
            "use 'gradient_x_input'."
        )
    normalize = normalization(model)
    pixels = x if normalize is None else normalize(x)
    if block.input.shape != pixels.shape or not torch.equal(block.input, pixels):
        raise ValueError(
            "input_rule 'zb' must know the range of what the first convolution sees, but the network changes the "
            "pixels before it. Leave normalisation to model.mean and model.std, or use 'gradient_x_input'."
        )


def zb_rule(
    block: FirstBlock, relevance: torch.Tensor, model: nn.Module, pixels: tuple[float, float], epsilon: float
) -> torch.Tensor:
    """Return relevance at the pixels `[N, C, H, W]`; non-negative where `relevance` is.

    z = x*W + b+ - l*W+ - h*W-, R = x c(W) - l c(W+) - h c(W-) with c the transposed convolution of R1 / z; BatchNorm
    is folded into W with its running statistics, its shift and biases carry no gradient.
    """
    conv = block.convolution
    weight, bias = _folded(block)
    low, high = (bound.to(block.input).expand_as(block.input) for bound in network_range(model, *pixels))
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)

    def forward(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        return conv._conv_forward(x, w, b)

    z = forward(block.input, weight, bias) - forward(low, positive, None) - forward(high, negative, bias.clamp(max=0))
    scaled = stabilized_ratio(relevance, z, epsilon)

    def transposed(w: torch.Tensor) -> torch.Tensor:
        size = block.input.shape[2:]
        remainder = [
            size[axis] - ((scaled.shape[2 + axis] - 1) * conv.stride[axis] - 2 * conv.padding[axis]
                          + conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1)
            for axis in (0, 1)
        ]  # fmt: skip
        return F.conv_transpose2d(
            scaled, w, None, conv.stride, conv.padding, tuple(remainder), conv.groups, conv.dilation
        )

    return block.input * transposed(weight) - low * transposed(positive) - high * transposed(negative)


def _require_plain(convolution: nn.Conv2d) -> None:
    if (
        type(convolution) is not nn.Conv2d
        or convolution.padding_mode != "zeros"
        or isinstance(convolution.padding, str)
    ):
        raise ValueError(
            f"input_rule 'zb' has no rule for the first layer {type(convolution).__name__}; use 'gradient_x_input'."
        )


def _folded(block: FirstBlock) -> tuple[torch.Tensor, torch.Tensor]:
    conv, norm = block.convolution, block.norm
    bias = conv.bias.detach() if conv.bias is not None else conv.weight.new_zeros(conv.out_channels)
    if norm is None:
        return conv.weight, bias
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else norm.weight * scale
    shifted = (bias - norm.running_mean) * scale.detach()
    shifted = shifted if norm.bias is None else shifted + norm.bias.detach()
    return conv.weight * scale.view(-1, 1, 1, 1), shifted
