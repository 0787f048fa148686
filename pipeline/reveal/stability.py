"""Whether a group is found again when detection is repeated on a part of the samples, with another seed."""

from __future__ import annotations

import numpy as np

from pipeline.config.reveal import DetectorConfig

from .candidates import Candidate, jaccard
from .registry import make_detector
from .view import DataView

SHARE = 0.8


def stabilities(
    view: DataView, detectors: list[DetectorConfig], groups: list[Candidate], runs: int
) -> list[float | None]:
    """Return for each group its mean best Jaccard overlap with what every repetition finds, in [0, 1].

    Each repetition runs the detectors on a random four fifths of every class; the group counts there as far as it was
    drawn (Hennig, Computational Statistics & Data Analysis 2007). Above .75 is stable, below .5 is dissolved.

    Args:
        view: all samples.
        detectors: the configured detectors; those that found none of the groups are not repeated.
        groups: what is looked for.
        runs: repetitions; 0 gives None for every group.
    """
    if runs == 0:
        return [None] * len(groups)
    wanted = {group.detector for group in groups}
    repeated = [config for config in detectors if config.kind in wanted]
    overlaps = np.array(
        [
            _overlaps(groups, _detect_in_part(view, repeated, run))
            for run in view.reporter.track(range(runs), "stability of the findings")
        ]
    )
    return overlaps.mean(0).tolist()


def _detect_in_part(view: DataView, detectors: list[DetectorConfig], run: int) -> list[Candidate]:
    generator = np.random.default_rng([view.seed, run])
    drawn = [generator.permutation(each.rows)[: round(SHARE * len(each.rows))] for each in view.classes()]
    part = view.restricted(np.sort(np.concatenate(drawn)), view.seed + 1 + run)
    return [candidate for config in detectors for candidate in make_detector(config).detect(part).candidates]


def _overlaps(groups: list[Candidate], found: list[Candidate]) -> list[float]:
    return [
        max((_overlap(group, each) for each in found if each.class_id == group.class_id), default=0.0)
        for group in groups
    ]


def _overlap(group: Candidate, found: Candidate) -> float:
    return jaccard(group.members[np.isin(group.rows, found.rows)], found.members)
