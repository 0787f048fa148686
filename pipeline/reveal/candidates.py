"""What detectors propose, and what they are given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.workspace.features import FeatureStore


@dataclass(frozen=True)
class ClassView:
    """The samples of one class, as the detectors see them.

    Attributes:
        store: features of all samples.
        class_id: the class.
        rows: rows of the store that belong to the class, training and validation split only.
        condition: which logit the relevances explain.
        deep_layers: activation layers, the deepest first.
        seed: for clusterings.
    """

    store: FeatureStore
    class_id: int
    rows: np.ndarray
    condition: str
    deep_layers: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Candidate:
    """A group of samples of one class that a detector sets apart.

    Attributes:
        detector: registry name.
        class_id: the class.
        layer: where it was seen: "input" or a layer.
        rows: rows of the whole class.
        members: booleans over `rows`: who belongs to the group.
        conductance: share of the neighbour graph's edges that leave the group; 0 = an island.
        neuron_ids: channels that define the group, if any.
    """

    detector: str
    class_id: int
    layer: str
    rows: np.ndarray
    members: np.ndarray
    conductance: float
    neuron_ids: tuple[int, ...] = ()

    @property
    def member_rows(self) -> np.ndarray:
        """Rows of the store that belong to the group."""
        return self.rows[self.members]


def same_side_overlap(a: Candidate, b: Candidate) -> float:
    """Return the Jaccard overlap of two groups of one class; 0 for groups of different classes."""
    return _jaccard(a.members, b.members) if a.class_id == b.class_id else 0.0


def overlap(a: Candidate, b: Candidate) -> float:
    """Return the Jaccard overlap of two groups, or of either with the other's complement, whichever is largest.

    A split of a class into two groups is one observation seen from two sides.
    """
    if a.class_id != b.class_id:
        return 0.0
    return max(_jaccard(a.members, b.members), _jaccard(a.members, ~b.members), _jaccard(~a.members, b.members))


def _jaccard(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max((first | second).sum(), 1))
