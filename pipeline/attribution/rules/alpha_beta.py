"""The alpha-beta rule (Bach et al. 2015, eq. 60): supporting and opposing contributions shared apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..stabilize import stabilized_ratio
from .linear_operation import LinearOperation


@dataclass(frozen=True)
class AlphaBeta:
    """R_i = sum_j (alpha (x_i w_ij)+ / z_j+ - beta (x_i w_ij)- / z_j-) R_j with alpha - beta = 1.

    Not conserved at outputs that have no opposing (or no supporting) contribution at all.

    Raises:
        ValueError: alpha - beta is not 1, or one is negative.
    """

    alpha: float = 2.0
    beta: float = 1.0
    stabilizer: float = 1e-6

    reads_output: ClassVar[bool] = False

    def __post_init__(self):
        if self.alpha < 0 or self.beta < 0 or abs(self.alpha - self.beta - 1) > 1e-9:
            raise ValueError(f"alpha {self.alpha} and beta {self.beta}: both must be >= 0, and alpha - beta = 1.")

    def __call__(self, operation: LinearOperation, relevance: torch.Tensor) -> torch.Tensor:
        """Return relevance of the input."""
        supporting = self._share(operation, relevance, "positive", "negative")
        if self.beta == 0:
            return self.alpha * supporting
        return self.alpha * supporting - self.beta * self._share(operation, relevance, "negative", "positive")

    def _share(self, operation: LinearOperation, relevance: torch.Tensor, side: str, other: str) -> torch.Tensor:
        """Share among contributions of one sign: inputs above 0 by weights of that side, inputs below by the others."""
        weight = operation.weight.get(side)
        above = operation.x if operation.nonnegative else operation.x.clamp(min=0)
        z = operation.forward(above, weight, operation.bias_part(side))
        if operation.nonnegative:
            return above * operation.transpose(stabilized_ratio(relevance, z, self.stabilizer), weight)
        below, opposite = operation.x.clamp(max=0), operation.weight.get(other)
        scaled = stabilized_ratio(relevance, z + operation.forward(below, opposite, None), self.stabilizer)
        return above * operation.transpose(scaled, weight) + below * operation.transpose(scaled, opposite)
