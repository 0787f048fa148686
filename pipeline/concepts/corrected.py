"""Corrected models as the mitigate stage left them."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch

from pipeline.models.build import AuditModel
from pipeline.models.checkpoints import load_weights
from pipeline.models.replacement import replace_network
from pipeline.workspace.records import (
    Change,
    ClassConditionChange,
    MethodRecord,
    NetworkChange,
    ReactiveProjectionChange,
)

from .projection import Projection, insert_projection
from .reactive import ClassConditioned, ReactiveProjection


def method_weights(root: Path, method_id: str) -> Path:
    """Return where the weights of a corrected model lie."""
    return root / "mitigate" / method_id / "model.pt"


def load_corrected(root: Path, record: MethodRecord, original: AuditModel) -> AuditModel:
    """Return a corrected model in evaluation mode: the original's architecture, its changes, its weights.

    Raises:
        CheckpointError: the weights do not fit.
    """
    model = copy.deepcopy(original)
    for change in record.changes:
        apply_change(model, change)
    device = next(original.parameters()).device
    load_weights(model.network, method_weights(root, record.id), original.arch)
    return model.to(device).eval()


def apply_change(model: AuditModel, change: Change) -> None:
    """Change the architecture in place; the weights of what is new are still to be loaded or trained."""
    if isinstance(change, NetworkChange):
        replace_network(model, change.name, change.parameters)
    elif isinstance(change, ClassConditionChange):
        model.network = ClassConditioned(model.network)
    elif isinstance(change, ReactiveProjectionChange):
        insert_projection(model, change.layer, _empty_reactive_projection(change))
    else:
        zeros = np.zeros((change.channels, change.rank))
        options = {"pooling": change.pooling, "channel_axis": change.channel_axis}
        insert_projection(model, change.layer, Projection(zeros, zeros[0], change.mode, **options))


def _empty_reactive_projection(change: ReactiveProjectionChange) -> ReactiveProjection:
    biases, zeros = len(change.ranks), np.zeros((change.channels, sum(change.ranks)))
    return ReactiveProjection(
        zeros,
        zeros[0],
        change.ranks,
        change.mode,
        gates=(np.zeros((change.channels, biases)), np.zeros(biases)) if change.gated else None,
        classes=[0] * biases if change.conditioned else None,
        pooling=change.pooling,
        channel_axis=change.channel_axis,
    )


def differs(model: AuditModel, original: AuditModel) -> bool:
    """Return whether tensors differ from the original's in name or value: a model is never compared with itself."""
    ours, theirs = model.network.state_dict(), original.network.state_dict()
    return ours.keys() != theirs.keys() or any(not torch.equal(ours[name], theirs[name]) for name in ours)
