from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.metrics import roc_auc_score

from pipeline.errors import DataError
from pipeline.statistics import Interval, auroc, auroc_gain, delong_paired, macro_auroc
from pipeline.statistics.auroc import midranks, placements

REFERENCE = Path(__file__).parents[2] / "../shared/reference/isnet/eval.npz"

# Few distinct scores, so that ties are common; at least two of each class.
samples = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), min_size=4, max_size=40).filter(
    lambda rows: 2 <= sum(row[2] for row in rows) <= len(rows) - 2
)


def structural_components(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong's definition: compare every positive with every negative."""
    gap = scores[labels][:, None] - scores[~labels][None]
    wins = (gap > 0) + 0.5 * (gap == 0)
    return wins.mean(axis=1), wins.mean(axis=0)


def columns(rows: list[tuple[int, int, bool]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b, labels = zip(*rows, strict=True)
    return np.array(a, dtype=float), np.array(b, dtype=float), np.array(labels)


@settings(deadline=None)
@given(samples)
def test_area_equals_sklearn_and_width_on_the_logit_scale_equals_delongs_definition(rows):
    scores, _, labels = columns(rows)
    found = auroc(scores, labels)
    assert found.value == pytest.approx(roc_auc_score(labels, scores))
    assert found.n == len(rows) and found.lower <= found.value <= found.upper
    parts = [each.var(ddof=1) / len(each) for each in structural_components(scores, labels)]
    if 0 < found.value < 1 and sum(parts) > 1e-12:
        sizes = [labels.sum(), (~labels).sum()]
        freedom = sum(parts) ** 2 / sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
        reach = stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts)) / (found.value * (1 - found.value))
        bounds = [special.expit(special.logit(found.value) + side * reach) for side in (-1, 1)]
        assert found[1:3] == pytest.approx(bounds, abs=1e-9)


@settings(deadline=None)
@given(samples)
def test_reversed_scores_mirror_the_interval(rows):
    scores, _, labels = columns(rows)
    found, mirrored = auroc(scores, labels), auroc(-scores, labels)
    assert mirrored[:3] == pytest.approx((1 - found.value, 1 - found.upper, 1 - found.lower), abs=1e-9)


@settings(deadline=None)
@given(samples)
def test_paired_p_value_equals_the_covariance_form(rows):
    a, b, labels = columns(rows)
    parts = [structural_components(each, labels) for each in (a, b)]
    covariance = sum(np.cov(np.stack(pair)) / len(pair[0]) for pair in zip(*parts, strict=True))
    difference = parts[0][0].mean() - parts[1][0].mean()
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    found = delong_paired(a, b, labels)
    assert found == delong_paired(b, a, labels)
    if variance > 1e-12:
        assert found == pytest.approx(2 * stats.norm.sf(abs(difference) / math.sqrt(variance)), abs=1e-6)
    else:
        assert found == (1.0 if abs(difference) < 1e-12 else 0.0)


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_midranks_equal_scipy(values):
    assert np.array_equal(midranks(np.array(values)), stats.rankdata(values))


def test_the_interval_covers_the_true_area_as_often_as_it_says():
    rng = np.random.default_rng(0)
    labels = np.arange(120) < 50
    truth = stats.norm.cdf(1 / math.sqrt(2))
    intervals = [auroc(rng.normal(size=120) + labels, labels, 0.9) for _ in range(600)]
    coverage = np.mean([each.lower <= truth <= each.upper for each in intervals])
    assert 0.86 < coverage < 0.94


def test_the_paired_test_is_uniform_when_both_scores_are_equally_good():
    rng = np.random.default_rng(0)
    labels = np.arange(120) < 50
    p = []
    for _ in range(400):
        shared = labels + rng.normal(size=120)
        p.append(delong_paired(shared + rng.normal(size=120), shared + rng.normal(size=120), labels))
    assert stats.kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], []])
def test_an_absent_class_gives_nan(labels):
    found = auroc(np.arange(len(labels)), np.array(labels))
    assert found.n == len(labels)
    assert all(math.isnan(figure) for figure in found[:3])
    assert math.isnan(delong_paired(np.arange(len(labels)), np.arange(len(labels)), np.array(labels)))


def test_a_nan_score_gives_nan():
    scores = np.array([0.1, np.nan, 0.3, 0.4])
    assert math.isnan(auroc(scores, np.array([0, 1, 0, 1])).value)
    assert math.isnan(delong_paired(np.arange(4), scores, np.array([0, 1, 0, 1])))


def test_one_positive_leaves_the_bounds_open():
    assert auroc(np.array([3, 1, 2, 4]), np.array([1, 0, 0, 0])) == Interval(pytest.approx(2 / 3), 0.0, 1.0, 4)


def test_perfect_scores_leave_room_for_what_few_samples_cannot_show_and_useless_ones_have_no_width():
    labels = np.array([0, 0, 1, 1])
    assert auroc(np.zeros(4), labels) == Interval(0.5, 0.5, 0.5, 4)
    for negatives, positives in ((2, 2), (30, 10), (1000, 1000)):
        labels = np.repeat([0, 1], [negatives, positives])
        trials = 4 * negatives * positives / (negatives + positives + 2)
        found = auroc(np.arange(len(labels)), labels)
        assert found == Interval(1.0, pytest.approx(trials / (trials + stats.norm.ppf(0.975) ** 2)), 1.0, len(labels))
        assert auroc(-np.arange(len(labels)), labels)[:3] == pytest.approx((0, 0, 1 - found.lower))
    labels = np.array([0, 0, 1, 1])
    assert delong_paired(np.zeros(4), np.ones(4), labels) == 1.0


def test_an_overwhelming_difference_has_a_tiny_p_value_not_zero():
    rng = np.random.default_rng(0)
    labels = np.arange(2000) < 1000
    p = delong_paired(rng.normal(size=2000) + 1.5 * labels, rng.normal(size=2000), labels)
    assert 0 < p < 1e-50


def test_wrong_inputs_are_named():
    with pytest.raises(DataError, match="scores has 3, labels has 2"):
        auroc(np.arange(3), np.array([0, 1]))
    with pytest.raises(DataError, match="labels must be a row of 0 and 1.*2"):
        auroc(np.arange(3), np.array([0, 1, 2]))


@settings(deadline=None)
@given(samples)
def test_the_gain_is_the_difference_with_the_variance_of_the_covariance_form(rows):
    a, b, labels = columns(rows)
    found, back = auroc_gain(a, b, labels), auroc_gain(b, a, labels)
    assert found.value == pytest.approx(roc_auc_score(labels, b) - roc_auc_score(labels, a), abs=1e-12)
    assert back[:3] == pytest.approx((-found.value, -found.upper, -found.lower), abs=1e-12)
    assert -1 <= found.lower <= found.value <= found.upper <= 1 and found.n == len(rows)
    components = [structural_components(each, labels) for each in (a, b)]
    parts = [np.diff(pair, axis=0).var(ddof=1) / len(pair[0]) for pair in zip(*components, strict=True)]
    if sum(parts) > 1e-12:
        sizes = [labels.sum(), (~labels).sum()]
        freedom = sum(parts) ** 2 / sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
        reach = stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts))
        assert found.upper == pytest.approx(min(1, found.value + reach), abs=1e-9)


def test_scores_that_rank_alike_gain_nothing_for_sure():
    scores, labels = np.array([0.1, 0.4, 0.3, 0.9, 0.2]), np.array([0, 1, 0, 1, 1])
    assert auroc_gain(scores, scores**3, labels) == Interval(0.0, 0.0, 0.0, 5)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], [0, 0, 1], []])
def test_the_gain_needs_two_of_each_class(labels):
    found = auroc_gain(np.arange(len(labels)), np.arange(len(labels)), np.array(labels, int))
    assert math.isnan(found.value) and found.n == len(labels)


@settings(deadline=None)
@given(samples)
def test_the_mean_over_one_class_is_its_auroc_and_so_is_that_over_two_that_mirror_each_other(rows):
    scores, _, labels = columns(rows)
    expected = pytest.approx(auroc(scores, labels), abs=1e-9)
    assert macro_auroc(scores[:, None], labels[:, None]) == expected
    assert macro_auroc(np.stack([-scores, scores], 1), labels.astype(int)) == expected


def test_the_mean_over_classes_equals_sklearn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 80)
    scores = rng.dirichlet(np.ones(4), 80) + 0.3 * np.eye(4)[labels]
    scores /= scores.sum(1, keepdims=True)
    found = macro_auroc(scores, labels)
    assert found.value == pytest.approx(roc_auc_score(labels, scores, multi_class="ovr", average="macro"))
    assert found == pytest.approx(macro_auroc(scores, np.eye(4, dtype=int)[labels]))
    flags = rng.random((80, 4)) < 0.3
    assert macro_auroc(scores, flags).value == pytest.approx(roc_auc_score(flags, scores, average="macro"))


def test_classes_that_say_the_same_do_not_narrow_the_interval_and_unrelated_ones_do():
    rng = np.random.default_rng(1)
    flags = rng.random((4000, 4)) < 0.5
    scores = flags + rng.normal(size=(4000, 4))

    def width(interval):
        return interval.upper - interval.lower

    one = auroc(scores[:, 0], flags[:, 0])
    same = macro_auroc(np.repeat(scores[:, :1], 4, axis=1), np.repeat(flags[:, :1], 4, axis=1))
    assert same == pytest.approx(one)
    assert width(macro_auroc(scores, flags)) == pytest.approx(width(one) / 2, rel=0.1)


def test_the_width_of_the_mean_is_that_of_resampled_samples():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 300)
    scores = (np.eye(3)[labels] + rng.normal(size=(300, 3)) + rng.normal(size=(300, 1))) / 3
    drawn = []
    for _ in range(300):
        rows = rng.integers(0, 300, 300)
        drawn.append(np.mean([roc_auc_score(labels[rows] == k, scores[rows, k]) for k in range(3)]))
    found = macro_auroc(scores, labels)
    assert found.upper - found.lower == pytest.approx(2 * 1.97 * np.std(drawn), rel=0.12)


def test_classes_without_positives_or_without_negatives_are_left_out_of_the_mean():
    rng = np.random.default_rng(3)
    labels, scores = np.arange(30) % 2, rng.normal(size=(30, 3))
    assert macro_auroc(scores, labels) == pytest.approx(macro_auroc(scores[:, :2], labels))
    flags = np.stack([labels == 1, np.ones(30), np.zeros(30)], 1)
    assert macro_auroc(scores, flags) == pytest.approx(auroc(scores[:, 0], labels))
    for nothing in (np.ones((30, 3)), np.zeros((30, 3))):
        assert math.isnan(macro_auroc(scores, nothing).value) and macro_auroc(scores, nothing).n == 30


def test_a_mean_with_a_single_positive_in_a_class_leaves_the_bounds_open_and_perfect_classes_do_not():
    labels = np.array([0, 0, 0, 1, 1, 1, 2])
    assert macro_auroc(np.random.default_rng(0).normal(size=(7, 3)), labels)[1:3] == (0, 1)
    labels = np.repeat([0, 1, 2], 5)
    found = macro_auroc(np.eye(3)[labels], labels)
    trials = 4 * 5 * 10 / 17
    assert found[:3] == (1, pytest.approx(trials / (trials + stats.norm.ppf(0.975) ** 2)), 1)


def test_wrong_tables_are_named():
    scores = np.zeros((3, 2))
    with pytest.raises(DataError, match=r"scores must have a column for every class.*\(3,\)"):
        macro_auroc(np.zeros(3), np.zeros(3, int))
    with pytest.raises(DataError, match=r"class ids in 0\.\.1.*not .*2"):
        macro_auroc(scores, np.array([0, 1, 2]))
    with pytest.raises(DataError, match=r"labels must have .*\[N, 2\], not \(3, 4\)"):
        macro_auroc(scores, np.zeros((3, 4)))
    with pytest.raises(DataError, match="labels must be 0 and 1.*5"):
        macro_auroc(scores, np.full((3, 2), 5))
    with pytest.raises(DataError, match="scores has 3, labels has 2"):
        macro_auroc(scores, np.zeros(2, int))
    scores[1, 0] = np.nan
    assert math.isnan(macro_auroc(scores, np.array([0, 1, 1])).value)


@pytest.mark.real_data
def test_the_published_implementation_agrees():
    if not REFERENCE.exists():
        pytest.skip(f"needs the reference numbers at {REFERENCE}")
    reference = np.load(REFERENCE)
    labels = reference["y"].astype(bool)
    for name in "12":
        found = auroc(reference["p" + name], labels)
        assert found.value == pytest.approx(float(reference["auc" + name]), abs=1e-12)
        parts = [each.var(ddof=1) / len(each) for each in placements(reference["p" + name], labels)]
        assert sum(parts) == pytest.approx(float(reference["var" + name]), rel=1e-9)
    p = delong_paired(reference["p1"], reference["p2"], reference["y"])
    assert math.log10(p) == pytest.approx(reference["log10p"].item(), rel=1e-9)
