"""How far a group is an island, compared with the clearest divisions that classes have anyway in the same space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from .candidates import Candidate
from .spaces import Quantity, normalize_rows, space_features
from .spectral import conductance, eigenvectors_of, neighbor_graph
from .sweeps import Cut, sweep_cuts
from .view import DataView

NEIGHBORS = 8
EIGENVECTORS = 16
SMALLEST = 12
NATURAL_CUTS = 3
HALF = 6.0
"""How many times clearer than a usual division a group is set apart where its separation is 1/2."""
LEAST_CONDUCTANCE = 1e-4


@dataclass(frozen=True)
class Divided:
    """The neighbour graph of a class in a space, and its clearest divisions."""

    graph: sparse.csr_array
    cuts: list[Cut]


def separation(conductance: float, usual: float) -> float:
    """Return 1 for an island, 1/2 where the usual division loses 6 times the share of edges, 1/7 for a usual one."""
    clearer = usual / max(conductance, LEAST_CONDUCTANCE)
    return clearer / (clearer + HALF)


class Separations:
    """Separation of groups, whatever detector they come from. One graph serves all groups of a class in a space.

    Conductance by itself says little: in some spaces every class falls into parts, in others none does. The usual
    conductance of a space is the median over the three clearest divisions of every class.
    """

    def __init__(self, view: DataView):
        self.view = view
        self._divided: dict[tuple[int, str, Quantity], Divided] = {}
        self._usual: dict[tuple[str, Quantity], float] = {}

    def measure(self, candidate: Candidate) -> float:
        """Return the separation in [0, 1]."""
        divided = self.divided(candidate.class_id, candidate.rows, candidate.layer, candidate.quantity)
        return separation(
            conductance(divided.graph, candidate.members), self.usual(candidate.layer, candidate.quantity)
        )

    def divided(self, class_id: int, rows: np.ndarray, space: str, quantity: Quantity) -> Divided:
        """Return graph and divisions of a class; computed once."""
        key = class_id, space, quantity
        if key not in self._divided:
            features = normalize_rows(space_features(self.view, rows, space, quantity=quantity))
            graph = neighbor_graph(features, NEIGHBORS)
            _, vectors = eigenvectors_of(graph, min(EIGENVECTORS, len(rows) - 2))
            self._divided[key] = Divided(graph, sweep_cuts(graph, vectors, SMALLEST))
        return self._divided[key]

    def usual(self, space: str, quantity: Quantity) -> float:
        """Return the median conductance of the clearest divisions of all classes; 0 where no class is large enough."""
        key = space, quantity
        if key not in self._usual:
            found = [
                cut.conductance
                for each in self.view.classes()
                if len(each.rows) >= 2 * SMALLEST
                for cut in self.divided(each.class_id, each.rows, space, quantity).cuts[:NATURAL_CUTS]
            ]
            self._usual[key] = float(np.median(found)) if found else 0.0
        return self._usual[key]
