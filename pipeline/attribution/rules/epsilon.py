"""The epsilon rule (Bach et al. 2015, eq. 58): inputs share relevance in proportion to what they contributed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..stabilize import product_into, stabilized_ratio
from .linear_operation import LinearOperation


@dataclass(frozen=True)
class Epsilon:
    """R_i = x_i sum_j w_ij R_j / (z_j + epsilon sign z_j).

    The bias is part of z and takes its share. Where biases are left out, their share is handed back to the inputs.
    """

    epsilon: float = 1e-6

    reads_output: ClassVar[bool] = True

    def __post_init__(self):
        if self.epsilon < 0:
            raise ValueError(f"epsilon is {self.epsilon}; it must be at least 0.")

    def __call__(self, operation: LinearOperation, relevance: torch.Tensor) -> torch.Tensor:
        """Return relevance of the input."""
        scaled = stabilized_ratio(relevance, operation.output, self.epsilon)
        found = product_into(operation.transpose(scaled, operation.weight.tensor), operation.x)
        if operation.keeps_biases or operation.bias is None:
            return found
        return found + operation.handed_back(operation.along_channels(operation.bias.tensor) * scaled, self.epsilon)
