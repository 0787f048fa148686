"""Methods of localization by name. A new one is a file of this package, a name in `config/localize.py`, a line here."""

from __future__ import annotations

from .concept_map import ConceptMap
from .concept_relevance import ConceptRelevance
from .gradient_x_activation import GradientXActivation
from .interface import LocalizationMethod, Neurons, Tools
from .neuron_relevance import NeuronRelevance
from .shap import Shap

METHODS: dict[str, type[LocalizationMethod]] = {
    "concept_relevance": ConceptRelevance,
    "gradient_x_activation": GradientXActivation,
    "neuron_relevance": NeuronRelevance,
    "concept_map": ConceptMap,
    "shap": Shap,
}

__all__ = ["METHODS", "LocalizationMethod", "Neurons", "Tools", "make_method"]


def make_method(tools: Tools) -> LocalizationMethod:
    """Return the method that the configuration names.

    Raises:
        ConfigError: it needs what the finding does not have.
    """
    return METHODS[tools.config.method](tools)
