"""Attention gates around the network, kept out of the background (Schlemper et al. 2019, with supervision)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from pipeline.attribution.baselines.explained_quantity import kept_from_in_place_changes
from pipeline.attribution.baselines.grad_cam import last_map
from pipeline.config.mitigate import AttentionGatedMethod
from pipeline.data.batches import Batches
from pipeline.data.memory import split_indices
from pipeline.errors import ConfigError, nearest
from pipeline.models.build import AuditModel
from pipeline.models.modes import evaluation_mode
from pipeline.models.replacement import INNER
from pipeline.models.trace import Layer, trace_layers
from pipeline.workspace.records import NetworkChange

from .fine_tuning import MaskedBatch, classification_loss, fine_tune
from .interface import Correction, Problem
from .replaced import replaced

MOST_GATES = 2
MEASURED = 512
RIDGE = 1e-3
LEAST_VARIANCE = 1e-12


class AttentionGated:
    """Fine-tuning of the network with gates; the share of attention in the background is added to the loss."""

    def __init__(self, config: AttentionGatedMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return the network with gates around it."""
        config = self.config
        example = problem.dataset[0].x[None].to(problem.device)
        layers = gated_layers(model, example, config.layers)
        change = NetworkChange(
            name="attention_gated",
            parameters={
                "layers": [_within(layer.name) for layer in layers[:-1]],
                "driver": _within(layers[-1].name),
                "channels": [layer.shape[0] for layer in layers],
                "classes": len(problem.dataset.classes),
                "inner": config.inner,
            },
        )

        def losses(network: AuditModel, batch: MaskedBatch) -> dict[str, torch.Tensor]:
            features, attention = network.network.look(network.normalize(batch.x))
            classification = classification_loss(problem, network.network.head(features), batch.y)
            outside = torch.stack([background_share(each, batch.mask) for each in attention]).mean()
            return {
                "total": classification + config.attention_weight * outside,
                "classification": classification,
                "attention": outside,
            }

        start = replaced(model, change, problem.seed)
        imitate(start, model, problem)
        correction = fine_tune(
            start,
            problem,
            config,
            losses,
            background=config.background or problem.background,
            mask_source=config.masks,
        )
        return dataclasses.replace(correction, changes=[change])


def imitate(gated: AuditModel, model: AuditModel, problem: Problem) -> None:
    """Set the linear layer, in place, to come closest to the logits of the model under audit, by ridge regression.

    On up to `MEASURED` training images; a random linear layer would need many more epochs than fine-tuning has.
    """
    rows = split_indices(problem.dataset, "train")
    rows = rows[np.linspace(0, len(rows) - 1, min(MEASURED, len(rows))).astype(int)]
    features, logits = [], []
    with evaluation_mode(model), torch.no_grad():
        for batch in Batches(problem.dataset, rows, 64):
            x = batch.x.to(problem.device)
            features.append(gated.network.look(gated.normalize(x))[0].double())
            logits.append(model(x).double())
    weight, bias = ridge(torch.cat(features), torch.cat(logits))
    with torch.no_grad():
        gated.network.head.weight.copy_(weight)
        gated.network.head.bias.copy_(bias)


def ridge(features: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights `[K, F]` and biases `[K]` that minimise mean |W f + b - t|^2 + r |W|^2.

    r is `RIDGE` times the mean variance of the features, so that it has no scale.

    Args:
        features: `[N, F]`.
        targets: `[N, K]`.
    """
    center, level = features.mean(0), targets.mean(0)
    spread = features - center
    covariance = spread.T @ spread / len(features)
    strength = RIDGE * covariance.diagonal().mean().clamp(min=LEAST_VARIANCE)
    identity = torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
    weight = torch.linalg.solve(covariance + strength * identity, spread.T @ (targets - level) / len(features)).T
    return weight, level - weight @ center


def background_share(attention: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the share of attention in the background, averaged over samples with a mask; 0 where none has one.

    Args:
        attention: `[N, 1, h, w]`, at least 0, with sum 1.
        mask: `[N, 1, H, W]`, 1 = background; a position of the attention has the share of its area.
    """
    present = mask.flatten(1).any(1)
    if not present.any():
        return attention.sum() * 0.0
    area = F.adaptive_avg_pool2d(mask[present], attention.shape[2:])
    return (attention[present] * area).flatten(1).sum(1).mean()


def gated_layers(model: AuditModel, example: torch.Tensor, wanted: str | Sequence[str]) -> list[Layer]:
    """Return the layers that get gates, and at the end the one that drives them: the last of the deepest convolution.

    Args:
        example: one small batch.
        wanted: "auto" takes the last outputs of the two sizes before the deepest one, or of those that there are, or
            the driving layer itself; or names.

    Raises:
        ConfigError: an unknown name, a layer without maps, or a network without any.
    """
    try:
        driver = last_map(model, example)
    except ValueError:
        raise ConfigError(
            "mitigate.methods: attention_gated needs a network with convolutions whose output has more than one "
            "position. Leave it out for this network."
        ) from None
    # copies are known apart: a layer that is written to afterwards is not taken for the one that wrote
    with kept_from_in_place_changes(model, (name for name, _ in model.named_modules())):
        traced = trace_layers(model, example)
    maps = {
        layer.name: layer
        for layer in traced
        if layer.name.startswith(f"{INNER}.") and len(layer.shape) == 3 and layer.channel_axis == 1
    }
    if driver not in maps:
        raise ConfigError(
            f"mitigate.methods: attention_gated finds its deepest maps in '{driver}', which are not [N, channels, H, "
            "W]. Leave it out for this network."
        )
    if wanted != "auto":
        for name in wanted:
            if name not in maps:
                raise ConfigError(
                    f"mitigate.methods: attention_gated has no maps in layer '{name}'.{nearest(name, maps)} "
                    f"Layers with maps: {', '.join(list(maps)[:40])}."
                )
        return [maps[name] for name in (*wanted, driver)]
    last = {
        layer.shape[1:]: layer
        for layer in maps.values()
        if layer.kind != "convolution" and _positions(layer) > _positions(maps[driver])
    }
    gated = list(last.values())[-MOST_GATES:] or [maps[driver]]
    return [*gated, maps[driver]]


def _positions(layer: Layer) -> int:
    return layer.shape[1] * layer.shape[2]


def _within(layer: str) -> str:
    return layer.removeprefix(f"{INNER}.")
