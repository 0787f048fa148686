"""The scalar whose gradient a right-reason loss looks at."""

from __future__ import annotations

import torch


def explained_quantity(logits: torch.Tensor, y: torch.Tensor, kind: str) -> torch.Tensor:
    """Return one scalar for a batch.

    Args:
        logits: `[B, K]`.
        y: class ids `[B]`.
        kind: "max_logit" sum of the largest logits; "target_logit" sum of the logits of y; "all_logits_random" sum over
            all logits with random signs, which looks at every class and lets none cancel another; "log_probabilities"
            sum over samples of the mean log-probability (Ross et al. 2017).
    """
    if kind == "max_logit":
        return logits.amax(1).sum()
    if kind == "target_logit":
        return logits.gather(1, y[:, None]).sum()
    if kind == "log_probabilities":
        return logits.log_softmax(1).mean(1).sum()
    if kind == "all_logits_random":
        signs = torch.randint(0, 2, logits.shape, device=logits.device).to(logits) * 2 - 1
        return (signs * logits).sum()
    raise ValueError(f"unknown explained quantity '{kind}'")
