"""Plain fine-tuning on the same data: what any method that trains must beat."""

from __future__ import annotations

from pipeline.config.mitigate import FineTuneMethod
from pipeline.models.build import AuditModel

from .interface import Correction, Problem, cross_entropy, fine_tune


class FineTune:
    """Fine-tuning without any knowledge of the bias."""

    def __init__(self, config: FineTuneMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a fine-tuned copy of the model."""

        def losses(network, x, y, mask):
            return {"total": cross_entropy(problem, network(x), y)}

        return fine_tune(model, problem, self.config, losses)
