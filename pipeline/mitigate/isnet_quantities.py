"""What ISNet explains: one number per sample and map, made of the logits (Bassi et al., Faster ISNet, 2024).

With a single logit, or with several labels per sample, every logit is the log-odds of its own label, so the margin of a
class is its logit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Explained = Callable[[torch.Tensor], torch.Tensor]
"""Takes logits `[N, classes]`, returns one value per sample `[N]`, or per sample and map `[N, K]`."""


def margin(logits: torch.Tensor, ids: torch.Tensor, *, exclusive: bool = True) -> torch.Tensor:
    """Return the log-odds `[N]` of a class: its logit against the log-sum-exp of the others.

    As ln p - ln(1 - p), but without its overflow on confident networks.

    Args:
        logits: `[N, classes]`.
        ids: class ids `[N]`.
        exclusive: whether a sample has one class; else labels are independent of each other.
    """
    own = logits.gather(1, ids[:, None])[:, 0]
    if not exclusive or logits.shape[1] == 1:
        return own
    return own - logits.scatter(1, ids[:, None], float("-inf")).logsumexp(1)


def stabilized_log_odds(logits: torch.Tensor, ids: torch.Tensor, stabilizer: float) -> torch.Tensor:
    """Return ln(p + s) - ln(1 - p + s): the published form, whose gradient vanishes where p is much below s."""
    p = logits.softmax(1).gather(1, ids[:, None])[:, 0]
    return torch.log(p + stabilizer) - torch.log(1 - p + stabilizer)


def stochastic_ids(logits: torch.Tensor) -> torch.Tensor:
    """Return, per sample, the likeliest class with probability 1/2, else one of the others at random `[N]`."""
    count, classes = logits.shape
    highest = logits.argmax(1)
    if classes == 1:
        return highest
    other = (highest + torch.randint(1, classes, (count,), device=logits.device)) % classes
    return torch.where(torch.rand(count, device=logits.device) < 0.5, highest, other)


def label_ids(y: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return the true class `[N]`; of several labels a random one, without any the lowest logit.

    Args:
        y: class ids `[N]`, or which classes are present `[N, classes]`.
        logits: `[N, classes]`.
    """
    if y.ndim == 1:
        return y
    drawn = (torch.rand(y.shape, device=y.device) * (y > 0)).argmax(1)
    return torch.where((y > 0).any(1), drawn, logits.argmin(1))


def highest_probability(logits: torch.Tensor, *, exclusive: bool = True) -> torch.Tensor:
    """Return the largest class probability `[N]`."""
    probabilities = logits.softmax(1) if exclusive and logits.shape[1] > 1 else logits.sigmoid()
    return probabilities.amax(1)
