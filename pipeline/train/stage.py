"""Fit or load the classifier under audit, and leave its weights in `model/original.pt`."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from pipeline.config.model import TrainConfig
from pipeline.data.augment import Augmenter
from pipeline.data.batches import Batch, Batches
from pipeline.data.dataset import SPLITS
from pipeline.data.memory import split_indices
from pipeline.data.open import open_world
from pipeline.data.worlds import WorldView
from pipeline.models.build import AuditModel, build_model
from pipeline.models.checkpoints import load_weights, save_weights
from pipeline.models.classification import class_weights, validation_metrics
from pipeline.models.loop import LoopSettings, train_loop, write_history
from pipeline.models.open import ORIGINAL
from pipeline.workspace.stage import StageContext

STATE = "training_state.pt"


def run(context: StageContext) -> None:
    """Train from the configuration's initial weights, or check and copy the given checkpoint."""
    config = context.config
    dataset = open_world(context)
    model = build_model(config.model, len(dataset.classes), dataset.shape[0], config.seed).to(context.device)
    if config.model.checkpoint:
        load_weights(model.network, config.model.checkpoint, config.model.arch)
        context.reporter.say(f"    weights taken from {config.model.checkpoint}")
    else:
        _train(context, dataset, model, config.model.train)
    context.notes["dataset"] = describe(dataset)
    metrics = validation_metrics(model, dataset, split_indices(dataset, "val"), context.device)
    context.notes.update({f"validation_{name}": value for name, value in metrics.items()})
    context.reporter.say(
        f"    model under audit: validation accuracy {metrics['accuracy']:.3f}, "
        f"balanced {metrics['balanced_accuracy']:.3f}, AUROC {metrics['auroc']:.3f}"
    )
    save_weights(model.network, context.directory.root / ORIGINAL)


def _train(context: StageContext, dataset: WorldView, model: AuditModel, config: TrainConfig) -> None:
    rows = split_indices(dataset, "train")
    validation = split_indices(dataset, "val")
    labels = dataset.table["label"].to_numpy()
    ids = dataset.table["id"].to_numpy()
    augment = Augmenter(config.augment, context.config.seed)
    weights = class_weights(labels[rows], len(dataset.classes)).to(context.device) if config.class_weights else None

    def losses(network: torch.nn.Module, batch: Batch, epoch: int) -> dict[str, torch.Tensor]:
        x, _ = augment(batch.x, None, ids[batch.index], epoch)
        return {"total": F.cross_entropy(network(x), batch.y, weight=weights)}

    folder = context.directory.folder("train")
    history = train_loop(
        model,
        Batches(dataset, rows, config.batch_size, shuffle_seed=context.config.seed),
        losses,
        lambda network: validation_metrics(network, dataset, validation, context.device),
        LoopSettings(
            epochs=config.epochs,
            lr=config.lr,
            optimizer=config.optimizer,
            weight_decay=config.weight_decay,
            schedule=config.schedule,
            clip_norm=config.clip_norm,
            select=config.select,
        ),
        device=context.device,
        seed=context.config.seed,
        key=context.key,
        state_path=folder / STATE,
        reporter=context.reporter,
        label="training",
    )
    write_history(folder / "history.csv", history)
    (folder / STATE).unlink(missing_ok=True)


def describe(dataset: WorldView) -> dict:
    """Return the number of samples of each class in each split."""
    counts = dataset.table.groupby(["split", "label"]).size()
    splits = {
        split: {name: int(counts.get((split, number), 0)) for number, name in enumerate(dataset.classes)}
        for split in SPLITS
    }
    return {"classes": list(dataset.classes), "splits": splits, "samples": len(dataset)}
