"""Gradient of the concept score times the input: for networks that no rules of relevance exist for."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.attribution.baselines import gradient_x_input
from pipeline.concepts.cav import Cav
from pipeline.models.trace import ChannelAxes

from .concept_score import ConceptScore
from .interface import Tools


class GradientXActivation:
    """Input activation times the derivative of the concept score by it (Shrikumar et al., Not just a black box, 2016).

    Noisier than relevance, and blind where pixels are 0, but it needs nothing but derivatives.
    """

    def __init__(self, tools: Tools):
        self.model = tools.explainer.model
        self.axes = ChannelAxes(self.model)

    def heatmaps(self, x: torch.Tensor, cav: Cav) -> np.ndarray:
        """Return the positive part `[N, H, W]` or `[N, T]` of the product, summed over channels; units of the score."""
        score = ConceptScore(self.model, cav, self.axes.of(cav.layer, x))
        return gradient_x_input(score, x, 0).heatmap.clamp(min=0).cpu().numpy()
