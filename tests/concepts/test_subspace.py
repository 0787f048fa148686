from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pipeline.concepts.cav import fit_cav, held_out_auroc
from pipeline.concepts.subspace import Eraser, Subspace, iterative_subspace, least_squares_eraser, paired_subspace
from pipeline.errors import DataError, StoreError
from pipeline.statistics import auroc


def planted(count: int = 400, dimension: int = 8, seed: int = 0):
    """Return features in which positives are moved along one axis or along another, half of them each; and labels."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) < count // 4
    features = generator.standard_normal((count, dimension))
    features[: count // 8, 0] += 6
    features[count // 8 : count // 4, 1] += 6
    return features @ np.linalg.qr(generator.standard_normal((dimension, dimension)))[0] + 3, labels


def correlated(count: int, dimension: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    labels = generator.random(count) < 0.3
    features = generator.standard_normal((count, dimension)) @ generator.standard_normal((dimension, dimension))
    features[labels, :2] += 3
    return features + 5, labels


def covariance(features: np.ndarray, concepts: np.ndarray) -> np.ndarray:
    return (features - features.mean(0)).T @ (concepts - concepts.mean(0)) / len(features)


@pytest.mark.parametrize("kind", ["svm", "ridge", "lda"])
def test_directions_are_orthonormal_and_leave_only_chance(kind):
    features, labels = planted()
    found = iterative_subspace(features, labels, kind, 8, layer="a", pooling="mean")
    count = found.basis.shape[1]
    assert 1 <= count < 8 and (found.kind, found.layer, found.pooling) == (kind, "a", "mean")
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(count), atol=1e-10)
    np.testing.assert_allclose(found.offset, features[~labels].mean(0))
    first = fit_cav(features, labels, kind).direction
    np.testing.assert_allclose(found.basis[:, 0], first, atol=1e-12)
    assert held_out_auroc(features, labels, kind).lower > 0.9
    assert held_out_auroc(found.project_out(features), labels, kind).lower <= 0.5


def test_no_more_directions_than_asked_for_and_none_where_there_is_nothing():
    features, labels = correlated(300, 12)
    assert iterative_subspace(features, labels, "svm", 1).basis.shape == (12, 1)
    noise = np.random.default_rng(1).standard_normal((300, 5))
    found = iterative_subspace(noise, labels, "svm", 3)
    assert found.basis.shape == (5, 0)
    np.testing.assert_array_equal(found.project_out(noise), noise)


def test_directions_stay_orthonormal_where_filters_point_back_into_what_is_gone():
    """A filter is fitted on standardized features, and unlike spreads tilt it out of the space that is left."""
    generator = np.random.default_rng(0)
    features, labels = generator.standard_normal((300, 8)), np.arange(300) < 100
    features[:, 1:4] += features[:, :1] + 2.0 * (generator.random((300, 3)) < 0.5) * labels[:, None]
    found = iterative_subspace(features * np.geomspace(0.1, 10, 8), labels, "svm", 8)
    assert found.basis.shape[1] >= 2
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(found.basis.shape[1]), atol=1e-10)


@pytest.mark.parametrize("kind", ["pattern", "mean"])
def test_a_pattern_takes_all_at_once(kind):
    features, labels = planted()
    found = iterative_subspace(features, labels, kind, 5)
    assert found.basis.shape[1] == 1
    left = found.project_out(features)
    np.testing.assert_allclose(left[labels].mean(0), left[~labels].mean(0), atol=1e-10)


def test_projected_features_take_the_offset_s_values_along_and_keep_the_rest():
    features, labels = planted()
    found = iterative_subspace(features, labels, "svm", 2)
    before = features.copy()
    left = found.project_out(features)
    np.testing.assert_allclose(left @ found.basis, np.tile(found.offset @ found.basis, (len(left), 1)), atol=1e-10)
    across = np.eye(8) - found.basis @ found.basis.T
    np.testing.assert_allclose(left @ across, features @ across, atol=1e-10)
    np.testing.assert_allclose(found.project_out(left), left)
    assert np.array_equal(features, before)


@pytest.mark.parametrize("shape", [(300, 10), (40, 90)], ids=["more samples", "more dimensions"])
def test_erased_features_have_no_covariance_with_the_concept_and_no_linear_classifier(shape):
    features, labels = correlated(*shape)
    eraser = least_squares_eraser(features, labels)
    left = eraser.project_out(features)
    assert np.abs(covariance(features, labels[:, None])).max() > 0.1
    assert np.abs(covariance(left, labels[:, None])).max() < 1e-8
    np.testing.assert_allclose(left.mean(0), features.mean(0))
    np.testing.assert_allclose(eraser.measured.T @ eraser.moved, np.eye(1), atol=1e-8)
    for weight in (None, "balanced"):
        before, after = (
            LogisticRegression(tol=1e-10, class_weight=weight, max_iter=5000).fit(each, labels)
            for each in (features, left)
        )
        assert auroc(before.decision_function(features), labels).value > 0.8
        # the best that a classifier can do is to answer the same for all
        assert np.abs(after.coef_).max() < 1e-4 < 1e-3 < np.abs(before.coef_).max()
        assert np.ptp(after.decision_function(left)) < 1e-2
        rounded = after.decision_function(left).round(2)
        assert abs(auroc(rounded, labels).value - 0.5) < 0.02


def test_the_erasing_map_moves_along_the_pattern_and_measures_by_the_discriminant():
    """For one concept the map is known: p w^T / w.p with the pattern p and w = S^-1 p."""
    features, labels = correlated(500, 6)
    eraser = least_squares_eraser(features, labels)
    pattern = covariance(features, labels[:, None])[:, 0]
    discriminant = np.linalg.solve(np.cov(features.T, ddof=0), pattern)
    expected = np.outer(pattern, discriminant) / (pattern @ discriminant)
    np.testing.assert_allclose(eraser.moved @ eraser.measured.T, expected, atol=1e-9)


def test_no_other_map_that_erases_moves_features_less():
    features, labels = correlated(500, 6)
    change = least_squares_eraser(features, labels).project_out(features) - features
    pattern = fit_cav(features, labels)
    orthogonal = Subspace(pattern.direction[:, None], features.mean(0), "pattern").project_out(features)
    assert np.abs(covariance(orthogonal, labels[:, None])).max() < 1e-8
    assert (change**2).sum() < ((orthogonal - features) ** 2).sum()


def test_several_concepts_are_erased_together_and_copies_of_one_count_once():
    features, labels = correlated(300, 10)
    other = features[:, 5] + np.random.default_rng(2).standard_normal(300)
    concepts = np.stack([labels, other, 2.0 * labels], 1)
    eraser = least_squares_eraser(features, concepts)
    assert eraser.moved.shape == (10, 2)
    assert np.abs(covariance(eraser.project_out(features), concepts)).max() < 1e-8


def test_features_that_depend_on_each_other_are_erased_as_well():
    features, labels = correlated(200, 5)
    features = np.concatenate([features, features[:, :2] * 3, np.ones((200, 1))], 1)
    left = least_squares_eraser(features, labels).project_out(features)
    assert np.abs(covariance(left, labels[:, None])).max() < 1e-8


def test_principal_directions_of_paired_changes_span_what_was_planted():
    generator = np.random.default_rng(0)
    true = np.linalg.qr(generator.standard_normal((12, 2)))[0]
    without = generator.standard_normal((60, 12))
    having = without + (generator.standard_normal((60, 2)) * [1, 3] + [5, 0]) @ true.T
    found = paired_subspace(having, without, 4, layer="b")
    assert found.basis.shape == (12, 2) and found.kind == "paired" and found.layer == "b"
    np.testing.assert_allclose(found.basis @ found.basis.T, true @ true.T, atol=1e-10)
    first = paired_subspace(having, without, 1).basis[:, 0]
    assert abs(first @ true[:, 0]) > 0.95, "the mean change counts, not only how changes vary"
    np.testing.assert_allclose(found.project_out(having), found.project_out(without), atol=1e-10)
    assert paired_subspace(without, without, 3).basis.shape == (12, 0)
    np.testing.assert_allclose(found.offset, without.mean(0))


@pytest.mark.parametrize("shape", [(3, 4), (2, 5), (0, 4)])
def test_pairs_of_other_shapes_are_refused(shape):
    with pytest.raises(DataError, match="same order"):
        paired_subspace(np.zeros((2, 4) if shape != (0, 4) else (0, 4)), np.zeros(shape), 1)


@pytest.mark.parametrize("kind", [Subspace, Eraser])
def test_what_is_saved_comes_back_as_it_was(tmp_path, kind):
    features, labels = planted()
    found = (
        iterative_subspace(features, labels, "svm", 2, layer="a.b", pooling="mean")
        if kind is Subspace
        else least_squares_eraser(features, labels, layer="a.b", pooling="mean")
    )
    found.save(tmp_path / "cavs/one.npz")
    loaded = kind.load(tmp_path / "cavs/one.npz")
    assert vars(loaded).keys() == vars(found).keys()
    for name, value in vars(found).items():
        assert np.array_equal(getattr(loaded, name), value), name
    (tmp_path / "cavs/one.npz").write_bytes(b"PK")
    with pytest.raises(StoreError, match=r"one\.npz cannot be read"):
        kind.load(tmp_path / "cavs/one.npz")
