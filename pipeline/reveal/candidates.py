"""What detectors propose."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from .spaces import Quantity


@dataclass(frozen=True)
class Candidate:
    """A group of samples of one class that a detector sets apart.

    Attributes:
        detector: registry name.
        class_id: the class.
        layer: where it was seen: "input" or a layer.
        rows: rows of the whole class.
        members: booleans over `rows`: who belongs to the group.
        neuron_ids: channels that define the group, if any.
        note: what the detector can say about the group in one plain sentence, if anything.
        quantity: what was looked at in the layer, as in `spaces.space_features`.
        name: what a person calls it, if a person described it; it becomes the id of the finding.
    """

    detector: str
    class_id: int
    layer: str
    rows: np.ndarray
    members: np.ndarray
    neuron_ids: tuple[int, ...] = ()
    note: str = ""
    quantity: Quantity = "relevance"
    name: str = ""

    @property
    def member_rows(self) -> np.ndarray:
        """Rows of the store that belong to the group."""
        return self.rows[self.members]


@dataclass(frozen=True)
class Detection:
    """What a detector returns.

    Attributes:
        candidates: groups; none where there is nothing to say.
        arrays: name -> figures behind them, stored in `reveal/<detector>.h5`; "/" in a name makes groups.
        pictures: caption -> picture of the whole detection, stored as `reveal/<detector>-<number>.png`.
    """

    candidates: list[Candidate]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    pictures: dict[str, Image.Image] = field(default_factory=dict)


def same_side_overlap(a: Candidate, b: Candidate) -> float:
    """Return the Jaccard overlap of two groups of one class; 0 for groups of different classes."""
    return jaccard(a.members, b.members) if a.class_id == b.class_id else 0.0


def overlap(a: Candidate, b: Candidate) -> float:
    """Return the Jaccard overlap of two groups, or of either with the other's complement, whichever is largest.

    A split of a class into two groups is one observation seen from two sides.
    """
    if a.class_id != b.class_id:
        return 0.0
    return max(jaccard(a.members, b.members), jaccard(a.members, ~b.members), jaccard(~a.members, b.members))


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Return |A and B| / |A or B| of two memberships `[N]`; 0 where both are empty."""
    return float((first & second).sum() / max((first | second).sum(), 1))
