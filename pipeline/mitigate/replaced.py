"""A copy of the model whose network is put behind, or replaced by, another one."""

from __future__ import annotations

import copy

import numpy as np
import torch

from pipeline.data.batches import Batches
from pipeline.data.memory import split_indices
from pipeline.models.build import AuditModel
from pipeline.models.replacement import replace_network
from pipeline.workspace.records import NetworkChange

from .interface import Problem

MEASURED = 512
"""Training images whose mean color is taken."""


def replaced(model: AuditModel, change: NetworkChange, seed: int) -> AuditModel:
    """Return a copy of the model with a changed network, whose first weights depend on the seed alone."""
    changed = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        replace_network(changed, change.name, change.parameters)
    return changed.eval()


def mean_color(model: AuditModel, problem: Problem) -> torch.Tensor:
    """Return the mean `[C, 1, 1]` of what the network is given, over some training images, evenly chosen."""
    rows = split_indices(problem.dataset, "train")
    rows = rows[np.linspace(0, len(rows) - 1, min(MEASURED, len(rows))).astype(int)]
    colors = [model.normalize(batch.x.to(problem.device)).mean((2, 3)) for batch in Batches(problem.dataset, rows, 64)]
    return torch.cat(colors).mean(0).view(-1, 1, 1)
