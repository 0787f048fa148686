"""What constants would keep, handed to the rest of the sample: for checks that leave constants out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..stabilize import stabilized_ratio


def handed_back(
    relevance: torch.Tensor, inputs: Sequence[torch.Tensor], shares: Sequence[torch.Tensor], stabilizer: float
) -> list[torch.Tensor]:
    """Return the shares of the inputs, raised per sample to all of the output's relevance, in proportion to |x|.

    Not at the place of the constant alone: where it nearly cancels an input, dividing by the sum would be singular.

    Args:
        relevance: of the output `[N, ...]`.
        inputs: those that are explained, `[N, ...]` each.
        shares: their relevance so far, in their shapes.
    """
    missing = relevance.flatten(1).sum(1) - sum(share.flatten(1).sum(1) for share in shares)
    rate = stabilized_ratio(missing, sum(x.abs().flatten(1).sum(1) for x in inputs), stabilizer)
    return [s + x.abs() * rate.view(-1, *[1] * (x.ndim - 1)) for s, x in zip(shares, inputs, strict=True)]
