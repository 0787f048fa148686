"""What a BatchNorm takes in LRP-Block: linear layers, with which it is one linear map, other results, or some of each.

Every source says what z = scale * base + shift the rule divides by at a BatchNorm y = scale * x + shift after it. By z+
the base holds the positive part of the layer where the scale is positive and the negative one where it is negative, so
that z = (scale W)+ a + (shift)+.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional as F

from .block_arithmetic import share
from .block_flow import BlockRule, Flow, added

Sign = torch.Tensor | None
"""Which channels have a positive factor `[C]`, in the memory of the host; None: all."""


def differing(one: Sign, other: Sign) -> Sign:
    """Return the channels in which two signs differ, None where there are none."""
    if one is None and other is None:
        return None
    different = ~(one if other is None else other) if one is None or other is None else one != other
    return different if bool(different.any()) else None


def along_channels(vector: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a vector `[C]` as `[1, C, 1, ...]`, on the device of a tensor that has channels second."""
    return vector.to(like.device).view(1, -1, *[1] * (like.ndim - 2))


def split(values: torch.Tensor, opposed: Sign, taken: torch.Tensor) -> Flow:
    """Return what goes to a source, divided by the sign that its channels meet."""
    if opposed is None:
        return Flow(same=values, taken=taken)
    mask = along_channels(opposed, taken)
    return Flow(same=values.masked_fill(mask, 0), opposite=values.masked_fill(~mask, 0), taken=taken)


class Source(Protocol):
    """What a BatchNorm may take."""

    def adopt(self, sign: Sign) -> None:
        """Settle on the sign of the first BatchNorm that takes it: for others, the rest is made on demand."""

    def opposed(self, rule: BlockRule, sign: Sign) -> Sign:
        """Return the channels of a sign that differ from the one settled on, None where there are none."""

    def signed(self, rule: BlockRule) -> bool:
        """Tell whether z is another than the BatchNorm's own output."""

    def nonnegative(self, rule: BlockRule) -> bool:
        """Tell whether z is never negative by a rule that does not take the BatchNorm's own output for it."""

    def terms(
        self, rule: BlockRule, sign: Sign, scale: torch.Tensor, shift: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return base `[N, C, ...]` and shift `[1, C, ...]` of z = scale * base + shift."""

    def relevance(self, rule: BlockRule, flow: Flow) -> torch.Tensor:
        """Return relevance of the source itself `[K, N, C, ...]`."""


@dataclass(eq=False)
class Result:
    """A result of no linear layer: the identity. Positive values support channels with a positive factor."""

    tensor: torch.Tensor

    def adopt(self, sign: Sign) -> None:
        """Nothing to settle."""

    def opposed(self, rule: BlockRule, sign: Sign) -> Sign:
        """Return the channels with a negative factor."""
        return differing(None, sign) if rule == "z_plus" else None

    def signed(self, rule: BlockRule) -> bool:
        """Tell whether z is another than the BatchNorm's own output."""
        return rule == "z_plus"

    def nonnegative(self, rule):
        """Tell whether z is never negative."""
        return rule == "z_plus"

    def terms(self, rule, sign, scale, shift):
        """Return base and shift of z."""
        if rule == "epsilon":
            return self.tensor, shift
        supporting, countering = self.parts()
        if sign is not None:
            supporting = torch.where(along_channels(sign, supporting), supporting, countering)
        return supporting, shift.clamp(min=0)

    def parts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what supports channels with a positive, and those with a negative factor."""
        return self.tensor.clamp(min=0), self.tensor.clamp(max=0)

    def relevance(self, rule, flow):
        """Return relevance of the result."""
        found = None if flow.gradient is None else flow.gradient * flow.value
        if flow.same is None:
            return found
        supporting, countering = (self.tensor, None) if rule == "epsilon" else self.parts()
        found = added(found, flow.same * supporting)
        return found if flow.opposite is None else found + flow.opposite * countering


@dataclass(eq=False)
class Average(Result):
    """An average: with a BatchNorm after it one linear map.

    Attributes:
        x: input.
        run: the average.
        unsigned: x is known to hold no negative value.
    """

    x: torch.Tensor
    run: Callable[[torch.Tensor], torch.Tensor]
    unsigned: bool

    def parts(self):
        """Return averages of positive and of negative values."""
        supporting = self.tensor if self.unsigned else self.run(torch.relu(self.x))
        return supporting, self.tensor - supporting


@dataclass(eq=False)
class Joined:
    """Several sources, one after the other along the channels."""

    sources: Sequence[Source]
    widths: Sequence[int]

    def adopt(self, sign: Sign) -> None:
        """Let every source settle on its part."""
        for source, part in zip(self.sources, self._split(sign), strict=True):
            source.adopt(None if part is None or bool(part.all()) else part)

    def opposed(self, rule, sign):
        """Return the channels that differ from what their source settled on."""
        parts = [s.opposed(rule, part) for s, part in zip(self.sources, self._split(sign), strict=True)]
        if all(part is None for part in parts):
            return None
        return torch.cat([
            torch.zeros(width, dtype=torch.bool) if part is None else part
            for part, width in zip(parts, self.widths, strict=True)
        ])  # fmt: skip

    def signed(self, rule):
        """Tell whether z is another than the BatchNorm's own output, anywhere."""
        return any(source.signed(rule) for source in self.sources)

    def nonnegative(self, rule):
        """Tell whether z is never negative, of all."""
        return all(source.nonnegative(rule) for source in self.sources)

    def terms(self, rule, sign, scale, shift):
        """Return base and shift of z."""
        parts = zip(
            self.sources, self._split(sign), scale.split(self.widths, 1), shift.split(self.widths, 1), strict=True
        )
        bases, shifts = zip(*(source.terms(rule, *rest) for source, *rest in parts), strict=True)
        positions = torch.broadcast_shapes(*(each.shape[2:] for each in shifts))
        return torch.cat(bases, 1), torch.cat([each.expand(1, each.shape[1], *positions) for each in shifts], 1)

    def relevance(self, rule, flow):
        """Return relevance of what is joined."""
        start, found = 0, []
        for source, width in zip(self.sources, self.widths, strict=True):
            found.append(source.relevance(rule, flow.slice(start, width)))
            start += width
        return torch.cat(found, 2)

    def _split(self, sign: Sign) -> Sequence[Sign]:
        return [None] * len(self.sources) if sign is None else sign.split(self.widths)


@dataclass(frozen=True)
class FirstLayer:
    """What rules of the first layer know of its input.

    Attributes:
        prepared: pixels as the network's own normalisation and padding leave them `[N, C, H, W]`.
        bounds: lowest and highest of them `[1, C or 1, H or 1, W or 1]`, for Zb; None for the rule of all other layers.
        black: what becomes of pixels that are 0 `[1, C or 1, H or 1, W or 1]`; None if they stay 0.
    """

    prepared: torch.Tensor
    bounds: tuple[torch.Tensor, torch.Tensor] | None
    black: torch.Tensor | None

    def require(self, x: torch.Tensor) -> None:
        """Check that a first layer sees the pixels and padding, at most with other axes.

        Raises:
            ValueError: it does not.
        """
        if x.numel() != self.prepared.numel() or not torch.equal(x.reshape(self.prepared.shape), self.prepared):
            raise ValueError(
                "LRP-Block must know what the first layer sees, but the network changes the pixels before it otherwise "
                "than by padding with zeros. Leave normalisation to model.mean and model.std."
            )

    def padded(self, pad: Sequence[int]) -> FirstLayer:
        """Return what is known after padding with zeros, as `F.pad` counts: there is no range, black is 0 as well."""

        def fill(values: torch.Tensor) -> torch.Tensor:
            return F.pad(values.to(self.prepared).expand(-1, *self.prepared.shape[1:]), pad)

        return FirstLayer(
            fill(self.prepared),
            None if self.bounds is None else (fill(self.bounds[0]), fill(self.bounds[1])),
            None if self.black is None else fill(self.black),
        )

    def like(self, bound: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return a bound in the shape of one input of the first layer `[1, ...]`."""
        return bound.to(x).expand(1, *self.prepared.shape[1:]).reshape(1, *x.shape[1:])


@dataclass(eq=False)
class Layer:
    """One run of a convolution or linear layer, y = a W + b.

    Attributes:
        x: input.
        output: y.
        run: (a, W, b or None) -> a W + b.
        transpose: (s `[K, N, ...]`, W, ...) -> s W^T `[K, N, ...]`, in the shape of the input; with several weights, of
            each in turn within a group of channels.
        groups: into how many the channels are divided.
        unsigned: x is known to hold no negative value.
        first: what is known of pixels, None for other layers than the first.
        epsilon: stabiliser.
        constant_biases: no gradient reaches the bias from relevance.
        main: the sign that its channels settled on.
    """

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    output: torch.Tensor
    run: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
    transpose: Callable[..., torch.Tensor]
    groups: int
    unsigned: bool
    first: FirstLayer | None
    epsilon: float
    constant_biases: bool
    main: Sign = None

    def __post_init__(self):
        self._adopted = False
        self._supporting: torch.Tensor | None = None
        self._own: torch.Tensor | None = None

    def adopt(self, sign: Sign) -> None:
        """Settle on a sign, once."""
        if not self._adopted:
            self.main, self._adopted = sign, True

    def opposed(self, rule: BlockRule, sign: Sign) -> Sign:
        """Return the channels of a sign that differ from the one settled on."""
        return differing(self.main, sign) if self.signed(rule) else None

    def signed(self, rule: BlockRule) -> bool:
        """Tell whether the two signs of weights are told apart."""
        return rule == "z_plus" or self._bounded

    def nonnegative(self, rule: BlockRule) -> bool:
        """Tell whether z is never negative. Zb trusts no pixel to lie in its range."""
        return rule == "z_plus" and not self._bounded

    @property
    def _bounded(self) -> bool:
        """Whether Zb is the rule: it has the form of z+, with x - low for positive weights, x - high for negative."""
        return self.first is not None and self.first.bounds is not None

    def terms(self, rule, sign, scale=None, shift=None):
        """Return base and shift of z; without scale and shift, of the layer alone."""
        if not self.signed(rule):
            base, bias = self.output, self.bias
            if self.constant_biases and bias is not None:
                base = base + along_channels(bias.detach() - bias, base)
            return base, shift
        constant = self._constant()
        if self.constant_biases and constant is not None:
            constant = constant.detach()
        total = constant
        if scale is not None:
            total = shift if constant is None else torch.addcmul(shift, constant, scale)
        if total is not None:
            total = total.clamp(min=0)
        if not self._bounded:
            return self.part(sign), total
        offset = self._offset(sign) if scale is None else self._offset(sign) * scale
        return self.output, -offset if total is None else total - offset

    def part(self, sign: Sign) -> torch.Tensor:
        """Return a W+ in channels of positive, a W- in those of negative sign `[N, C, ...]`; less the bounds by Zb."""
        if self._bounded:
            return self.output - self._offset(sign)
        if self._supporting is None:
            a, own = self._values(), self._weights(self.main)
            if self.unsigned:
                self._supporting = self.run(a, own, None)
            else:
                countering = self.run(a.clamp(max=0), self.weight - own, None)
                self._supporting = self.run(torch.relu(a), own, None) + countering
        opposed = differing(self.main, sign)
        if opposed is None:
            return self._supporting
        rest = self.output - self._supporting
        constant = self._constant()
        rest = rest if constant is None else rest - constant
        return torch.where(along_channels(opposed, rest), rest, self._supporting)

    def back(self, rule: BlockRule, flow: Flow) -> Flow:
        """Return what goes to the input: relevance where it is pixels."""
        if flow.gradient is not None:
            alone = split(self._divide(rule, flow), self.opposed(rule, None), self.output)
            flow = Flow(same=added(flow.same, alone.same), opposite=added(flow.opposite, alone.opposite))
        if self._bounded:
            low, high = (self.first.like(bound, self.x) for bound in self.first.bounds)
            supporting, countering = self._both(flow)
            return Flow((self.x - low) * supporting + (self.x - high) * countering)
        a = self._values()
        if not self.signed(rule):
            gradient = self.transpose(flow.same, self.weight)
        elif self.unsigned:
            own = self._weights(self.main)
            gradient = self.transpose(flow.same, own)
            if flow.opposite is not None:
                gradient = gradient + self.transpose(flow.opposite, self.weight - own)
        else:
            gradient = torch.where(a > 0, *self._both(flow))
        return Flow(gradient, a) if self.first is None else Flow(gradient * a)

    def relevance(self, rule, flow):
        """Return relevance of the output."""
        found = None if flow.gradient is None else flow.gradient * flow.value
        if flow.same is None:
            return found
        if not self.signed(rule):
            return added(found, flow.same * flow.taken)
        found = added(found, flow.same * self.part(self.main))
        if flow.opposite is None:
            return found
        return found + flow.opposite * self.part(~self._sign())

    def logits(self, rule: BlockRule) -> torch.Tensor:
        """Return the output as the rule sees it, for seeds: by z+, of positive weights and biases alone."""
        if self._bounded:
            return self.output
        base, shift = self.terms(rule, None)
        return base if shift is None else base + shift

    def _divide(self, rule: BlockRule, flow: Flow) -> torch.Tensor:
        base = shift = None
        if self.signed(rule) or (self.constant_biases and self.bias is not None):
            base, shift = self.terms(rule, None)
        known = flow.rectified if base is None else self.nonnegative(rule)
        return share(flow.gradient, flow.value, base, None, shift, epsilon=self.epsilon, nonnegative=known)

    def _values(self) -> torch.Tensor:
        """Return what weights are multiplied with. Pixels count from black, also where the network shifts them."""
        if self.first is None or self.first.black is None or self._bounded:
            return self.x
        return self.x - self.first.like(self.first.black, self.x)

    def _constant(self) -> torch.Tensor | None:
        """Return the bias `[1, C, ...]`, with what a black image gives."""
        bias = None if self.bias is None else along_channels(self.bias, self.output)
        if self.first is None or self.first.black is None or self._bounded:
            return bias
        return added(bias, self.run(self.first.like(self.first.black, self.x), self.weight, None))

    def _sign(self) -> torch.Tensor:
        return torch.ones(self.output.shape[1], dtype=torch.bool) if self.main is None else self.main

    def _weights(self, sign: Sign) -> torch.Tensor:
        """Return W+ in channels of positive, W- in those of negative sign."""
        settled = sign is self.main
        if settled and self._own is not None:
            return self._own
        own = torch.relu(self.weight)
        if sign is not None:
            rows = sign.to(self.weight.device).view(-1, *[1] * (self.weight.ndim - 1))
            own = torch.where(rows, own, self.weight - own)
        if settled:
            self._own = own
        return own

    def _offset(self, sign: Sign) -> torch.Tensor:
        """Return what Zb takes from the output `[1, C, ...]`."""
        own = self._weights(sign)
        low, high = (self.first.like(bound, self.x) for bound in self.first.bounds)
        offset = self.run(low, own, None) + self.run(high, self.weight - own, None)
        return offset if self.bias is None else offset + along_channels(self.bias, offset)

    def _both(self, flow: Flow) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what goes back through supporting and through countering weights, in one run."""
        own = self._weights(self.main)
        both = self.transpose(flow.same, own, self.weight - own)
        if flow.opposite is not None:
            both = both + self.transpose(flow.opposite, self.weight - own, own)
        supporting, countering = both.unflatten(2, (self.groups, 2, -1)).unbind(3)
        return supporting.flatten(2, 3), countering.flatten(2, 3)
