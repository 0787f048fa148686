"""Attribution: LRP by rules, differentiable again, on any network; LRP-Flex; and methods to compare them with.

What is public is imported when it is first asked for: the command line answers before torch is there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .baselines import BASELINES
    from .block import BlockMap, dual_maps, lrp_block
    from .composites import COMPOSITES, Composite, make_composite
    from .explainer import Attribution, Explainer, attribute
    from .flex import flex_maps, lrp_flex
    from .flex_streaming import streamed_loss
    from .health_check import health
    from .maps import Maps
    from .rules import RULES

_PLACES = {
    "BASELINES": "baselines",
    "COMPOSITES": "composites",
    "RULES": "rules",
    "Attribution": "explainer",
    "BlockMap": "block",
    "Composite": "composites",
    "Explainer": "explainer",
    "Maps": "maps",
    "attribute": "explainer",
    "flex_maps": "flex",
    "dual_maps": "block",
    "health": "health_check",
    "lrp_block": "block",
    "lrp_flex": "flex",
    "make_composite": "composites",
    "streamed_loss": "flex_streaming",
}

__all__ = [
    "BASELINES",
    "COMPOSITES",
    "RULES",
    "Attribution",
    "BlockMap",
    "Composite",
    "Explainer",
    "Maps",
    "attribute",
    "dual_maps",
    "flex_maps",
    "health",
    "lrp_block",
    "lrp_flex",
    "make_composite",
    "streamed_loss",
]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
