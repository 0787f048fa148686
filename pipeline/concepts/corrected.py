"""Corrected models as the mitigate stage left them."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from pipeline.models.build import AuditModel
from pipeline.models.checkpoints import load_weights
from pipeline.models.replacement import replace_network
from pipeline.workspace.records import Change, MethodRecord, NetworkChange

from .projection import Projection, insert_projection


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
    else:
        insert_projection(model, change.layer, Projection(torch.zeros(change.channels), 0.0, change.mode))


def differs(model: AuditModel, original: AuditModel) -> bool:
    """Return whether tensors differ from the original's in name or value: a model is never compared with itself."""
    ours, theirs = model.network.state_dict(), original.network.state_dict()
    return ours.keys() != theirs.keys() or any(not torch.equal(ours[name], theirs[name]) for name in ours)
