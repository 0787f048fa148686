"""The classifier under audit, as the train stage left it."""

from __future__ import annotations

from pipeline.data.dataset import AuditDataset
from pipeline.workspace.stage import StageContext

from .build import AuditModel, build_model
from .checkpoints import load_weights

ORIGINAL = "model/original.pt"


def open_original(context: StageContext, dataset: AuditDataset) -> AuditModel:
    """Return the model under audit in evaluation mode, on the run's device.

    Raises:
        CheckpointError: `model/original.pt` is missing or damaged.
    """
    config = context.config
    model = build_model(config.model, len(dataset.classes), dataset.shape[0], config.seed)
    load_weights(model.network, context.directory.root / ORIGINAL, config.model.arch)
    return model.to(context.device).eval()
