"""Projections of those samples alone that show a concept, or whose predicted class has one (reactive correction)."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from .projection import ProjectionMode, columns, from_columns, joint_solution, pooled

MOST_CONCEPTS = 10
"""Concepts in one layer: a solution is kept for each of their subsets."""


def subset_solutions(measured: np.ndarray, moving: np.ndarray, ranks: Sequence[int]) -> np.ndarray:
    """Return the `joint_solution` of every subset of concepts, `[2^m, k, k]`, 0 for directions that are not in it.

    Args:
        measured: `[D, k]`, directions of all concepts side by side.
        moving: `[D, k]`.
        ranks: number of directions of each of m concepts. Concept j is in the subsets whose number has bit j.
    """
    owner = np.repeat(np.arange(len(ranks)), ranks)
    solutions = np.zeros((2 ** len(ranks), len(owner), len(owner)))
    for number, solution in enumerate(solutions):
        chosen = np.flatnonzero(number >> owner & 1)
        if len(chosen):
            solution[np.ix_(chosen, chosen)] = joint_solution(measured[:, chosen], moving[:, chosen])
    return solutions


class ReactiveProjection(nn.Module):
    """A projection whose concepts are chosen sample by sample; a sample without any is left as it is, to the bit.

    A concept acts where its detector fires, sum_c w_c pool(a)_c + b > 0, and the predicted class is its own; one of the
    two conditions may be left out. Directions of all concepts that act are solved for jointly, as in `Projection`.

    Args:
        measured: `[D, k]`, directions of all concepts side by side.
        clean_value: `[k]`.
        ranks: number of directions of each of m concepts, at most 10 concepts.
        mode: "position" or "pooled", as in `Projection`.
        moving: `[D, k]`; default: measured.
        gates: weights `[D, m]` and offsets `[m]` of the detectors; None: no such condition.
        classes: class of each concept `[m]`; None: no such condition.
        pooling, channel_axis: as in `Projection`.

    Attributes:
        allowed: which concepts the predicted class has, booleans `[N, m]`; `ClassConditioned` sets it for a while.

    Source: Bareeva et al., "Reactive model correction: mitigating harm to task-relevant features via conditional bias
    suppression", CVPR workshops 2024.
    """

    def __init__(
        self,
        measured: np.ndarray,
        clean_value: np.ndarray,
        ranks: Sequence[int],
        mode: ProjectionMode,
        *,
        moving: np.ndarray | None = None,
        gates: tuple[np.ndarray, np.ndarray] | None = None,
        classes: Sequence[int] | None = None,
        pooling: str = "max",
        channel_axis: int = 1,
    ):
        super().__init__()
        if gates is None and classes is None:
            raise ValueError(
                "a reactive projection needs detectors, classes or both; without a condition use Projection"
            )
        if len(ranks) > MOST_CONCEPTS:
            raise ValueError(
                f"at most {MOST_CONCEPTS} concepts can be corrected reactively in one layer, got {len(ranks)}"
            )
        self.mode, self.pooling, self.channel_axis = mode, pooling, channel_axis
        moving = measured if moving is None else moving
        self._keep("measured", measured)
        self._keep("moving", moving)
        self._keep("clean_value", clean_value)
        self._keep("solutions", subset_solutions(measured, moving, ranks))
        self._keep("gate_weights", None if gates is None else gates[0])
        self._keep("gate_offsets", None if gates is None else gates[1])
        self.register_buffer("classes", None if classes is None else torch.tensor(list(classes), dtype=torch.long))
        self.register_buffer("bits", 2 ** torch.arange(len(ranks)), persistent=False)
        self.allowed: torch.Tensor | None = None

    def _keep(self, name: str, values: np.ndarray | None) -> None:
        self.register_buffer(name, None if values is None else torch.tensor(np.asarray(values), dtype=torch.float32))

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        """Return the activation with the samples projected that need it."""
        values = columns(activation, self.channel_axis, self.pooling)
        features = pooled(values, self.pooling)
        active = self._active(features.squeeze(-1))
        solution = self.solutions.index_select(0, (active * self.bits).sum(1))
        source = features if self.mode == "pooled" else values
        gap = self.clean_value.unsqueeze(-1) - torch.matmul(self.measured.T, source)
        shifted = values + torch.matmul(self.moving, torch.matmul(solution, gap))
        # the shift of a sample without active concepts is 0, unless values are too large for it
        chosen = torch.where(active.any(1)[:, None, None], shifted, values)
        return from_columns(chosen, activation, self.channel_axis, self.pooling)

    def _active(self, features: torch.Tensor) -> torch.Tensor:
        """Return which concepts act in which sample, booleans `[N, m]`."""
        if self.classes is not None and self.allowed is None:
            raise ValueError("a projection by predicted class runs only within its ClassConditioned network")
        if self.gate_weights is None:
            return self.allowed
        fires = torch.matmul(features, self.gate_weights) + self.gate_offsets > 0
        return fires if self.classes is None else fires & self.allowed


class ClassConditioned(nn.Module):
    """A network with reactive projections, behind a look at what it predicts without them.

    Attributes:
        network: with projections.
        uncorrected: the same layers and the same weights, not copies of them, without projections.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        shared = {id(tensor): tensor for tensor in itertools.chain(network.parameters(), network.buffers())}
        self.uncorrected = copy.deepcopy(network, shared)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `[N, K]`."""
        with torch.no_grad():
            predicted = self.uncorrected(x).argmax(1)
        projections = [each for each in self.network.modules() if isinstance(each, ReactiveProjection)]
        try:
            for each in projections:
                each.allowed = predicted[:, None] == each.classes
            return self.network(x)
        finally:
            for each in projections:
                each.allowed = None
