"""Section `mitigate`: one file per family of corrections, and the section that lists them."""

from __future__ import annotations

from .fine_tune import FineTuneMethod
from .isnet import IsnetMethod
from .penalties import RrClarcMethod, RrrMethod
from .projections import PClarcMethod
from .section import AnyMethod, MitigateConfig
from .shared import (
    CarrierSource,
    Explained,
    FineTuningConfig,
    MaskedBackground,
    MaskSource,
    MethodConfig,
)

__all__ = [
    "AnyMethod",
    "CarrierSource",
    "Explained",
    "FineTuneMethod",
    "FineTuningConfig",
    "IsnetMethod",
    "MaskSource",
    "MaskedBackground",
    "MethodConfig",
    "MitigateConfig",
    "PClarcMethod",
    "RrClarcMethod",
    "RrrMethod",
]
