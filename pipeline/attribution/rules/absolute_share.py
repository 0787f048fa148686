"""A rule for depthwise convolutions, which move relevance within a channel and mix nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..stabilize import stabilized_ratio
from .linear_operation import LinearOperation


@dataclass(frozen=True)
class AbsoluteShare:
    """R_i = sum_j |x_i| |w_ij| / sum_i (|x_i| |w_ij|) R_j; biases take none.

    The z+ rule loses the relevance of a depthwise output whose few weights give nothing positive, and such outputs are
    common: on EfficientNet-Lite0 nearly all relevance vanishes in them. An output whose inputs are all zero, alive by
    its bias alone, shares its relevance by |w|.
    """

    almost_nothing: float = 1e-6
    stabilizer: float = 1e-12

    reads_output: ClassVar[bool] = False

    def __call__(self, operation: LinearOperation, relevance: torch.Tensor) -> torch.Tensor:
        """Return relevance of the input."""
        magnitude = operation.x.abs() + self.almost_nothing * operation.evenly()
        weight = operation.weight.get("absolute")
        scaled = stabilized_ratio(relevance, operation.forward(magnitude, weight, None), self.stabilizer)
        return magnitude * operation.transpose(scaled, weight)
