"""Section `mitigate`: one file per family of corrections, and the section that lists them."""

from __future__ import annotations

from .counterfactual import CounterfactualMethod
from .fine_tune import FineTuneMethod
from .groups import DfrMethod, GroupBalanceMethod, GroupDroMethod, JttMethod
from .in_model import ExplainerPhase, InModelExplainerMethod
from .isnet import IsnetMethod
from .penalties import (
    CdepForm,
    CdepMethod,
    PenaltyPositions,
    RrClarcAggregation,
    RrClarcMethod,
    RrrAggregation,
    RrrMethod,
)
from .projections import (
    AClarcMethod,
    DirectionConfig,
    GateConfig,
    LeaceMethod,
    PClarcMethod,
    RClarcMethod,
    RpClarcMethod,
)
from .section import AnyMethod, MitigateConfig
from .segmentation import AttentionGatedMethod, GainMethod, MultiTaskUnetMethod, UnetClassifierMethod
from .shared import (
    CarrierSource,
    Explained,
    FineTuningConfig,
    MaskedBackground,
    MaskSource,
    MethodConfig,
)

__all__ = [
    "AClarcMethod",
    "AnyMethod",
    "AttentionGatedMethod",
    "CarrierSource",
    "CdepForm",
    "CdepMethod",
    "CounterfactualMethod",
    "DfrMethod",
    "DirectionConfig",
    "Explained",
    "ExplainerPhase",
    "FineTuneMethod",
    "FineTuningConfig",
    "GainMethod",
    "InModelExplainerMethod",
    "GroupBalanceMethod",
    "GroupDroMethod",
    "GateConfig",
    "IsnetMethod",
    "LeaceMethod",
    "JttMethod",
    "MaskSource",
    "MaskedBackground",
    "MethodConfig",
    "MitigateConfig",
    "MultiTaskUnetMethod",
    "PClarcMethod",
    "PenaltyPositions",
    "RClarcMethod",
    "RpClarcMethod",
    "RrClarcAggregation",
    "RrClarcMethod",
    "RrrAggregation",
    "RrrMethod",
    "UnetClassifierMethod",
]
