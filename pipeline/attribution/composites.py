"""Composites by name: which rule sends relevance back through which kind of operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import nn

from pipeline.errors import ConfigError, nearest
from pipeline.models.build import Normalize

from .baselines import BASELINES
from .rules import Rule, make_rule
from .rules.absolute_share import AbsoluteShare
from .rules.alpha_beta import AlphaBeta
from .rules.epsilon import Epsilon
from .rules.flat import Flat
from .rules.gamma import Gamma
from .rules.z_plus import ZPlus
from .rules.zb import Zb

Attention = Literal["values", "shared"]


@dataclass(frozen=True)
class Composite:
    """Rules of a network.

    What has no field here has one rule in all composites: activations and normalisation by BatchNorm pass relevance on,
    sums and averages share it in proportion, maxima give it to the winner, gates leave it to what they weigh.

    Attributes:
        description: for tables and help.
        convolution, linear: rules of convolutions and linear layers.
        first: rule of linear maps of the pixels, instead of the two.
        depthwise: rule of convolutions within channels.
        attention: "values" takes attention weights for constants (Ali et al. 2022), so relevance is conserved;
            "shared" gives half of it to them and on to queries and keys (Achtibat et al. 2024), where the softmax does
            not conserve it.
        stabilizer: of sums, averages, products and layer normalisation.
        overrides: rules of linear maps by module name, with shell wildcards; the last match counts.
    """

    description: str
    convolution: Rule
    linear: Rule = Epsilon()
    first: Rule | None = None
    depthwise: Rule = AbsoluteShare()
    attention: Attention = "values"
    stabilizer: float = 1e-6
    overrides: Mapping[str, Rule] = field(default_factory=dict)

    def rule(self, *, path: str, depth: int, convolution: bool, depthwise: bool) -> Rule:
        """Return the rule of a linear map.

        Args:
            path: module that owns its weight.
            depth: linear maps before it on the way from the pixels.
            convolution, depthwise: what it is.
        """
        for pattern in reversed(self.overrides):
            if fnmatchcase(path, pattern):
                return self.overrides[pattern]
        if depth == 0 and self.first is not None:
            return self.first
        if depthwise:
            return self.depthwise
        return self.convolution if convolution else self.linear


COMPOSITES: dict[str, Composite] = {
    "epsilon_plus_flat": Composite(
        "z+ in convolutions, epsilon in linear layers, flat in the first layer", ZPlus(), first=Flat()
    ),
    "epsilon_plus": Composite("z+ in convolutions, epsilon in linear layers", ZPlus()),
    "epsilon_gamma_box": Composite(
        "gamma 0.25 in convolutions, epsilon in linear layers, Zb in the first layer", Gamma(), first=Zb()
    ),
    "epsilon_alpha2_beta1": Composite("alpha 2 beta 1 in convolutions, epsilon in linear layers", AlphaBeta()),
    "epsilon_alpha2_beta1_flat": Composite(
        "alpha 2 beta 1 in convolutions, epsilon in linear layers, flat in the first layer", AlphaBeta(), first=Flat()
    ),
    "epsilon": Composite("epsilon in all linear maps", Epsilon(), depthwise=Epsilon()),
}


def make_composite(name: str | Composite, rules: Mapping[str, str | Rule] | None = None) -> Composite:
    """Return the composite of that name, with rules of single layers replaced.

    Args:
        name: a key of `COMPOSITES`, or a composite.
        rules: module name, shell wildcards allowed -> rule, such as "z_plus" or "gamma(gamma=0.1)".

    Raises:
        ConfigError: an unknown composite or rule.
    """
    if isinstance(name, str):
        if name not in COMPOSITES:
            known = sorted([*COMPOSITES, *BASELINES, "lrp_flex"])
            raise ConfigError(f"composite '{name}' is unknown.{nearest(name, known)} Allowed: {', '.join(known)}.")
        name = COMPOSITES[name]
    made = {
        key: make_rule(rule, f"rules: {key}") if isinstance(rule, str) else rule for key, rule in (rules or {}).items()
    }
    return replace(name, overrides={**name.overrides, **made}) if made else name


def pixel_range(model: nn.Module, lowest: float = 0.0, highest: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the range of the network's input `[1, C or 1, 1, 1]` when pixels lie in [lowest, highest]."""
    normalize = normalization(model)
    if normalize is None:
        return torch.full((1, 1, 1, 1), lowest), torch.full((1, 1, 1, 1), highest)
    mean, std = normalize.mean[None], normalize.std[None]
    return (lowest - mean) / std, (highest - mean) / std


def normalization(model: nn.Module) -> Normalize | None:
    """Return the module that normalises pixels before the network sees them, if there is one."""
    return next((module for module in model.modules() if isinstance(module, Normalize)), None)
