"""Composites by name: which rule of zennit propagates relevance through which kind of layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from zennit import composites as zennit_composites
from zennit.core import Composite
from zennit.rules import Epsilon, Pass

from pipeline.errors import ConfigError, nearest
from pipeline.models.build import Affine, Normalize

from .depthwise import AbsoluteShare, Depthwise

OWN_MODULES = [(Normalize, Pass()), (Affine, Epsilon()), (Depthwise, AbsoluteShare())]


def _flat(pixel_low: torch.Tensor, pixel_high: torch.Tensor, **options) -> Composite:
    return zennit_composites.EpsilonPlusFlat(layer_map=OWN_MODULES, **options)


def _plus(pixel_low: torch.Tensor, pixel_high: torch.Tensor, **options) -> Composite:
    return zennit_composites.EpsilonPlus(layer_map=OWN_MODULES, **options)


def _gamma_box(pixel_low: torch.Tensor, pixel_high: torch.Tensor, **options) -> Composite:
    return zennit_composites.EpsilonGammaBox(low=pixel_low, high=pixel_high, layer_map=OWN_MODULES, **options)


def _alpha2_beta1_flat(pixel_low: torch.Tensor, pixel_high: torch.Tensor, **options) -> Composite:
    return zennit_composites.EpsilonAlpha2Beta1Flat(layer_map=OWN_MODULES, **options)


COMPOSITES: dict[str, Callable[..., Composite]] = {
    "epsilon_plus_flat": _flat,
    "epsilon_plus": _plus,
    "epsilon_gamma_box": _gamma_box,
    "epsilon_alpha2_beta1_flat": _alpha2_beta1_flat,
}


def make_composite(name: str, model: nn.Module, *, without_biases: bool = False) -> Composite:
    """Return the zennit composite of that name for a canonized model.

    Args:
        name: a key of `COMPOSITES`.
        model: its `Normalize`, if any, sets the pixel range for rules that need one.
        without_biases: leave bias terms out, so that relevance is conserved exactly; used by the health check.

    Raises:
        ConfigError: unknown name.
    """
    if name not in COMPOSITES:
        known = sorted([*COMPOSITES, "lrp_flex"])
        raise ConfigError(f"composite '{name}' is unknown.{nearest(name, known)} Allowed: {', '.join(known)}.")
    low, high = pixel_range(model)
    return COMPOSITES[name](low, high, zero_params="bias" if without_biases else None)


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
