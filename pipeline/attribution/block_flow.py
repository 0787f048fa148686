"""What LRP-Block sends back through a network: relevance divided by the value it belongs to.

In this form the epsilon rule is the ordinary gradient times |z| / (|z| + epsilon) wherever the rule divides, residual
sums and activations need no product of their own, and what a BatchNorm sends to the convolution before it can be kept
apart from relevance, so that both act as the one linear map that they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

BlockRule = Literal["epsilon", "z_plus"]


@dataclass(eq=False, slots=True)
class Flow:
    """What arrives at an intermediate result, of K maps. At what was made of pixels alone, `gradient` is relevance.

    Attributes:
        gradient: relevance / value `[K, N, ...]`.
        value: `[N, ...]`, so that relevance is gradient * value.
        rectified: `value` is the ReLU of the intermediate result, not the result itself.
        same: from a BatchNorm that takes it: scale * relevance of the BatchNorm / its stabilised z `[K, N, ...]`; of
            channels whose scale has the sign that the layer that made the result settled on.
        opposite: the same, of channels with the other sign; None where there are none.
        taken: what the BatchNorm took.
    """

    gradient: torch.Tensor | None = None
    value: torch.Tensor | None = None
    rectified: bool = False
    same: torch.Tensor | None = None
    opposite: torch.Tensor | None = None
    taken: torch.Tensor | None = None

    def __add__(self, other: Flow) -> Flow:
        """Add what several takers send back."""
        gradient, value, rectified = _together(self, other)
        return Flow(
            gradient, value, rectified,
            added(self.same, other.same), added(self.opposite, other.opposite),
            other.taken if self.taken is None else self.taken,
        )  # fmt: skip

    def slice(self, start: int, width: int) -> Flow:
        """Return the part that belongs to some of the channels."""
        return Flow(
            *(_narrowed(each, axis, start, width) for each, axis in ((self.gradient, 2), (self.value, 1))),
            self.rectified,
            *(
                _narrowed(each, axis, start, width)
                for each, axis in ((self.same, 2), (self.opposite, 2), (self.taken, 1))
            ),
        )

    def settled(self, rule: BlockRule) -> Flow:
        """Return all of it as gradient and value, for results that are no output of a linear layer.

        To a BatchNorm such a result is the identity before it; by z+, values of either sign support channels of theirs.
        """
        if self.same is None:
            return self
        if rule == "epsilon":
            through_norm = Flow(self.same, self.taken)
        elif self.opposite is None:
            through_norm = Flow(self.same, torch.relu(self.taken), rectified=True)
        else:
            through_norm = Flow(torch.where(self.taken > 0, self.same, self.opposite), self.taken)
        return Flow(*_together(self, through_norm))

    def plain(self, rule: BlockRule) -> torch.Tensor:
        """Return the gradient that belongs to the intermediate result itself."""
        flow = self.settled(rule)
        return flow.gradient * (flow.value > 0) if flow.rectified else flow.gradient


def _together(one: Flow, other: Flow) -> tuple[torch.Tensor | None, torch.Tensor | None, bool]:
    if one.gradient is None or other.gradient is None:
        some = other if one.gradient is None else one
        return some.gradient, some.value, some.rectified
    if one.rectified == other.rectified:
        return one.gradient + other.gradient, one.value, one.rectified
    cut, whole = (one, other) if one.rectified else (other, one)
    return whole.gradient + cut.gradient * (cut.value > 0), whole.value, False


def added(one: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor | None:
    """Return the sum of what is there."""
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _narrowed(tensor: torch.Tensor | None, axis: int, start: int, width: int) -> torch.Tensor | None:
    return None if tensor is None else tensor.narrow(axis, start, width)
