"""What reveal and localize found, scored against a truth that they were not told."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from pipeline.concepts.alignment import alignment, random_alignment
from pipeline.concepts.cav import Cav
from pipeline.concepts.mask_metrics import (
    dice,
    intersection_over_union,
    mask_auprc,
    pointing_hit,
    relevance_ratio,
    relevance_share,
)
from pipeline.statistics import auroc, bootstrap, wilson
from pipeline.statistics.ranking import average_precision, kendall_tau
from pipeline.workspace.records import Finding, Metric

from .rows import exactly, record

PIPELINE = "pipeline"
OF_MASKS = {"mask_iou": intersection_over_union, "mask_dice": dice}
OF_SOFT_MASKS = {
    "mask_auprc": mask_auprc,
    "mask_pointing": pointing_hit,
    "mask_relevance_share": relevance_share,
    "mask_relevance_ratio": relevance_ratio,
}


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


def score_ranking(
    scores: np.ndarray, truth: np.ndarray, subgroup: str, *, resamples: int, confidence: float, seed: int
) -> list[Metric]:
    """Return how CAV scores rank held-out samples against the truth: AUROC, average precision and Kendall's tau."""
    precision = average_precision(scores, truth, resamples=resamples, confidence=confidence, seed=seed)
    tau, _ = kendall_tau(scores, truth, confidence)
    return [
        score_retrieval(scores, truth, subgroup, "retrieval_auroc", confidence),
        record(PIPELINE, "asis", subgroup, "retrieval_average_precision", precision),
        record(PIPELINE, "asis", subgroup, "retrieval_kendall_tau", tau),
    ]


def score_pairs(
    cav: Cav, clean: np.ndarray, attacked: np.ndarray, subgroup: str, confidence: float, seed: int
) -> list[Metric]:
    """Return how a CAV tells samples from their copies with the artifact, and whether it points along the change.

    Beside the mean cosine with the change stands the share of random directions that align as well (p value).

    Args:
        cav: fitted on other samples.
        clean: features `[N, D]` of its layer without the artifact.
        attacked: of the same samples with it.
        subgroup: id of the bias.
        confidence: of the intervals.
        seed: of the bootstrap and the random directions.
    """
    flags = np.repeat([False, True], len(clean))
    scores = cav.scores(np.concatenate([clean, attacked]).astype(np.float64))
    metrics = [score_retrieval(scores, flags, subgroup, "retrieval_auroc_paired", confidence)]
    differences = np.asarray(attacked, dtype=np.float64) - clean
    if (differences != 0).any():
        chance = random_alignment(cav.direction, differences, seed=seed).p_value
        along = alignment(cav.direction, differences, seed=seed).cosine
        metrics.append(record(PIPELINE, "asis", subgroup, "cav_alignment", along))
        metrics.append(record(PIPELINE, "asis", subgroup, "cav_alignment_p", exactly(chance, len(clean))))
    return metrics


def score_masks(
    ids: list[str],
    predicted: Callable[[str], np.ndarray],
    soft: Callable[[str], np.ndarray],
    truth: Callable[[str], np.ndarray | None],
    subgroup: str,
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> list[Metric]:
    """Return means of how masks and soft masks agree with the truth, over samples where the truth is known.

    `mask_iou` and `mask_dice` are of the masks; `mask_auprc`, `mask_pointing`, `mask_relevance_share` and
    `mask_relevance_ratio` of the soft masks. Samples that leave a figure undefined do not count for it.

    Args:
        ids: samples.
        predicted: id -> mask, booleans `[H, W]`.
        soft: id -> heatmap `[H, W]` in [0, 1].
        truth: id -> true mask, booleans `[H, W]`, or None.
        subgroup: name of the rows.
    """
    found: dict[str, list[float]] = {name: [] for name in (*OF_MASKS, *OF_SOFT_MASKS)}
    for sample_id in ids:
        expected = truth(sample_id)
        if expected is None:
            continue
        for measures, values in ((OF_MASKS, predicted(sample_id)), (OF_SOFT_MASKS, soft(sample_id))):
            for name, measure in measures.items():
                found[name].append(measure(values, expected))
    metrics = []
    for name, values in found.items():
        measured = np.array([value for value in values if not math.isnan(value)])
        if len(measured):
            interval = bootstrap(measured, resamples=resamples, confidence=confidence, seed=seed)
            metrics.append(record(PIPELINE, "asis", subgroup, name, interval))
    return metrics


def best_finding(findings: list[Finding], ids: np.ndarray, truth: np.ndarray, usable: np.ndarray) -> Finding | None:
    """Return the finding with the best F1 for an artifact, or None where no finding contains it."""

    def f1(finding: Finding) -> float:
        member = np.isin(ids, finding.sample_ids)
        return 2 * (member & truth).sum() / max(member.sum() + (truth & usable).sum(), 1)

    return max(findings, key=f1) if findings and max(map(f1, findings)) > 0 else None
