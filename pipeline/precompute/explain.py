"""One batch: what is stored of its activations, relevances and heatmaps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from pipeline.attribution import Attribution, Explainer
from pipeline.attribution.targets import Target
from pipeline.config.precompute import PrecomputeConfig
from pipeline.workspace.features import activation_path, heatmap_path, relevance_path

from .pooling import POOLINGS, channels_first, scale_rows, to_grid, total
from .targets import Condition, targets_of

Parts = dict[str, torch.Tensor]
"""What is kept of a layer -> its values `[N, ...]`."""
Relevances = dict[tuple[str, str], torch.Tensor]
"""(layer, or "" for the input; what is kept of it) -> relevance, not yet scaled."""


@dataclass(frozen=True)
class Plan:
    """What is stored of every sample.

    Attributes:
        layers: name -> channel axis, from input to output.
        conditions: name in the configuration -> what is explained.
        config: section `precompute`.
    """

    layers: Mapping[str, int]
    conditions: Mapping[str, Condition]
    config: PrecomputeConfig


def explain_batch(explainer: Explainer, x: torch.Tensor, labels: torch.Tensor, plan: Plan) -> dict[str, np.ndarray]:
    """Explain every condition; a sample whose target was explained already is not explained again.

    Args:
        explainer: see `pipeline.attribution`.
        x: `[N, ...]` on the device of the explainer.
        labels: class ids `[N]`, or one row per sample that says which classes are present `[N, K]`.
        plan: what is stored.

    Returns:
        Place in the feature store -> array `[N, ...]`.
    """
    labels = labels.to(x.device)
    start = next((condition for condition in plan.conditions.values() if condition != "predicted"), None)
    first = _explain(explainer, x, _first_target(labels, start), plan, _kept_activation)
    logits = first.logits
    # Without another condition the first attribution explained the largest logit.
    weights = targets_of(logits.argmax(1), logits, "label") if start is None else targets_of(labels, logits, start)
    known = [(weights, _relevances(first))]
    arrays = {"labels": labels.cpu().numpy(), "logits": logits.float().cpu().numpy()}
    for layer, parts in first.activations.items():
        arrays |= {activation_path(layer, name): _stored(values, plan) for name, values in parts.items()}
    del first
    for name, condition in plan.conditions.items():
        weights = targets_of(labels, logits, condition)

        def explain(rows: torch.Tensor, weights: torch.Tensor = weights) -> Relevances:
            return _relevances(_explain(explainer, x[rows], weights[rows], plan, _nothing))

        known.append((weights, reuse(known, weights, explain)))
        arrays |= _relevance_arrays(known[-1][1], name, plan)
    return arrays


def _explain(
    explainer: Explainer, x: torch.Tensor, target: Target, plan: Plan, activation: Callable[..., Parts]
) -> Attribution:
    """Explain, and keep of every layer no more than is stored, as soon as its values are there."""

    def keep_activation(layer: str, values: torch.Tensor) -> Parts:
        return activation(channels_first(values, plan.layers[layer]), plan.config)

    def keep_relevance(layer: str, values: torch.Tensor) -> Parts:
        return _kept_relevance(channels_first(values, plan.layers[layer]), plan.config)

    return explainer.attribute(
        x, target, layers=list(plan.layers), keep_activation=keep_activation, keep_relevance=keep_relevance
    )


def _kept_activation(values: torch.Tensor, config: PrecomputeConfig) -> Parts:
    return _pooled(values, config.pooling) | _positions(values, config)


def _nothing(values: torch.Tensor, config: PrecomputeConfig) -> Parts:
    return {}


def _kept_relevance(values: torch.Tensor, config: PrecomputeConfig) -> Parts:
    parts = {"sum": total(values)} | _positions(values, config)
    return parts | (_pooled(values.clamp(min=0), config.relevance_pooling) if config.relevance_pooling else {})


def _relevances(found: Attribution) -> Relevances:
    kept: Relevances = {("", "map"): found.heatmap}
    return kept | {(layer, name): v for layer, parts in found.relevances.items() for name, v in parts.items()}


def reuse(
    known: list[tuple[torch.Tensor, Relevances]],
    weights: torch.Tensor,
    explain: Callable[[torch.Tensor], Relevances],
) -> Relevances:
    """Return relevance for the targets `weights`, taken from what is known for the same sample and the same target.

    Args:
        known: pairs of targets `[N, K]` and what was found for them `[N, ...]`.
        weights: the targets wanted `[N, K]`.
        explain: called at most once, with the rows for which nothing is known.
    """
    left = torch.ones(len(weights), dtype=torch.bool, device=weights.device)
    values = dict(known[0][1])
    for place, (targets, found) in enumerate(known):
        same = (targets == weights).all(1)
        if same.all():
            return found
        if same.any() and place:
            values = {name: torch.where(_like(same, old), found[name], old) for name, old in values.items()}
        left &= ~same
    rows = left.nonzero().flatten()
    if len(rows):
        found = explain(rows)
        values = {name: old.index_copy(0, rows, found[name]) for name, old in values.items()}
    return values


def _like(flags: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return flags.view(-1, *[1] * (values.ndim - 1))


def _first_target(labels: torch.Tensor, condition: Condition | None) -> int | torch.Tensor | None:
    """Return the target of the first attribution, for which the number of logits is not known yet."""
    if condition == "label":
        return labels if labels.ndim == 1 else labels.float()
    return condition


def _pooled(values: torch.Tensor, poolings: Sequence[str]) -> dict[str, torch.Tensor]:
    return {name: POOLINGS[name](values) for name in poolings}


def _positions(values: torch.Tensor, config: PrecomputeConfig) -> dict[str, torch.Tensor]:
    """Return the map that is stored, or nothing where none is wanted or there are no positions."""
    if config.positions == "none" or values.ndim < 3:
        return {}
    return {"map": values if config.positions == "full" else to_grid(values, config.grid)}


def _relevance_arrays(relevances: Relevances, condition: str, plan: Plan) -> dict[str, np.ndarray]:
    arrays = {}
    for (layer, kept), relevance in relevances.items():
        values, scale = scale_rows(relevance)
        path = partial(relevance_path, layer, condition, kept) if layer else partial(heatmap_path, condition)
        arrays[path()] = _stored(values, plan)
        arrays[path(scale=True)] = scale.float().cpu().numpy()
    return arrays


def _stored(values: torch.Tensor, plan: Plan) -> np.ndarray:
    kind = getattr(torch, plan.config.dtype)
    # beyond the range of half precision the largest value stands for what it cannot hold
    most = torch.finfo(kind).max
    return values.clamp(-most, most).to(kind).cpu().numpy()
