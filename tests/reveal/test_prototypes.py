from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from tiny import make_dataset, write_store

from pipeline.config.reveal import PrototypesConfig
from pipeline.reveal import prototypes as module
from pipeline.reveal.prototypes import (
    Prototypes,
    coverage,
    fit_prototypes,
    nearest_samples,
    overused,
    principal_axes,
    top_concepts,
)
from pipeline.reveal.spaces import normalize_rows
from pipeline.reveal.view import DataView

CENTERS = np.array([[4.0, 0, 0, 0, 0, 0], [0, 4.0, 0, 0, 0, 0], [0, 0, 3.0, 3.0, 0, 0]])
COUNTS = (90, 60, 30)


def planted(seed: int = 0, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    truth = np.repeat(np.arange(3), COUNTS)
    return CENTERS[truth] + noise * np.random.default_rng(seed).standard_normal((len(truth), 6)), truth


@pytest.mark.parametrize("covariance", ["diag", "tied", "full"])
def test_the_means_of_a_planted_mixture_are_recovered_most_frequent_first(covariance):
    rows, truth = planted()
    found = fit_prototypes(rows, covariance=covariance, max_components=6)
    np.testing.assert_allclose(found.means, [rows[truth == each].mean(0) for each in range(3)], atol=1e-3)
    np.testing.assert_allclose(found.means, CENTERS, atol=0.25)
    assert np.array_equal(found.assignment, truth)
    np.testing.assert_allclose(found.coverage, np.array(COUNTS) / 180)
    assert found.bic.argmin() == 2 and len(found.bic) == 6


def test_the_result_does_not_depend_on_the_unit_of_relevance():
    rows, _ = planted()
    large, small = fit_prototypes(rows), fit_prototypes(rows * 1e-5)
    assert np.array_equal(large.assignment, small.assignment)
    np.testing.assert_allclose(large.means, small.means * 1e5, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(large.outlier_score + 6 * np.log(1e-5), small.outlier_score, atol=1e-4)


def test_one_component_gives_the_density_of_a_gaussian_with_the_covariance_of_the_samples():
    generator = np.random.default_rng(1)
    rows = generator.standard_normal((400, 3)) @ np.array([[1.0, 0.5, 0], [0, 2.0, 0.3], [0, 0, 0.7]]) + 5
    found = fit_prototypes(rows, max_components=1)
    expected = multivariate_normal(rows.mean(0), np.cov(rows.T, bias=True)).logpdf(rows)
    np.testing.assert_allclose(found.outlier_score, -expected, rtol=1e-4)


def test_what_the_principal_components_leave_counts_as_isotropic_noise():
    generator = np.random.default_rng(2)
    rows = generator.standard_normal((300, 8)) * np.array([5, 4, 1, 1, 1, 1, 1, 1.0])
    found = fit_prototypes(rows, dimensions=2, max_components=1)
    values, axes = np.linalg.eigh(np.cov(rows.T, bias=True))
    spread = np.append(np.full(6, values[:6].mean()), values[6:])
    expected = multivariate_normal(rows.mean(0), axes @ np.diag(spread) @ axes.T).logpdf(rows)
    np.testing.assert_allclose(found.outlier_score, -expected, rtol=1e-4)


def test_a_sample_outside_of_the_principal_components_is_improbable():
    rows, _ = planted(noise=0.1)
    rows = np.hstack([rows, 0.01 * np.random.default_rng(0).standard_normal((180, 6))])
    stranger = rows[:1].copy()
    stranger[0, 11] = 1.0
    found = fit_prototypes(np.vstack([rows, stranger]), np.arange(181) < 180, dimensions=3)
    assert found.outlier_score.argmax() == 180
    assert found.outlier_score[180] > found.outlier_score[:180].max() + 100


def test_samples_that_are_left_out_of_the_fit_do_not_move_it_and_are_assigned():
    rows, truth = planted()
    astray = np.vstack([rows, np.full((40, 6), 30.0), CENTERS])
    fit = np.arange(len(astray)) < 180
    found, alone = fit_prototypes(astray, fit), fit_prototypes(rows)
    np.testing.assert_allclose(found.means, alone.means)
    assert len(found.assignment) == len(astray) and found.assignment[-3:].tolist() == [0, 1, 2]
    assert found.outlier_score[180:220].min() > found.outlier_score[:180].max()


def test_a_prototype_without_samples_has_no_coverage_and_moves_no_other():
    assert coverage(np.array([0, 2, 2, 3]), 5).tolist() == [0.25, 0, 0.5, 0.25, 0]


def test_coverage_sums_to_1_when_no_sample_prefers_a_component(monkeypatch):
    rows, truth = planted()

    def with_an_empty_one(components, count, covariance, starts, seed):
        """The planted mixture, and a component far from all samples."""
        labels = np.eye(3)[truth]
        means = labels.T @ components / labels.sum(0)[:, None]
        mixture = GaussianMixture(4, covariance_type="diag")
        mixture.weights_ = np.array([0.3, 0.1, 0.4, 0.2])
        mixture.means_ = np.vstack([means[1], means[2], np.full((1, components.shape[1]), 50.0), means[0]])
        mixture.covariances_ = np.full(mixture.means_.shape, 0.05)
        mixture.precisions_ = 1 / mixture.covariances_
        mixture.precisions_cholesky_ = np.sqrt(mixture.precisions_)
        return mixture

    monkeypatch.setattr(module, "_mixture", with_an_empty_one)
    found = fit_prototypes(rows)
    np.testing.assert_allclose(found.coverage, np.array([0, 60, 90, 30]) / 180)
    assert found.coverage.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.means[1:], CENTERS[[1, 0, 2]], atol=0.25)
    assert np.isfinite(found.means).all() and np.isfinite(found.similarity).all()


def test_difference_is_the_sample_minus_the_mean_of_its_prototype():
    rows, _ = planted()
    found = fit_prototypes(rows)
    new = CENTERS[[2, 0]] + [[0, 0, 0, 0, 0, 1.0], [0, -0.5, 0, 0, 0, 0]]
    difference = found.difference(new)
    np.testing.assert_allclose(difference, new - found.means[[2, 0]])
    assert difference[0].argmax() == 5 and difference[1].argmin() == 1


def test_similarity_is_the_cosine_between_the_means():
    found = fit_prototypes(planted(noise=0.05)[0])
    np.testing.assert_allclose(found.similarity, np.eye(3), atol=0.02)
    assert np.array_equal(found.similarity, found.similarity.T)


def test_representatives_are_the_samples_nearest_to_each_mean():
    rows = np.array([[0.0, 0], [1, 0], [3, 0], [10, 0]])
    assert nearest_samples(rows, np.array([[2.9, 0], [0, 0]]), 2).tolist() == [[2, 1], [0, 1]]
    assert nearest_samples(rows, np.zeros((1, 2)), 9).shape == (1, 4)


def test_top_concepts_are_the_union_of_the_strongest_channels_by_their_largest_magnitude():
    means = np.array([[9.0, 0, -8, 0, 1, 0], [0, 1.0, 0.5, 0, 0, 0]])
    assert top_concepts(means, 2).tolist() == [0, 1]
    assert top_concepts(means, 3).tolist() == [0, 2, 1]
    assert sorted(top_concepts(means, 99).tolist()) == [0, 1, 2, 3, 4, 5]


def test_overused_channels_exceed_the_usual_and_the_most_exceeding_comes_first():
    assert overused(np.array([1.0, 5, 3, 0]), np.array([1.0, 1, 0, 4])) == (1, 2)
    assert overused(np.array([1.0, 5, 3, 0]), np.array([1.0, 1, 0, 4]), 1) == (1,)


def test_axes_stay_within_the_directions_in_which_samples_differ():
    for seed in range(20):
        generator = np.random.default_rng(seed)
        rows = generator.standard_normal((20, 2)) @ generator.standard_normal((2, 7))
        _, axes, _, noise = principal_axes(rows, 5)
        assert axes.shape == (2, 7) and noise == 0
        np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-10)


def test_samples_that_are_all_the_same_form_one_prototype():
    found = fit_prototypes(np.full((30, 5), 0.2))
    np.testing.assert_allclose(found.means, np.full((1, 5), 0.2))
    assert found.coverage.tolist() == [1.0] and np.isfinite(found.outlier_score).all()


def test_a_pair_of_samples_at_one_spot_is_no_prototype():
    rows = np.vstack([np.random.default_rng(0).standard_normal((60, 6)), np.full((2, 6), 0.1)])
    found = fit_prototypes(rows)
    assert len(found.means) == 1 and np.isinf(found.bic).any()


def test_the_same_seed_gives_the_same_prototypes():
    rows = np.random.default_rng(4).standard_normal((150, 40))
    first, second = fit_prototypes(rows, seed=3), fit_prototypes(rows, seed=3)
    assert np.array_equal(first.assignment, second.assignment)
    assert np.array_equal(first.means, second.means)


def test_a_mixture_is_fitted_on_a_bounded_number_of_samples(monkeypatch):
    monkeypatch.setattr(module, "FIT_AT_MOST", 90)
    rows, truth = planted()
    found = fit_prototypes(rows)
    assert np.array_equal(found.assignment, truth) and found.outlier_score.shape == (180,)
    assert not np.allclose(found.means[0], rows[:90].mean(0), atol=1e-9)


CLASS_CENTERS = np.array([[8.0, 1, 1, 1, 1, 1, 1, 1], [1.0, 8, 1, 1, 1, 1, 1, 1], [1.0, 1, 8, 1, 1, 8, 1, 1]])


@pytest.fixture
def view(tmp_path):
    """Rows 0 to 59 are of class 0 with two prototypes, those of class 1 have one, class 2 is too small."""
    dataset = make_dataset()
    generator = np.random.default_rng(0)
    kind = np.r_[np.zeros(40, int), np.full(20, 1), np.full(50, 2), np.zeros(10, int)]
    rows = CLASS_CENTERS[kind] + 0.3 * generator.standard_normal((120, 8))
    store = write_store(tmp_path, {"a": rows.astype(np.float32), "b": rows[:, ::-1].astype(np.float32)})
    store.labels = np.r_[np.zeros(60, int), np.ones(50, int), np.full(10, 2)]
    store.logits = np.eye(3)[store.labels]
    return DataView(store, dataset, None, np.arange(120))


def make_detector(**changes) -> Prototypes:
    return Prototypes(PrototypesConfig(kind="prototypes", **changes))


def test_each_prototype_of_a_class_is_a_candidate_with_the_channels_it_uses_most(view):
    found = make_detector(spaces=["a"]).detect(view).candidates
    assert [(each.class_id, each.layer) for each in found] == [(0, "a"), (0, "a")]
    assert found[0].member_rows.tolist() == list(range(40)) and found[1].member_rows.tolist() == list(range(40, 60))
    assert found[0].neuron_ids[0] == 0 and found[1].neuron_ids[0] == 1
    assert found[1].note.startswith("prototype 2 of 2, 33% of the class; more than the class as a whole: channels 1")


def test_groups_below_the_smallest_size_or_leaving_a_smaller_rest_are_no_candidates(view):
    assert make_detector(spaces=["a"], min_cluster_size=21).detect(view).candidates == []
    assert len(make_detector(spaces=["a"], min_cluster_size=20).detect(view).candidates) == 2


def test_the_figures_of_each_class_and_layer_are_kept_with_their_rows(view):
    arrays = make_detector().detect(view).arrays
    assert {name.rpartition("/")[0] for name in arrays} == {"0/a", "0/b", "1/a", "1/b"}
    assert arrays["0/b/rows"].tolist() == list(range(60))
    assert arrays["0/a/means"].shape == (2, 8) and arrays["0/a/assignment"].shape == (60,)
    assert set(arrays["1/a/representative_rows"].ravel()) <= set(range(60, 110))
    expected = normalize_rows(view.store.relevances("a", "label", np.arange(40))).mean(0)
    np.testing.assert_allclose(arrays["0/a/means"][0], expected, atol=1e-4)


def test_a_class_is_fitted_on_the_samples_that_are_predicted_as_it(view):
    view.store.logits = view.store.logits.copy()
    view.store.logits[40:60] = [0, 9, 0]
    arrays = make_detector(spaces=["a"]).detect(view).arrays
    assert arrays["0/a/means"].shape == (1, 8) and arrays["0/a/assignment"].shape == (60,)
    assert arrays["0/a/outlier_score"][40:].min() > arrays["0/a/outlier_score"][:40].max()


def test_a_class_that_is_hardly_ever_predicted_is_fitted_on_all_its_samples(view):
    view.store.logits = np.tile([0, 0, 9.0], (120, 1))
    assert make_detector(spaces=["a"]).detect(view).arrays["0/a/means"].shape == (2, 8)


def test_prototypes_of_heatmaps_name_no_channels(view, tmp_path):
    maps = np.zeros((120, 2, 2), np.float16)
    maps[:, 0, 0] = 1
    maps[:20, 1, 1] = 1
    maps += (0.01 * np.random.default_rng(0).standard_normal(maps.shape)).astype(np.float16)
    store = write_store(tmp_path / "maps", {"a": np.zeros((120, 2), np.float32)}, maps)
    store.labels, store.logits = view.store.labels, view.store.logits
    found = make_detector(spaces=["heatmap"]).detect(DataView(store, view.dataset, None, view.rows)).candidates
    assert [each.member_rows.tolist() for each in found] == [list(range(20, 60)), list(range(20))]
    assert all(each.layer == "input" and each.neuron_ids == () and "channels" not in each.note for each in found)


def test_the_picture_has_a_column_for_each_prototype_and_says_class_and_layer(view):
    detection = make_detector(spaces=["a", "b"]).detect(view)
    (caption, image), *others = detection.pictures.items()
    assert not others and "class across in a" in caption and "1 (67%), 2 (33%)" in caption
    assert image.size == (2 * 100 + 4, 4 * 100 + 4)


def test_signals_have_no_picture(view):
    dataset = make_dataset()
    dataset.shape = (2, 50)
    assert make_detector(spaces=["a"]).detect(DataView(view.store, dataset, None, view.rows)).pictures == {}
