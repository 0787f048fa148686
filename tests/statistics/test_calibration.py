from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from pipeline.statistics import brier_score, calibration_error


def probabilities_of(positive: np.ndarray) -> np.ndarray:
    return np.stack([1 - positive, positive], 1)


def test_the_brier_score_of_two_classes_is_twice_that_of_the_positive_one():
    generator = np.random.default_rng(0)
    positive, y = generator.random(200), generator.integers(0, 2, 200)
    found = brier_score(probabilities_of(positive), y)
    assert found.value == pytest.approx(2 * brier_score_loss(y, positive))
    assert found.lower < found.value < found.upper and found.n == 200


def test_certain_and_right_is_0_certain_and_wrong_is_2():
    sure = np.eye(3)[[0, 1, 2]]
    assert brier_score(sure, np.array([0, 1, 2])).value == 0
    assert brier_score(sure, np.array([1, 2, 0])).value == 2


def test_the_calibration_error_of_a_hand_made_table():
    # four samples with .9 of which two are right, four with .6 of which all are right
    probabilities = probabilities_of(np.array([0.9] * 4 + [0.6] * 4))
    y = np.array([1, 1, 0, 0, 1, 1, 1, 1])
    assert calibration_error(probabilities, y).value == pytest.approx((4 * 0.4 + 4 * 0.4) / 8)


def test_a_calibrated_classifier_has_almost_no_error_and_an_overconfident_one_has():
    generator = np.random.default_rng(1)
    positive = generator.uniform(0.5, 1, 20_000)
    y = (generator.random(20_000) < positive).astype(int)
    assert calibration_error(probabilities_of(positive), y, resamples=100).value < 0.015
    bold = np.clip(positive + 0.2, 0, 1)
    assert calibration_error(probabilities_of(bold), y, resamples=100).value > 0.1


def test_certainty_falls_into_the_last_bin():
    assert calibration_error(np.array([[1.0, 0.0]] * 4), np.zeros(4, int)).value == 0


def test_no_samples_have_no_calibration():
    assert np.isnan(calibration_error(np.zeros((0, 2)), np.zeros(0, int)).value)


def test_the_interval_of_the_calibration_error_holds_it():
    generator = np.random.default_rng(2)
    for count in (60, 400, 3000):
        positive = generator.uniform(0.5, 1, count)
        y = (generator.random(count) < positive).astype(int)
        found = calibration_error(probabilities_of(positive), y)
        assert 0 <= found.lower < found.value < found.upper < 1 and found.n == count


def test_a_gap_that_a_calibrated_classifier_would_show_as_well_may_be_none():
    generator = np.random.default_rng(3)
    positive = generator.uniform(0.5, 1, 200)
    y = (generator.random(200) < positive).astype(int)
    found = calibration_error(probabilities_of(positive), y)
    assert found.value > 0.03 and found.lower == 0
    bold = calibration_error(probabilities_of(np.full(200, 0.95)), y)
    gap = 0.95 - y.mean()
    assert bold.value == pytest.approx(gap)
    # one bin: the error of the share itself
    reach = 1.96 * np.sqrt(y.mean() * (1 - y.mean()) / 200)
    assert bold[1:3] == pytest.approx((gap - reach, gap + reach), abs=0.012)


def test_the_seed_decides_the_interval_of_the_calibration_error():
    generator = np.random.default_rng(4)
    probabilities, y = probabilities_of(generator.uniform(0.8, 1, 90)), generator.integers(0, 2, 90)
    first, again, other = (calibration_error(probabilities, y, resamples=50, seed=seed) for seed in (1, 1, 2))
    assert first == again != other and first.lower > 0


def test_what_resamples_lie_above_the_error_is_taken_off_once_above_and_twice_below():
    generator = np.random.default_rng(6)
    positive = generator.uniform(0.5, 1, 200)
    y = (generator.random(200) < positive - 0.1).astype(int)
    probabilities = probabilities_of(positive)
    value = calibration_error(probabilities, y, resamples=1).value
    drawn = []
    for _ in range(1000):
        rows = generator.integers(0, 200, 200)
        drawn.append(calibration_error(probabilities[rows], y[rows], resamples=1).value)
    lower, upper = np.quantile(drawn, [0.025, 0.975])
    excess = np.mean(drawn) - value
    found = calibration_error(probabilities, y, resamples=4000)
    assert excess > 0.01
    assert found[1:3] == pytest.approx((lower - 2 * excess, upper - excess), abs=0.005)
