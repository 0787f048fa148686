"""A linear map with a bias, as the rules of LRP see it: forwards and transposed, with any weight in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ..stabilize import stabilized_ratio

Part = Callable[[torch.Tensor], torch.Tensor]
PARTS: dict[str, Part] = {
    "positive": lambda weight: weight.clamp(min=0),
    "negative": lambda weight: weight.clamp(max=0),
    "absolute": torch.abs,
    "squared": torch.square,
    "one": torch.ones_like,
}
"""What rules make of a weight, by name, so that it is made once for a network whose weights stay."""


class Parts:
    """Parts of a weight or bias; kept when the network is frozen, made anew when it is trained through."""

    def __init__(self, tensor: torch.Tensor, *, keep: bool):
        self.tensor, self.keep = tensor, keep
        self._made: dict[str, torch.Tensor] = {}

    def get(self, name: str, make: Part | None = None) -> torch.Tensor:
        """Return a part by its name in `PARTS`, or as `make` makes it from the whole."""
        if name in self._made:
            return self._made[name]
        part = (make or PARTS[name])(self.tensor)
        if self.keep:
            self._made[name] = part
        return part


@dataclass(frozen=True, eq=False)
class LinearOperation:
    """One run of a convolution or linear layer, y = x W + b.

    Attributes:
        x: input.
        output: y, for rules that read it (`reads_output`), else None: it need not be kept until relevance comes back.
        output_shape: shape of y.
        weight: W and its parts.
        bias: b and its parts, None where there is none. Shape: one value per output channel.
        forward: (x, W, b or None) -> x W + b.
        transpose: (s, W) -> s W^T in the shape of x.
        channel_axis: axis of y that the bias runs along.
        transposes: whether W holds inputs along its first axis and outputs along its second.
        nonnegative: whether x is known to hold no negative value.
        keeps_biases: whether biases take their share of relevance; if not, rules hand it to the inputs.
        present: where x holds values `[1, 1, ...positions]`; elsewhere it is padding. None: everywhere.
        pixel_range: lowest and highest value of x, for rules that need them; they broadcast to x.
    """

    x: torch.Tensor
    output: torch.Tensor | None
    output_shape: torch.Size
    weight: Parts
    bias: Parts | None
    forward: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
    transpose: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    channel_axis: int
    transposes: bool = False
    present: torch.Tensor | None = None
    nonnegative: bool = False
    keeps_biases: bool = True
    pixel_range: tuple[torch.Tensor, torch.Tensor] = field(default=(torch.tensor(0.0), torch.tensor(1.0)))

    def evenly(self) -> torch.Tensor:
        """Return ones in the shape of one input `[1, ...]`, zeros where there is only padding."""
        ones = torch.ones_like(self.x[:1])
        return ones if self.present is None else ones * self.present

    def bias_part(self, name: str = "") -> torch.Tensor | None:
        """Return (a part of) the bias `[C]`, None where there is none or biases take no share."""
        if self.bias is None or not self.keeps_biases:
            return None
        return self.bias.get(name) if name else self.bias.tensor

    def raised_bias(self, name: str, amount: float) -> torch.Tensor:
        """Return a part of the bias with an amount added `[C]`; added in the map, it saves a pass over the output."""
        if self.bias is None or not self.keeps_biases:
            channels = self.output_shape[self.channel_axis]
            return self.weight.get(f"{amount} per output", lambda w: w.new_full((channels,), amount))
        return self.bias.get(f"{name} and {amount}", lambda b: PARTS[name](b) + amount)

    def handed_back(self, absorbed: torch.Tensor, stabilizer: float) -> torch.Tensor:
        """Share what biases have taken among the inputs, in proportion to the magnitudes |x_i w_ij|.

        So rules whose contributions cancel leave biases out: dividing by z without the bias would be singular there.

        Args:
            absorbed: relevance that the bias of each output has taken, in the shape of y.
        """
        magnitude, absolute = self.x.abs(), self.weight.get("absolute")
        shared = stabilized_ratio(absorbed, self.forward(magnitude, absolute, None), stabilizer)
        return magnitude * self.transpose(shared, absolute)

    def along_channels(self, values: torch.Tensor) -> torch.Tensor:
        """Return values `[C]` in a shape that broadcasts along the channels of the output."""
        shape = [1] * len(self.output_shape)
        shape[self.channel_axis] = -1
        return values.view(shape)
