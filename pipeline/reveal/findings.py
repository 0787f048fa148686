"""From measured candidates to a ranked list without repetitions."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from pipeline.data.dataset import AuditDataset
from pipeline.statistics import wilson
from pipeline.workspace.hashing import digest_json
from pipeline.workspace.records import Finding

from .candidates import Candidate, overlap, same_side_overlap
from .earlier import DETECTOR as EARLIER
from .suspicion import Suspicion, with_score

SAME_GROUP = 0.5
CONTAINED = 0.8
SAME_DIRECTION = 0.8
LARGER = 1.25
CORRELATED = 0.5


@dataclass(frozen=True)
class Merged:
    """One observation.

    Attributes:
        suspicion: the candidate that stands for it, the most suspicious.
        others: candidates that are the same group, or its complement, seen by other detectors or in other layers.
    """

    suspicion: Suspicion
    others: tuple[Suspicion, ...]


def merge(measured: list[Suspicion]) -> list[Merged]:
    """Return observations best first, each once.

    Two candidates of a class are the same observation when their samples overlap by half, or those of one overlap the
    rest of the class of the other by half, or one holds four fifths of the other, or their concept vectors of the same
    layer point the same way (cosine of at least .8, either sign). A shortcut that appears in several places splits into
    several islands; see `whole`. What has a name stands for all that is the same, but never for what has another name.
    """
    kept: list[tuple[Suspicion, list[Suspicion]]] = []
    for suspicion in sorted(measured, key=_order):
        best = whole(suspicion, measured)
        rivals = [] if suspicion.candidate.name else kept
        same = next((each for each in rivals if is_same(each[0], suspicion) or is_same(each[0], best)), None)
        if same is None:
            kept.append((best, [] if best is suspicion else [suspicion]))
        elif suspicion.candidate is not same[0].candidate:
            same[1].append(suspicion)
    merged = [Merged(best, tuple(others)) for best, others in kept]
    return sorted(merged, key=lambda each: -each.suspicion.score)


def whole(suspicion: Suspicion, measured: list[Suspicion]) -> Suspicion:
    """Return the clearest much larger group that holds this one and is as clear, with this one's separation; or itself.

    Clear is who is recognised, and alone: AUROC and concentration. Only the group that holds all places of a shortcut
    leaves a clean rest, but it is less of an island than each of its parts. What a person described stays as it is.
    """
    if suspicion.candidate.name:
        return suspicion
    larger = [
        each
        for each in measured
        if _contains(each.candidate, suspicion.candidate)
        and each.candidate.members.sum() >= LARGER * suspicion.candidate.members.sum()
        and clarity(each) >= clarity(suspicion)
    ]
    if not larger:
        return suspicion
    chosen = max(larger, key=clarity)
    separation = max(chosen.parts["separation"], suspicion.parts["separation"])
    return with_score(chosen, separation=separation)


def clarity(suspicion: Suspicion) -> float:
    """Return the product of evidence and concentration."""
    return suspicion.parts["evidence"] * suspicion.parts["concentration"]


def is_same(a: Suspicion, b: Suspicion) -> bool:
    """Return whether two measured candidates are one observation.

    If the first comes from an earlier run, overlapping and holding count only beyond chance: memberships correlate by
    half, or more of the other lies inside than of the class. Where most of a class carries a shortcut that is known,
    any other artifact of the class overlaps it, or its complement, by half.
    """
    if a.candidate.class_id != b.candidate.class_id:
        return False
    if _overlaps(a.candidate, b.candidate) or _contains(a.candidate, b.candidate):
        return True
    same_place = (a.cav.layer, a.cav.pooling) == (b.cav.layer, b.cav.pooling)
    return same_place and abs(float(a.cav.direction @ b.cav.direction)) >= SAME_DIRECTION


def _order(suspicion: Suspicion) -> tuple:
    candidate = suspicion.candidate
    # what a person described stands for whatever else is the same
    return (not candidate.name, -suspicion.score, candidate.class_id, candidate.layer, candidate.detector)


def _overlaps(one: Candidate, other: Candidate) -> bool:
    if overlap(one, other) < SAME_GROUP:
        return False
    return one.detector != EARLIER or abs(np.corrcoef(one.members, other.members)[0, 1]) >= CORRELATED


def _contains(larger: Candidate, smaller: Candidate) -> bool:
    if larger.class_id != smaller.class_id:
        return False
    inside, count = int((larger.members & smaller.members).sum()), int(smaller.members.sum())
    if larger.detector == EARLIER and wilson(inside, count).lower <= larger.members.mean():
        return False
    return inside >= CONTAINED * count


def to_finding(merged: Merged, rank: int, dataset: AuditDataset) -> Finding:
    """Return the record of an observation."""
    suspicion = merged.suspicion
    candidate = suspicion.candidate
    ids = dataset.table["id"].to_numpy()[candidate.member_rows].astype(str)
    name = dataset.classes[candidate.class_id]
    content = [candidate.detector, candidate.class_id, candidate.layer, candidate.neuron_ids, sorted(ids)]
    seen = {
        f"{each.candidate.detector} in {each.candidate.layer}" for each in merged.others if _same_side(each, suspicion)
    }
    return Finding(
        id=candidate.name or f"{candidate.detector}-{_slug(name)}-{digest_json(content)[:8]}",
        rank=rank,
        detector=candidate.detector,
        class_id=candidate.class_id,
        class_name=name,
        layer=candidate.layer,
        score=suspicion.score,
        score_parts={key: float(np.clip(value, 0, 1)) for key, value in suspicion.parts.items()},
        details=suspicion.details,
        sample_ids=ids.tolist(),
        neuron_ids=list(candidate.neuron_ids),
        note=candidate.note,
        also_seen=sorted(seen - {f"{candidate.detector} in {candidate.layer}"}),
    )


def is_finding_id(name: str) -> bool:
    """Return whether a name is one that findings are given, "<detector>-<class>-<hash>", not one of a person's own."""
    return re.fullmatch(r"[a-z]+-\w+-[0-9a-f]{8}", name) is not None


def _same_side(a: Suspicion, b: Suspicion) -> bool:
    return same_side_overlap(a.candidate, b.candidate) >= SAME_GROUP


def _slug(name: str) -> str:
    kept = "".join(character if character.isascii() and character.isalnum() else "_" for character in name)
    return kept[:24] or "class"
