"""Attribution: LRP by zennit's composites for looking, LRP-Flex for training."""

from .attribute import Attribution, Explainer, attribute
from .composites import COMPOSITES
from .health import health
from .lrp_flex import lrp_flex

__all__ = ["COMPOSITES", "Attribution", "Explainer", "attribute", "health", "lrp_flex"]
