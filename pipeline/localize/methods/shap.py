"""Shapley values of regions for the concept score: the slow reference."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.attribution.baselines import shap_superpixels
from pipeline.concepts.cav import Cav
from pipeline.errors import ConfigError
from pipeline.models.trace import ChannelAxes

from .concept_score import ConceptScore
from .interface import Tools


class Shap:
    """How much each cell of a grid adds to the concept score (Kernel SHAP; Lundberg and Lee 2017).

    It looks at nothing but the score, so it holds for every network; `shap_samples` forward passes per sample.
    """

    def __init__(self, tools: Tools):
        self.model, self.config = tools.explainer.model, tools.config
        self.axes = ChannelAxes(self.model)

    def heatmaps(self, x: torch.Tensor, cav: Cav) -> np.ndarray:
        """Return the positive part `[N, H, W]` or `[N, T]` of the values, summed over channels; units of the score.

        Raises:
            ConfigError: too few masked inputs for the number of cells.
        """
        regions = self.config.shap_segments ** (x.ndim - 2)
        if self.config.shap_samples < min(2 * regions + 2, 2**regions):
            raise ConfigError(
                f"localize.shap_samples is {self.config.shap_samples}; {regions} regions need at least "
                f"{2 * regions + 2}. Raise it, or lower localize.shap_segments."
            )
        found = shap_superpixels(
            ConceptScore(self.model, cav, self.axes.of(cav.layer, x)),
            x,
            0,
            segments=self.config.shap_segments,
            samples=self.config.shap_samples,
            batch_size=self.config.batch_size,
        )
        return found.heatmap.clamp(min=0).cpu().numpy()
