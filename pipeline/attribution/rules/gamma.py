"""The gamma rule (Montavon et al. 2019, section 10.2.3; signed inputs: Andeol et al. 2021): supporting weights grow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..stabilize import stabilized_ratio
from .linear_operation import LinearOperation, Parts


@dataclass(frozen=True)
class Gamma:
    """An output above 0 is shared with W + gamma W+ for inputs above 0 and W + gamma W- for inputs below.

    An output below 0 is shared with the two exchanged. gamma = 0 is the epsilon rule, gamma to infinity the z+ rule.
    The bias, strengthened alike, takes its share; where biases are left out, it is handed back to the inputs.
    """

    gamma: float = 0.25
    stabilizer: float = 1e-6

    reads_output: ClassVar[bool] = True

    def __post_init__(self):
        if self.gamma < 0:
            raise ValueError(f"gamma is {self.gamma}; it must be at least 0.")

    def __call__(self, operation: LinearOperation, relevance: torch.Tensor) -> torch.Tensor:
        """Return relevance of the input."""
        raised = self._strengthened(operation.weight, "positive")
        lowered = self._strengthened(operation.weight, "negative")
        found = torch.zeros_like(operation.x)
        for chosen, for_above, for_below, side in (
            (operation.output > 0, raised, lowered, "positive"),
            (operation.output < 0, lowered, raised, "negative"),
        ):
            above = operation.x if operation.nonnegative else operation.x.clamp(min=0)
            bias = None if operation.bias is None else self._strengthened(operation.bias, side)
            z = operation.forward(above, for_above, bias)
            if not operation.nonnegative:
                below = operation.x.clamp(max=0)
                z = z + operation.forward(below, for_below, None)
            scaled = stabilized_ratio(relevance * chosen, z, self.stabilizer)
            found = found + above * operation.transpose(scaled, for_above)
            if not operation.nonnegative:
                found = found + below * operation.transpose(scaled, for_below)
            if bias is not None and not operation.keeps_biases:
                found = found + operation.handed_back(operation.along_channels(bias) * scaled, self.stabilizer)
        return found

    def _strengthened(self, parts: Parts, side: str) -> torch.Tensor:
        return parts.get(f"gamma {self.gamma} {side}", lambda _: parts.tensor + self.gamma * parts.get(side))
