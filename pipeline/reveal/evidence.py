"""Held-out evidence that a group is one thing of its own: a linear score recognises its members, and nobody else.

The score is the linear discriminant of members against the rest of their class, with the covariance of all samples of
all classes: what varies anywhere in the data counts little, so that a way of looking that other classes share is no
evidence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from pipeline.statistics import wilson
from pipeline.statistics.auroc import placements

from .candidates import Candidate
from .view import DataView

EQUAL = 0.005
"""Layers, and groups, whose merits differ by less are equally good."""
ROUNDS = 3
"""Most times that a group is replaced by whom its score recognises."""
BLOCK = 64
"""Candidates that are scored together, so that memory holds samples x 2 BLOCK scores."""


@dataclass(frozen=True)
class Evidence:
    """How well members are recognised in the layer where they are recognised best.

    Attributes:
        layer: the layer.
        pooling: of its activations, "max" or "mean".
        members: size of the group.
        auroc: members against the rest of their class, held out.
        recognised: share of held-out members above the threshold, which lies halfway between the two means.
        mistaken: share of others above it: of the rest of the class or of the other classes, whichever is larger.
        predicted: booleans over the rows of the class: who lies above the threshold of the half it was not part of.
    """

    layer: str
    pooling: str
    members: int
    auroc: float
    recognised: float
    mistaken: float
    predicted: np.ndarray

    @property
    def merit(self) -> float:
        """Return the sum of AUROC and concentration, by which layers and groups are compared."""
        return self.auroc + self.concentration

    @property
    def separability(self) -> float:
        """Return 2 AUROC - 1, at least 0."""
        return max(0.0, 2 * self.auroc - 1)

    @property
    def concentration(self) -> float:
        """Return recognised - mistaken, at least 0: near 1 where the score takes members, and members alone.

        Of the members' share it is the lower confidence bound (Wilson, 95 %), so that a dozen samples, which some
        direction of a large layer always sets apart, weigh less than a hundred.
        """
        sure = wilson(round(self.recognised * self.members), self.members).lower
        return max(0.0, sure - self.mistaken)


def precision_matrix(features: np.ndarray) -> np.ndarray:
    """Return the inverse covariance `[D, D]` of features `[N, D]`, shrunk towards a sphere (Ledoit and Wolf 2004)."""
    from sklearn.covariance import ledoit_wolf

    covariance, _ = ledoit_wolf(np.asarray(features, dtype=np.float64))
    covariance[np.diag_indices_from(covariance)] += 1e-12 + 1e-6 * np.trace(covariance) / len(covariance)
    return np.linalg.inv(covariance)


def measure_evidence(
    view: DataView, candidates: list[Candidate], layers: tuple[str, ...], poolings: tuple[str, ...] = ("max", "mean")
) -> list[Evidence | None]:
    """Return the evidence of every candidate, None where no layer responds.

    Half of the members and of the rest fit the score, the other half are scored, and the other way round.

    Args:
        view: all samples.
        candidates: groups of at least 4 samples that leave at least 4.
        layers: where scores are tried, from input to output; of layers that do equally well the earliest is kept.
        poolings: of activations.
    """
    best: list[Evidence | None] = [None] * len(candidates)
    place = {row: position for position, row in enumerate(view.rows)}
    positions = [np.array([place[row] for row in candidate.rows]) for candidate in candidates]
    for layer in layers:
        for pooling in poolings:
            features = view.store.activations(layer, pooling, view.rows)
            if (features == features[:1]).all():
                continue
            for number, figures in enumerate(_in_layer(features, candidates, positions, view.seed)):
                found = Evidence(layer, pooling, int(candidates[number].members.sum()), *figures)
                rival = best[number]
                if rival is None or found.merit > rival.merit + EQUAL:
                    best[number] = found
    return best


def refine(
    view: DataView,
    candidates: list[Candidate],
    evidence: list[Evidence],
    layers: tuple[str, ...],
    poolings: tuple[str, ...],
    smallest: int,
) -> tuple[list[Candidate], list[Evidence]]:
    """Replace the members of groups by whom the held-out score recognises, as long as that makes them clearer.

    Clusterings cut groups short or take neighbours in; the score of a real concept finds its samples whole.

    Args:
        smallest: least size of a group and of the rest of its class.
    """
    detected, candidates, evidence = candidates, list(candidates), list(evidence)
    open_ = list(range(len(candidates)))
    for _ in range(ROUNDS):
        open_ = [i for i in open_ if smallest <= evidence[i].predicted.sum() <= len(candidates[i].rows) - smallest]
        changed = [replace(candidates[i], members=evidence[i].predicted) for i in open_]
        measured = measure_evidence(view, changed, layers, poolings)
        better = [
            (i, candidate, found)
            for i, candidate, found in zip(open_, changed, measured, strict=True)
            if found is not None and found.merit > evidence[i].merit + EQUAL
        ]
        for i, candidate, found in better:
            candidates[i], evidence[i] = candidate, found
        open_ = [i for i, _, _ in better]
    noted = [_with_note(candidate, before) for candidate, before in zip(candidates, detected, strict=True)]
    return noted, evidence


def _with_note(candidate: Candidate, before: Candidate) -> Candidate:
    if candidate is before:
        return candidate
    told = f"{before.note} " if before.note else ""
    return replace(
        candidate, note=f"{told}Of the class, {candidate.members.sum()} samples are recognised by what these share."
    )


def _in_layer(
    features: np.ndarray, candidates: list[Candidate], positions: list[np.ndarray], seed: int
) -> Iterator[tuple[float, float, float, np.ndarray]]:
    precision = precision_matrix(features).astype(np.float32)
    for start in range(0, len(candidates), BLOCK):
        part = list(zip(candidates[start : start + BLOCK], positions[start : start + BLOCK], strict=True))
        halves = [_halves(candidate.members, seed) for candidate, _ in part]
        differences = [
            features[where[fitted & candidate.members]].mean(0) - features[where[fitted & ~candidate.members]].mean(0)
            for (candidate, where), half in zip(part, halves, strict=True)
            for fitted in (half, ~half)
        ]
        scores = features @ (precision @ np.array(differences, dtype=np.float32).T)
        for number, ((candidate, where), half) in enumerate(zip(part, halves, strict=True)):
            pair = [
                _held_out(scores[:, 2 * number + side], candidate.members, where, fitted)
                for side, fitted in enumerate((half, ~half))
            ]
            auroc, recognised, rest, others = np.mean([figures for figures, _ in pair], axis=0)
            predicted = np.where(half, pair[1][1], pair[0][1])
            yield float(auroc), float(recognised), float(max(rest, others)), predicted


def _halves(members: np.ndarray, seed: int) -> np.ndarray:
    """Return a random half `[n]` that holds half of the members and half of the rest."""
    half = np.zeros(len(members), bool)
    generator = np.random.default_rng(seed)
    for group in (np.flatnonzero(members), np.flatnonzero(~members)):
        half[generator.permutation(group)[: len(group) // 2]] = True
    return half


def _held_out(
    scores: np.ndarray, members: np.ndarray, where: np.ndarray, fitted: np.ndarray
) -> tuple[tuple[float, float, float, float], np.ndarray]:
    """Return the AUROC, and the shares of members, rest and other classes above the middle; and who of the class is."""
    of_class = scores[where]
    threshold = (of_class[fitted & members].mean() + of_class[fitted & ~members].mean()) / 2
    above = of_class > threshold
    placed, _ = placements(of_class[~fitted], members[~fitted])
    elsewhere = np.ones(len(scores), bool)
    elsewhere[where] = False
    others = float((scores[elsewhere] > threshold).mean()) if elsewhere.any() else 0.0
    shares = (float(above[~fitted & members].mean()), float(above[~fitted & ~members].mean()), others)
    return (float(placed.mean()), *shares), above
