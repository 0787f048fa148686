"""The w-square rule (Montavon et al. 2017, eq. 9): inputs share relevance by squared weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..stabilize import stabilized_ratio
from .linear_operation import LinearOperation


@dataclass(frozen=True)
class WSquare:
    """R_i = sum_j w_ij^2 / sum_i w_ij^2 R_j; for first layers with unbounded inputs."""

    stabilizer: float = 1e-6

    reads_output: ClassVar[bool] = False

    def __call__(self, operation: LinearOperation, relevance: torch.Tensor) -> torch.Tensor:
        """Return relevance of the input."""
        squared = operation.weight.get("squared")
        evenly = operation.evenly()
        z = operation.forward(evenly, squared, None)
        return evenly * operation.transpose(stabilized_ratio(relevance, z, self.stabilizer), squared)
