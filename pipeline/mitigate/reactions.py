"""Reactive projections in a model: what rP-ClArC and R-ClArC share."""

from __future__ import annotations

import copy

import numpy as np

from pipeline.concepts.gates import Gate
from pipeline.concepts.projection import insert_projection
from pipeline.concepts.reactive import MOST_CONCEPTS, ClassConditioned, ReactiveProjection
from pipeline.config.mitigate import RClarcMethod, RpClarcMethod
from pipeline.errors import ConfigError
from pipeline.models.build import AuditModel
from pipeline.workspace.records import Change, ClassConditionChange, ReactiveProjectionChange

from .directions import CorrectedLayer, corrected_layers, layer_directions, layer_gates
from .interface import Correction, Problem


def react(
    model: AuditModel, problem: Problem, config: RpClarcMethod | RClarcMethod, *, gated: bool, conditioned: bool
) -> Correction:
    """Return a copy of the model with a reactive projection behind every layer that CAVs act in.

    Args:
        model: under audit.
        problem: with biases.
        config: of the method.
        gated: a bias acts where its detector fires.
        conditioned: a bias acts where the network without corrections predicts its class.

    Raises:
        ConfigError: there are more biases in a layer than can be kept apart.
    """
    corrected, changes, notes = copy.deepcopy(model), [], {}
    if conditioned:
        corrected.network = ClassConditioned(corrected.network)
        changes.append(ClassConditionChange())
    for layer in corrected_layers(model, problem, config.layer):
        if len(layer.biases) > MOST_CONCEPTS:
            raise ConfigError(
                f"mitigate.methods: '{config.method_id}' corrects at most {MOST_CONCEPTS} biases in one layer, and "
                f"'{layer.name}' has {len(layer.biases)}. Accept fewer, or take p_clarc, which corrects any number."
            )
        gates = layer_gates(model, problem, config, layer) if gated else None
        changes.append(_insert(corrected, model, problem, config, layer, gates, conditioned))
        for (known, _), gate in zip(layer.biases, gates or (), strict=False):
            notes |= {f"{known.bias.id}: fires with it": gate.detected, f"{known.bias.id}: without": gate.false_alarms}
    return Correction(corrected, changes=changes, notes=notes)


def _insert(
    corrected: AuditModel,
    model: AuditModel,
    problem: Problem,
    config: RpClarcMethod | RClarcMethod,
    layer: CorrectedLayer,
    gates: list[Gate] | None,
    conditioned: bool,
) -> Change:
    found = layer_directions(model, problem, config, layer, config.mode)
    detectors = gates and (
        np.stack([gate.direction for gate in gates], 1),
        np.array([gate.offset for gate in gates]),
    )
    projection = ReactiveProjection(
        found.measured,
        found.values,
        found.ranks,
        config.mode,
        moving=found.moving,
        gates=detectors,
        classes=[known.bias.class_id for known, _ in layer.biases] if conditioned else None,
        pooling=layer.pooling,
        channel_axis=layer.channel_axis,
    )
    insert_projection(corrected, layer.name, projection.to(next(model.parameters()).device))
    return ReactiveProjectionChange(
        layer=layer.name,
        mode=config.mode,
        channels=len(found.measured),
        ranks=found.ranks,
        gated=gates is not None,
        conditioned=conditioned,
        pooling=layer.pooling,
        channel_axis=layer.channel_axis,
    )
