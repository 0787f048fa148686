"""From measured candidates to a ranked list without repetitions."""

from __future__ import annotations

import numpy as np

from pipeline.data.dataset import AuditDataset
from pipeline.workspace.hashing import digest_json
from pipeline.workspace.records import Finding

from .candidates import overlap
from .suspicion import Suspicion, combine

SAME_GROUP = 0.5
CONTAINED = 0.8
KEPT_EFFECT = 0.25


def distinct(measured: list[Suspicion]) -> list[Suspicion]:
    """Return candidates best first, each observation once.

    Two candidates are the same observation when they overlap by half, or one overlaps the other's complement by half.
    Of nested groups the one whose concept is the clearest stands for all of them: a shortcut that appears in several
    places splits into several islands, and only the group that holds them all leaves a clean rest.
    """
    kept: list[Suspicion] = []
    for suspicion in sorted(measured, key=_order):
        clearest = max([suspicion, *_containing(suspicion, measured)], key=lambda each: concept_clarity(each.parts))
        if all(overlap(clearest.candidate, better.candidate) < SAME_GROUP for better in kept) and all(
            overlap(suspicion.candidate, better.candidate) < SAME_GROUP and not _contains(better, suspicion)
            for better in kept
        ):
            kept.append(clearest)
    return sorted(kept, key=_order)


def concept_clarity(parts: dict[str, float]) -> float:
    """Return the mean of evidence and compactness: how clean the line is that the group draws, whatever its size."""
    return combine({name: parts[name] for name in ("evidence", "compactness")})


def _order(suspicion: Suspicion) -> tuple:
    return (-suspicion.score, suspicion.candidate.class_id, suspicion.candidate.layer)


def _contains(larger: Suspicion, smaller: Suspicion) -> bool:
    if larger.candidate.class_id != smaller.candidate.class_id or larger is smaller:
        return False
    members = smaller.candidate.members
    return bool((larger.candidate.members & members).sum() >= CONTAINED * members.sum())


def _containing(suspicion: Suspicion, measured: list[Suspicion]) -> list[Suspicion]:
    size = suspicion.candidate.members.sum()
    return [
        other
        for other in measured
        if _contains(other, suspicion)
        and other.candidate.members.sum() > size
        and other.parts["effect"] >= KEPT_EFFECT * suspicion.parts["effect"]
    ]


def to_finding(suspicion: Suspicion, rank: int, dataset: AuditDataset) -> Finding:
    """Return the record of a measured candidate."""
    candidate = suspicion.candidate
    ids = dataset.table["id"].to_numpy()[candidate.member_rows].astype(str)
    name = dataset.classes[candidate.class_id]
    content = [candidate.detector, candidate.class_id, candidate.layer, candidate.neuron_ids, sorted(ids)]
    return Finding(
        id=f"{candidate.detector}-{_slug(name)}-{digest_json(content)[:8]}",
        rank=rank,
        detector=candidate.detector,
        class_id=candidate.class_id,
        class_name=name,
        layer=candidate.layer,
        score=suspicion.score,
        score_parts={key: float(np.clip(value, 0, 1)) for key, value in suspicion.parts.items()},
        sample_ids=ids.tolist(),
        neuron_ids=list(candidate.neuron_ids),
    )


def _slug(name: str) -> str:
    kept = "".join(character if character.isascii() and character.isalnum() else "_" for character in name)
    return kept[:24] or "class"
