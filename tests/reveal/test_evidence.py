from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from pipeline.reveal.candidates import Candidate
from pipeline.reveal.evidence import Evidence, measure_evidence, precision_matrix, refine

PER_CLASS = 200
CHANNELS = 12


@dataclass
class Store:
    """Activations by layer and pooling."""

    values: dict = field(default_factory=dict)

    def activations(self, layer, pooling, rows):
        return self.values[layer, pooling][rows]


@dataclass
class View:
    store: Store
    rows: np.ndarray
    seed: int = 0


@pytest.fixture
def world():
    """Two classes; channel 0 is an artifact of 40 samples of class 0, channel 1 a habit that both classes share."""
    generator = np.random.default_rng(0)
    features = generator.standard_normal((2 * PER_CLASS, CHANNELS)).astype(np.float32)
    features[PER_CLASS:, 5] += 6
    artifact = np.zeros(2 * PER_CLASS, bool)
    artifact[:40] = True
    habit = np.arange(2 * PER_CLASS) % 2 == 0
    features[artifact, 0] += 8
    features[habit, 1] += 8
    # strong variation that everybody shares
    features[:, 2] *= 30
    return features, artifact, habit


def view_of(features, **others):
    store = Store({("deep", "max"): features, **{(name, "max"): values for name, values in others.items()}})
    return View(store, np.arange(len(features)))


def group(members):
    return Candidate("spray", 0, "deep", np.arange(PER_CLASS), members[:PER_CLASS])


def test_an_artifact_of_one_class_is_recognised_alone(world):
    features, artifact, _ = world
    (found,) = measure_evidence(view_of(features), [group(artifact)], ("deep",), ("max",))
    assert found.auroc > 0.99 and found.recognised > 0.97 and found.mistaken < 0.03
    assert np.array_equal(found.predicted, artifact[:PER_CLASS])


def test_a_habit_that_other_classes_share_is_separable_but_not_concentrated(world):
    features, _, habit = world
    (found,) = measure_evidence(view_of(features), [group(habit)], ("deep",), ("max",))
    assert found.separability > 0.97
    assert found.mistaken == pytest.approx(0.5, abs=0.05) and found.concentration < 0.55


def test_a_random_group_has_no_evidence(world):
    features, _, _ = world
    members = np.random.default_rng(3).random(2 * PER_CLASS) < 0.3
    (found,) = measure_evidence(view_of(features), [group(members)], ("deep",), ("max",))
    assert found.separability < 0.25 and found.concentration < 0.2


def test_few_members_weigh_less_than_many():
    predicted = np.ones(1, bool)
    few, many = (Evidence("deep", "max", n, 1.0, 1.0, 0.0, predicted) for n in (12, 300))
    assert few.concentration == pytest.approx(12 / (12 + 1.959964**2))  # Wilson's bound for 12 of 12
    assert many.concentration > 0.98


def test_a_layer_that_does_not_respond_is_passed_over(world):
    features, artifact, _ = world
    view = view_of(features, dead=np.ones_like(features))
    (found,) = measure_evidence(view, [group(artifact)], ("dead", "deep"), ("max",))
    assert found.layer == "deep"
    assert measure_evidence(view, [group(artifact)], ("dead",), ("max",)) == [None]


def test_of_equal_layers_the_earliest_is_kept(world):
    features, artifact, _ = world
    view = view_of(features, early=features)
    (found,) = measure_evidence(view, [group(artifact)], ("early", "deep"), ("max",))
    assert found.layer == "early"


def test_candidates_are_measured_alike_alone_and_in_company(world, monkeypatch):
    from pipeline.reveal import evidence

    features, artifact, habit = world
    alone = measure_evidence(view_of(features), [group(habit)], ("deep",), ("max",))[0]
    monkeypatch.setattr(evidence, "BLOCK", 2)
    company = measure_evidence(
        view_of(features), [group(artifact), group(artifact), group(habit)], ("deep",), ("max",)
    )[2]
    assert company.auroc == pytest.approx(alone.auroc) and company.mistaken == pytest.approx(alone.mistaken)


def test_the_precision_matrix_is_the_inverse_covariance_where_samples_abound():
    generator = np.random.default_rng(4)
    mixing = generator.standard_normal((5, 5))
    features = generator.standard_normal((200_000, 5)) @ mixing
    assert precision_matrix(features) @ (mixing.T @ mixing) == pytest.approx(np.eye(5), abs=0.05)


def test_a_group_that_was_cut_short_grows_to_the_whole_artifact(world):
    features, artifact, _ = world
    half = artifact & (np.arange(len(artifact)) < 22)
    stranger = half.copy()
    stranger[100:104] = True
    view = view_of(features)
    candidates = [group(stranger)]
    evidence = measure_evidence(view, candidates, ("deep",), ("max",))
    refined, better = refine(view, candidates, evidence, ("deep",), ("max",), 6)
    assert np.array_equal(refined[0].members, artifact[:PER_CLASS])
    assert better[0].merit > evidence[0].merit
    assert "40 samples are recognised" in refined[0].note


def test_a_group_that_gets_no_clearer_stays_as_it_is(world):
    features, artifact, _ = world
    view = view_of(features)
    candidates = [group(artifact)]
    evidence = measure_evidence(view, candidates, ("deep",), ("max",))
    refined, same = refine(view, candidates, evidence, ("deep",), ("max",), 6)
    assert not refined[0].note
    assert refined[0] is candidates[0] and same[0] is evidence[0]
