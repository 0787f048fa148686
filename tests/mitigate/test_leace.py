from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.concepts.cav import fit_cav
from pipeline.concepts.subspace import least_squares_eraser
from pipeline.errors import ConfigError
from pipeline.mitigate import make_mitigation
from pipeline.mitigate.directions import carriers_of
from pipeline.mitigate.leace import class_wise_eraser
from pipeline.statistics import auroc

LAYER = "network.relu1"


def class_wise(features: np.ndarray, carrying: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the covariance of features and carriers within each class, `[classes, D, m]`."""
    return np.stack(
        [
            (features[labels == each] - features[labels == each].mean(0)).T
            @ (carrying[labels == each] - carrying[labels == each].mean(0))
            for each in np.unique(labels)
        ]
    )


@pytest.fixture
def drawn():
    """Features of three classes; carriers of two artifacts are moved in class 0 and in class 1."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [60, 80, 100])
    features = (
        generator.standard_normal((240, 7)) @ generator.standard_normal((7, 7))
        + 3 * generator.standard_normal((3, 7))[labels]
    )
    carrying = np.zeros((240, 2), dtype=bool)
    carrying[:20, 0] = True
    carrying[60:90, 1] = True
    return features + carrying @ (4 * generator.standard_normal((2, 7))), carrying, labels


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 100.0])
def test_erased_features_do_not_covary_with_carriers_within_any_class(drawn, shrinkage):
    features, carrying, labels = drawn
    eraser = class_wise_eraser(features, carrying, labels, shrinkage)
    assert eraser.moved.shape == (7, 2)
    assert np.abs(class_wise(features, carrying, labels)).max() > 10
    assert np.abs(class_wise(eraser.project_out(features), carrying, labels)).max() < 1e-8


def test_shrinkage_leads_from_the_least_change_to_the_orthogonal_projection(drawn):
    features, carrying = drawn[0], drawn[1][:, 0]
    gap = features[carrying].mean(0) - features[~carrying].mean(0)
    cosines, changes = [], []
    for shrinkage in (0.0, 0.1, 1.0, 1e9):
        eraser = least_squares_eraser(features, carrying, shrinkage=shrinkage)
        moved, measured = eraser.moved[:, 0], eraser.measured[:, 0]
        assert measured @ moved == pytest.approx(1)
        assert abs(moved @ gap) == pytest.approx(np.linalg.norm(moved) * np.linalg.norm(gap)), "moved along the pattern"
        cosines.append(1 / np.linalg.norm(moved) / np.linalg.norm(measured))
        changes.append(np.square(eraser.project_out(features) - features).sum())
    assert cosines == sorted(cosines) and cosines[0] < 0.9 and cosines[-1] == pytest.approx(1)
    assert changes == sorted(changes)


def test_samples_without_artifact_keep_their_mean(drawn):
    features, carrying, labels = drawn
    erased = class_wise_eraser(features, carrying, labels).project_out(features)
    clean = ~carrying.any(1)
    assert np.allclose(erased[clean].mean(0), features[clean].mean(0))


def test_what_tells_the_classes_apart_is_not_what_is_erased():
    """The artifact is in one class alone; its direction, not the class's, is taken away."""
    generator = np.random.default_rng(1)
    labels = np.repeat([0, 1], 200)
    carrying = np.zeros((400, 1), dtype=bool)
    carrying[:100] = True
    features = generator.standard_normal((400, 4))
    features[:, 0] += 5 * labels
    features[:, 1] += 4 * carrying[:, 0]
    erased = class_wise_eraser(features, carrying, labels).project_out(features)
    assert auroc(erased[:, 0], labels == 1).value > 0.99
    assert abs(auroc(erased[:, 1], carrying[:, 0]).value - 0.5) < 0.1


@pytest.mark.parametrize("mode", ["position", "pooled"])
def test_in_the_corrected_model_no_linear_classifier_finds_the_carriers(audited, section, mode):
    model, problem = audited
    corrected = make_mitigation(section("leace", layer=LAYER, mode=mode)).fit(model, problem).model
    carriers = carriers_of(problem, problem.biases[0])
    x = torch.stack([problem.dataset[int(row)].x for row in carriers.rows])

    def features(network) -> np.ndarray:
        with torch.no_grad():
            activation = network.network[:3](network.normalize(x))
        return (activation.mean((2, 3)) if mode == "position" else activation.amax((2, 3))).double().numpy()

    before, after = features(model), features(corrected)
    majority = max(carriers.members.mean(), 1 - carriers.members.mean())
    assert accuracy(before, carriers.members) > majority + 0.05
    assert accuracy(after, carriers.members) <= majority + 1e-9
    gap = before[carriers.members].mean(0) - before[~carriers.members].mean(0)
    left = after[carriers.members].mean(0) - after[~carriers.members].mean(0)
    assert np.linalg.norm(left) < 1e-4 * np.linalg.norm(gap)
    assert fit_cav(before, carriers.members).mean_with > fit_cav(before, carriers.members).mean_without


def accuracy(features: np.ndarray, members: np.ndarray) -> float:
    """Return how often the best least-squares classifier, thresholded at 1/2, is right on its own samples."""
    design = np.concatenate([features - features.mean(0), np.ones((len(features), 1))], 1)
    solution = np.linalg.lstsq(design, members.astype(float), rcond=1e-3)[0]
    return float(((design @ solution > 0.5) == members).mean())


def test_flat_maps_are_refused(audited, section):
    model, problem = audited
    known = problem.biases[0]
    cavs = {name: dataclasses.replace(cav, pooling="full") for name, cav in known.cavs.items()}
    flat = dataclasses.replace(problem, biases=[dataclasses.replace(known, cavs=cavs)])
    with pytest.raises(ConfigError, match="pooling is full.*p_clarc"):
        make_mitigation(section("leace", layer=LAYER)).fit(model, flat)
