"""One pass over all samples: activations, relevances, heatmaps and logits into `precompute/features.h5`.

Rows are computed in chunks, each an atomically renamed file that carries the stage's key, so a killed run loses at most
the chunk at hand. Several processes take a contiguous part of the chunks each, without talking to one another: rank 0
joins what they leave.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pipeline.attribution import Explainer, health
from pipeline.data.batches import Batch, split_rows, stream
from pipeline.data.open import open_world
from pipeline.data.worlds import WorldView
from pipeline.models.build import AuditModel
from pipeline.models.open import open_original
from pipeline.models.trace import Layer, select_layers, trace_layers
from pipeline.workspace.features import FEATURES
from pipeline.workspace.stage import StageContext

from .chunks import ChunkFolder, assemble
from .explain import Plan, explain_batch
from .seals import break_seal, is_sealed, seal
from .shards import join, remove_other_shards, shard_path, wait_for_shards
from .targets import resolve_condition

HEALTH = "precompute/health.json"
HEALTH_SAMPLES = 8


def run(context: StageContext) -> None:
    """Compute this process's part of the rows; rank 0 also checks the attribution's health and finishes the store."""
    config, rank = context.config.precompute, context.rank
    folder = context.directory.folder("precompute")
    dataset = open_world(context)
    conditions = {text: resolve_condition(text, dataset.classes) for text in config.conditions}
    model = open_original(context, dataset)
    example = torch.stack([dataset[index].x for index in range(2)]).to(context.device)
    layers = select_layers(trace_layers(model, example), config.layers, "precompute.layers")
    if rank.number == 0:
        _check_health(context, dataset, model)

    chunks = ChunkFolder(folder / "chunks", context.key, len(dataset), config.chunk_rows)
    target = context.directory.root / FEATURES if rank.of == 1 else shard_path(folder, rank.number, rank.of)
    kinds = {layer.name: layer.kind for layer in layers}
    attributes = {"composite": config.composite, "arch": model.arch, "key": context.key}
    own = chunks.part(rank.number, rank.of)
    if len(own) and not is_sealed(target, context.key):
        break_seal(target)
        explainer = Explainer(model, example, config.composite, rules=config.rules)
        plan = Plan({layer.name: layer.channel_axis for layer in layers}, conditions, config)
        _compute(context, dataset, explainer, plan, own)
        assemble(target, own, kinds, attributes)
        seal(target, context.key)
    if rank.number == 0:
        shards = []
        if rank.of > 1:
            shards = wait_for_shards(folder, chunks, rank.of, config.patience_minutes, context.reporter)
            break_seal(context.directory.root / FEATURES)
            join(context.directory.root / FEATURES, shards, kinds, attributes)
        _clean(folder, shards)
        _report(context, dataset, layers)


def _check_health(context: StageContext, dataset: WorldView, model: AuditModel) -> None:
    rows = np.linspace(0, len(dataset) - 1, min(HEALTH_SAMPLES, len(dataset))).astype(int)
    samples = torch.stack([dataset[int(index)].x for index in rows]).to(context.device)
    config = context.config.precompute
    record = health(model, samples, composite=config.composite, arch=model.arch, rules=config.rules)
    context.directory.write_record(HEALTH, record)
    context.reporter.say(
        f"    attribution health: conservation {record.conservation:.3f} (ideal 1), bias share "
        f"{record.bias_share:.3f}, {'finite' if record.finite else 'NOT FINITE'}"
    )
    if record.warning:
        context.reporter.say(f"    WARNING: {record.warning}")


def _compute(context: StageContext, dataset: WorldView, explainer: Explainer, plan: Plan, chunks: ChunkFolder) -> None:
    """Compute the missing chunks in one pass of the data loader; batches end where chunks end."""
    missing, who = chunks.missing(), "" if context.rank.of == 1 else f"{context.rank}: "
    if len(missing) < len(chunks):
        done = len(chunks) - len(missing)
        context.reporter.say(f"    {who}{done} chunks are there from an interrupted run; {len(missing)} to go")
    batches = stream(
        dataset,
        [batch for _, rows in missing for batch in split_rows(rows, plan.config.batch_size)],
        workers=plan.config.workers,
    )
    for number, rows in context.reporter.track(missing, f"{who}activations and relevances"):
        ids = {"ids": dataset.table["id"].iloc[rows].to_numpy().astype(str)}
        # No name for the arrays: they would stay in memory while the next chunk is computed.
        chunks.write(number, explain_rows(explainer, batches, len(rows), plan, context.device) | ids)


def explain_rows(
    explainer: Explainer, batches: Iterator[Batch], count: int, plan: Plan, device: str
) -> dict[str, np.ndarray]:
    """Take as many batches as hold `count` rows; return place in the store -> array `[count, ...]`."""
    arrays: dict[str, np.ndarray] = {}
    done = 0
    while done < count:
        batch = next(batches)
        until = done + len(batch.index)
        for name, values in explain_batch(explainer, batch.x.to(device), batch.y, plan).items():
            if name not in arrays:
                arrays[name] = np.empty((count, *values.shape[1:]), values.dtype)
            arrays[name][done:until] = values
        done = until
    return arrays


def _clean(folder: Path, shards: list[Path]) -> None:
    """Remove what the finished store does not need."""
    if (folder / "chunks").exists():
        shutil.rmtree(folder / "chunks")
    remove_other_shards(shards, folder)


def _report(context: StageContext, dataset: WorldView, layers: list[Layer]) -> None:
    config = context.config.precompute
    context.notes["layers"] = [layer.name for layer in layers]
    context.reporter.say(f"    {len(dataset)} samples, {len(layers)} layers, conditions {', '.join(config.conditions)}")
