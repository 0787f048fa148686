from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluate.detection import best_finding, intersection_over_union, score_finding, score_masks
from pipeline.workspace.records import Finding

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


def test_intersection_over_union_closed_form():
    left, right = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    left[:, :3], right[:, 1:] = True, True
    assert intersection_over_union(left, right) == pytest.approx(4 / 8)
    assert intersection_over_union(left, ~left) == 0
    assert intersection_over_union(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 0


def test_samples_without_a_known_mask_do_not_count():
    whole, nothing = np.ones((2, 2), bool), np.zeros((2, 2), bool)
    truth = {"a": whole, "b": None, "c": nothing}
    (row,) = score_masks(["a", "b", "c"], lambda _: whole, truth.get, "bias", resamples=100, confidence=0.95, seed=0)
    assert (row.value, row.n) == (1.0, 1)
    assert score_masks(["b"], lambda _: whole, truth.get, "bias", resamples=100, confidence=0.95, seed=0) == []
