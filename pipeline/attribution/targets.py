"""Which logits an attribution explains."""

from __future__ import annotations

import torch
from torch import nn

Target = int | torch.Tensor | None


def logit_weights(logits: torch.Tensor, target: Target) -> torch.Tensor:
    """Return the weight `[N, K]` of every logit in the explained quantity.

    Raises:
        ValueError: a class id outside the logits, or a shape that fits neither ids nor weights.
    """
    count, classes = logits.shape
    if target is None:
        target = logits.detach().argmax(1)
    if isinstance(target, int):
        target = torch.full((count,), target, device=logits.device)
    if target.shape == (count, classes) and target.is_floating_point():
        return target.to(logits)
    if target.shape != (count,):
        raise ValueError(f"target has shape {tuple(target.shape)}; expected ids [{count}] or weights [{count}, {classes}].")
    if int(target.min()) < 0 or int(target.max()) >= classes:
        raise ValueError(f"target holds class ids outside 0 to {classes - 1}.")
    return nn.functional.one_hot(target.long(), classes).to(logits)
