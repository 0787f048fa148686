"""Relevance of the pixels for RRR: LRP whose rules are differentiable in the weights."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.attribution import Explainer
from pipeline.attribution.flex import lrp_flex
from pipeline.attribution.targets import Target

from .explained import random_signs


class InputRelevance:
    """Relevance maps of one network while it trains.

    Args:
        composite: "lrp_flex", or a key of `pipeline.attribution.COMPOSITES`. These are computed in evaluation mode,
            without dropout, and so are the logits that they return.
        explained: "max_logit", "target_logit" or "all_logits_random"; relevance starts at the logits' own values, with
            the signs drawn for the last.
        classes: number of logits.
    """

    def __init__(self, composite: str, explained: str, classes: int):
        self.composite, self.explained, self.classes = composite, explained, classes
        self._explainer: Explainer | None = None

    def __call__(self, network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return relevance in the shape of the images, differentiable again, and logits `[B, K]`."""
        target = self._target(x, y)
        if self.composite == "lrp_flex":
            relevance, logits, _, _ = lrp_flex(network, x, target, create_graph=True)
            return relevance, logits
        if self._explainer is None or self._explainer.model is not network:
            self._explainer = Explainer(network, x[:2], self.composite)
        found = self._explainer.attribute(x, target, create_graph=True)
        return found.relevance, found.logits

    def _target(self, x: torch.Tensor, y: torch.Tensor) -> Target:
        if self.explained == "all_logits_random":
            return random_signs(x.new_empty(len(x), self.classes))
        if self.explained == "target_logit":
            return y.to(x) if y.ndim == 2 else y
        return None
