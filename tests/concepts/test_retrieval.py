from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from pipeline.concepts import retrieval
from pipeline.concepts.retrieval import Calibration, calibrate, enough_found, few_shot_scores, positives_left, rank
from pipeline.errors import DataError
from pipeline.statistics.intervals import Interval


def planted(count: int = 1500, share: float = 0.06, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Return two layers of correlated features, in which a concept moves a few channels, and who shows it."""
    generator = np.random.default_rng(seed)
    shows = generator.random(count) < share
    layers = []
    for channels in (30, 50):
        common = generator.normal(size=(count, 4)) @ generator.normal(size=(4, channels)) * 1.5
        layer = common + generator.normal(size=(count, channels))
        layer[:, :6] += 2 * shows[:, None]
        layers.append(layer)
    return layers, shows


# Scores


def by_definition(layers, positives, negatives, pool, shrinkage, ridge) -> np.ndarray:
    """Return the scores by dense matrices, and those of labelled samples by fitting without each."""
    parts = []
    for layer in layers:
        parts.append((layer - layer[pool].mean(0)) / layer[pool].std(0) / math.sqrt(layer.shape[1]))
    z = np.concatenate(parts, axis=1)
    covariance = z[pool].T @ z[pool] / len(pool)
    floor = shrinkage * np.linalg.eigvalsh(covariance)[-1]
    products = z @ np.linalg.inv(covariance + floor * np.eye(len(covariance))) @ z.T
    cosines = products / np.sqrt(np.outer(np.diag(products), np.diag(products)))

    def fit(rows, targets):
        return cosines[:, rows] @ np.linalg.solve(cosines[np.ix_(rows, rows)] + ridge * np.eye(len(rows)), targets)

    rows = np.concatenate([positives, negatives])
    targets = np.repeat([1.0, 0.0], [len(positives), len(negatives)])
    scores = fit(rows, targets)
    for position, row in enumerate(rows):
        scores[row] = fit(np.delete(rows, position), np.delete(targets, position))[row]
    return scores


@pytest.mark.parametrize("negatives", [[], [3, 20, 41]])
@pytest.mark.parametrize("pool", [None, np.arange(10, 60)])
def test_scores_are_those_of_the_definition_also_for_labelled_samples(negatives, pool):
    generator = np.random.default_rng(1)
    layers = [generator.normal(size=(70, 5)) * 9 + 100, generator.normal(size=(70, 7))]
    positives, negatives = np.array([0, 12, 33, 64]), np.array(negatives, dtype=int)
    found = few_shot_scores(layers, positives, negatives, pool=pool, shrinkage=0.2, ridge=0.5, components=12)
    expected = by_definition(layers, positives, negatives, np.arange(70) if pool is None else pool, 0.2, 0.5)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_ten_positives_find_the_others_in_all_layers_together():
    layers, shows = planted()
    seeds = np.flatnonzero(shows)[:10]
    others = np.setdiff1d(np.arange(len(shows)), seeds)

    def quality(features):
        return roc_auc_score(shows[others], few_shot_scores(features, seeds, np.array([], int))[others])

    assert quality(layers) > 0.97
    assert quality(layers) > max(quality([layer]) for layer in layers)
    means = [(layer[seeds].mean(0) - layer.mean(0)) @ layer.T for layer in layers]
    assert quality(layers) > roc_auc_score(shows[others], sum(means)[others]) + 0.1


def test_labelled_negatives_lower_samples_like_them():
    layers, shows = planted()
    generator = np.random.default_rng(3)
    look_alike = ~shows & (generator.random(len(shows)) < 0.06)
    layers[0][look_alike, :12] += 2
    seeds, refused = np.flatnonzero(shows)[:10], np.flatnonzero(look_alike)[:10]
    judged = np.setdiff1d(np.flatnonzero(shows | look_alike), np.concatenate([seeds, refused]))
    without = few_shot_scores(layers, seeds, np.array([], int))[judged]
    informed = few_shot_scores(layers, seeds, refused)[judged]
    assert roc_auc_score(shows[judged], informed) > roc_auc_score(shows[judged], without)


def test_units_of_a_channel_and_constant_channels_do_not_count():
    layers, shows = planted(400)
    seeds, refused = np.flatnonzero(shows)[:5], np.flatnonzero(~shows)[:5]
    scaled = [layers[0] * np.geomspace(0.01, 100, 30) - 7, layers[1]]
    expected = few_shot_scores(layers, seeds, refused)
    np.testing.assert_allclose(few_shot_scores(scaled, seeds, refused), expected, atol=1e-4)
    padded = [layers[0], np.full((400, 50), 0.1)]
    alone = few_shot_scores(layers[:1], seeds, refused)
    np.testing.assert_allclose(few_shot_scores(padded, seeds, refused), alone, atol=1e-4)


def test_samples_outside_the_pool_are_scored_and_change_nothing():
    layers, shows = planted(400)
    seeds, pool = np.flatnonzero(shows[:300])[:5], np.arange(300)
    expected = few_shot_scores(layers, seeds, np.array([], int), pool=pool)
    moved = [layer.copy() for layer in layers]
    for layer in moved:
        layer[350:] *= -5
    found = few_shot_scores(moved, seeds, np.array([], int), pool=pool)
    np.testing.assert_allclose(found[:350], expected[:350], atol=1e-6)
    assert not np.allclose(found[350:], expected[350:], atol=0.01)


def test_scores_are_the_same_under_a_seed_and_for_every_order_of_labels():
    layers, shows = planted(300)
    seeds, refused = np.flatnonzero(shows)[:6], np.flatnonzero(~shows)[:6]
    first = few_shot_scores(layers, seeds, refused, seed=4)
    np.testing.assert_array_equal(first, few_shot_scores(layers, seeds[::-1], np.append(refused, refused[0]), seed=4))


def test_one_positive_is_enough_and_its_own_score_is_that_of_no_fit():
    layers, shows = planted(300)
    seed = np.flatnonzero(shows)[:1]
    scores = few_shot_scores(layers, seed, np.array([], int))
    assert abs(scores[seed[0]]) < 1e-6
    assert scores[shows].mean() > scores[~shows].mean()


def test_of_very_many_labels_a_part_with_both_labels_is_fitted(monkeypatch):
    layers, shows = planted(600)
    monkeypatch.setattr(retrieval, "MOST_FITTED", 40)
    scores = few_shot_scores(layers, np.flatnonzero(shows), np.flatnonzero(~shows))
    assert roc_auc_score(shows, scores) > 0.95
    rows, targets = retrieval._fitted_part(np.arange(12), np.arange(12, 600), np.random.default_rng(0))
    assert (len(set(rows.tolist())), targets.sum()) == (40, 12)
    assert (targets == (rows < 12)).all()


def test_memory_does_not_grow_with_pairs_of_samples():
    layer = np.random.default_rng(0).normal(size=(20_000, 8)).astype(np.float32)
    tracemalloc.start()
    few_shot_scores([layer], np.arange(5), np.arange(5, 10))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e7


@pytest.mark.parametrize(
    ("positives", "negatives", "broken", "expected"),
    [
        ([], [1], False, "no sample is labelled positive"),
        ([1, 2], [2, 3], False, "rows 2 are labelled positive and negative"),
        ([1], [], True, "features are not finite"),
    ],
)
def test_labels_and_features_that_cannot_be_used_are_refused(positives, negatives, broken, expected):
    layer = np.random.default_rng(0).normal(size=(9, 3))
    layer[4, 1] = math.nan if broken else 0.0
    with pytest.raises(DataError, match=expected):
        few_shot_scores([layer], np.array(positives, int), np.array(negatives, int))


# What to look at next


@given(st.integers(0, 60), st.integers(1, 40), st.sampled_from([None, 0.3, math.nan]), st.booleans(), st.integers(0, 9))
def test_suggestions_are_new_each_once_and_as_many_as_asked_for(labelled_count, count, boundary, embedded, seed):
    generator = np.random.default_rng(seed)
    scores, rows = generator.random(80), generator.permutation(80)[:60]
    labelled = generator.permutation(rows)[:labelled_count]
    embedding = generator.normal(size=(80, 3)) if embedded else None
    found = rank(scores, rows, labelled, count=count, boundary=boundary, embedding=embedding)
    chosen = [each.row for each in found]
    assert len(chosen) == len(set(chosen)) == min(count, 60 - labelled_count)
    assert set(chosen) <= set(rows) - set(labelled)
    assert all(each.score == scores[each.row] for each in found)


def test_most_suggestions_are_the_highest_and_some_lie_at_the_boundary():
    scores = np.random.default_rng(0).permutation(np.linspace(0, 1, 501))
    labelled = np.flatnonzero(scores > 0.9)
    found = rank(scores, np.arange(501), labelled, count=20, boundary=0.4)
    by_reason = {
        reason: [each.score for each in found if each.reason == reason] for reason in ("top", "boundary", "diverse")
    }
    assert {reason: len(each) for reason, each in by_reason.items()} == {"top": 12, "boundary": 4, "diverse": 4}
    np.testing.assert_allclose(by_reason["top"], sorted(scores[scores <= 0.9])[:-13:-1])
    assert max(abs(score - 0.4) for score in by_reason["boundary"]) < 0.005
    assert 0.7 < min(by_reason["diverse"]) < max(by_reason["diverse"]) < min(by_reason["top"])


def test_diverse_suggestions_are_unlike_the_highest():
    scores = np.linspace(1, 0, 100)
    embedding = np.zeros((100, 2))
    embedding[15], embedding[25], embedding[90] = (5, 0), (0, 5), (50, 50)
    found = rank(scores, np.arange(100), np.array([], int), count=10, embedding=embedding)
    assert {15, 25} <= {each.row for each in found if each.reason == "diverse"}
    assert 90 not in {each.row for each in found}


def test_samples_that_are_all_alike_are_still_suggested_once_each():
    found = rank(np.linspace(1, 0, 30), np.arange(30), np.array([], int), count=10, embedding=np.zeros((30, 2)))
    assert len({each.row for each in found}) == 10


def test_a_score_that_is_nan_is_never_suggested():
    scores = np.array([0.1, math.nan, 0.3])
    assert [each.row for each in rank(scores, np.arange(3), np.array([], int))] == [2, 0]


# How many are left


def test_calibration_is_a_logistic_regression_with_a_weak_prior():
    generator = np.random.default_rng(0)
    scores = generator.normal(3, 2, 80)
    labels = generator.random(80) < 1 / (1 + np.exp(-(scores - 3)))
    fitted = calibrate(scores, labels)
    standardized = (scores - scores.mean()) / scores.std()
    design = np.stack([np.ones(80), standardized], axis=1)
    oracle = LogisticRegression(fit_intercept=False, C=1 / retrieval.PRIOR_PRECISION, tol=1e-10).fit(design, labels)
    np.testing.assert_allclose(fitted.coefficients, oracle.coef_[0], atol=1e-4)
    np.testing.assert_allclose(fitted.probabilities(scores), oracle.predict_proba(design)[:, 1], atol=1e-4)
    assert fitted.probabilities(np.array([fitted.boundary]))[0] == pytest.approx(0.5)


def test_labels_that_scores_separate_still_have_a_curve():
    fitted = calibrate(np.arange(20.0), np.arange(20) > 12)
    assert np.isfinite(fitted.coefficients).all()
    assert 12 < fitted.boundary < 13


@pytest.mark.parametrize("labels", [[True, True], [False, False]])
def test_without_both_labels_nothing_is_known_and_searching_goes_on(labels):
    assert calibrate(np.array([0.0, 1.0]), np.array(labels)) is None
    left = positives_left(None, np.zeros(5))
    assert math.isnan(left.value)
    assert not enough_found(left, found=1000)


def test_a_curve_that_falls_has_no_boundary():
    assert math.isnan(calibrate(np.arange(20.0), np.arange(20) < 8).boundary)


def test_the_interval_holds_the_number_of_positives_left():
    held = []
    for seed in range(25):
        generator = np.random.default_rng(seed)
        scores = generator.normal(size=1500)
        labels = generator.random(1500) < 1 / (1 + np.exp(-(4 * scores - 7)))
        order = np.argsort(-scores)
        # looked at: the highest and some farther down, chosen by score alone
        seen = np.concatenate([order[:60], order[60:400:8]])
        unseen = np.setdiff1d(order, seen)
        left = positives_left(calibrate(scores[seen], labels[seen]), scores[unseen])
        assert left.lower <= left.value <= left.upper
        held.append(left.lower <= labels[unseen].sum() <= left.upper)
    assert 0.8 <= np.mean(held)


def test_a_curve_that_is_known_leaves_the_chance_of_each_sample():
    known = Calibration(np.zeros(2), np.zeros((2, 2)), center=0.0, spread=1.0)
    left = positives_left(known, np.zeros(400))
    assert left.value == 200
    # 400 throws of a coin have the standard deviation 10
    assert (left.lower, left.upper) == (pytest.approx(180.4, abs=4), pytest.approx(219.6, abs=4))


def test_the_estimate_is_the_sum_of_probabilities():
    curve = calibrate(np.arange(20.0), np.arange(20) > 12)
    scores = np.linspace(-5, 25, 9000)
    assert positives_left(curve, scores).value == pytest.approx(curve.probabilities(scores).sum())
    assert positives_left(curve, scores[:0]) == Interval(0.0, 0.0, 0.0, 0)
    assert positives_left(curve, scores, seed=1) == positives_left(curve, scores, seed=1)


@pytest.mark.parametrize(
    ("left", "found", "enough"), [(0.9, 3, True), (1.0, 3, False), (4.9, 100, True), (5.0, 100, False), (0.0, 0, True)]
)
def test_searching_stops_below_one_or_five_percent_of_those_found(left, found, enough):
    assert enough_found(Interval(left, 0, 9, 10), found) is enough
