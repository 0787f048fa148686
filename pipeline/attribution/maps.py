"""Several explanations of one batch, as the engines that relevance is trained with return them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Maps:
    """K explanations of each of N samples.

    Attributes:
        logits: `[N, classes]`.
        relevance: at the pixels `[N, K, C, H, W]`, signed.
        relevances: at the output of each requested layer `[N, K, ...]`.
        activations: output of each requested layer.
    """

    logits: torch.Tensor
    relevance: torch.Tensor
    relevances: dict[str, torch.Tensor] = field(default_factory=dict)
    activations: dict[str, torch.Tensor] = field(default_factory=dict)
