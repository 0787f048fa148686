"""R-ClArC: each sample is projected along the artifacts that its case asks for (Bareeva et al. 2024)."""

from __future__ import annotations

from pipeline.config.mitigate import RClarcMethod
from pipeline.models.build import AuditModel

from .interface import Correction, Problem
from .reactions import react


class ReactiveClarc:
    """A reactive projection behind every layer that CAVs act in.

    By class, the network runs twice: the second time with the projections of the biases of the class that the first
    pass predicts.
    """

    def __init__(self, config: RClarcMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a copy of the model with the projections inserted."""
        condition = self.config.condition
        return react(model, problem, self.config, gated=condition != "class", conditioned=condition != "detector")
