"""Which directions of which layers a correction moves, to which values, and the features that say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from pipeline.attribution.recording import record_outputs
from pipeline.concepts.cav import Cav
from pipeline.concepts.features import layer_features
from pipeline.concepts.gates import Gate, fit_gate
from pipeline.concepts.pasting import donors_from
from pipeline.concepts.projection import ProjectionMode, columns, pooled
from pipeline.concepts.subspace import Subspace, iterative_subspace, paired_subspace
from pipeline.config.mitigate import DirectionConfig, GateConfig
from pipeline.data.dataset import AuditDataset
from pipeline.data.pasted import PastedView
from pipeline.errors import ConfigError
from pipeline.models.build import AuditModel
from pipeline.models.trace import ChannelAxes

from .interface import KnownBias, Problem

MOST_SAMPLES = 4096
MOST_DONORS = 64
PERPENDICULAR = 0.01

Value = Literal["with", "without"]


@dataclass(frozen=True)
class CorrectedLayer:
    """A layer, and the biases whose CAVs act in it.

    Attributes:
        name: in the model under audit.
        pooling: of the CAVs.
        channel_axis: 1, or -1 as in tokens.
        biases: with their acting CAVs.
    """

    name: str
    pooling: str
    channel_axis: int
    biases: list[tuple[KnownBias, Cav]]


@dataclass(frozen=True)
class Directions:
    """Directions of all biases of a layer, side by side.

    Attributes:
        measured: `[D, k]`, along which a concept is measured.
        moving: `[D, k]`, along which activations are moved.
        values: `[k]`, what the measured directions shall have.
        ranks: number of directions of each bias.
    """

    measured: np.ndarray
    moving: np.ndarray
    values: np.ndarray
    ranks: list[int]


@dataclass(frozen=True)
class Carriers:
    """Samples of a bias's class, test split left out, and which of them carry it.

    Attributes:
        rows: of the data set, `[N]`.
        members: booleans `[N]`.
    """

    rows: np.ndarray
    members: np.ndarray


def corrected_layers(model: AuditModel, problem: Problem, layer: str) -> list[CorrectedLayer]:
    """Return the layers that the CAVs of all biases act in.

    Args:
        model: under audit.
        problem: with biases.
        layer: of a method's configuration, "auto" or a name.

    Raises:
        ConfigError: a bias has no CAV there, CAVs of one layer were pooled differently, or the layer runs twice.
    """
    groups: dict[str, list[tuple[KnownBias, Cav]]] = {}
    for known in problem.biases:
        if not known.bias.candidates:
            raise ConfigError(
                f"mitigate.methods: bias '{known.bias.id}' has no concept activation vector, which this method moves "
                "activations along. Add layers to reveal.cav.layers and start reveal again, or leave the method out."
            )
        cav = known.correction_cav(layer)
        groups.setdefault(cav.layer, []).append((known, cav))
    axes, example = ChannelAxes(model), problem.dataset[0].x[None].to(_device(model))
    return [_corrected_layer(name, group, axes, example) for name, group in groups.items()]


def _corrected_layer(
    name: str, group: list[tuple[KnownBias, Cav]], axes: ChannelAxes, example: torch.Tensor
) -> CorrectedLayer:
    poolings = sorted({cav.pooling for _, cav in group})
    if len(poolings) > 1:
        raise ConfigError(
            f"mitigate.methods: the CAVs of several biases in layer '{name}' were fitted with reveal.cav.pooling "
            f"{' and '.join(poolings)}, so they cannot be corrected together. Fit them alike: start reveal again."
        )
    try:
        axis = axes.of(name, example)
    except ValueError as error:
        raise ConfigError(f"mitigate.methods: {error} Name another one by `layer:`.") from None
    return CorrectedLayer(name, poolings[0], axis, group)


def layer_directions(
    model: AuditModel,
    problem: Problem,
    config: DirectionConfig,
    layer: CorrectedLayer,
    mode: ProjectionMode,
    value: Value = "without",
) -> Directions:
    """Return the directions of all biases of a layer, and the mean values of samples with or without the artifact.

    Args:
        model: under audit.
        problem: with biases.
        config: of the method.
        layer: see `corrected_layers`.
        mode: values are means over positions ("position") or over pooled features.
        value: of which samples.
    """
    found = [_of_bias(model, problem, config, layer, each, mode, value) for each in layer.biases]
    measured, moving, values = zip(*found, strict=True)
    ranks = [each.shape[1] for each in measured]
    return Directions(np.concatenate(measured, 1), np.concatenate(moving, 1), np.concatenate(values), ranks)


def _of_bias(
    model: AuditModel,
    problem: Problem,
    config: DirectionConfig,
    layer: CorrectedLayer,
    bias: tuple[KnownBias, Cav],
    mode: ProjectionMode,
    value: Value,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    known, cav = bias
    measuring = cav if config.measured_by is None else _measuring(known, cav, config.measured_by)
    moving, measured = np.asarray(cav.direction)[:, None], np.asarray(measuring.direction)[:, None]
    values = np.array([_value(measuring, mode, value)])
    if config.rank == 1:
        return measured, moving, values
    further = _further_directions(model, problem, layer, known, cav, config.rank - 1)
    kept = "mean" if mode == "position" and layer.pooling != "full" else layer.pooling
    carriers = carriers_of(problem, known)
    chosen = carriers.rows[carriers.members == (value == "with")]
    mean = features_at(model, problem.dataset, chosen, layer, kept).mean(0)
    basis = np.concatenate([moving, further], 1)
    return basis, basis, np.concatenate([values, mean @ further])


def _measuring(known: KnownBias, cav: Cav, kind: str) -> Cav:
    measuring = known.cavs.get((cav.layer, kind))
    if measuring is None:
        kinds = sorted({each for layer, each in known.cavs if layer == cav.layer})
        raise ConfigError(
            f"mitigate.methods: measured_by is '{kind}', but layer '{cav.layer}' has CAVs of kind {', '.join(kinds)} "
            f"only. Take one of these, or add {kind} to reveal.cav.kinds."
        )
    cosine = float(measuring.direction @ cav.direction)
    if cosine < PERPENDICULAR:
        raise ConfigError(
            f"mitigate.methods: the {kind} CAV in layer '{cav.layer}' does not respond to moving along the {cav.kind} "
            f"CAV (cosine {cosine:.3f}), so it cannot say how far to move. Leave measured_by out."
        )
    return measuring


def _value(cav: Cav, mode: ProjectionMode, value: Value) -> float:
    if value == "with":
        return cav.mean_with
    return cav.position_without if mode == "position" else cav.mean_without


def _further_directions(
    model: AuditModel, problem: Problem, layer: CorrectedLayer, known: KnownBias, cav: Cav, count: int
) -> np.ndarray:
    """Return up to `count` orthonormal directions `[D, k]` across the CAV along which the concept moves features."""
    carriers = carriers_of(problem, known)
    direction = np.asarray(cav.direction)[:, None]
    if min(carriers.members.sum(), (~carriers.members).sum()) < 2:
        return np.zeros((len(direction), 0))
    first = Subspace(direction, np.zeros(len(direction)), cav.kind)
    pasted = _pasted(problem, known)
    if pasted is not None:
        rows = sampled(other_rows(problem, known), MOST_SAMPLES // 4, problem.seed)
        pair = [features_at(model, each, rows, layer, layer.pooling) for each in (pasted, problem.dataset)]
        found = paired_subspace(first.project_out(pair[0]), first.project_out(pair[1]), count)
    else:
        features = first.project_out(features_at(model, problem.dataset, carriers.rows, layer, layer.pooling))
        found = iterative_subspace(features, carriers.members, "ridge", count, seed=problem.seed)
    # filters of features without the CAV may still point a little along it
    return np.linalg.qr(np.concatenate([direction, found.basis], 1))[0][:, 1:]


def _pasted(problem: Problem, known: KnownBias) -> PastedView | None:
    """Return the data set with the bias's localized regions pasted into every sample; None with fewer than 2."""
    carriers = carriers_of(problem, known)
    ids = problem.dataset.table["id"].astype(str).to_numpy()[carriers.rows[carriers.members]].tolist()
    return donors_from(problem.dataset, ids, known.mask).pasted_into(problem.dataset, problem.seed)


def layer_gates(model: AuditModel, problem: Problem, config: GateConfig, layer: CorrectedLayer) -> list[Gate]:
    """Return a calibrated detector for each bias of a layer.

    Raises:
        ConfigError: nothing can be told from the samples of a bias.
    """
    gates = []
    for known, _ in layer.biases:
        carriers = carriers_of(problem, known)
        others = np.setdiff1d(other_rows(problem, known), carriers.rows)
        others = sampled(others, MOST_SAMPLES, problem.seed)
        rows = np.concatenate([carriers.rows, others])
        features = features_at(model, problem.dataset, rows, layer, layer.pooling)
        own, rest = features[: len(carriers.rows)], features[len(carriers.rows) :]
        try:
            gate = fit_gate(
                own,
                carriers.members,
                rest,
                kind=config.detector,
                false_alarms=config.false_alarms,
                seed=problem.seed,
            )
        except ValueError as error:
            raise ConfigError(
                f"mitigate.methods: '{config.method_id}' cannot make a detector of bias '{known.bias.id}' in layer "
                f"'{layer.name}': {error}. Label more samples of the bias, or take p_clarc, which needs no detector."
            ) from None
        gates.append(gate)
    return gates


def carriers_of(problem: Problem, known: KnownBias) -> Carriers:
    """Return the samples of a bias's class, test split left out, and which of them the finding holds."""
    table = problem.dataset.table
    rows = np.flatnonzero(_usable(problem) & (table["label"].to_numpy() == known.bias.class_id))
    return Carriers(rows, np.isin(table["id"].astype(str).to_numpy()[rows], known.bias.sample_ids))


def other_rows(problem: Problem, known: KnownBias) -> np.ndarray:
    """Return the samples of all classes, test split left out, that are not known to carry the bias."""
    ids = problem.dataset.table["id"].astype(str).to_numpy()
    return np.flatnonzero(_usable(problem) & ~np.isin(ids, known.bias.sample_ids))


def usable_rows(problem: Problem) -> np.ndarray:
    """Return all samples that corrections may look at: all but those of the test split."""
    return np.flatnonzero(_usable(problem))


def sampled(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return at most so many of the rows, chosen at random, ascending."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def features_at(
    model: AuditModel, dataset: AuditDataset, rows: np.ndarray, layer: CorrectedLayer, pooling: str
) -> np.ndarray:
    """Return what a projection with this pooling measures in the layer, `[len(rows), D]`, float64."""
    reader = _PooledLayer(model, layer, pooling)
    return layer_features(reader, dataset, rows, "pool", device=_device(model)).astype(np.float64)


class _Pool(nn.Module):
    def __init__(self, pooling: str, channel_axis: int):
        super().__init__()
        self.pooling, self.channel_axis = pooling, channel_axis

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        return pooled(columns(activation, self.channel_axis, self.pooling), self.pooling).squeeze(-1)


class _PooledLayer(nn.Module):
    """The model up to a layer, whose output is pooled as projections do, wherever its channels are."""

    def __init__(self, model: nn.Module, layer: CorrectedLayer, pooling: str):
        super().__init__()
        self.model, self.layer = model, layer.name
        self.pool = _Pool(pooling, layer.channel_axis)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with record_outputs(self.model, [self.layer]) as outputs:
            self.model(x)
        return self.pool(outputs[self.layer])


def _usable(problem: Problem) -> np.ndarray:
    return problem.dataset.table["split"].to_numpy() != "test"


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
