"""The Zb rule (Montavon et al. 2017, eq. 14) for inputs in a known range, such as pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..stabilize import stabilized_ratio
from .linear_operation import LinearOperation


@dataclass(frozen=True)
class Zb:
    """R_i = sum_j (x_i w_ij - l_i w_ij+ - h_i w_ij-) / sum_i (the same) R_j, with l <= x <= h."""

    stabilizer: float = 1e-6

    reads_output: ClassVar[bool] = False

    def __call__(self, operation: LinearOperation, relevance: torch.Tensor) -> torch.Tensor:
        """Return relevance of the input."""
        weight, positive, negative = (
            operation.weight.tensor, operation.weight.get("positive"), operation.weight.get("negative"),
        )  # fmt: skip
        low, high = (self._along_inputs(operation, bound) for bound in operation.pixel_range)
        z = (
            operation.forward(operation.x, weight, operation.bias_part())
            - operation.forward(low, positive, operation.bias_part("positive"))
            - operation.forward(high, negative, operation.bias_part("negative"))
        )
        scaled = stabilized_ratio(relevance, z, self.stabilizer)
        return (
            operation.x * operation.transpose(scaled, weight)
            - low * operation.transpose(scaled, positive)
            - high * operation.transpose(scaled, negative)
        )

    def _along_inputs(self, operation: LinearOperation, bound: torch.Tensor) -> torch.Tensor:
        """Return a bound per channel in the shape of one input; flattened pixels have their channels one by one.

        Padding is 0 and nothing else: there both bounds are 0.
        """
        one, axis = operation.x[:1], operation.channel_axis
        bound = bound.to(one).flatten()
        if one.shape[axis] % len(bound):
            raise ValueError(
                f"the zb rule knows the range of {len(bound)} channels, but the first layer sees {one.shape[axis]}. "
                'Choose another rule for it, such as rules={"<its name>": "flat"}.'
            )
        shape = [1] * one.ndim
        shape[axis] = -1
        return bound.repeat_interleave(one.shape[axis] // len(bound)).view(shape) * operation.evenly()
