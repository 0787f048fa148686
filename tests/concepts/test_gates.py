from __future__ import annotations

import numpy as np
import pytest

from pipeline.concepts.gates import alarm_threshold, fit_gate


def drawn(count: int, shift: float, seed: int, dimension: int = 6) -> np.ndarray:
    """Return normal features `[count, dimension]` whose mean is moved along the first axis."""
    features = np.random.default_rng(seed).standard_normal((count, dimension))
    features[:, 0] += shift
    return features


@pytest.mark.parametrize(
    ("rate", "expected"), [(0.1, 90), (0.05, 95), (0.5, 50), (0.0, 99), (0.001, 99), (1.0, 1), (0.101, 90)]
)
def test_the_threshold_is_the_conformal_quantile(rate, expected):
    # of the scores 1..99: the ceil((1 - rate) 100)-th
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 100))
    assert alarm_threshold(scores, rate) == expected


def test_new_clean_samples_exceed_the_threshold_as_often_as_wanted():
    generator = np.random.default_rng(1)
    rates = []
    for _ in range(400):
        clean, new = generator.standard_normal(19), generator.standard_normal(200)
        rates.append((new > alarm_threshold(clean, 0.1)).mean())
    assert np.mean(rates) == pytest.approx(0.1, abs=0.015)


def test_without_clean_scores_there_is_no_threshold():
    with pytest.raises(ValueError, match="without the concept"):
        alarm_threshold(np.zeros(0), 0.05)


@pytest.mark.parametrize("kind", ["ridge", "logistic", "pattern"])
@pytest.mark.parametrize("rate", [0.02, 0.2])
def test_a_gate_raises_false_alarms_at_its_rate_and_finds_the_concept(kind, rate):
    features = np.concatenate([drawn(40, 8, 0), drawn(300, 0, 1)])
    labels = np.arange(len(features)) < 40
    gate = fit_gate(features, labels, drawn(900, 0, 2), kind=kind, false_alarms=rate)
    assert gate.fires(drawn(20_000, 0, 3)).mean() == pytest.approx(rate, abs=0.4 * rate)
    assert gate.fires(drawn(500, 8, 4)).mean() > 0.98
    assert gate.false_alarms == pytest.approx(rate, abs=0.01) and gate.detected > 0.98


def test_other_classes_that_look_like_the_concept_raise_the_threshold():
    features = np.concatenate([drawn(40, 4, 0), drawn(300, 0, 1)])
    labels = np.arange(len(features)) < 40
    gate = fit_gate(features, labels, drawn(900, 6, 2), false_alarms=0.05)
    assert gate.fires(drawn(5000, 6, 3)).mean() < 0.08


def test_the_threshold_comes_from_samples_that_the_detector_has_not_seen():
    """In more dimensions than samples a filter tells fitted samples apart perfectly; new ones it cannot."""
    features, labels = drawn(60, 0, 0, 200), np.arange(60) < 12
    gate = fit_gate(features, labels, np.zeros((0, 200)), false_alarms=0.3)
    assert gate.fires(drawn(3000, 0, 5, 200)).mean() == pytest.approx(0.3, abs=0.15)


def test_the_same_seed_gives_the_same_gate():
    features, labels = drawn(60, 0, 0), np.arange(60) < 12
    first, again, other = (fit_gate(features, labels, features[:0], seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.direction, again.direction) and first.offset == again.offset
    assert not np.array_equal(first.direction, other.direction)


@pytest.mark.parametrize("positives", [0, 9, 10])
def test_one_group_alone_makes_no_detector(positives):
    with pytest.raises(ValueError, match="a detector needs"):
        fit_gate(drawn(10, 0, 0), np.arange(10) < positives, drawn(5, 0, 1))
