"""Is an explanation of this model to be trusted? Conservation, finiteness and the share that biases absorb."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.models.trace import trace_layers
from pipeline.workspace.records import Health, LayerHealth

from .attribute import Explainer

TOLERANCE = 0.05


def health(model: nn.Module, x: torch.Tensor, *, composite: str = "epsilon_plus_flat", arch: str = "") -> Health:
    """Check an attribution method on a model.

    With bias terms left out of the rules, relevance must be conserved: its sum equals the explained logit at every
    layer that all paths cross. The predicted class is explained. With bias terms, the share that they absorb is
    reported.

    Args:
        model: pixels -> logits.
        x: a few real samples `[N, ...]`.
        composite: key of `COMPOSITES`.
        arch: name for the record.
    """
    explainer = Explainer(model, x[:2], composite, without_biases=True)
    layers = [layer.name for layer in trace_layers(explainer.model, x[:2])]
    exact = explainer.attribute(x, layers=layers)
    usual = Explainer(model, x[:2], composite).attribute(x)
    explained = exact.logits.max(1).values
    rows = [
        LayerHealth(layer=name, conservation=_ratio(relevance, explained), finite=bool(relevance.isfinite().all()))
        for name, relevance in exact.relevances.items()
    ]
    conservation = _ratio(exact.relevance, explained)
    finite = bool(exact.relevance.isfinite().all() and usual.relevance.isfinite().all()) and all(r.finite for r in rows)
    conserved = abs(conservation - 1) <= TOLERANCE
    return Health(
        composite=composite,
        arch=arch,
        conservation=conservation,
        bias_share=1 - _ratio(usual.relevance, explained),
        finite=finite,
        healthy=finite and conserved,
        layers=rows,
        warning=_warning(conservation, finite, conserved, composite),
    )


def _ratio(relevance: torch.Tensor, explained: torch.Tensor) -> float:
    """Return the median over samples of (sum of relevance / explained logit); robust to logits near zero."""
    return float((relevance.flatten(1).double().sum(1) / explained.double()).median())


def _warning(conservation: float, finite: bool, conserved: bool, composite: str) -> str:
    if not finite:
        return f"Relevance by {composite} is not finite on this model; its heatmaps and findings cannot be trusted."
    if not conserved:
        return (
            f"Relevance by {composite} is not conserved on this model: {conservation:.3g} of the logit reaches the "
            "pixels instead of 1. Heatmaps and relevance-based findings are to be read with caution."
        )
    return ""
