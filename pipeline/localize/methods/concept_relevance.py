"""Relevance started at the concept and traced back to the input, by the rules of the run's attribution."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.concepts.cav import Cav
from pipeline.concepts.localization import concept_heatmaps
from pipeline.models.trace import ChannelAxes

from .interface import Tools


class ConceptRelevance:
    """Layer-wise relevance propagation from max(a - baseline, 0) * direction (Pahde et al., Reveal to Revise, 2023).

    `baseline: false` starts at max(a, 0) * direction, as published.
    """

    def __init__(self, tools: Tools):
        self.explainer, self.baseline = tools.explainer, tools.config.baseline
        self.axes = ChannelAxes(self.explainer.model)

    def heatmaps(self, x: torch.Tensor, cav: Cav) -> np.ndarray:
        """Return the positive part `[N, H, W]` or `[N, T]` of relevance, summed over channels."""
        axis = self.axes.of(cav.layer, x)
        return concept_heatmaps(self.explainer, x, cav, baseline=self.baseline, axis=axis)
