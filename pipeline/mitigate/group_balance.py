"""Group-balanced sampling: every group of class and artifact is seen equally often (Idrissi et al. 2022)."""

from __future__ import annotations

import dataclasses
from functools import partial

from pipeline.config.mitigate import GroupBalanceMethod
from pipeline.models.build import AuditModel

from .fine_tuning import classification_loss, fine_tune
from .groups import balanced_rows, find_groups
from .interface import Correction, Problem


class GroupBalance:
    """Plain fine-tuning on balanced groups; class weights of the original training are left out, as classes change."""

    def __init__(self, config: GroupBalanceMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a fine-tuned copy of the model.

        Raises:
            NoCounterExamples: no class is divided by the artifact.
        """
        groups = find_groups(model, problem, self.config.groups, self.config.min_group)
        unweighted = dataclasses.replace(problem, class_weights=None)

        def losses(network, batch):
            return {"total": classification_loss(unweighted, network(batch.x), batch.y)}

        correction = fine_tune(model, problem, self.config, losses, order=partial(balanced_rows, groups, problem.seed))
        notes = {f"samples of {name}": float(size) for name, size in zip(groups.names, groups.sizes, strict=True)}
        return dataclasses.replace(correction, notes=notes)
