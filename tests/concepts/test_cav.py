from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.concepts import Cav, fit_cav, held_out_auroc
from pipeline.concepts.cav import NoDirection, acting_layer, is_constant, out_of_fold_scores
from pipeline.errors import StoreError
from pipeline.statistics import auroc
from pipeline.workspace.records import CavSummary

PATTERNS = ("pattern", "mean", "median")
FILTERS = ("svm", "ridge", "logistic", "lasso", "lda")
KINDS = (*PATTERNS, *FILTERS)


def planted(count: int = 400, dimension: int = 12, strength: float = 3.0, seed: int = 0):
    """Return noise in which samples with the concept are moved along a unit direction: features, labels, direction."""
    generator = np.random.default_rng(seed)
    direction = generator.standard_normal(dimension)
    direction /= np.linalg.norm(direction)
    labels = generator.random(count) < 0.3
    return generator.standard_normal((count, dimension)) + strength * labels[:, None] * direction, labels, direction


@given(seed=st.integers(0, 10_000), count=st.integers(4, 60), dimension=st.integers(1, 40))
def test_the_pattern_is_the_difference_of_means_and_the_covariance_with_the_label(seed, count, dimension):
    generator = np.random.default_rng(seed)
    features = generator.standard_normal((count, dimension)) * generator.uniform(0.1, 10, dimension)
    labels = np.arange(count) < generator.integers(1, count)
    cav = fit_cav(features, labels)
    difference = features[labels].mean(0) - features[~labels].mean(0)
    covariance = ((features - features.mean(0)) * (labels - labels.mean())[:, None]).mean(0) / labels.var()
    np.testing.assert_allclose(difference, covariance, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(cav.direction * np.linalg.norm(difference), difference, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_direction_is_recovered(kind):
    features, labels, direction = planted(4000)
    assert fit_cav(features, labels, kind).direction @ direction > 0.98


@pytest.mark.parametrize("kind", FILTERS)
def test_only_the_pattern_recovers_a_direction_under_correlated_noise(kind):
    """A filter turns away from what distracts it; a pattern does not (Haufe et al. 2014)."""
    generator = np.random.default_rng(0)
    labels = np.arange(2000) % 2 == 0
    distractor = 3 * generator.standard_normal(2000)
    features = np.stack([labels + distractor, distractor], 1) + 0.3 * generator.standard_normal((2000, 2))
    concept = np.array([1.0, 0.0])
    assert fit_cav(features, labels).direction @ concept > fit_cav(features, labels, kind).direction @ concept + 0.1
    assert fit_cav(features, labels, kind).direction[1] < -0.5


@pytest.mark.parametrize("kind", FILTERS)
def test_scaling_features_leaves_the_decisions_of_a_filter_unchanged(kind):
    features, labels, _ = planted(200)
    scale = np.geomspace(1e-3, 1e3, features.shape[1])
    plain, scaled = fit_cav(features, labels, kind), fit_cav(features * scale, labels, kind)
    values = plain.scores(features) / (plain.mean_with - plain.mean_without)
    np.testing.assert_allclose(
        scaled.scores(features * scale) / (scaled.mean_with - scaled.mean_without), values, rtol=1e-3, atol=1e-3
    )
    expected = plain.direction / scale
    np.testing.assert_allclose(scaled.direction, expected / np.linalg.norm(expected), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_figures_of_a_cav_are_those_of_its_direction(kind):
    features, labels, _ = planted()
    before = features.copy(), labels.copy()
    cav = fit_cav(features, labels, kind)
    scores = cav.scores(features)
    assert scores[labels].mean() > 0 > scores[~labels].mean()
    np.testing.assert_allclose(cav.mean_with, (features[labels] @ cav.direction).mean())
    np.testing.assert_allclose(cav.mean_without, (features[~labels] @ cav.direction).mean())
    np.testing.assert_allclose(cav.baseline, features[~labels].mean(0))
    np.testing.assert_allclose(np.linalg.norm(cav.direction), 1)
    assert np.array_equal(features, before[0]) and np.array_equal(labels, before[1])


@pytest.mark.parametrize("kind", [*PATTERNS, "lda"])
def test_the_boundary_of_a_pattern_lies_half_way_between_the_groups(kind):
    features, labels, _ = planted()
    scores = fit_cav(features + 5, labels, kind).scores(features + 5)
    np.testing.assert_allclose(scores[labels].mean(), -scores[~labels].mean())


@pytest.mark.parametrize("kind", ["svm", "ridge", "logistic"])
def test_a_filter_keeps_the_boundary_that_it_was_fitted_with(kind):
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    reference = {
        "svm": LinearSVC(C=0.01, class_weight="balanced", dual=False, tol=1e-10, max_iter=10_000),
        "ridge": RidgeClassifier(alpha=1.0, class_weight="balanced"),
        "logistic": LogisticRegression(C=0.1, class_weight="balanced", tol=1e-10),
    }[kind]
    features, labels, _ = planted(300)
    # skewed groups: half-way between their means is not where a filter draws its line
    features = np.exp(features) * np.geomspace(1e-2, 1e2, features.shape[1]) + 3.0
    expected = make_pipeline(StandardScaler(), reference).fit(features, labels).decision_function(features)
    cav = fit_cav(features, labels, kind)
    scores = cav.scores(features)
    ratio = np.abs(expected).max() / np.abs(scores).max()
    np.testing.assert_allclose(scores * ratio, expected, atol=1e-3 * np.abs(expected).max())
    # that of balanced ridge regression does lie there
    assert (abs(cav.intercept + (cav.mean_with + cav.mean_without) / 2) * ratio > 0.02) == (kind != "ridge")


@pytest.mark.parametrize("kind", KINDS)
def test_flattened_maps_are_features_like_any_other(kind):
    """Pooling "full": more dimensions than samples."""
    features, labels, direction = planted(60, 5 * 7 * 7, strength=12.0)
    cav = fit_cav(features.astype(np.float32), labels, kind, pooling="full")
    assert cav.direction.shape == (5 * 7 * 7,) and cav.direction @ direction > (0.3 if kind == "lasso" else 0.6)
    assert auroc(cav.scores(features), labels).value > 0.99


@pytest.mark.parametrize("kind", FILTERS)
def test_a_searched_filter_is_the_same_every_time_and_no_worse_on_new_samples(kind):
    drawn, labels, _ = planted(400, 20, strength=2.0)
    features, fresh = drawn[:80], (drawn[80:], labels[80:])
    labels = labels[:80]
    searched = fit_cav(features, labels, kind, search=True, seed=1)
    again = fit_cav(features, labels, kind, search=True, seed=1)
    assert np.array_equal(searched.direction, again.direction)
    evidence = auroc(searched.scores(fresh[0]), fresh[1])
    assert evidence.value > auroc(fit_cav(features, labels, kind).scores(fresh[0]), fresh[1]).value - 0.05


def test_a_search_is_passed_on_to_every_fold():
    features, labels, _ = planted(120, 60, strength=1.0)
    plain, searched = (out_of_fold_scores(features, labels, "ridge", search=each) for each in (False, True))
    assert not np.allclose(plain, searched)


def test_an_estimator_that_sees_no_difference_gives_no_direction_and_no_evidence():
    features, labels = np.zeros((30, 4)), np.arange(30) < 10
    features[[0, 1, 12, 13, 14]] = 1.0  # rare in both groups: their medians are equal
    with pytest.raises(NoDirection, match="'median'"):
        fit_cav(features, labels, "median")
    assert (out_of_fold_scores(features, labels, "median") == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constant", [0.0, 0.1, 12345.678])
def test_a_constant_feature_carries_no_weight(kind, constant):
    """The mean of equal numbers is rounded, so that their spread may be 1e-17 instead of 0."""
    features, labels, direction = planted(331)
    cav = fit_cav(np.concatenate([features, np.full((331, 3), constant)], 1), labels, kind)
    assert np.abs(cav.direction[-3:]).max() < 1e-6
    assert cav.direction[:-3] @ direction > 0.9


@pytest.mark.parametrize("labels", [np.ones(6, bool), np.zeros(6, bool)], ids=["all with", "all without"])
def test_one_group_alone_has_no_direction(labels):
    with pytest.raises(ValueError, match="all 6 labels are"):
        fit_cav(np.eye(6), labels)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="finite"):
        fit_cav(np.array([[0.0], [1.0], [value]]), np.array([True, False, False]))


@pytest.mark.parametrize("kind", KINDS)
def test_features_that_do_not_differ_are_refused(kind):
    assert is_constant(np.full((6, 2), 0.1))
    with pytest.raises(ValueError, match="do not differ"):
        fit_cav(np.full((6, 2), 0.5), np.arange(6) < 3, kind)


def test_an_unknown_kind_is_refused_with_the_allowed_ones():
    with pytest.raises(ValueError, match="'forest'; allowed: pattern, mean, median, ridge"):
        fit_cav(np.eye(4), np.arange(4) < 2, "forest")


def test_a_saved_cav_comes_back_as_it_was(tmp_path):
    features, labels, _ = planted()
    cav = fit_cav(features, labels, "svm", layer="network.relu1", pooling="mean")
    cav.save(tmp_path / "cavs/bias.npz")
    loaded = Cav.load(tmp_path / "cavs/bias.npz")
    assert vars(loaded).keys() == vars(cav).keys()
    for name, value in vars(cav).items():
        assert np.array_equal(getattr(loaded, name), value), name
    np.testing.assert_array_equal(loaded.scores(features), cav.scores(features))


@pytest.mark.parametrize("damage", ["missing", "empty", "cut off", "flipped", "another file"])
def test_a_damaged_cav_names_the_file_and_the_next_step(tmp_path, damage):
    features, labels, _ = planted()
    path = tmp_path / "bias.npz"
    fit_cav(features, labels).save(path)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[content.index(b"direction") + 150] ^= 0xFF
    if damage == "missing":
        path.unlink()
    elif damage == "another file":
        np.savez(path, direction=features)
    else:
        path.write_bytes({"empty": b"", "cut off": content[: len(content) // 2], "flipped": bytes(flipped)}[damage])
    with pytest.raises(StoreError, match=r"bias\.npz cannot be read .*Start reveal again, with --force"):
        Cav.load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_on_noise_held_out_evidence_is_chance_where_in_sample_it_would_be_perfect(kind):
    areas = []
    for seed in range(8):
        generator = np.random.default_rng(seed)
        features, labels = generator.standard_normal((40, 600)), np.arange(40) % 2 == 0
        assert auroc(fit_cav(features, labels, kind).scores(features), labels).value == 1
        areas.append(held_out_auroc(features, labels, kind, seed=seed).value)
    assert 0.4 < np.mean(areas) < 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_evidence_of_a_planted_direction_is_strong_and_the_same_every_time(kind):
    features, labels, _ = planted()
    first, second = (held_out_auroc(features, labels, kind, seed=3) for _ in range(2))
    assert first == second and first.lower > 0.9 and first.n == len(labels)


def test_scores_of_different_folds_are_on_one_scale():
    """Within each group the score does not depend on the fold, whose CAV it comes from."""
    features, labels, _ = planted(1000, strength=5.0)
    scores = out_of_fold_scores(features, labels, "pattern")
    np.testing.assert_allclose([scores[labels].mean(), scores[~labels].mean()], [0.5, -0.5], atol=0.02)


def test_two_samples_of_each_group_are_needed_for_held_out_evidence():
    with pytest.raises(ValueError, match="at least two"):
        out_of_fold_scores(np.random.default_rng(0).standard_normal((5, 2)), np.arange(5) == 0, "pattern")
    assert np.isfinite(out_of_fold_scores(np.eye(5), np.arange(5) < 2, "pattern")).all()


def test_a_layer_that_responds_to_one_sample_alone_gives_no_evidence():
    features = np.zeros((20, 3))
    features[0] = 1.0
    evidence = held_out_auroc(features, np.arange(20) < 10, "pattern")
    assert 0.4 < evidence.value < 0.6


def summary(kind: str, layer: str, area: float) -> CavSummary:
    return CavSummary(
        kind=kind, layer=layer, auroc=area, auroc_lower=area, auroc_upper=area, n_positive=9, n_negative=9
    )


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([("pattern", "a", 0.9), ("pattern", "b", 0.99), ("pattern", "c", 0.975), ("pattern", "d", 0.9)], "c"),
        ([("svm", "a", 1.0), ("pattern", "a", 0.8), ("svm", "b", 1.0), ("pattern", "b", 0.7)], "a"),
        ([("ridge", "a", 0.9), ("svm", "a", 1.0), ("ridge", "b", 0.95), ("svm", "b", 1.0)], "b"),
    ],
    ids=["deepest of the near best", "patterns before filters", "first kind without patterns"],
)
def test_the_acting_layer_is_the_deepest_of_the_near_best(candidates, expected):
    layer, kind = acting_layer([summary(*each) for each in candidates])
    kinds = [each[0] for each in candidates]
    assert (layer, kind) == (expected, "pattern" if "pattern" in kinds else kinds[0])
