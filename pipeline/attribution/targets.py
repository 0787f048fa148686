"""Where an attribution starts: at which logits, or with which relevance inside the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import nn

Target = int | torch.Tensor | None
Start = Literal["logit", "one_hot", "contrast"]
StartRelevance = torch.Tensor | Callable[[torch.Tensor], torch.Tensor] | None


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
        raise ValueError(
            f"target has shape {tuple(target.shape)}; expected ids [{count}] or weights [{count}, {classes}]."
        )
    if int(target.min()) < 0 or int(target.max()) >= classes:
        raise ValueError(f"target holds class ids outside 0 to {classes - 1}.")
    return nn.functional.one_hot(target.long(), classes).to(logits)


def start_weights(logits: torch.Tensor, target: Target, start: Start) -> torch.Tensor:
    """Return the relevance `[N, K]` of the logits that an attribution starts with.

    Args:
        logits: `[N, K]`.
        target: which of them, see `logit_weights`.
        start: "logit" is weight times the logit's own value, "one_hot" the weight alone, "contrast" the gradient of the
            weighted class probabilities, p_k (w_k - sum_l p_l w_l): the class against all others (Iwana et al. 2019).

    Raises:
        ValueError: an unknown start, or a target that does not fit.
    """
    if start not in get_args(Start):
        raise ValueError(f"start '{start}' is unknown; allowed are {', '.join(get_args(Start))}.")
    weights = logit_weights(logits, target)
    if start == "logit":
        return logits * weights
    if start == "one_hot":
        return weights
    probabilities = logits.softmax(1)
    return probabilities * (weights - (probabilities * weights).sum(1, keepdim=True))


def start_at(activation: torch.Tensor, start_relevance: StartRelevance) -> torch.Tensor:
    """Return the relevance that an attribution starts with at a layer's output, in the shape of its activation.

    Raises:
        ValueError: it is missing or has another shape.
    """
    if start_relevance is None:
        raise ValueError("start_layer needs start_relevance: a tensor, or a function of the layer's activation.")
    relevance = start_relevance(activation.detach()) if callable(start_relevance) else start_relevance
    if relevance.shape != activation.shape:
        raise ValueError(
            f"start_relevance has shape {tuple(relevance.shape)}; "
            f"the output of start_layer has {tuple(activation.shape)}."
        )
    return relevance.to(activation)
