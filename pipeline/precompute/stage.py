"""One pass over all samples: activations, relevances, heatmaps and logits into `precompute/features.h5`."""

from __future__ import annotations

import shutil

import numpy as np
import torch

from pipeline.attribution import Explainer, health
from pipeline.data.batches import Batches
from pipeline.data.open import open_world
from pipeline.data.worlds import WorldView
from pipeline.models.open import open_original
from pipeline.models.trace import select_layers, trace_layers
from pipeline.workspace.features import FEATURES
from pipeline.workspace.stage import StageContext

from .chunks import ChunkFolder, assemble
from .pooling import pool_activation, pool_relevance, scale_rows

HEALTH = "precompute/health.json"
HEALTH_SAMPLES = 32


def run(context: StageContext) -> None:
    """Check the attribution's health, then compute what is missing chunk by chunk, then assemble the store."""
    config = context.config.precompute
    dataset = open_world(context)
    model = open_original(context, dataset)
    example = torch.stack([dataset[index].x for index in range(2)]).to(context.device)
    layers = select_layers(trace_layers(model, example), config.layers, "precompute.layers")
    _check_health(context, dataset, model)

    folder = context.directory.folder("precompute")
    chunks = ChunkFolder(folder / "chunks", context.key, len(dataset), config.chunk_rows)
    explainer = Explainer(model, example, config.composite)
    missing = chunks.missing()
    done = len(list(chunks)) - len(missing)
    if done:
        context.reporter.say(f"    {done} chunks are there from an interrupted run; {len(missing)} to go")
    names = [layer.name for layer in layers]
    for number, rows in context.reporter.track(missing, "activations and relevances"):
        chunks.write(number, _explain_rows(context, dataset, explainer, names, rows))
    attributes = {"composite": config.composite, "arch": model.arch, "key": context.key}
    assemble(context.directory.root / FEATURES, chunks, {layer.name: layer.kind for layer in layers}, attributes)
    shutil.rmtree(folder / "chunks")
    context.notes["layers"] = names
    context.reporter.say(f"    {len(dataset)} samples, {len(names)} layers, conditions {', '.join(config.conditions)}")


def _check_health(context: StageContext, dataset: WorldView, model) -> None:
    rows = np.linspace(0, len(dataset) - 1, min(HEALTH_SAMPLES, len(dataset))).astype(int)
    samples = torch.stack([dataset[int(index)].x for index in rows]).to(context.device)
    record = health(model, samples, composite=context.config.precompute.composite, arch=model.arch)
    context.directory.write_record(HEALTH, record)
    context.reporter.say(
        f"    attribution health: conservation {record.conservation:.3f} (ideal 1), bias share "
        f"{record.bias_share:.3f}, {'finite' if record.finite else 'NOT FINITE'}"
    )
    if not record.healthy:
        context.reporter.say(f"    WARNING: {record.warning}")


def _explain_rows(
    context: StageContext, dataset: WorldView, explainer: Explainer, layers: list[str], rows: np.ndarray
) -> dict[str, np.ndarray]:
    config = context.config.precompute
    parts: dict[str, list[np.ndarray]] = {}
    for batch in Batches(dataset, rows, config.batch_size, workers=config.workers):
        for name, array in _explain_batch(
            explainer, batch.x.to(context.device), batch.y, layers, config.conditions
        ).items():
            parts.setdefault(name, []).append(array)
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    table = dataset.table.iloc[rows]
    return arrays | {"labels": table["label"].to_numpy(np.int64), "ids": table["id"].to_numpy().astype(str)}


def _explain_batch(
    explainer: Explainer, x: torch.Tensor, labels: torch.Tensor, layers: list[str], conditions: list[str]
) -> dict[str, np.ndarray]:
    """Explain the labels and, where they differ, the predictions; equal targets are explained once."""
    first = explainer.attribute(x, labels.to(x.device), layers=layers)
    arrays = {"logits": first.logits.cpu().numpy()}
    for name, activation in first.activations.items():
        largest, mean = pool_activation(activation)
        arrays[f"layers/{name}/activation_max"] = _half(largest)
        arrays[f"layers/{name}/activation_mean"] = _half(mean)
    explained = {"heatmaps": scale_rows(first.heatmap)}
    explained |= {f"layers/{name}/relevance": pool_relevance(value) for name, value in first.relevances.items()}
    if "label" in conditions:
        arrays |= {_condition(name, "label"): _half(value) for name, value in explained.items()}
    if "predicted" in conditions:
        wrong = torch.nonzero(first.logits.argmax(1).cpu() != labels).flatten().to(x.device)
        if len(wrong):
            second = explainer.attribute(x[wrong], first.logits[wrong].argmax(1), layers=layers)
            replaced = {"heatmaps": scale_rows(second.heatmap)}
            replaced |= {f"layers/{name}/relevance": pool_relevance(value) for name, value in second.relevances.items()}
            explained = {name: value.index_copy(0, wrong, replaced[name]) for name, value in explained.items()}
        arrays |= {_condition(name, "predicted"): _half(value) for name, value in explained.items()}
    return arrays


def _condition(name: str, condition: str) -> str:
    return f"heatmaps/{condition}" if name == "heatmaps" else f"{name}_{condition}"


def _half(values: torch.Tensor) -> np.ndarray:
    # beyond the range of half precision the largest value stands for what it cannot hold
    most = torch.finfo(torch.float16).max
    return values.clamp(-most, most).cpu().numpy().astype(np.float16)
