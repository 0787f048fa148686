"""Just train twice: what a first model gets wrong comes more often the second time (Liu et al., ICML 2021)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from pipeline.config.mitigate import JttMethod
from pipeline.data.memory import split_indices
from pipeline.data.randomness import generator
from pipeline.errors import ConfigError
from pipeline.models.build import AuditModel
from pipeline.models.predict import predict_logits

from .fine_tuning import classification_loss, fine_tune
from .interface import Correction, Problem

FIRST_STATE = "identification_state.pt"


def upsampled_rows(rows: np.ndarray, wrong: np.ndarray, upsample: int, seed: int, epoch: int) -> np.ndarray:
    """Return the rows of one epoch, shuffled: each once, those that were classified wrongly `upsample` times.

    Args:
        rows: training rows `[N]`.
        wrong: which of them, booleans `[N]`.
        upsample: lambda.
        seed: of the run.
        epoch: number of the epoch.
    """
    return generator(seed, "upsampled order", str(epoch)).permutation(np.repeat(rows, np.where(wrong, upsample, 1)))


class JustTrainTwice:
    """Fine-tuning on training samples of which errors come more often; it needs no masks, CAVs or groups."""

    def __init__(self, config: JttMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a fine-tuned copy of the model.

        Raises:
            ConfigError: something starts from scratch, and the problem does not say how.
        """
        config, label = self.config, problem.label or self.config.method_id
        rows = split_indices(problem.dataset, "train")
        identifying = model if config.identify == "model" else self._first_model(problem)
        logits = predict_logits(identifying, problem.dataset, rows, device=problem.device)
        # processes may round logits differently, and must not disagree about the length of an epoch
        wrong = problem.group.agree(logits.argmax(1) != problem.dataset.table["label"].to_numpy()[rows])
        if not wrong.any():
            problem.reporter.say(
                f"    {label}: the identifying model gets every training sample right, so nothing is upsampled. "
                "Set identify: scratch, or fewer identify_epochs."
            )
        correction = fine_tune(
            model if config.start == "checkpoint" else self._fresh(problem),
            problem,
            config,
            lambda network, batch: {"total": classification_loss(problem, network(batch.x), batch.y)},
            frozen_norms=config.start == "checkpoint",
            order=lambda epoch: upsampled_rows(rows, wrong, config.upsample, problem.seed, epoch),
        )
        if problem.group.leads and (state := _first_state(problem)) is not None:
            state.unlink(missing_ok=True)
        return dataclasses.replace(correction, notes={"errors upsampled": float(wrong.sum())})

    def _first_model(self, problem: Problem) -> AuditModel:
        """Return a model trained briefly and plainly; it is used for nothing but its errors."""
        config = self.config
        changes = {"epochs": config.identify_epochs, "select": "last", "patience": None}
        label = f"{problem.label or config.method_id}, identification"
        return fine_tune(
            self._fresh(problem),
            dataclasses.replace(problem, state_path=_first_state(problem), label=label),
            config.model_copy(update=changes),
            lambda network, batch: {"total": classification_loss(problem, network(batch.x), batch.y)},
            frozen_norms=False,
        ).model

    def _fresh(self, problem: Problem) -> AuditModel:
        if problem.fresh is None:
            raise ConfigError(
                f"mitigate.methods: '{self.config.method_id}' starts from scratch, but the problem has no `fresh`, "
                "which makes the architecture anew. Give it, or set identify: model and start: checkpoint."
            )
        return problem.fresh()


def _first_state(problem: Problem) -> Path | None:
    return None if problem.state_path is None else problem.state_path.with_name(FIRST_STATE)
