"""Relevance started at the neurons that define the finding, instead of at the concept activation vector."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.concepts.cav import Cav
from pipeline.concepts.localization import relevance_heatmaps
from pipeline.errors import ConfigError
from pipeline.models.trace import ChannelAxes

from .interface import Tools


class NeuronRelevance:
    """Concept-conditional relevance (Achtibat et al. 2023): it starts at the neurons' own positive activation.

    Raises:
        ConfigError: the finding names no neurons.
    """

    def __init__(self, tools: Tools):
        if not tools.neurons.ids:
            raise ConfigError(
                f"localize.method: neuron_relevance needs a finding that names neurons, and finding "
                f"'{tools.neurons.finding}' does not. Take concept_relevance, or accept a finding of the detector "
                "neurons or dora."
            )
        self.explainer, self.neurons = tools.explainer, tools.neurons
        self.axes = ChannelAxes(self.explainer.model)

    def heatmaps(self, x: torch.Tensor, cav: Cav) -> np.ndarray:
        """Return the positive part `[N, H, W]` or `[N, T]` of relevance, summed over channels.

        The CAV takes no part: it may belong to another layer than the neurons.
        """
        layer = self.neurons.layer
        return relevance_heatmaps(
            self.explainer,
            x,
            layer,
            lambda activation: neuron_start(activation, self.neurons.ids),
            axis=self.axes.of(layer, x),
        )


def neuron_start(activation: torch.Tensor, neuron_ids: tuple[int, ...]) -> torch.Tensor:
    """Return max(a, 0) at the given channels of `[N, C, ...]`, and 0 at all others."""
    chosen = activation.new_zeros(activation.shape[1])
    chosen[list(neuron_ids)] = 1
    return activation.clamp(min=0) * chosen.view(1, -1, *[1] * (activation.ndim - 2))
