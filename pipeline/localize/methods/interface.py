"""What methods of localization are given, and what they return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from pipeline.attribution import Explainer
from pipeline.concepts.cav import Cav
from pipeline.config.localize import LocalizeConfig


@dataclass(frozen=True)
class Neurons:
    """Channels that define a finding.

    Attributes:
        layer: where they are.
        ids: their numbers; empty where the finding is not made of neurons.
        finding: id of the finding, for messages.
    """

    layer: str
    ids: tuple[int, ...]
    finding: str


@dataclass(frozen=True)
class Tools:
    """What a method may use.

    Attributes:
        explainer: the model under audit, ready for attribution.
        config: section `localize`.
        neurons: of the finding behind the bias.
    """

    explainer: Explainer
    config: LocalizeConfig
    neurons: Neurons


class LocalizationMethod(Protocol):
    """Says where in the input a concept sits."""

    def heatmaps(self, x: torch.Tensor, cav: Cav) -> np.ndarray:
        """Return non-negative heatmaps `[N, H, W]` of images `[N, C, H, W]`, or `[N, T]` of signals `[N, C, T]`.

        Their unit is the method's own; an empty map says that there is no evidence.
        """
        ...
