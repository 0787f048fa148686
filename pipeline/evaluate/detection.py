"""What reveal and localize found, scored against a truth that they were not told."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.statistics import Interval, auroc, bootstrap, wilson
from pipeline.workspace.records import Finding, Metric

from .performance import record

PIPELINE = "pipeline"


def score_finding(
    finding: Finding, ids: np.ndarray, truth: np.ndarray, usable: np.ndarray, subgroup: str, confidence: float
) -> list[Metric]:
    """Return precision and recall of a finding's samples among the samples that reveal could see.

    Args:
        ids: `[N]`.
        truth: who carries the artifact `[N]`.
        usable: who was visible to reveal `[N]`.
        subgroup: name of the row: a bias id or an artifact.
    """
    member = np.isin(ids, finding.sample_ids)
    hits = int((member & truth).sum())
    return [
        record(PIPELINE, "asis", subgroup, "finding_precision", wilson(hits, int(member.sum()), confidence)),
        record(PIPELINE, "asis", subgroup, "finding_recall", wilson(hits, int((truth & usable).sum()), confidence)),
    ]


def score_retrieval(scores: np.ndarray, truth: np.ndarray, subgroup: str, metric: str, confidence: float) -> Metric:
    """Return the AUROC of CAV scores on held-out samples against the truth."""
    return record(PIPELINE, "asis", subgroup, metric, auroc(scores, truth, confidence))


def score_masks(
    ids: list[str],
    predicted: Callable[[str], np.ndarray],
    truth: Callable[[str], np.ndarray | None],
    subgroup: str,
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> list[Metric]:
    """Return the mean intersection over union of masks with the truth, over samples where the truth is known."""
    overlaps = []
    for sample_id in ids:
        expected = truth(sample_id)
        if expected is not None and expected.any():
            overlaps.append(intersection_over_union(predicted(sample_id), expected))
    if not overlaps:
        return []
    interval = bootstrap(np.array(overlaps), resamples=resamples, confidence=confidence, seed=seed)
    return [record(PIPELINE, "asis", subgroup, "mask_iou", interval)]


def intersection_over_union(mask: np.ndarray, expected: np.ndarray) -> float:
    """Return |A and B| / |A or B| of two boolean masks; 0 where both are empty."""
    union = (mask | expected).sum()
    return float((mask & expected).sum() / union) if union else 0.0


def best_finding(findings: list[Finding], ids: np.ndarray, truth: np.ndarray, usable: np.ndarray) -> Finding | None:
    """Return the finding with the best F1 for an artifact, or None where no finding contains it."""

    def f1(finding: Finding) -> float:
        member = np.isin(ids, finding.sample_ids)
        return 2 * (member & truth).sum() / max(member.sum() + (truth & usable).sum(), 1)

    return max(findings, key=f1) if findings and max(map(f1, findings)) > 0 else None


def exactly(value: float, n: int) -> Interval:
    """Return a number that has no uncertainty, such as a rank."""
    return Interval(float(value), float(value), float(value), n)
