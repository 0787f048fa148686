"""rP-ClArC: P-ClArC of those samples alone in which a calibrated detector finds the artifact."""

from __future__ import annotations

from pipeline.config.mitigate import RpClarcMethod
from pipeline.models.build import AuditModel

from .interface import Correction, Problem
from .reactions import react


class ReactiveProjectiveClarc:
    """A projection with a detector for each bias behind every layer that CAVs act in."""

    def __init__(self, config: RpClarcMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a copy of the model with the projections inserted."""
        return react(model, problem, self.config, gated=True, conditioned=False)
