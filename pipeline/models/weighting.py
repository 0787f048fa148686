"""Weights that a network computes for its own values, such as attention: constants for whoever follows relevance."""

from __future__ import annotations

import torch


def constant_for_relevance() -> torch._C.DisableTorchFunction:
    """Return a context in which a forward pass is hidden from attribution, which then takes the results for constants.

    Relevance so goes to what is weighted and none of it to the weights, as is usual for attention maps. Values and
    gradients are the ordinary ones.
    """
    return torch._C.DisableTorchFunction()
