from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import LocalOutlierFactor
from tiny import make_dataset, write_store

from pipeline.config.reveal import OutliersConfig
from pipeline.reveal import outliers as module
from pipeline.reveal.outliers import Outliers, OutlierScores, find_outliers, neighbor_scores, null_sampler
from pipeline.reveal.spaces import normalize_rows
from pipeline.reveal.view import DataView


def cloud(count: int, seed: int, directions: int = 24) -> np.ndarray:
    """Correlated Gaussian samples without outliers."""
    generator = np.random.default_rng(seed)
    mixed = generator.standard_normal((count, 5)) @ generator.standard_normal((5, directions))
    return mixed + 0.3 * generator.standard_normal((count, directions))


def with_strangers(rows: np.ndarray, count: int, alike: bool = False) -> np.ndarray:
    """Move the first samples far away, each in a direction of its own, or all in one."""
    generator = np.random.default_rng(9)
    way = generator.standard_normal((1 if alike else count, rows.shape[1]))
    rows = rows.copy()
    rows[:count] += 25 * way / np.linalg.norm(way, axis=1, keepdims=True)
    return rows


def test_the_score_is_the_mean_distance_to_the_nearest_others_never_to_itself():
    rows = np.array([[0.0], [1.0], [3.0], [10.0]])
    np.testing.assert_allclose(neighbor_scores(rows, 1), [1, 1, 2, 7])
    np.testing.assert_allclose(neighbor_scores(rows, 2), [2, 1.5, 2.5, 8])
    np.testing.assert_allclose(neighbor_scores(rows, 50), neighbor_scores(rows, 3))


def test_the_local_outlier_factor_is_that_of_scikit_learn_and_about_1_inside():
    rows = with_strangers(cloud(100, 0), 1)
    found = neighbor_scores(rows, 8, "lof")
    np.testing.assert_allclose(found, -LocalOutlierFactor(8).fit(rows).negative_outlier_factor_)
    assert found.argmax() == 0 and found[0] > 2 and np.median(found) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("score", ["knn", "lof"])
@pytest.mark.parametrize("level", [0.02, 0.1])
def test_without_outliers_about_the_configured_share_is_flagged(score, level):
    shares = [
        find_outliers(cloud(250, seed), score=score, level=level, permutations=4, seed=seed).members.mean()
        for seed in range(8)
    ]
    assert level / 2 < np.mean(shares) < 1.6 * level


@pytest.mark.parametrize("score", ["knn", "lof"])
def test_few_are_flagged_among_fewer_samples_than_directions_and_among_clusters(score):
    generator = np.random.default_rng(0)
    noise = [generator.standard_normal((80, 300)) for _ in range(4)]
    clusters = [cloud(240, seed) + 12 * np.eye(24)[np.arange(240) % 4] for seed in range(4)]
    for rows in (noise, clusters):
        shares = [find_outliers(each, score=score, level=0.05, permutations=4).members.mean() for each in rows]
        assert np.mean(shares) < 0.11


def test_null_scores_have_the_median_of_the_samples_own():
    found = find_outliers(cloud(240, 0) + 12 * np.eye(24)[np.arange(240) % 4], permutations=4)
    assert np.median(found.null) == pytest.approx(np.median(found.scores))


@pytest.mark.parametrize("score", ["knn", "lof"])
def test_planted_strangers_are_found_and_few_others(score):
    found = find_outliers(with_strangers(cloud(600, 1), 6), score=score, level=0.01, permutations=5)
    assert found.members[:6].all() and found.members[6:].mean() < 0.02
    assert found.p_values[:6].max() < 0.005


def test_a_group_of_alike_samples_larger_than_the_neighborhood_is_mostly_not_found():
    found = find_outliers(with_strangers(cloud(600, 1), 40, alike=True), neighbors=8, permutations=5)
    assert found.members[:40].mean() < 0.25


def test_p_values_count_the_null_scores_at_least_as_large():
    found = OutlierScores(np.array([5.0, 1.0, 2.0]), 3.0, np.array([4.0, 1.0, 2.0, 3.0]))
    np.testing.assert_allclose(found.p_values, [1 / 5, 1, 4 / 5])
    assert found.members.tolist() == [True, False, False]


def test_p_values_without_outliers_are_uniform_on_average():
    p_values = np.concatenate([find_outliers(cloud(250, seed), permutations=4).p_values for seed in range(4)])
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.06)


def test_null_samples_keep_mean_covariance_and_directions_but_not_clusters():
    generator = np.random.default_rng(0)
    # Two clusters at opposite corners: the two leading directions are tied by which corner a sample is in.
    signs = generator.choice([-1.0, 1.0], (800, 1))
    rows = np.hstack([5 * signs, 4 * np.abs(signs) * generator.choice([-1, 1], (800, 1)), np.zeros((800, 2))])
    rows[:, 1] = np.where(signs[:, 0] > 0, 3 * generator.standard_normal(800), 0)
    rows += 0.1 * generator.standard_normal(rows.shape)
    drawn = null_sampler(rows)(np.random.default_rng(1))
    np.testing.assert_allclose(drawn.mean(0), rows.mean(0), atol=1e-6)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(rows.T), atol=0.8)
    inner = np.abs(rows[:, 0] + 5) < 1
    drawn_inner = np.abs(drawn[:, 0] + 5) < 1
    assert rows[inner, 1].std() < 0.3 and drawn[drawn_inner, 1].std() > 1


def test_what_the_leading_directions_leave_of_a_sample_stays_together(monkeypatch):
    monkeypatch.setattr(module, "LEADING", 1)
    generator = np.random.default_rng(0)
    rows = np.hstack([50 * generator.standard_normal((90, 1)), 3 * np.eye(3)[np.arange(90) % 3]])
    drawn = null_sampler(rows)(np.random.default_rng(0))
    assert ((drawn[:, 1:] > 2).sum(1) == 1).all()
    assert (drawn[:, 1:].argmax(1) != rows[:, 1:].argmax(1)).mean() > 0.4
    assert np.abs(np.corrcoef(drawn[:, 0], rows[:, 0])[0, 1]) < 0.5


def test_many_samples_are_compared_in_parts_with_null_samples_of_the_same_size(monkeypatch):
    monkeypatch.setattr(module, "PART", 200)
    sizes = []
    scorer = module.neighbor_scores
    monkeypatch.setattr(module, "neighbor_scores", lambda rows, *rest: sizes.append(len(rows)) or scorer(rows, *rest))
    found = find_outliers(with_strangers(cloud(590, 2), 6), permutations=4)
    assert sizes == [197, 197, 196, 197, 197, 196, 197]
    assert found.members[:6].all() and found.members[6:].mean() < 0.03


def test_the_same_seed_gives_the_same_threshold_and_another_seed_another():
    rows = cloud(120, 3)
    assert find_outliers(rows, seed=1).threshold == find_outliers(rows, seed=1).threshold
    assert find_outliers(rows, seed=1).threshold != find_outliers(rows, seed=2).threshold


def test_samples_that_are_all_the_same_have_no_outliers():
    assert not find_outliers(np.full((40, 5), 0.2)).members.any()


@pytest.fixture
def view(tmp_path):
    """300 samples of class 0 with 8 strangers in layer a alone, and 10 of class 1."""
    rows = np.abs(cloud(310, 5)) + 1
    strange = rows.copy()
    strange[np.arange(8), np.arange(8)] += 150
    store = write_store(tmp_path, {"a": strange.astype(np.float32), "b": rows.astype(np.float32)})
    store.labels = np.r_[np.zeros(300, int), np.ones(10, int)]
    return DataView(store, make_dataset(), None, np.arange(310))


def make_detector(**changes) -> Outliers:
    return Outliers(OutliersConfig(kind="outliers", permutations=5, **changes))


def test_planted_strangers_of_a_class_are_a_candidate_where_they_are_strange(view):
    found = make_detector(spaces=["a"], level=0.03).detect(view).candidates
    assert [(each.class_id, each.layer) for each in found] == [(0, "a")]
    assert found[0].members[:8].all() and found[0].members[8:].mean() < 0.03
    assert found[0].note.startswith(f"{found[0].members.sum()} of 300 samples are farther")
    assert "(3% would be" in found[0].note


def test_fewer_outliers_than_the_smallest_group_are_no_candidate(view):
    assert make_detector(spaces=["a"], level=0.03, min_group=40).detect(view).candidates == []


@pytest.mark.parametrize("score", ["knn", "lof"])
def test_scores_are_those_of_normalized_relevances_with_the_configured_neighbors(view, score):
    arrays = make_detector(spaces=["a"], score=score, neighbors=5).detect(view).arrays
    relevances = normalize_rows(view.store.relevances("a", "label", np.arange(300)))
    np.testing.assert_allclose(arrays["0/a/scores"], neighbor_scores(relevances, 5, score), rtol=1e-3)


def test_scores_of_each_class_and_space_are_kept_and_small_classes_left_out(view):
    arrays = make_detector(spaces=["a", "b"]).detect(view).arrays
    assert {name.rpartition("/")[0] for name in arrays} == {"0/a", "0/b"}
    assert arrays["0/a/rows"].tolist() == list(range(300))
    assert arrays["0/a/scores"].shape == arrays["0/a/p_values"].shape == (300,)
    assert arrays["0/a/threshold"].shape == ()
    assert set(np.argsort(-arrays["0/a/scores"])[:8]) == set(range(8))
