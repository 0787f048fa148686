from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import average_precision_score, roc_auc_score

from pipeline.concepts.cav import Cav
from pipeline.evaluate.detection import (
    best_finding,
    score_finding,
    score_masks,
    score_pairs,
    score_ranking,
    score_retrieval,
)
from pipeline.workspace.records import Finding, Metric

IDS = np.array(list("abcdef"))
TRUTH = np.array([True, True, True, False, False, True])
USABLE = np.array([True] * 5 + [False])


def finding(rank: int, members: str) -> Finding:
    return Finding(
        id=f"f{rank}",
        rank=rank,
        detector="spray",
        class_id=0,
        class_name="x",
        layer="input",
        score=0.5,
        score_parts={},
        sample_ids=list(members),
    )


def test_recall_counts_only_what_reveal_could_see():
    precision, recall = score_finding(finding(1, "abd"), IDS, TRUTH, USABLE, "b", 0.95)
    assert (precision.metric, recall.metric) == ("finding_precision", "finding_recall")
    assert precision.value == pytest.approx(2 / 3) and recall.value == pytest.approx(2 / 3)
    assert recall.n == 3


def test_the_best_finding_has_the_best_f1_and_none_is_none():
    assert best_finding([finding(1, "de"), finding(2, "abcd"), finding(3, "a")], IDS, TRUTH, USABLE).rank == 2
    assert best_finding([finding(1, "de")], IDS, TRUTH, USABLE) is None
    assert best_finding([], IDS, TRUTH, USABLE) is None


OPTIONS = {"resamples": 100, "confidence": 0.95, "seed": 0}
MASK_METRICS = {
    "mask_iou",
    "mask_dice",
    "mask_auprc",
    "mask_pointing",
    "mask_relevance_share",
    "mask_relevance_ratio",
}


def by_name(metrics: list[Metric]) -> dict[str, Metric]:
    assert {(each.model, each.world, each.subgroup) for each in metrics} <= {("pipeline", "asis", "bias")}
    return {each.metric: each for each in metrics}


def test_ranking_reports_the_area_the_average_precision_and_tau():
    scores = np.array([0.9, 0.8, 0.2, 0.7, 0.1, 0.6])
    found = by_name(score_ranking(scores, TRUTH, "bias", **OPTIONS))
    assert list(found) == ["retrieval_auroc", "retrieval_average_precision", "retrieval_kendall_tau"]
    expected = roc_auc_score(TRUTH, scores), average_precision_score(TRUTH, scores), kendalltau(scores, TRUTH).statistic
    assert [each.value for each in found.values()] == pytest.approx(expected)
    assert all(each.n == 6 and each.lower <= each.value <= each.upper for each in found.values())
    assert found["retrieval_auroc"] == score_retrieval(scores, TRUTH, "bias", "retrieval_auroc", 0.95)


def square(left: int) -> np.ndarray:
    mask = np.zeros((4, 8), bool)
    mask[:, left : left + 4] = True
    return mask


def test_masks_and_soft_masks_are_compared_with_the_truth():
    truth = {"a": square(0), "b": square(0)}
    masks = {"a": square(0), "b": square(2)}
    soft = {"a": np.where(square(0), 1, 0.5), "b": np.where(square(4), 1.0, 0.0)}
    found = by_name(score_masks(["a", "b"], masks.get, soft.get, truth.get, "bias", **OPTIONS))
    assert set(found) == MASK_METRICS
    expected = {
        "mask_iou": (1 + 8 / 24) / 2,
        "mask_dice": (1 + 16 / 32) / 2,
        "mask_auprc": (1 + 1 / 2) / 2,
        "mask_pointing": 1 / 2,
        "mask_relevance_share": (2 / 3 + 0) / 2,
        "mask_relevance_ratio": (4 / 3 + 0) / 2,
    }
    for name, value in expected.items():
        assert (found[name].value, found[name].n) == (pytest.approx(value), 2)
        assert found[name].lower < found[name].value < found[name].upper


def test_samples_without_a_known_mask_do_not_count():
    truth = {"a": square(0), "b": None, "c": np.zeros((4, 8), bool)}
    options = (lambda _: square(0), lambda _: square(0) * 1.0, truth.get, "bias")
    found = by_name(score_masks(["a", "b", "c"], *options, **OPTIONS))
    assert set(found) == MASK_METRICS
    assert all(each.n == 1 for each in found.values()) and found["mask_iou"].value == 1
    assert score_masks(["b"], *options, **OPTIONS) == []


def test_a_soft_mask_that_says_nothing_counts_for_the_mask_alone():
    truth = {"a": square(0), "b": square(0)}
    soft = {"a": np.zeros((4, 8)), "b": square(0) * 1.0}
    found = by_name(score_masks(["a", "b"], truth.get, soft.get, truth.get, "bias", **OPTIONS))
    assert {name: each.n for name, each in found.items()} == {
        name: 2 if name in ("mask_iou", "mask_dice") else 1 for name in MASK_METRICS
    }
    assert found["mask_auprc"].value == 1
    alone = by_name(score_masks(["a"], truth.get, soft.get, truth.get, "bias", **OPTIONS))
    assert set(alone) == {"mask_iou", "mask_dice"}


def test_a_cav_along_the_change_is_aligned_and_tells_the_pairs_apart():
    generator = np.random.default_rng(0)
    clean = generator.standard_normal((60, 32))
    change = np.eye(32)[3] * generator.uniform(4, 6, (60, 1))
    cav = Cav(np.eye(32)[3], -2.5, "pattern", np.zeros(32))
    found = {each.metric: each for each in score_pairs(cav, clean, clean + change, "bias", 0.95, 0)}
    assert found["cav_alignment"].value == pytest.approx(1)
    assert found["cav_alignment_p"].value < 0.01
    assert found["retrieval_auroc_paired"].value > 0.99
    across = Cav(np.eye(32)[5], 0.0, "pattern", np.zeros(32))
    other = {each.metric: each for each in score_pairs(across, clean, clean + change, "bias", 0.95, 0)}
    assert other["cav_alignment"].value == pytest.approx(0) and other["cav_alignment_p"].value == 1
    assert other["retrieval_auroc_paired"].value == pytest.approx(0.5)


def test_pairs_without_any_change_have_no_alignment():
    same = np.random.default_rng(1).standard_normal((9, 4))
    found = score_pairs(Cav(np.eye(4)[0], 0.0, "pattern", np.zeros(4)), same, same, "bias", 0.95, 0)
    assert [each.metric for each in found] == ["retrieval_auroc_paired"]
