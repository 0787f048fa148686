"""What a condition explains: the weight of each logit, for samples of one label and of several."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pipeline.config.precompute import CLASS_PREFIX
from pipeline.errors import ConfigError, nearest

Condition = str | int
"""\"label", "predicted", or a class id."""


def resolve_condition(text: str, classes: Sequence[str]) -> Condition:
    """Return a condition of the configuration with the class id in place of "class:NAME" or "class:ID".

    Raises:
        ConfigError: the data set has no such class.
    """
    if not text.startswith(CLASS_PREFIX):
        return text
    name = text.removeprefix(CLASS_PREFIX)
    if name in classes:
        return list(classes).index(name)
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    listed = ", ".join(f"{index} = {known}" for index, known in enumerate(classes))
    raise ConfigError(
        f"precompute.conditions: '{text}' names no class of the data set.{nearest(name, list(classes))} "
        f"Allowed after class: are these ids or names: {listed}."
    )


def targets_of(labels: torch.Tensor, logits: torch.Tensor, condition: Condition) -> torch.Tensor:
    """Return the weight of every logit in the explained quantity, `[N, K]`, 0 or 1, on the device of the logits.

    Args:
        labels: class ids `[N]`, or one row per sample that says which classes are present `[N, K]`.
        logits: `[N, K]`.
        condition: "label" explains the logit of the label, or the sum of those of all labels that are present;
            "predicted" the largest logit, or with rows of labels the sum of the logits above 0; a class id that
            class's logit. A sample without any such logit has a row of zeros: it gets no relevance.
    """
    classes = logits.shape[1]
    if isinstance(condition, int):
        chosen = torch.full((len(logits),), condition, device=logits.device)
    elif labels.ndim == 2:
        rows = labels if condition == "label" else logits > 0
        return rows.to(logits.device, torch.bool).to(logits.dtype)
    else:
        chosen = labels.to(logits.device) if condition == "label" else logits.argmax(1)
    return nn.functional.one_hot(chosen.long(), classes).to(logits.dtype)
