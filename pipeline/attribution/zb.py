"""The Zb rule: relevance of the first activation goes to pixels that lie in a known range (Montavon et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.models.trace import ACTIVATIONS

from .composites import normalization
from .composites import pixel_range as network_range
from .flex_routes import Affine, Convolution, FlexMode, Source, transposed_convolution
from .stabilize import stabilized_ratio


@dataclass
class FirstBlock:
    """The first convolution, the BatchNorm right after it if any, and the output of the activation right after that.

    Attributes:
        normalized: what the model's own normalisation returned.
        norm: output of the BatchNorm.
    """

    normalized: torch.Tensor | None = None
    convolution: Convolution | None = None
    norm: torch.Tensor | None = None
    output: torch.Tensor | None = None


@contextmanager
def record_first_block(
    model: nn.Module, x: torch.Tensor, mode: FlexMode, *, enabled: bool
) -> Iterator[FirstBlock | None]:
    """Watch the forward pass of `x` under a mode and fill in the first block; yield None when not enabled.

    Raises:
        ValueError: the network does not start with convolution, optional BatchNorm, ReLU, or changes the pixels before
            otherwise than by its normalisation and padding by zeros.
    """
    if not enabled:
        yield None
        return
    block = FirstBlock()
    normalize = normalization(model)

    def watch(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if module is normalize and inputs[0] is x:
            block.normalized = output
        if block.output is not None or mode.first is None:
            return
        if inputs[0] is not (mode.first.output if block.norm is None else block.norm):
            return
        if isinstance(module, nn.BatchNorm2d) and block.norm is None:
            block.norm = output
            if isinstance(getattr(module, "act", None), ACTIVATIONS):
                block.output = output
        elif isinstance(module, ACTIVATIONS):
            block.output = output
        if block.output is not None and not block.output.requires_grad:
            block.output.requires_grad_()  # nothing below is trained: relevance starts its way here

    kinds = (nn.BatchNorm2d, *ACTIVATIONS)
    watched = [module for module in model.modules() if isinstance(module, kinds) or module is normalize]
    handles = [module.register_forward_hook(watch) for module in watched]
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
    block.convolution = mode.first
    if isinstance(block.convolution.padding, str):
        raise ValueError(
            f"input_rule 'zb' has no rule for padding='{block.convolution.padding}' in the first layer; give numbers, "
            "or use 'gradient_x_input'."
        )
    _require_pixels(block.convolution.input, x, block.normalized, normalize)


def _require_pixels(
    found: torch.Tensor, x: torch.Tensor, normalized: torch.Tensor | None, normalize: nn.Module | None
) -> None:
    if found is (x if normalize is None else normalized):
        return
    pixels = x if normalize is None else normalize(x)
    if found.shape != pixels.shape or not torch.equal(found, pixels):
        raise ValueError(
            "input_rule 'zb' must know the range of what the first convolution sees, but the network changes the "
            "pixels before it otherwise than by padding with zeros. Leave normalisation to model.mean and model.std, "
            "or use 'gradient_x_input'."
        )


@dataclass(frozen=True)
class ZbRule:
    """The first block made ready for any number of maps.

    With x in [l, h], weights W and shift b (BatchNorm folded in), z = x*W + b+ - l*W+ - h*W- is never negative.
    Relevance R1 of the activation is shared as R = (x - l) c(W+) + (x - h) c(W-), c the transposed convolution of
    R1 / z; where R1 is not negative, neither is R.

    Attributes:
        share: activation / z, so that its gradient times this is R1 / z.
        weight: W+ and W-, one after the other in each group of input channels.
        convolution: the first one; its input are the pixels, what it pads has no relevance.
    """

    above_low: torch.Tensor
    below_high: torch.Tensor
    share: torch.Tensor
    weight: torch.Tensor
    convolution: Convolution

    def relevance(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return relevance at the pixels `[N, C, H, W]`, given the gradient at the first activation."""
        conv, (height, width) = self.convolution, self.above_low.shape[2:]
        left, right, top, bottom = conv.pads
        both = transposed_convolution(
            gradient * self.share, self.weight, size=(top + height + bottom, left + width + right),
            stride=conv.stride, padding=conv.padding, dilation=conv.dilation, groups=conv.groups,
        )  # fmt: skip
        both = both[:, :, top : top + height, left : left + width]
        positive, negative = both.unflatten(1, (conv.groups, 2, -1)).unbind(2)
        return self.above_low * positive.flatten(1, 2) + self.below_high * negative.flatten(1, 2)


def zb_rule(
    block: FirstBlock,
    norms: Mapping[torch.Tensor, Affine],
    model: nn.Module,
    pixels: tuple[float, float],
    epsilon: float,
    source: Source,
) -> ZbRule:
    """Return the Zb rule of what `record_first_block` found.

    Padding, whoever adds it, is 0 and nothing else: there both bounds are 0, and so is relevance.

    Weights, the scale of BatchNorm and, in training mode, the statistics of the batch in it are differentiated; the
    shift that biases and means add up to carries no gradient.

    Args:
        norms: what BatchNorm got -> what it did.
        pixels: lowest and highest pixel before the model's own normalisation.
        source: see `flex_routes.Source`.
    """
    conv, x = block.convolution, block.convolution.input
    low, high = (bound.to(x).expand(1, x.shape[1], 1, 1) for bound in network_range(model, *pixels))
    norm = norms[conv.output] if block.norm is not None else None
    weight = conv.weight if norm is None else conv.weight * norm.scale.view(-1, 1, 1, 1)
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    offset = _shift(conv, norm).clamp(min=0).view(1, -1, 1, 1) - _at_bounds(conv, positive, negative, low, high)
    z = conv.output
    if conv.bias is not None:
        z = z - conv.bias.view(1, -1, 1, 1)
    z = z + offset if norm is None else torch.addcmul(offset, z, norm.scale.view(1, -1, 1, 1))
    return ZbRule(
        x - low, x - high,
        source(stabilized_ratio(block.output, z, epsilon)),
        source(torch.cat([positive, negative], 1)),
        conv,
    )  # fmt: skip


def _at_bounds(conv: Convolution, positive, negative, low, high) -> torch.Tensor:
    """Return l*W+ + h*W- `[1, C, H, W]`: bounds are the same everywhere, so one channel of ones stands for them."""
    low, high = (
        bound.view(conv.groups, -1).repeat_interleave(len(conv.weight) // conv.groups, 0)[:, :, None, None]
        for bound in (low, high)
    )
    weight = (low * positive + high * negative).sum(1, keepdim=True)
    pixels = F.pad(conv.input.new_ones(1, 1, *conv.input.shape[2:]), conv.pads)
    return F.conv2d(pixels, weight, None, conv.stride, conv.padding, conv.dilation)


def _shift(conv: Convolution, norm: Affine | None) -> torch.Tensor:
    """Return what convolution and BatchNorm together add to x*W `[C]`, without gradient."""
    bias = conv.bias.detach() if conv.bias is not None else conv.weight.new_zeros(len(conv.weight))
    if norm is None:
        return bias
    shifted = (bias - norm.mean) * norm.scale.detach()
    return shifted if norm.shift is None else shifted + norm.shift
