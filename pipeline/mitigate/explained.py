"""The scalar whose gradient a right-reason loss looks at."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def explained_quantity(logits: torch.Tensor, y: torch.Tensor, kind: str) -> torch.Tensor:
    """Return one scalar for a batch, a sum over its samples.

    Args:
        logits: `[B, K]`.
        y: class ids `[B]`, or which classes are present `[B, K]`.
        kind: "max_logit" the largest logit; "target_logit" the logit of y, or the sum of those that are present;
            "all_logits_random" all logits with random signs, which looks at every class and lets none cancel another;
            "log_probabilities" the mean over classes of the log-probability (Ross et al. 2017), which for rows of
            labels is that of presence and absence alike; "cross_entropy" the loss of the classification, without class
            weights, since these would only scale the gradient of a whole sample.

    Raises:
        ValueError: an unknown kind.
    """
    if kind == "max_logit":
        return logits.amax(1).sum()
    if kind == "target_logit":
        return (logits * y).sum() if y.ndim == 2 else logits.gather(1, y[:, None]).sum()
    if kind == "all_logits_random":
        return (random_signs(logits) * logits).sum()
    if kind == "log_probabilities":
        if y.ndim == 2:
            return 0.5 * (F.logsigmoid(logits) + F.logsigmoid(-logits)).mean(1).sum()
        return logits.log_softmax(1).mean(1).sum()
    if kind == "cross_entropy":
        if y.ndim == 2:
            return F.binary_cross_entropy_with_logits(logits, y.to(logits), reduction="none").mean(1).sum()
        return F.cross_entropy(logits, y, reduction="sum")
    raise ValueError(f"unknown explained quantity '{kind}'")


def random_signs(like: torch.Tensor) -> torch.Tensor:
    """Return -1 and 1 with equal probability, from the global generator, in the shape and type of a tensor."""
    return torch.randint(0, 2, like.shape, device=like.device).to(like) * 2 - 1
