"""The flat rule (Lapuschkin et al. 2019): every input of an output gets the same share, whatever its value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..stabilize import stabilized_ratio
from .linear_operation import LinearOperation


@dataclass(frozen=True)
class Flat:
    """R_i = sum_j R_j / (number of inputs of j); for first layers, where pixel values say little.

    All weights being one, output channels are summed first and one channel is mapped back, wherever every output sees
    every input channel.
    """

    stabilizer: float = 1e-6

    reads_output: ClassVar[bool] = False

    def __call__(self, operation: LinearOperation, relevance: torch.Tensor) -> torch.Tensor:
        """Return relevance of the input."""
        ones = operation.weight.get("one")
        evenly = operation.evenly()
        axis, channels = operation.channel_axis, operation.x.shape[operation.channel_axis]
        if operation.transposes or ones.shape[1] != channels:
            counts = operation.forward(evenly, ones, None)
            return evenly * operation.transpose(stabilized_ratio(relevance, counts, self.stabilizer), ones)
        counts = operation.forward(evenly, ones[:1], None)
        total = relevance.sum(axis, keepdim=True)
        spread = operation.transpose(stabilized_ratio(total, counts, self.stabilizer), ones[:1, :1])
        return (spread if operation.present is None else spread * operation.present).expand_as(operation.x)
