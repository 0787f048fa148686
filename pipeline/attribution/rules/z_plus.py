"""The z+ rule (Montavon et al. 2017, eq. 11): only what speaks for an output receives its relevance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..stabilize import product_into, ratio_into
from .linear_operation import LinearOperation


@dataclass(frozen=True)
class ZPlus:
    """R_i = sum_j (x_i w_ij)+ / (sum_i (x_i w_ij)+ + b_j+) R_j; negative inputs speak for it through negative weights.

    Where the input is known to be non-negative, one forward and one transposed map do.
    """

    stabilizer: float = 1e-6

    reads_output: ClassVar[bool] = False

    def __call__(self, operation: LinearOperation, relevance: torch.Tensor) -> torch.Tensor:
        """Return relevance of the input."""
        positive, bias = operation.weight.get("positive"), operation.raised_bias("positive", self.stabilizer)
        if operation.nonnegative:
            scaled = ratio_into(relevance, operation.forward(operation.x, positive, bias))
            return product_into(operation.transpose(scaled, positive), operation.x)
        negative = operation.weight.get("negative")
        above, below = operation.x.clamp(min=0), operation.x.clamp(max=0)
        z = operation.forward(above, positive, bias) + operation.forward(below, negative, None)
        scaled = ratio_into(relevance, z)
        return above * operation.transpose(scaled, positive) + below * operation.transpose(scaled, negative)
