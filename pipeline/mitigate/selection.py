"""Which correction to prefer: a rule on the validation split, stored with what it saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SMALLEST_GROUP = 10
"""Groups of fewer validation samples say too little to decide by."""


@dataclass(frozen=True)
class Standing:
    """Where a correction stands on the validation split.

    Attributes:
        clean: balanced accuracy on the samples with the localized artifact taken away.
        worst: accuracy of the worst group, among classes with and without the artifact.
    """

    clean: float
    worst: float


def rule_text(most_clean_loss: float) -> str:
    """Return the rule of `choose` in words."""
    return (
        f"Of the corrections that lose at most {most_clean_loss:.3f} of the original's balanced accuracy on validation "
        "samples whose localized artifact was filled in, the one with the best worst group; where all lose more, the "
        "one that loses least. Groups are the classes with and without the artifact: as found, filled in, and with the "
        "localized region pasted in. No test sample and no ground truth takes part."
    )


def choose(standings: Sequence[Standing], original: Standing, most_clean_loss: float) -> int:
    """Return the position of the preferred correction, which lies on the Pareto front; see `rule_text`.

    Args:
        standings: at least one; the first of equals is taken.
        original: of the model under audit.
        most_clean_loss: in balanced accuracy, at least 0.
    """
    places = range(len(standings))
    affordable = [place for place in places if standings[place].clean >= original.clean - most_clean_loss]
    if affordable:
        return max(affordable, key=lambda place: (standings[place].worst, standings[place].clean, -place))
    return max(places, key=lambda place: (standings[place].clean, standings[place].worst, -place))


def pareto_front(standings: Sequence[Standing]) -> list[bool]:
    """Return for each correction whether no other one is as good in both figures and better in one."""
    points = np.array([[each.clean, each.worst] for each in standings]).reshape(-1, 2)
    as_good = (points[:, None] >= points[None]).all(2)
    better = (points[:, None] > points[None]).any(2)
    return [not dominated for dominated in (as_good & better).any(0)]


def mean_standing(standings: Sequence[Standing]) -> Standing:
    """Return the mean over the seeds of one correction."""
    return Standing(
        float(np.mean([each.clean for each in standings])), float(np.mean([each.worst for each in standings]))
    )
