"""Attribution: LRP by rules, differentiable again, on any network; LRP-Flex; and methods to compare them with."""

from .attribute import Attribution, Explainer, attribute
from .baselines import BASELINES
from .composites import COMPOSITES, Composite, make_composite
from .health import health
from .lrp_flex import lrp_flex
from .rules import RULES

__all__ = [
    "BASELINES",
    "COMPOSITES",
    "RULES",
    "Attribution",
    "Composite",
    "Explainer",
    "attribute",
    "health",
    "lrp_flex",
    "make_composite",
]
