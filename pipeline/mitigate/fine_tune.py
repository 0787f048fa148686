"""Plain fine-tuning on the same data: what any method that trains must beat."""

from __future__ import annotations

from pipeline.config.mitigate import FineTuneMethod
from pipeline.models.build import AuditModel

from .fine_tuning import classification_loss, fine_tune
from .interface import Correction, Problem


class FineTune:
    """Fine-tuning without any knowledge of the bias."""

    def __init__(self, config: FineTuneMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a fine-tuned copy of the model."""

        def losses(network, batch):
            return {"total": classification_loss(problem, network(batch.x), batch.y)}

        return fine_tune(model, problem, self.config, losses)
